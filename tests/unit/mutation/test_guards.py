"""The tool that removes guards: what it finds, what it writes, and the list of survivors that are explained."""

from __future__ import annotations

import builtins
from pathlib import Path
from typing import Any

import pytest
from mutation import guards
from mutation.__main__ import (
    TESTS,
    explanations,
    main,
    module_of,
    mutants_of,
    noticed_before,
    save_noticed,
    stale_explanations,
)

SOURCE = '''
"""A module."""
KINDS = "SELECT n FROM t WHERE kind = 'a' AND peer = ?"


def first(peer, rows, limit):
    """Return some rows of a peer."""
    check_peer(peer)
    if peer is None or (rows and peer == "x"):
        return []
    return [row for row in rows[:limit] if row.peer == peer][: min(limit, 5)]
'''


def test_every_kind_of_guard_is_found() -> None:
    """Conditions and their parts, limits, checks and conditions in SQL can be removed."""
    found = {(mutant.function, mutant.text) for mutant in guards.find(SOURCE)}
    assert {
        ("", "kind = 'a' -> (kind = 'a' OR 1)"),
        ("", "peer = ? -> (peer = ? OR 1)"),
        ("first", "check_peer(peer) -> nothing"),
        ("first", 'peer is None or (rows and peer == "x") -> False'),
        ("first", "peer is None -> False"),
        ("first", 'peer == "x" -> True'),
        ("first", "row.peer == peer -> True"),
        ("first", "limit -> None"),
        ("first", "min(limit, 5) -> limit"),
    } <= found


@pytest.mark.parametrize(
    ("change", "result"),
    [
        ("row.peer == peer -> True", [1, 2]),
        ('peer is None or (rows and peer == "x") -> True', []),
        ("limit -> None", [1, 3]),
        ("", [1]),
    ],
)
def test_a_switch_removes_one_guard(change: str, result: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """The written module does what the source says, but for the guard whose switch is on."""
    numbers = [mutant.number for mutant in guards.find(SOURCE) if mutant.text == change]
    monkeypatch.setattr(builtins, "_is_off", lambda number: number in numbers, raising=False)
    names: dict[str, Any] = {"check_peer": lambda _peer: None}
    written = guards.with_switches(SOURCE, "_is_off")
    assert written.count("\n") == SOURCE.count("\n")
    exec(written, names)  # noqa: S102 - it is ours

    class Row:
        """A row of a peer."""

        def __init__(self, number: int, peer: str) -> None:
            self.number, self.peer = number, peer

    rows = [Row(1, "ann"), Row(2, "bob"), Row(3, "ann")]
    assert [row.number for row in names["first"]("ann", rows, 2)] == result


def test_a_guard_with_the_same_text_has_a_number() -> None:
    """Guards are named by their function and text, so lines may move; equal ones are counted."""
    texts = [
        mutant.text for mutant in guards.find("def f(x):\n    if x:\n        return 1\n    return 2 if x else 3\n")
    ]
    assert texts == ["x -> True", "x -> False", "x #2 -> True", "x #2 -> False"]


def test_every_explained_survivor_has_a_reason() -> None:
    """The list names guards of mutated files, each with a sentence; `scripts/mutate` says which of them are gone."""
    assert {key.file for key in explanations()} <= set(TESTS)
    assert all(reason.strip().endswith(".") for reason in explanations().values())


def test_an_explanation_of_a_guard_that_is_gone_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An entry that fits no mutant is an error, as it would hide a survivor that comes later."""
    gate = "daemon/p2pflowsd/receiving/gate.py"
    listed = tmp_path / "explained.yaml"
    listed.write_text(f"{gate}:\n  decide:\n    nothing -> True: It is not there.\n", encoding="utf-8")
    monkeypatch.setattr("mutation.__main__.EXPLAINED", listed)
    assert [key.change for key in stale_explanations([gate])] == ["nothing -> True"]


def test_what_noticed_a_mutant_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mutant that is no more, and a test that is no more, are forgotten."""
    file = "daemon/p2pflowsd/receiving/gate.py"
    first, second, third = (mutant.key(module_of(file)) for mutant in mutants_of(file)[:3])
    here = "tests/unit/mutation/test_guards.py"
    monkeypatch.setattr("mutation.__main__.NOTICED", tmp_path / "noticed.txt")
    assert noticed_before() == {}
    kept = dict.fromkeys((first, second), f"{here}::test_mutants_are_listed")
    save_noticed({**kept, third: f"{here}::test_that_is_gone[1-2]", "0123456789": f"{here}::test_mutants_are_listed"})
    assert noticed_before() == kept
    assert len((tmp_path / "noticed.txt").read_text().splitlines()) == 2


def test_mutants_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """`--list` prints one line for each mutant; `--file` and `--only` choose."""
    monkeypatch.setattr("sys.argv", ["mutate", "--list", "--file", "gate.py", "--only", "book.blocked"])
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all("receiving/gate.py:" in line and "book.blocked" in line for line in lines)


def test_mutants_that_are_none_are_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No test is run for them."""
    monkeypatch.setattr("sys.argv", ["scripts/mutate", "--file", "receiving/gate", "--only", "never", "--only", "none"])
    assert main() == 2
    assert "has never or none in its function" in capsys.readouterr().out


def test_an_unknown_file_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A text that no mutated file has in its path is refused, with the list of files."""
    monkeypatch.setattr("sys.argv", ["mutate", "--file", "nowhere"])
    with pytest.raises(SystemExit):
        main()
    assert "receiving/intake.py" in capsys.readouterr().err
