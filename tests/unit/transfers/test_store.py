"""The bytes of files on the disk: complete or not there, private, and never beside their hash."""

from __future__ import annotations

import errno
import hashlib
import os
from pathlib import Path

import pytest

from p2pflows.errors import UsageError
from p2pflowsd.transfers.store import SYNC_BYTES, Store


def anything(size: int) -> None:
    """Let a file of any size in."""
    del size


def sha256(content: bytes) -> str:
    """The hash of some bytes, in hex."""
    return hashlib.sha256(content).hexdigest()


def mode(path: Path) -> int:
    """The permission bits of a path."""
    return path.stat().st_mode & 0o777


def test_put_copies_and_protects(tmp_path: Path) -> None:
    """What is put has its hash as its name, can only be read, and only by its owner; the source may change."""
    source = tmp_path / "a"
    source.write_bytes(b"abc" * 1_000_000)
    store = Store(tmp_path / "files")
    put = store.put(source, anything)
    assert (put.sha256, put.size) == (sha256(b"abc" * 1_000_000), 3_000_000)
    source.write_bytes(b"other")
    store.keep(put.name, put.sha256)
    store.forget_partial(put.name)
    path = store.path_of(put.sha256)
    assert path.read_bytes() == b"abc" * 1_000_000
    assert (mode(path), mode(path.parent), mode(tmp_path / "files")) == (0o400, 0o700, 0o700)
    assert store.put(source, anything)[:2] == (sha256(b"other"), 5)


def test_what_cannot_be_put_says_why(tmp_path: Path) -> None:
    """A folder, a pipe, and what is not there; nothing blocks, and nothing is left."""
    store = Store(tmp_path / "files")
    os.mkfifo(tmp_path / "pipe")
    for name, message in (("", "is no file"), ("pipe", "is no file"), ("missing", "Cannot read")):
        with pytest.raises(UsageError, match=message):
            store.put(tmp_path / name, anything)


def test_a_file_that_grows_meanwhile_stays_in_its_bounds(tmp_path: Path) -> None:
    """The size is checked again while it is copied."""
    (tmp_path / "a").write_bytes(bytes(2_500_000))
    sizes: list[int] = []

    def check(size: int) -> None:
        sizes.append(size)
        if len(sizes) > 2:
            raise UsageError("too large")

    with pytest.raises(UsageError):
        Store(tmp_path / "files").put(tmp_path / "a", check)
    assert sizes == [2_500_000, 1_048_576, 2_097_152]
    assert not list((tmp_path / "files" / "partial").iterdir())


def test_a_beginning_goes_on_after_a_restart(tmp_path: Path) -> None:
    """What was appended before counts, with its hash; the whole is kept only if the hash is right."""
    content = bytes(range(256)) * 10_000
    store = Store(tmp_path / "files")
    partial = store.begin("f1", len(content))
    partial.append(content[:1_000_001])
    partial.close()
    partial = store.begin("f1", len(content))
    assert partial.size == store.partial_bytes("f1") == 1_000_001
    partial.append(content[1_000_001:])
    assert partial.finish(sha256(content))
    partial.close()
    store.keep("f1", sha256(content))
    assert store.path_of(sha256(content)).read_bytes() == content
    store.forget_partial("f1")
    assert store.path_of(sha256(content)).read_bytes() == content


def test_wrong_bytes_are_not_kept(tmp_path: Path) -> None:
    """Neither those of a wrong hash, nor those of a beginning that is longer than the whole."""
    store = Store(tmp_path / "files")
    partial = store.begin("f1", 3)
    partial.append(b"abd")
    assert not partial.finish(sha256(b"abc"))
    assert partial.size == store.partial_bytes("f1") == 0
    partial.append(b"abc")
    assert partial.finish(sha256(b"abc"))
    partial.close()
    partial = store.begin("f1", 2)
    assert partial.size == 0
    partial.close()
    assert not list((tmp_path / "files" / "kept").iterdir())


def test_a_full_disk_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was written before the disk was full counts, and the rest is added later."""
    store = Store(tmp_path / "files")
    partial = store.begin("f1", 6)
    partial.append(b"ab")
    write = partial._draft.write

    def full(content: bytes) -> None:
        write(content[:1])
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr(partial._draft, "write", full)
    with pytest.raises(OSError, match="full"):
        partial.append(b"cdef")
    assert partial.size == 3
    monkeypatch.setattr(partial._draft, "write", write)
    partial.append(b"def")
    assert partial.finish(sha256(b"abcdef"))
    partial.close()


def test_the_beginning_is_synced_now_and_then(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a power cut loses at most so much."""
    synced: list[int] = []
    monkeypatch.setattr(os, "fdatasync", synced.append)
    partial = Store(tmp_path / "files").begin("f1", 3 * SYNC_BYTES)
    for _ in range(6):
        partial.append(bytes(SYNC_BYTES // 2))
    assert len(synced) == 3
    partial.close()


def test_what_a_crash_has_left_is_removed(tmp_path: Path) -> None:
    """Copies that were not finished, and bytes that no file has; not what is needed."""
    store = Store(tmp_path / "files")
    store.tidy((), ())
    (tmp_path / "a").write_bytes(b"a")
    _, _, name = put = store.put(tmp_path / "a", anything)
    kept = put.sha256
    store.keep(name, kept)
    for name in ("partial/.put-1", "partial/f1", "partial/f2", "kept/other"):
        (tmp_path / "files" / name).write_bytes(b"x")
    store.tidy({kept}, {"f1"})
    left = sorted(
        str(path.relative_to(tmp_path / "files")) for path in (tmp_path / "files").rglob("*") if path.is_file()
    )
    assert left == [f"kept/{kept}", "partial/f1"]


def test_a_whole_file_goes_on_after_a_crash_before_it_was_kept(tmp_path: Path) -> None:
    """It is read-only by then; it is opened and hashed once more, and nothing of it is fetched again."""
    store = Store(tmp_path / "files")
    partial = store.begin("f1", 3)
    partial.append(b"abc")
    assert partial.finish(sha256(b"abc"))
    partial.close()
    partial = store.begin("f1", 3)
    assert partial.size == 3
    assert partial.finish(sha256(b"abc"))
    partial.close()
    for _ in range(2):
        store.keep("f1", sha256(b"abc"))
    assert mode(store.path_of(sha256(b"abc"))) == 0o400
