"""The files that came with an answer, as `call` and `wait` fetch and save them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from p2pflows import Client
from p2pflows.cli.printing.fetched_files import fetch_files
from p2pflows.protocol.file_reference import MARK, FileReference

GOOD = FileReference("1" * 32, "a" * 64, 5, "photo.png").as_data()


class Daemon(Client):
    """A client whose daemon has every file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.asked: list[str] = []

    def request(self, method: str, **params: Any) -> Any:
        """Say where a file lies."""
        assert method == "files_get"
        self.asked.append(params["id"])
        return {"path": str(self.path), "state": "here", "name": "photo.png"}


@pytest.fixture
def daemon(tmp_path: Path) -> Daemon:
    """A daemon with a file."""
    path = tmp_path / "kept"
    path.write_bytes(b"bytes")
    return Daemon(path)


def test_files_are_saved_under_their_names(daemon: Daemon, tmp_path: Path) -> None:
    """Each is copied into the folder; one of the same name replaces none."""
    saved = fetch_files(daemon, {"files": [GOOD, GOOD], "n": 1}, tmp_path / "out")
    paths = [Path(file[MARK]["path"]) for file in saved["files"]]
    assert [path.name for path in paths] == ["photo.png", "photo-1.png"]
    assert {path.read_bytes() for path in paths} == {b"bytes"}
    assert saved["n"] == 1


@pytest.mark.parametrize("wrong", [{"name": "../evil"}, {"name": "/evil"}, {"name": 5}, {"id": "1"}, {"size": -1}])
def test_no_answer_writes_beside_the_folder(daemon: Daemon, tmp_path: Path, wrong: dict[str, Any]) -> None:
    """What is malformed in an answer is data: it is shown, and nothing is fetched or written for it."""
    answer = {"file": {MARK: {**GOOD[MARK], **wrong}}}
    assert fetch_files(daemon, answer, tmp_path / "out") == answer
    assert daemon.asked == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept"]
