"""The bytes of files on the disk, by their hash; and those of which only the beginning is here yet.

All functions block, so they run in threads. The folder is private; its files can only be read.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Collection
from pathlib import Path
from typing import NamedTuple

from p2pflows.errors import UsageError

_CHUNK_BYTES = 1_048_576
SYNC_BYTES = 16_000_000
"""After how many new bytes the beginning of a file is synced; a power cut loses no more."""
_DRAFT = 0o600
_KEPT = 0o400


class Put(NamedTuple):
    """A file that was copied into the store, under a name that `Store.keep` takes."""

    sha256: str
    size: int
    name: str


class Store:
    """The folder `files` of a home.

    Args:
        folder: it is made when it is needed.
    """

    def __init__(self, folder: Path) -> None:
        self._kept = folder / "kept"
        self._partial = folder / "partial"

    def path_of(self, sha256: str) -> Path:
        """Return where the bytes with a hash lie, if they are here."""
        return self._kept / sha256

    def put(self, source: Path, check: Callable[[int], None]) -> Put:
        """Copy a file; once it is kept, it is durable.

        Args:
            source: the file.
            check: raises an error if there is no room for so many bytes.

        Raises:
            UsageError: it cannot be read, or is no file.
            OSError: the disk is full or fails.
        """
        try:
            handle = os.open(source, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise UsageError(f"Cannot read {source}: {error.strerror or error}.", "Check the path.") from error
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            os.close(handle)
            raise UsageError(f"{source} is no file.", "Pack a folder first, for example with: tar czf")
        with os.fdopen(handle, "rb", buffering=0) as file:
            check(about.st_size)
            draft = self._draft(f".put-{secrets.token_hex(8)}")
            try:
                with draft:
                    digest, size = hashlib.sha256(), 0
                    while chunk := file.read(_CHUNK_BYTES):
                        size += len(chunk)
                        check(size)
                        digest.update(chunk)
                        draft.write(chunk)
                    draft.finish()
            except BaseException:
                draft.path.unlink(missing_ok=True)
                raise
        return Put(digest.hexdigest(), size, draft.path.name)

    def keep(self, name: str, sha256: str) -> None:
        """Keep the bytes of a file that is whole under their hash, durably.

        Its name among those that are not kept yet stays until `forget_partial`.

        Args:
            name: of what was put; or the id of what was fetched.
            sha256: the hash of the bytes.
        """
        with contextlib.suppress(FileExistsError):  # the same bytes
            os.link(self._partial / name, self.path_of(sha256))
        folder = os.open(self._kept, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)

    def begin(self, file_id: str, size: int) -> Partial:
        """Open the beginning of a file that is being fetched; what is here of it is hashed again.

        Args:
            file_id: the file.
            size: how large the whole is; what is larger is thrown away.

        Raises:
            OSError: the disk is full or fails.
        """
        return Partial(self._draft(file_id), size)

    def partial_bytes(self, file_id: str) -> int:
        """Return how many bytes of a file that is being fetched are here."""
        with contextlib.suppress(OSError):
            return (self._partial / file_id).stat().st_size
        return 0

    def forget_partial(self, name: str) -> None:
        """Remove what is here of a file, as the whole is kept or nobody wants it any more."""
        (self._partial / name).unlink(missing_ok=True)

    def remove(self, sha256: str) -> None:
        """Remove the bytes with a hash."""
        self.path_of(sha256).unlink(missing_ok=True)

    def tidy(self, kept: Collection[str], partial: Collection[str]) -> None:
        """Remove what a crash has left.

        Args:
            kept: the hashes that are needed.
            partial: the ids of the files that are being fetched.
        """
        for folder, names in ((self._kept, kept), (self._partial, partial)):
            with contextlib.suppress(OSError):
                for path in list(folder.iterdir()):
                    if path.name not in names:
                        path.unlink(missing_ok=True)

    def _draft(self, name: str) -> _Draft:
        for folder in (self._kept.parent, self._kept, self._partial):
            folder.mkdir(mode=0o700, exist_ok=True)
        return _Draft(self._partial / name)


class _Draft:
    """A file to which bytes are added, until it gets its name."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.suppress(FileNotFoundError):
            path.chmod(_DRAFT)  # whole, but not kept yet when the daemon died
        self._file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, _DRAFT), "a+b", 0)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._file.close()

    def truncate(self) -> None:
        self._file.truncate(0)

    @property
    def size(self) -> int:
        return os.fstat(self._file.fileno()).st_size

    def read(self, start: int, count: int) -> bytes:
        return os.pread(self._file.fileno(), count, start)

    def write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]

    def sync(self) -> None:
        os.fdatasync(self._file.fileno())

    def finish(self) -> None:
        """Make it durable, and let nobody write to it any more."""
        os.fchmod(self._file.fileno(), _KEPT)
        os.fsync(self._file.fileno())


class Partial:
    """The beginning of a file that is being fetched."""

    def __init__(self, draft: _Draft, size: int) -> None:
        self._draft = draft
        self._digest = hashlib.sha256()
        self._unsynced = 0
        self.size = 0
        if draft.size > size:
            draft.truncate()
        while chunk := draft.read(self.size, _CHUNK_BYTES):
            self._digest.update(chunk)
            self.size += len(chunk)

    def append(self, content: bytes) -> None:
        """Add the bytes that come next.

        Raises:
            OSError: the disk is full or fails; what was written of them counts as here.
        """
        try:
            self._draft.write(content)
        except OSError:
            written = self._draft.size - self.size
            self._digest.update(content[:written])
            self.size += written
            raise
        self._digest.update(content)
        self.size += len(content)
        self._unsynced += len(content)
        if self._unsynced >= SYNC_BYTES:
            self._unsynced = 0
            self._draft.sync()

    def finish(self, sha256: str) -> bool:
        """Make the whole file durable, if it has this hash; else throw its bytes away, and return False."""
        if self._digest.hexdigest() != sha256:
            self._draft.truncate()
            self._digest = hashlib.sha256()
            self.size = 0
            return False
        self._draft.finish()
        return True

    def close(self) -> None:
        """Close it; it can be begun again."""
        self._draft.close()
