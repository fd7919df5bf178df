"""What a disk may hold after a power cut, rebuilt from what `simulation.disk` has recorded.

Everything that was synced is there. Of what came after the last sync of a file, any part may be there, in any order:
each sector of a write by itself, as a disk writes a sector whole or not at all. The files that were made or removed
since the last sync of their folder may be there or not.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from random import Random

from simulation.disk import Create, Delete, Event, Sync, SyncFolder, Truncate, Write

SECTOR_BYTES = 512
SHARES = (0.0, 0.1, 0.5, 0.9, 1.0)
"""How much of what was not synced is there; one of these for each cut and file."""


@dataclass(slots=True)
class _File:
    """A file: what is on the disk, and what is not for sure."""

    synced: bytearray = field(default_factory=bytearray)
    unsynced: list[Write | Truncate] = field(default_factory=list)

    def sync(self) -> None:
        for change in self.unsynced:
            _apply(change, self.synced)
        self.unsynced.clear()

    def remains(self, random: Random) -> bytes:
        content = bytearray(self.synced)
        pieces = [piece for change in self.unsynced for piece in _pieces(change)]
        share = random.choice(SHARES)
        pieces = [piece for piece in pieces if random.random() < share]
        if random.random() < 0.5:
            random.shuffle(pieces)
        for piece in pieces:
            _apply(piece, content)
        return bytes(content)


class Remains:
    """The files of a disk, as events happen to it one after the other."""

    def __init__(self) -> None:
        self._files: dict[str, _File] = {}
        self._synced_files: dict[str, _File] = {}
        """The files whose names are in their folder for sure."""

    def follow(self, events: Iterable[Event]) -> None:
        """Let further events happen."""
        for event in events:
            match event:
                case Write() | Truncate():
                    self._files[event.path].unsynced.append(event)
                case Sync(path):
                    self._files[path].sync()
                case Create(path):
                    self._files[path] = _File()
                case Delete(path):
                    self._files.pop(path, None)
                case SyncFolder():
                    self._synced_files = dict(self._files)

    def after_cut(self, random: Random) -> dict[str, bytes]:
        """Return the files that may be there if the power is cut now, by path."""
        found = {}
        for path in {**self._files, **self._synced_files}:
            before, now = self._synced_files.get(path), self._files.get(path)
            file = before if random.random() < 0.5 else now
            if file is not None:
                found[path] = file.remains(random)
        return found


def _pieces(change: Write | Truncate) -> list[Write | Truncate]:
    """Return the parts of a change each of which the disk makes by itself."""
    if isinstance(change, Truncate):
        return [change]
    pieces: list[Write | Truncate] = []
    start, end = change.offset, change.offset + len(change.data)
    while start < end:
        stop = min(end, (start // SECTOR_BYTES + 1) * SECTOR_BYTES)
        pieces.append(Write(change.path, start, change.data[start - change.offset : stop - change.offset]))
        start = stop
    return pieces


def _apply(change: Write | Truncate, content: bytearray) -> None:
    """Make a change; what lies between the end of a file and a write behind it reads as zeros."""
    match change:
        case Truncate(_, size):
            del content[size:]
            content.extend(bytes(size - len(content)))
        case Write(_, offset, data):
            content.extend(bytes(max(0, offset - len(content))))
            content[offset : offset + len(data)] = data
