"""The benchmark runs: its programs start, exchange what they are told to, and end."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from benchmark import models
from benchmark.cases import Case
from benchmark.peers import BARE, OURS, PAHO, CannotRun, Peer
from benchmark.program import Program


def test_calls_are_measured_beside_raw_paho() -> None:
    """All three on one broker; each process has its share of processor time."""
    python = Path(sys.executable)
    with (
        Program(OURS, python) as ours,
        Program(PAHO, python, ours.about["broker"]) as paho,
        Program(BARE, python, ours.about["broker"]) as bare,
    ):
        single = [program.measure(Case(200, 1, 10)) for program in (ours, paho, bare)]
        many = [program.measure(Case(2_000, 8, 100)) for program in (ours, paho)]
        assert [len(each.times) for each in (*single, *many)] == [10, 10, 10, 100, 100]
        assert set(many[0].cpu) == {"caller", "alice", "bob", "worker"}
        assert sum(many[0].cpu.values()) > 0


def test_a_question_to_a_chat_costs_little_more_than_a_direct_request() -> None:
    """8 at once, through two daemons. Times depend on what else runs here; the ratio of processor times hardly does."""
    found = models.measure_all(lambda _: None, calls=100, rounds=2)
    direct, chat, _echo = found.values()
    assert 0 < chat.cpu < 5 * direct.cpu, models.table(found)


def test_a_program_that_cannot_run_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are measured all the same."""
    (tmp_path / "broken.py").write_text("raise SystemExit('It needs a thing that is not here.')")
    monkeypatch.setattr("benchmark.program.FOLDER", tmp_path)
    with pytest.raises(CannotRun, match="a thing that is not here"):
        Program(Peer("broken", "Broken", "no", "no"), Path(sys.executable))
