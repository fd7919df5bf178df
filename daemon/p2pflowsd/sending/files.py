"""Files beside messages: which there are, who may fetch them, and how much room they take.

The bytes lie on the disk; what this module decides is carried out by `p2pflowsd.transfers`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from p2pflows import short_ids
from p2pflows.errors import BadInput, CallError, FileLost, OverQuota, TooLarge, UsageError
from p2pflows.protocol import file_reference
from p2pflows.protocol.file_reference import FileReference
from p2pflows.protocol.strict_json import JsonObject
from p2pflows.settings.file_limits import MAX_FILES, FileLimits
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import FileRow
from p2pflowsd.lifecycle import FileState
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.sending.presence import Presence

FETCHED_AT_ONCE_BYTES = 1_000_000
"""Files up to this size that come with a question to the human are fetched without being asked for."""
PUT_NEEDED_MS = 3_600_000
"""How long a file that was put is needed at least, so that it can be sent."""
MAX_REMOVED = 100
"""How many files one batch removes."""
_HINT_ROOM = "Make room: p2pflows files prune; or raise the limit under `files` in config.yaml."


class Usage(NamedTuple):
    """How many files there are, and how many bytes they take."""

    files: int
    bytes: int


class Files:
    """The files that this daemon has, fetches or could fetch.

    Args:
        user: the user id of the owner.
        journal: where they are listed.
        clock: the time.
        limits: how much room they have.
        callbacks: run after the commit.
        presence: knows whose daemon takes files.
        log: tells the owner.
        name_of: returns the name of a user.

    Attributes:
        on_wanted: called after the commit with a file that is to be fetched.
        on_removed: called after the commit with the id and the hash of a file that is not needed any more.
        on_refused: called after the commit with a user and the id of a file of theirs for which there is no room.
        on_settled: each is called with a file that has been fetched, or has failed.
    """

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        limits: FileLimits,
        callbacks: Callbacks,
        presence: Presence,
        log: OwnersLog,
        name_of: Callable[[str], str | None],
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self.limits = limits
        self._callbacks = callbacks
        self._presence = presence
        self._log = log
        self._name_of = name_of
        self.on_wanted: Callable[[FileRow], None] = lambda _row: None
        self.on_removed: Callable[[FileRow], None] = lambda _row: None
        self.on_refused: Callable[[str, str], None] = lambda _peer, _file_id: None
        self.on_settled: list[Callable[[FileRow], None]] = []

    # What we send.

    def references(self, data: dict[str, Any], text: bytes | None = None) -> list[FileReference]:
        """Return the files that the data of a message refers to.

        Args:
            data: the data.
            text: JSON that holds the data, if at hand; without a trace of a reference in it, nothing is searched.

        Raises:
            BadInput: a reference is malformed.
        """
        text = data.text if isinstance(data, JsonObject) else text
        if text is not None and not file_reference.may_refer(text):
            return []
        try:
            return file_reference.references_in(data)
        except ValueError as error:
            raise BadInput(
                f"A reference to a file is malformed: {error}.", "Take it as it is from a message, or from files_put."
            ) from error

    def check(self, references: Sequence[FileReference], peer: str) -> None:
        """Check that a message that refers to some files may be sent to a user.

        Raises:
            FileLost: one of them is not here.
            BadInput: the user's daemon takes no files.
        """
        for reference in references:
            row = self._journal.files.get(reference.id)
            if row is None or row.state != FileState.HERE or row.sha256 != reference.sha256:
                raise FileLost(
                    f"The file {reference.name!r} is not here, so it cannot be sent.",
                    "Put it again; or if it came with a message, fetch it first: p2pflows files get ID",
                )
        if references and peer != self._user and self._presence.takes_files(peer) is False:
            who = self._name_of(peer) or f"User {peer[:8]}…"
            raise BadInput(f"{who} has a release of p2pflows that takes no files.", "Ask them to update it.")

    def grant(self, references: Sequence[FileReference], peer: str, expires: int) -> None:
        """Let the recipient of a message fetch the files that it refers to, as long as it may need them."""
        now = self._clock.now()
        for reference in references:
            self._journal.files.touch(reference.id, now, expires)
            if peer != self._user:
                self._journal.file_grants.grant(reference.id, peer, max(expires, now + self.limits.keep * 1000))

    def may_fetch(self, peer: str, file_id: str) -> FileRow | None:
        """Return a file if a user may fetch it from us now."""
        grant = self._journal.file_grants.get(file_id, peer)
        row = self._journal.files.get(file_id) if grant is not None and grant.expires > self._clock.now() else None
        return row if row is not None and row.state == FileState.HERE else None

    def may_fetch_any(self, peer: str) -> bool:
        """Return whether a user may fetch a file from us now."""
        return self._journal.file_grants.has_any(peer, self._clock.now())

    def note_fetched(self, peer: str, file_id: str) -> None:
        """Note that a user has a file of ours."""
        self._journal.file_grants.set_state(file_id, peer, "fetched")

    def note_refused(self, peer: str, file_id: str) -> None:
        """Tell the owner that a user has no room for a file of ours."""
        row = self.may_fetch(peer, file_id)
        if row is not None and self._journal.file_grants.set_state(file_id, peer, "refused"):
            text = f"They have no room for the file {row.name!r} ({row.size:,} bytes), so they do not fetch it."
            self._log.note(OverQuota.kind, peer, "", text)

    # What is put here.

    def ensure_room_for_own(self, size: int) -> None:
        """Check that a file of the owner has room.

        Raises:
            TooLarge: no file may be so large.
            OverQuota: the files that are here leave no room.
        """
        if size > self.limits.max_size:
            raise TooLarge(
                f"The file has {size:,} bytes; the limit is {self.limits.max_size:,}.",
                "Send it in parts, or raise `max_size` under `files` in config.yaml.",
            )
        self._ensure_room(size)

    def put(self, reference: FileReference) -> None:
        """List a file of the owner, whose bytes are on the disk.

        Raises:
            TooLarge: it is too large.
            OverQuota: there is no room.
        """
        self.ensure_room_for_own(reference.size)
        now = self._clock.now()
        self._journal.files.add(
            FileRow(
                *reference, peer="", state=FileState.HERE, error="", created=now, used=now, needed=now + PUT_NEEDED_MS
            )
        )

    # What others send.

    def take_in(self, references: Sequence[FileReference], peer: str, needed: int) -> list[str]:
        """Fetch the files of a message that are not here.

        Args:
            references: the files.
            peer: who sent the message.
            needed: until when it needs them.

        Returns:
            The ids of those that are not here yet.

        Raises:
            CallError: one cannot be fetched; see `_check`. None of them is then.
        """
        missing = [reference for reference in references if not self._is_here(reference, needed)]
        new = [reference for reference in missing if not self._is_wanted(reference.id)]
        self._check(new, peer)
        for reference in new:
            self._note(reference, peer, FileState.WANTED, needed)
        return [reference.id for reference in missing]

    def take_in_what_fits(
        self, references: Sequence[FileReference], peer: str, needed: int, max_bytes: int | None = None
    ) -> None:
        """Fetch the files of a message that nobody waits for, as far as there is room, and remember the others.

        Args:
            references: the files.
            peer: who sent the message.
            needed: until when it needs them.
            max_bytes: files that are larger are fetched when the owner wants them.
        """
        for reference in references:
            if self._is_here(reference, needed) or self._is_wanted(reference.id):
                continue
            if max_bytes is not None and reference.size > max_bytes:
                if self._journal.files.count() < MAX_FILES:
                    self._note(reference, peer, FileState.OFFERED, needed)
                continue
            try:
                self._check([reference], peer)
            except CallError as error:
                if self._journal.files.count() < MAX_FILES:
                    self._note(reference, peer, FileState.FAILED, needed, f"{error.message} {error.hint}".strip())
                self._log.note(error.kind, peer, "", error.message)
                self.on_refused_after_commit(peer, reference.id)
            else:
                self._note(reference, peer, FileState.WANTED, needed)

    def want(self, row: FileRow) -> FileRow:
        """Fetch a file that was offered, or try again to fetch one that has failed; return it as it is then.

        Raises:
            OverQuota: there is no room for it; its sender is told so.
            TooLarge: it is too large.
        """
        if row.state in (FileState.HERE, FileState.WANTED) or not row.peer:
            return row
        try:
            self._check([_reference(row)], row.peer)
        except CallError:
            self.on_refused_after_commit(row.peer, row.id)
            raise
        self._journal.files.touch(row.id, self._clock.now(), 0)
        return self._set(row, FileState.WANTED)

    def find(self, part: str) -> FileRow:
        """Return the file with an id.

        Raises:
            UsageError: not exactly one has an id that is written so.
        """
        rows = self._journal.files.matching(part)
        if len(rows) == 1:
            return rows[0]
        if rows:
            ids = short_ids.name_all([row.id for row in rows])
            raise UsageError(f"Several files have an id like {part!r}: {ids}.", "Give more of the id.")
        raise UsageError(f"No file has an id like {part!r}.", "See: p2pflows files list")

    def arrived(self, file_id: str) -> None:
        """Note that the bytes of a file are on the disk."""
        row = self._journal.files.get(file_id)
        if row is not None and row.state == FileState.WANTED:
            self._journal.files.touch(file_id, self._clock.now(), 0)
            self._settled(self._set(row, FileState.HERE))

    def failed(self, file_id: str, reason: str) -> None:
        """Note why a file cannot be fetched."""
        row = self._journal.files.get(file_id)
        if row is not None and row.state == FileState.WANTED:
            self._log.note(FileLost.kind, row.peer, "", reason)
            self._settled(self._set(row, FileState.FAILED, reason))

    def note_problem(self, file_id: str, problem: str) -> None:
        """Note what keeps a file from being fetched now, such as a full disk; it is tried again."""
        row = self._journal.files.get(file_id)
        if row is not None and row.state == FileState.WANTED and row.error != problem:
            self._journal.files.set_state(file_id, FileState.WANTED, problem)
            if problem:
                self._log.note("disk", row.peer, "", f"The file {row.name!r} waits: {problem}")

    def lost(self, file_id: str) -> None:
        """Note that the bytes of a file are not on the disk any more, as another program has removed them."""
        row = self._journal.files.get(file_id)
        if row is not None and row.state == FileState.HERE:
            self._set(row, FileState.FAILED, f"The file {row.name!r} was removed from the disk.")

    # What goes.

    def prune(self) -> bool:
        """Remove files whose time is over; return whether there may be more of them."""
        now = self._clock.now()
        rows = self._journal.files.idle(now - self.limits.keep * 1000, now, MAX_REMOVED)
        for row in rows:
            self.remove(row)
        return len(rows) == MAX_REMOVED

    def idle(self, older_s: float) -> list[FileRow]:
        """Return the files that no message needs and that were not used for some seconds, at most MAX_FILES."""
        now = self._clock.now()
        return self._journal.files.idle(now - int(older_s * 1000), now, MAX_FILES)

    def remove(self, row: FileRow) -> None:
        """Forget a file, and who may fetch it."""
        self._journal.files.remove(row.id)
        self._journal.file_grants.remove(row.id)
        self._callbacks.after_commit(lambda: self.on_removed(row))

    def usage(self) -> Usage:
        """Return how many files there are, and how much room they take."""
        return Usage(self._journal.files.count(), self._journal.files.bytes())

    def on_refused_after_commit(self, peer: str, file_id: str) -> None:
        """Tell a user, once this is committed, that there is no room for a file of theirs."""
        self._callbacks.after_commit(lambda: self.on_refused(peer, file_id))

    def _is_here(self, reference: FileReference, needed: int) -> bool:
        """Return whether a file is here, and note that it is needed.

        Who knows the id of a file was sent it, so that it is no secret that it is here.

        Raises:
            BadInput: the id belongs to another file.
        """
        row = self._journal.files.get(reference.id)
        if row is None:
            return False
        if (row.sha256, row.size) != (reference.sha256, reference.size):
            raise BadInput(f"The file {reference.name!r} has the id of another file.", "Put it again.")
        self._journal.files.touch(row.id, self._clock.now(), needed)
        if row.state == FileState.FAILED and row.peer:  # it is fetched from whoever sends it now
            self._journal.files.remove(row.id)
        return row.state == FileState.HERE

    def _is_wanted(self, file_id: str) -> bool:
        row = self._journal.files.get(file_id)
        return row is not None and row.state == FileState.WANTED

    def _check(self, references: Sequence[FileReference], peer: str) -> None:
        """Check that some files of a user may be fetched.

        Raises:
            FileLost: a file of this user's own is not here any more.
            TooLarge: one is larger than any file may be.
            OverQuota: there is no room for them.
        """
        for reference in references:
            if peer == self._user:
                raise FileLost(f"The file {reference.name!r} is not here any more.", "Put it again, and call again.")
            if reference.size > self.limits.max_size:
                raise TooLarge(
                    f"The file {reference.name!r} has {reference.size:,} bytes; files of at most "
                    f"{self.limits.max_size:,} are taken here."
                )
        size = sum(reference.size for reference in references)
        if not size:
            return
        used = self._journal.files.bytes_of(peer)
        if used + size > self.limits.bytes_per_contact:
            raise OverQuota(
                f"There is no room for {_named(references)} of {size:,} bytes: the files of one contact may have "
                f"{self.limits.bytes_per_contact:,}, and {used:,} are taken."
            )
        try:
            self._ensure_room(size)
        except OverQuota as error:
            raise OverQuota(f"There is no room for {_named(references)} of {size:,} bytes. {error.message}") from None

    def _ensure_room(self, size: int) -> None:
        used = self._journal.files.bytes()
        if used + size > self.limits.bytes:
            raise OverQuota(
                f"The limit for all files is {self.limits.bytes:,} bytes, of which {used:,} are taken.", _HINT_ROOM
            )
        if self._journal.files.count() >= MAX_FILES:
            raise OverQuota(f"There are {MAX_FILES:,} files already, as many as there may be.", _HINT_ROOM)

    def _note(self, reference: FileReference, peer: str, state: FileState, needed: int, error: str = "") -> None:
        now = self._clock.now()
        known = self._journal.files.get(reference.id)
        row = FileRow(*reference, peer=peer, state=state, error=error, created=now, used=now, needed=needed)
        if known is not None:
            self._journal.files.remove(reference.id)
        self._journal.files.add(row)
        if state == FileState.WANTED:
            self._callbacks.after_commit(lambda: self.on_wanted(row))

    def _set(self, row: FileRow, state: FileState, error: str = "") -> FileRow:
        self._journal.files.set_state(row.id, state, error)
        changed = row._replace(state=state, error=error)
        if state == FileState.WANTED:
            self._callbacks.after_commit(lambda: self.on_wanted(changed))
        return changed

    def _settled(self, row: FileRow) -> None:
        for on_settled in self.on_settled:
            on_settled(row)


def _reference(row: FileRow) -> FileReference:
    return FileReference(row.id, row.sha256, row.size, row.name, row.type)


def _named(references: Sequence[FileReference]) -> str:
    """Return what some files are called in a sentence."""
    return f"the file {references[0].name!r}" if len(references) == 1 else f"{len(references)} files"
