"""`-o FIELD`: one field of a result, for scripts."""

from __future__ import annotations

from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon, prompt, run_here

from p2pflows.cli.printing.fields import select
from p2pflows.errors import UsageError

ID = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9"
RESULT = {"result": "Bonjour, Bob", "n": 1.5, "yes": True, "no": None, "deep": {"a": [{"b": 1}, {"b": 2}], "c": []}}


@pytest.mark.parametrize(
    ("path", "values"),
    [
        ("result", ["Bonjour, Bob"]),
        ("deep.a", [[{"b": 1}, {"b": 2}]]),
        ("deep.a.b", [1, 2]),
        ("deep.a.1", [{"b": 2}]),
        ("deep.a.1.b", [2]),
        ("deep.c.b", []),
        ("no", [None]),
    ],
)
def test_a_path_leads_to_values(path: str, values: list[Any]) -> None:
    """Names nest by dots; in a list, a number is an index, and a name stands for all."""
    assert select(RESULT, path) == values


@pytest.mark.parametrize(
    ("path", "known"),
    [("x", "There are: deep, n, no, result, yes."), ("deep.a.x", "There are: b."), ("n.x", "has no fields"), ("", "")],
)
def test_a_field_that_is_not_there(path: str, known: str) -> None:
    """The error says which there are."""
    with pytest.raises(UsageError, match="The result has no field") as caught:
        select(RESULT, path)
    assert known in caught.value.hint


@pytest.mark.parametrize(
    ("option", "shown"),
    [("result", "Bonjour, Bob\n"), ("n", "1.5\n"), ("yes", "true\n"), ("deep", '{"a":[{"b":1},{"b":2}],"c":[]}\n')],
)
def test_one_field_is_printed_plainly(daemon: ScriptedDaemon, option: str, shown: str) -> None:
    """A text without quotes, anything else as JSON."""
    daemon.script.update(submit={"id": ID}, wait={"id": ID, "data": RESULT})
    for words in (["-o", option], ["--raw", option], ["--json", "-o", option]):
        assert run_here(daemon.home, "call", "bob/x", "{}", *words).out == shown


def test_a_field_of_each_element(daemon: ScriptedDaemon) -> None:
    """A list gives one line for each; a command that would print a table prints the field."""
    daemon.script["ls"] = {"flows": [{"endpoint": "a"}, {"endpoint": "b"}]}
    assert run_here(daemon.home, "ls", "-o", "endpoint").out == "a\nb\n"
    daemon.script["prompt"] = prompt(ID, "Well?\nNow?")
    assert run_here(daemon.home, "show", "4f1c", "-o", "text").out == "Well?\nNow?\n"
    run_here(daemon.home, "contacts", "add", "bob", "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394")
    assert run_here(daemon.home, "contacts", "-o", "name").out == "bob\n"
    assert run_here(daemon.home, "contacts", "list", "-o", "name").out == "bob\n"


def test_a_field_that_is_not_there_is_an_error(daemon: ScriptedDaemon) -> None:
    """Nothing is printed to stdout, so that a script does not go on with an empty text."""
    daemon.script["ls"] = {"flows": [{"endpoint": "a"}]}
    ended = run_here(daemon.home, "ls", "-o", "endpont")
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Error [usage]: The result has no field 'endpont'.\nThere are: endpoint.")


def test_many_lines_have_whole_results(daemon: ScriptedDaemon) -> None:
    """With --lines, errors are among the results, so a field makes no sense."""
    ended = run_here(daemon.home, "call", "bob/x", "--lines", "-o", "result")
    assert (ended.code, daemon.asked) == (2, [])
