"""Files written as a whole: private from their first byte, durable, and without drafts left behind."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from p2pflows import files


def test_a_failed_write_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    """A write that fails changes nothing, and leaves no draft, which might hold a secret."""
    path = tmp_path / "file"
    files.replace(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.replace(path, "new \udcff")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_is_told_with_the_name_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails names no file by itself, so that it could be taken for the output of a command."""

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left") as caught:
        files.replace(tmp_path / "file", "text")
    assert caught.value.filename == str(tmp_path / "file")
    assert list(tmp_path.iterdir()) == []


def test_a_file_is_private_unless_a_mode_is_given(tmp_path: Path) -> None:
    """Other users can read a file only where the caller says so."""
    for mode, words in ((0o600, ()), (0o644, (0o644,))):
        files.replace(tmp_path / "file", "text", *words)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


def test_create_never_replaces_a_file(tmp_path: Path) -> None:
    """`create` fails where a file or a dangling link is, changes neither, and leaves no draft."""
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "link"):
        with pytest.raises(FileExistsError):
            files.create(tmp_path / name, "new")
    assert (tmp_path / "file").read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "link"}


@pytest.mark.parametrize("write", [files.replace, files.create])
def test_a_file_is_durable_and_has_its_mode_from_the_first_byte(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path, str], None]
) -> None:
    """The content is synced before the file gets its name, and the folder after it; no mode is corrected later."""
    path = tmp_path / "file"
    steps: list[str] = []

    def fsync(handle: int) -> None:
        info = os.fstat(handle)
        kind = "folder" if stat.S_ISDIR(info.st_mode) else f"{info.st_size} bytes, mode {stat.S_IMODE(info.st_mode):o}"
        steps.append(f"{kind}, {'named' if path.exists() else 'not named'}")

    def refuse(*_: object) -> None:
        raise AssertionError("a mode is corrected afterwards")

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fchmod", refuse)
    write(path, "text")
    assert steps == ["4 bytes, mode 600, not named", "folder, named"]
