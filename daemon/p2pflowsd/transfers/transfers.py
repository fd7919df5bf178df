"""Files on their way: fetches those that this daemon wants, and sends pieces of those that others may have.

Pieces travel at QoS 0 and outside of the batches of the node: nothing about them is stored but their bytes, and what is
lost is asked for again. What is sealed, opened, read and written is so in threads, so that messages do not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from p2pflows.errors import JournalFailed, P2pflowsError, UsageError
from p2pflows.protocol import file_frames, topics
from p2pflows.protocol.envelope import NONCE_BYTES, BundleKind, Envelope, Opened, Refused
from p2pflows.protocol.file_frames import Fetched, Frame, NoRoom, NotHere, Piece, Want
from p2pflows.protocol.file_reference import ANY_TYPE, FileReference, as_file_name
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.ids import new_id
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.journal import JournalError
from p2pflowsd.journal.rows import FileRow
from p2pflowsd.lifecycle import FileState
from p2pflowsd.link import Delivery, Link
from p2pflowsd.node import Node
from p2pflowsd.transfers.download import Download, Outcome
from p2pflowsd.transfers.store import Store
from p2pflowsd.transfers.uploads import MIN_PIECE_BYTES, Part, Uploads

MAX_ACTIVE = 4
"""How many files are fetched at a time."""
MAX_ACTIVE_OF_ONE = 2
"""How many of one user; the others come after them."""
MAX_UNOPENED = 128
"""How many packets wait to be opened; what comes beyond that is dropped, and asked for again."""
OPENED_AT_ONCE = 8
SENT_AT_ONCE_BYTES = 262_144
"""How many bytes of pieces are read and sealed in one go."""
BUSY_WAIT_S = 0.002
"""How soon to look again whether the socket to the broker takes more."""
STALLED_WAIT_S = 5.0
"""How long a file waits after its holder did not answer; less if they come online."""
MAX_STALLED_WAIT_S = 300.0
DISK_WAIT_S = 10.0
"""How long a file waits after the disk was full."""
RETRY_JOURNAL_S = 2.0
HANG_UP_S = 1.0
"""A connection that ends so soon after pieces were sent may have ended because they were too large."""
USELESS_LINES = 20
"""For how many useless lines a piece that nobody has asked for counts, or a want of what there is not."""


class Submit(Protocol):
    """Runs a step inside the node's next batch."""

    def __call__(self, step: Callable[[], Any], on_outcome: Callable[[Any], None], *, reads_only: bool = False) -> None:
        """Call back with the result or P2pflowsError of the step, after the commit."""


class _Queued(NamedTuple):
    """A file that is to be fetched, when it is tried next, and how often its holder did not answer."""

    row: FileRow
    at: float
    stalls: int


class Transfers:
    """The files that are on their way.

    Args:
        identity: seals and opens packets.
        folder: where the bytes are.
        node: returns the current node.
        submit: runs a step inside the node's next batch.
        link: where packets are published.
        is_writable: whether what is published now leaves at once.
        clock: the time.
        entropy: random bytes.
        log: gets what the user should know.

    Attributes:
        topic: where packets arrive.
        store: the bytes of files on the disk.
    """

    def __init__(
        self,
        *,
        identity: Identity,
        folder: Path,
        node: Callable[[], Node],
        submit: Submit,
        link: Link,
        is_writable: Callable[[], bool],
        clock: Clock,
        entropy: Entropy,
        log: logging.Logger,
    ) -> None:
        self.topic = topics.inbox(identity.user_id, topics.FILES)
        self.store = Store(folder)
        self._node = node
        self._submit = submit
        self._link = link
        self._is_writable = is_writable
        self._clock = clock
        self._entropy = entropy
        self._log = log
        self._sealing, self._opening, self._small = (Envelope(identity) for _ in range(3))
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="files")
        self._tasks: set[asyncio.Task[None]] = set()
        self._queued: dict[str, _Queued] = {}
        self._active: dict[str, Download] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._unopened: deque[tuple[bytes, str]] = deque()
        self._uploads = Uploads()
        self._is_opening = self._is_sending = False
        self._pieces_sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._putting = asyncio.Semaphore(2)
        self._kept_bytes = asyncio.Lock()
        """Held from keeping bytes to listing them, so that nobody removes them in between as unused."""
        self._is_closed = False

    def attach(self, node: Node) -> None:
        """Serve a node: the first one, or one that takes the place of another."""
        files = node.files
        files.on_wanted = self._on_wanted
        files.on_removed = self._on_removed
        files.on_refused = lambda peer, file_id: self._publish(peer, NoRoom(file=file_id))
        files.on_settled.append(lambda row: node.callbacks.after_commit(lambda: self._wake(row.id)))
        node.on_peer_online = self._retry
        for row in node.journal.files.wanted():
            self._queued.setdefault(row.id, _Queued(row, 0.0, 0))

    def start(self) -> None:
        """Remove what a crash has left, and begin to fetch."""
        files = self._node().journal.files.all()
        kept = {row.sha256 for row in files if row.state == FileState.HERE}
        partial = {row.id for row in files if row.state == FileState.WANTED}
        self._spawn(self._tidy(kept, partial))

    async def close(self) -> None:
        """Stop everything; what is here of files stays."""
        self._is_closed = True
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._pool.shutdown(wait=True, cancel_futures=True)

    # Events of the link.

    def receive(self, delivery: Delivery) -> None:
        """Take in a packet about a file; it is opened in a thread."""
        node = self._node()
        try:
            with node.journal.reading():
                holders = {download.row.peer for download in self._active.values()}
                claimed = node.intake.check_file_packet(delivery, holders)
        except Refused as refused:
            node.journal.count(f"refused.{refused.reason}")
        except JournalError:
            return  # it is asked for again
        else:
            if len(self._unopened) < MAX_UNOPENED:
                self._unopened.append((delivery.payload, claimed))
                if not self._is_opening:
                    self._is_opening = True
                    self._spawn(self._open())

    def link_up(self) -> None:
        """Ask again for everything, as what was under way is lost."""
        self._retry(None)

    def link_down(self) -> None:
        """Drop what waits to be sent, and send smaller pieces if the broker may have hung up on them."""
        self._uploads.clear()
        if time.monotonic() - self._pieces_sent_at < HANG_UP_S:
            self._uploads.piece_bytes = max(MIN_PIECE_BYTES, self._uploads.piece_bytes // 2)

    # What the owner does.

    async def put(self, path: Path, name: str = "", media_type: str = "") -> FileReference:
        """Copy a file into the store, so that messages can refer to it.

        Raises:
            P2pflowsError: it cannot be read, is too large, there is no room, or the disk is full.
        """
        node = self._node()
        async with self._putting:
            loop = asyncio.get_running_loop()

            def check(size: int) -> None:
                asyncio.run_coroutine_threadsafe(self._check_room(size), loop).result()

            last = 0

            def check_now_and_then(size: int) -> None:
                nonlocal last
                if not last or size - last > node.files.limits.max_size // 8:
                    last = size
                    check(size)

            try:
                found = await loop.run_in_executor(self._pool, self.store.put, path, check_now_and_then)
            except OSError as error:
                raise _disk_error(error) from error
            reference = FileReference(
                new_id(self._clock.now(), self._entropy(10)),
                found.sha256,
                found.size,
                as_file_name(name or path.name),
                media_type or ANY_TYPE,
            )
            try:
                async with self._kept_bytes:
                    await loop.run_in_executor(self._pool, self.store.keep, found.name, found.sha256)
                    await self._run(lambda: self._node().files.put(reference))
            except P2pflowsError:
                await self._remove_unused(found.sha256)
                raise
            except OSError as error:
                raise _disk_error(error) from error
            finally:
                await loop.run_in_executor(self._pool, self.store.forget_partial, found.name)
        return reference

    @contextlib.contextmanager
    def waiting_for(self, file_id: str) -> Iterator[asyncio.Future[None]]:
        """Yield what is done once a file has been fetched, or has failed, from now on."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(file_id, set()).add(future)
        try:
            yield future
        finally:
            waiting = self._waiting.get(file_id, set())
            waiting.discard(future)
            if not waiting:
                self._waiting.pop(file_id, None)

    def done_bytes(self, row: FileRow) -> int:
        """Return how many bytes of a file are here."""
        if row.state == FileState.HERE:
            return row.size
        active = self._active.get(row.id)
        return active.written if active is not None else min(row.size, self.store.partial_bytes(row.id))

    # Fetching.

    def _on_wanted(self, row: FileRow) -> None:
        self._queued[row.id] = _Queued(row, 0.0, 0)
        self._fill()

    def _on_removed(self, row: FileRow) -> None:
        self._queued.pop(row.id, None)
        active = self._active.get(row.id)
        if active is not None:
            active.on_not_there()
        self._wake(row.id)
        self._spawn(self._remove(row))

    def _fill(self) -> None:
        """Begin to fetch files, as many as may be fetched at a time."""
        if self._is_closed:
            return
        now = time.monotonic()
        next_at: float | None = None
        for queued in list(self._queued.values()):
            if len(self._active) >= MAX_ACTIVE:
                break
            if queued.row.id in self._active:
                continue
            if queued.at > now:
                next_at = queued.at if next_at is None else min(next_at, queued.at)
            elif sum(each.row.peer == queued.row.peer for each in self._active.values()) < MAX_ACTIVE_OF_ONE:
                del self._queued[queued.row.id]
                peer = queued.row.peer
                download = Download(
                    queued.row,
                    store=self.store,
                    pool=self._pool,
                    send=lambda want, peer=peer: self._publish(peer, want),  # type: ignore[misc]
                    clock=time.monotonic,
                )
                self._active[queued.row.id] = download
                self._spawn(self._fetch(download, queued.stalls))
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if next_at is not None:
            self._timer = asyncio.get_running_loop().call_later(max(0.0, next_at - now), self._fill)

    async def _fetch(self, download: Download, stalls: int) -> None:
        row = download.row
        outcome: Outcome | None = None
        problem = ""
        try:
            outcome = await download.run()
            if outcome is Outcome.HERE:
                await self._keep(row)
        except OSError as error:
            problem = _disk_error(error).message
        finally:
            del self._active[row.id]
        node = self._node()
        match outcome:
            case Outcome.HERE:
                await asyncio.get_running_loop().run_in_executor(self._pool, self.store.forget_partial, row.id)
                self._publish(row.peer, Fetched(file=row.id))
            case Outcome.NOT_THERE:
                who = node.name_of(row.peer) or f"user {row.peer[:8]}…"
                reason = f"The file {row.name!r} is no longer at the daemon of {who}."
                await self._record(lambda: self._node().files.failed(row.id, reason))
            case Outcome.WRONG:
                who = node.name_of(row.peer) or f"user {row.peer[:8]}…"
                reason = f"The daemon of {who} sends other bytes than those of the file {row.name!r}."
                await self._record(lambda: self._node().files.failed(row.id, reason))
            case Outcome.STALLED:
                wait = min(MAX_STALLED_WAIT_S, STALLED_WAIT_S * 2.0 ** min(stalls, 8))
                self._queued[row.id] = _Queued(row, time.monotonic() + wait, stalls + 1)
            case None:
                await self._record(lambda: self._node().files.note_problem(row.id, problem))
                self._queued[row.id] = _Queued(row, time.monotonic() + DISK_WAIT_S, stalls)
        self._fill()

    async def _keep(self, row: FileRow) -> None:
        """Keep the bytes of a file that is whole, and list it.

        Raises:
            OSError: the disk is full or fails.
        """
        async with self._kept_bytes:
            await asyncio.get_running_loop().run_in_executor(self._pool, self.store.keep, row.id, row.sha256)
            await self._record(lambda: self._node().files.arrived(row.id))

    def _retry(self, peer: str | None) -> None:
        """Ask a user again for all that they have for us; or all users."""
        for file_id, queued in list(self._queued.items()):
            if peer in (None, queued.row.peer):
                self._queued[file_id] = queued._replace(at=0.0, stalls=0)
        for download in self._active.values():
            if peer in (None, download.row.peer):
                download.retry_now()
        self._fill()

    # Packets.

    async def _open(self) -> None:
        """Open the packets that have arrived, and act on them."""
        loop = asyncio.get_running_loop()
        while self._unopened:
            count = min(OPENED_AT_ONCE, len(self._unopened))
            packets = [self._unopened.popleft() for _ in range(count)]
            results = await loop.run_in_executor(self._pool, self._open_all, [payload for payload, _ in packets])
            node = self._node()
            try:
                with node.journal.reading():
                    for result in results:
                        if isinstance(result, Refused):
                            node.journal.count(f"refused.{result.reason}")
                        else:
                            self._act(node, *result)
            except JournalError:
                continue  # whoever misses something asks again
        self._is_opening = False

    def _open_all(self, payloads: list[bytes]) -> list[tuple[Opened, Frame | None, bytes] | Refused]:
        results: list[tuple[Opened, Frame | None, bytes] | Refused] = []
        for payload in payloads:
            try:
                opened = self._opening.open(payload)
            except Refused as refused:
                results.append(refused)
                continue
            try:
                frame, content = file_frames.unpack(opened.bodies) if opened.kind is BundleKind.FILE else (None, b"")
            except ValueError:
                frame, content = None, b""
            results.append((opened, frame, content))
        return results

    def _act(self, node: Node, opened: Opened, frame: Frame | None, content: bytes) -> None:
        """Act on what a user says about a file."""
        sender = opened.sender
        match frame:
            case Piece():
                download = self._active_of(sender, frame.file)
                is_useful = download is not None and download.on_piece(frame, content)
            case Want():
                is_useful = self._give(node, sender, frame)
            case NotHere():
                download = self._active_of(sender, frame.file)
                is_useful = download is not None
                if download is not None:
                    download.on_not_there()
            case NoRoom() | Fetched():
                is_useful = node.files.may_fetch(sender, frame.file) is not None
                if is_useful:
                    note = node.files.note_refused if isinstance(frame, NoRoom) else node.files.note_fetched
                    self._submit(lambda: note(sender, frame.file), lambda _outcome: None)
            case None:
                node.journal.count("refused.malformed")
                is_useful = False
        if not is_useful:
            node.intake.useless.charge(sender, USELESS_LINES)

    def _active_of(self, peer: str, file_id: str) -> Download | None:
        """Return the attempt to fetch a file from a user."""
        download = self._active.get(file_id)
        return download if download is not None and download.row.peer == peer else None

    def _give(self, node: Node, peer: str, want: Want) -> bool:
        """Queue what a user wants; return False if they may not have it.

        They are told the same if there is no such file.
        """
        row = node.files.may_fetch(peer, want.file)
        if row is None:
            self._publish(peer, NotHere(file=want.file))
            return False
        is_useful = self._uploads.add(peer, want, self.store.path_of(row.sha256), row.size)
        if self._uploads and not self._is_sending:
            self._is_sending = True
            self._spawn(self._send_pieces())
        return is_useful

    async def _send_pieces(self) -> None:
        loop = asyncio.get_running_loop()
        while self._uploads and self._link.connected:
            if not self._is_writable():
                await asyncio.sleep(BUSY_WAIT_S)
                continue
            most = max(1, self._link.max_packet - file_frames.OVERHEAD_BYTES)
            self._uploads.piece_bytes = min(self._uploads.piece_bytes, most)
            parts = self._uploads.take(SENT_AT_ONCE_BYTES)
            sealed = await loop.run_in_executor(self._pool, self._seal_all, parts)
            for part, payload in zip(parts, sealed, strict=True):
                if payload is None:
                    file_id, peer = part.file, part.peer
                    self._publish(peer, NotHere(file=file_id))
                    self._submit(lambda file_id=file_id: self._node().files.lost(file_id), lambda _outcome: None)  # type: ignore[misc]
                else:
                    self._link.publish(topics.inbox(part.peer, topics.FILES), payload, qos=0)
            self._pieces_sent_at = time.monotonic()
            self._link.flush()
        self._is_sending = False

    def _seal_all(self, parts: list[Part]) -> list[bytes | None]:
        """Read and seal pieces; None for one whose file is gone."""
        sealed: list[bytes | None] = []
        for part in parts:
            try:
                with part.path.open("rb", buffering=0) as file:
                    file.seek(part.start)
                    content = file.read(part.end - part.start)
            except OSError:
                content = b""
            if len(content) != part.end - part.start:
                sealed.append(None)
                continue
            bodies = file_frames.pack(Piece(file=part.file, start=part.start, n=part.n), content)
            sealed.append(self._sealing.seal(BundleKind.FILE, part.peer, bodies, self._entropy(NONCE_BYTES)))
        return sealed

    def _publish(self, peer: str, frame: Frame) -> None:
        """Send something short about a file; if it is lost, the one who needs it asks again."""
        if self._link.connected and not self._is_closed:
            bodies = file_frames.pack(frame)
            bundle = self._small.seal(BundleKind.FILE, peer, bodies, self._entropy(NONCE_BYTES))
            self._link.publish(topics.inbox(peer, topics.FILES), bundle, qos=0)
            self._link.flush()

    # The disk and the journal.

    async def _check_room(self, size: int) -> None:
        await self._run(lambda: self._node().files.ensure_room_for_own(size), reads_only=True)

    async def _run(self, step: Callable[[], Any], *, reads_only: bool = False) -> Any:
        """Run a step inside the node's next batch, and return its result after the commit.

        Raises:
            P2pflowsError: the step raised it, or the journal cannot be written.
        """
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._submit(step, lambda result: None if outcome.done() else outcome.set_result(result), reads_only=reads_only)
        result = await outcome
        if isinstance(result, P2pflowsError):
            raise result
        return result

    async def _record(self, step: Callable[[], None]) -> None:
        """Run a step inside the node's next batch; again until the journal can be written."""
        while True:
            try:
                await self._run(step)
            except JournalFailed:
                await asyncio.sleep(RETRY_JOURNAL_S)
            else:
                return

    async def _tidy(self, kept: set[str], partial: set[str]) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, self.store.tidy, kept, partial)
        self._fill()

    async def _remove(self, row: FileRow) -> None:
        await asyncio.get_running_loop().run_in_executor(self._pool, self.store.forget_partial, row.id)
        if row.state == FileState.HERE:
            await self._remove_unused(row.sha256)

    async def _remove_unused(self, sha256: str) -> None:
        """Remove bytes from the disk that no file has any more."""
        async with self._kept_bytes:
            if not await self._run(lambda: self._node().journal.files.has_bytes(sha256), reads_only=True):
                await asyncio.get_running_loop().run_in_executor(self._pool, self.store.remove, sha256)

    def _wake(self, file_id: str) -> None:
        for future in self._waiting.pop(file_id, ()):
            if not future.done():
                future.set_result(None)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._on_done)

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._log.error("a transfer of a file has failed", exc_info=error)


def _disk_error(error: OSError) -> P2pflowsError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UsageError("The disk is full, so the file cannot be kept.", "Make room on the disk; it is tried again.")
    return UsageError(f"The file cannot be kept: {error.strerror or error}.", "Look at the disk.")
