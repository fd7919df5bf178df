"""Files on their way: fetches those that this daemon wants, and sends pieces of those that others may have.

Pieces travel at QoS 0 and outside of the batches of the node: nothing about them is stored but their bytes, and what is
lost is asked for again. What is sealed, opened, read and written is so in threads, so that messages do not wait for it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from p2pflows.protocol import file_frames, topics
from p2pflows.protocol.envelope import NONCE_BYTES, BundleKind, Envelope, Opened, Refused
from p2pflows.protocol.file_frames import Fetched, Frame, NoRoom, NotHere, Piece, Want
from p2pflows.protocol.identity import Identity
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.journal import JournalError
from p2pflowsd.journal.rows import FileRow
from p2pflowsd.lifecycle import FileState
from p2pflowsd.link import Delivery, Link
from p2pflowsd.node import Node
from p2pflowsd.steps import Submit
from p2pflowsd.transfers.download import Download, Outcome
from p2pflowsd.transfers.shelf import Shelf, disk_error
from p2pflowsd.transfers.uploads import MIN_PIECE_BYTES, Part, Uploads

MAX_ACTIVE = 4
"""How many files are fetched at a time."""
MAX_ACTIVE_OF_ONE = 2
"""How many of one user; the others come after them."""
MAX_UNOPENED = 128
"""How many packets may wait to be opened; further ones are dropped, and asked for again."""
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
HANG_UP_S = 1.0
"""A connection that ends so soon after pieces were sent may have ended because they were too large."""
USELESS_LINES = 20
"""For how many useless lines a piece that nobody has asked for counts, or a want of what there is not."""


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
        shelf: the files that are kept.
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
        self._node = node
        self._submit = submit
        self._link = link
        self._is_writable = is_writable
        self._entropy = entropy
        self._log = log
        self._sealing, self._opening, self._small = (Envelope(identity) for _ in range(3))
        self._pool = ThreadPoolExecutor(4, thread_name_prefix="files")
        self.shelf = Shelf(folder, node=node, submit=submit, pool=self._pool, clock=clock, entropy=entropy)
        self.store = self.shelf.store
        self._tasks: set[asyncio.Task[None]] = set()
        self._queued: dict[str, _Queued] = {}
        self._active: dict[str, Download] = {}
        self._waiting: dict[str, set[asyncio.Future[None]]] = {}
        self._unopened: deque[bytes] = deque()
        self._uploads = Uploads()
        self._is_opening = self._is_sending = False
        self._pieces_sent_at = 0.0
        self._timer: asyncio.TimerHandle | None = None
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
        """Remove what a crash has left, before anything else is there, and begin to fetch."""
        files = self._node().journal.files.all()
        kept = {row.sha256 for row in files if row.state == FileState.HERE}
        unfinished = {row.id for row in files if row.state == FileState.WANTED}
        self.store.tidy(kept, unfinished)
        self._fill()

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
                node.intake.check_file_packet(delivery, holders)
        except Refused as refused:
            node.journal.count(f"refused.{refused.reason}")
        except JournalError:
            return  # it is asked for again
        else:
            if len(self._unopened) < MAX_UNOPENED:
                self._unopened.append(delivery.payload)
                if not self._is_opening:
                    self._is_opening = True
                    self._spawn(self._open())

    def link_up(self) -> None:
        """Ask again for everything, as what was under way is lost."""
        self._retry(None)

    def link_down(self) -> None:
        """Drop the pieces that wait to be sent, and send smaller ones if the broker may have hung up on them."""
        self._uploads.clear()
        if time.monotonic() - self._pieces_sent_at < HANG_UP_S:
            self._uploads.piece_bytes = max(MIN_PIECE_BYTES, self._uploads.piece_bytes // 2)

    # What the owner does.

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
        self._spawn(self.shelf.remove(row))

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
                download = Download(
                    queued.row,
                    store=self.store,
                    pool=self._pool,
                    send=partial(self._publish, queued.row.peer),
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
                await self.shelf.keep(row)
        except OSError as error:
            problem = disk_error(error).message
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
                await self.shelf.record(lambda: self._node().files.failed(row.id, reason))
            case Outcome.WRONG:
                who = node.name_of(row.peer) or f"user {row.peer[:8]}…"
                reason = f"The daemon of {who} sends other bytes than those of the file {row.name!r}."
                await self.shelf.record(lambda: self._node().files.failed(row.id, reason))
            case Outcome.STALLED:
                wait = min(MAX_STALLED_WAIT_S, STALLED_WAIT_S * 2.0 ** min(stalls, 8))
                self._queued[row.id] = _Queued(row, time.monotonic() + wait, stalls + 1)
            case None:
                await self.shelf.record(lambda: self._node().files.note_problem(row.id, problem))
                self._queued[row.id] = _Queued(row, time.monotonic() + DISK_WAIT_S, stalls)
        self._fill()

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
        try:
            while self._unopened:
                await self._open_some()
        finally:
            self._is_opening = False

    async def _open_some(self) -> None:
        count = min(OPENED_AT_ONCE, len(self._unopened))
        payloads = [self._unopened.popleft() for _ in range(count)]
        results = await asyncio.get_running_loop().run_in_executor(self._pool, self._open_all, payloads)
        node = self._node()
        with contextlib.suppress(JournalError), node.journal.reading():  # whoever misses something asks again
            for result in results:
                if isinstance(result, Refused):
                    node.journal.count(f"refused.{result.reason}")
                else:
                    self._act(node, *result)

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
        """Send what others want, whenever the socket takes more."""
        try:
            while self._uploads and self._link.connected:
                if self._is_writable():
                    await self._send_some()
                else:
                    await asyncio.sleep(BUSY_WAIT_S)
        finally:
            self._is_sending = False

    async def _send_some(self) -> None:
        most = max(1, self._link.max_packet - file_frames.OVERHEAD_BYTES)
        self._uploads.piece_bytes = min(self._uploads.piece_bytes, most)
        parts = self._uploads.take(SENT_AT_ONCE_BYTES)
        sealed = await asyncio.get_running_loop().run_in_executor(self._pool, self._seal_all, parts)
        for part, payload in zip(parts, sealed, strict=True):
            if payload is None:
                self._publish(part.peer, NotHere(file=part.file))
                self._submit(partial(self._node().files.lost, part.file), lambda _outcome: None)
            else:
                self._link.publish(topics.inbox(part.peer, topics.FILES), payload, qos=0)
        self._pieces_sent_at = time.monotonic()
        self._link.flush()

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
