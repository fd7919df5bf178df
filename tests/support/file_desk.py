"""A daemon with files beside messages and without sockets, and peers that say whatever a test wants about files."""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

from p2pflows.links.delivery import Delivery
from p2pflows.protocol import file_frames, topics
from p2pflows.protocol.envelope import BundleKind, Envelope
from p2pflows.protocol.file_frames import Frame, Want
from p2pflows.protocol.file_reference import FileReference
from p2pflows.protocol.message import Type
from p2pflows.settings.file_limits import FileLimits
from p2pflowsd.node import Request
from p2pflowsd.transfers.transfers import Transfers
from support.lone_daemon import HOUR_MS, LoneDaemon, Peer


class FileDesk(LoneDaemon):
    """Bob's daemon with a store; make it inside a running event loop.

    Args:
        folder: for its journal and its store.
        limits: how much room files have.
    """

    def __init__(self, folder: Path, limits: FileLimits | None = None) -> None:
        self.file_limits = limits or FileLimits()
        super().__init__(folder)
        self.attach()

    def attach(self) -> None:
        """Serve the node that runs now."""
        self.node.files.limits = self.file_limits
        self.transfers = Transfers(
            identity=self.identity,
            folder=self.folder / "files",
            node=lambda: self.node,
            submit=self._submit,
            link=self.link,
            is_writable=lambda: True,
            clock=self.clock,
            entropy=self.random.randbytes,
            log=logging.getLogger("test"),
        )
        self.transfers.attach(self.node)

    def _submit(self, step: Callable[[], Any], on_outcome: Callable[[Any], None], *, reads_only: bool = False) -> None:
        del reads_only
        self.node.process_batch([], [Request(step, on_outcome)])

    async def put(self, content: bytes, name: str = "x.bin") -> FileReference:
        """Put a file with some content."""
        path = self.folder / "source"
        path.write_bytes(content)
        return await self.transfers.shelf.put(path, name)

    def send(self, to: Peer, *references: FileReference, kind: Type = Type.POST) -> Any:
        """Send a message with files; return its id, or the error."""
        data = {"files": [reference.as_data() for reference in references]}
        return self.do(lambda: self.node.messages.send(kind, to.user, "User", data, life_ms=HOUR_MS))

    def states(self) -> dict[str, str]:
        """The states of the files, by name."""
        return {row.name: row.state for row in self.journal.files.all()}

    async def hears(self, sender: Peer, frame: Frame, content: bytes = b"") -> None:
        """Let a frame about a file arrive, and act on it."""
        await self.hears_bytes(seal(sender, self.user, frame, content))

    async def hears_bytes(self, payload: bytes, *, retain: bool = False) -> None:
        """Let a packet arrive on the topic of files."""
        self.transfers.receive(Delivery(self.transfers.topic, payload, retain))
        await self.settle()

    async def settle(self) -> None:
        """Wait until the packets that have arrived were acted on."""
        quiet = 0
        for _ in range(5_000):
            busy = self.transfers._unopened or self.transfers._is_opening or self.transfers._is_sending
            quiet = 0 if busy else quiet + 1
            if quiet > 3:  # rounds
                return
            await asyncio.sleep(0.002)

    def said_to(self, peer: Peer) -> list[tuple[Frame, bytes]]:
        """Take what was said to a peer about files."""
        payloads = self.link.sent.pop(topics.inbox(peer.user, topics.FILES), [])
        envelope = Envelope(peer.identity)
        return [file_frames.unpack(envelope.open(payload).bodies) for payload in payloads]

    def refused(self, reason: str) -> int:
        """How often something was refused for a reason."""
        return self.journal.counters.get(f"refused.{reason}", 0)


def seal(sender: Peer, recipient: str, frame: Frame, content: bytes = b"") -> bytes:
    """Return a frame about a file as it travels."""
    bodies = file_frames.pack(frame, content)
    nonce = hashlib.sha256(repr(frame).encode()).digest()[:24]
    return Envelope(sender.identity).seal(BundleKind.FILE, recipient, bodies, nonce)


def whole(reference: FileReference) -> Want:
    """Return what asks for a whole file."""
    return Want(file=reference.id, start=0, end=max(1, reference.size), n=1)


def reference_to(content: bytes, name: str = "x.bin", number: int = 1, **fields: Any) -> FileReference:
    """Return a reference to a file of a peer with some content."""
    about = {"id": f"{number:032x}", "sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "name": name}
    return FileReference(**{**about, **fields})
