"""`call --stream`, and a chat with a flow at a terminal: the text as it grows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon, run_here, run_in_terminal

from p2pflows.errors import FlowFailed

ESC = "\x1b[2J"
ASSISTANT = {"endpoint": "Assistant", "kind": "class", "description": "", "schema": None, "dispatch_point": "x"}


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    """A daemon with a flow that answers `one two`."""
    with ScriptedDaemon(tmp_path) as daemon:
        daemon.script.update(
            call={"data": {"api_output": "one two"}, "id": "1" * 32}, describe={"served": True, **ASSISTANT}
        )
        yield daemon


def streamed(daemon: ScriptedDaemon, *reports: dict[str, Any]) -> str:
    """Return what `call --stream` prints to stderr."""
    daemon.reports = list(reports)
    ended = run_here(daemon.home, "call", "bob/Assistant", "query=hi", "--stream")
    assert ended.document == {"api_output": "one two"}
    return ended.err


def test_one_choice_is_printed(daemon: ScriptedDaemon) -> None:
    """With several, the pieces of the others are left out, and come with the answer."""
    reports = [{"delta": word, "choice": choice} for word in ("one", " two") for choice in (0, 1, 2)]
    assert streamed(daemon, *reports) == "one two\n"


def test_a_run_that_begins_again_is_no_part_of_the_text(daemon: ScriptedDaemon) -> None:
    """Whether its worker died, an attempt failed, or the report of it was lost."""
    expected = "wo\nThe answer begins again.\none two\n"
    again = {"delta": "one two", "at": 0}
    assert streamed(daemon, {"delta": "wo", "at": 0}, {"restart": True}, again) == expected
    assert streamed(daemon, {"delta": "wo", "at": 0}, {**again, "restart": True}) == expected
    assert streamed(daemon, {"delta": "wo", "at": 0}, again) == expected
    assert streamed(daemon, {"restart": True}, again) == "one two\n"


def test_what_was_lost_is_marked(daemon: ScriptedDaemon) -> None:
    """The answer itself is whole."""
    assert streamed(daemon, {"delta": "one", "at": 0}, {"delta": "o", "at": 6}) == "one [...] o\n"


def test_other_reports_are_lines_of_json(daemon: ScriptedDaemon) -> None:
    """What a neighbour reports controls no terminal."""
    assert streamed(daemon, {"delta": f"a{ESC}"}, {"step": 3}) == 'a\\x1b[2J\n{"step":3}\n'


def test_json_prints_every_report(daemon: ScriptedDaemon) -> None:
    """As a line of JSON, for programs."""
    daemon.reports = [{"delta": "one", "at": 0}, {"delta": "x", "choice": 1, "at": 0}, {"step": ESC}]
    ended = run_here(daemon.home, "call", "bob/Assistant", "--stream", "--json", stdin="{}")
    assert [json.loads(line) for line in ended.err.splitlines()] == daemon.reports
    assert ESC not in ended.err


def test_an_error_after_pieces_begins_a_line(daemon: ScriptedDaemon) -> None:
    """It is not glued to the text."""
    daemon.script["call"] = FlowFailed("It broke.")
    daemon.reports = [{"delta": "one"}]
    ended = run_here(daemon.home, "call", "bob/Assistant", "query=hi", "--stream")
    assert ended.code == 1
    assert ended.err.startswith("one\nError [flow_failed]: It broke.")


def chat(daemon: ScriptedDaemon, *reports: dict[str, Any]) -> str:
    """Return what a terminal shows of a chat with a flow, after what was typed."""
    daemon.reports = list(reports)
    code, shown = run_in_terminal(daemon.home, "chat", "bob/Assistant", typed="hi\n/quit\n", NO_COLOR="1")
    assert code == 0
    return shown[shown.index("bob:") :].replace("you: /quit\n", "").replace("you: ", "")


def test_a_chat_shows_the_text_as_it_grows(daemon: ScriptedDaemon) -> None:
    """Once; what was lost of it is shown at the end."""
    assert chat(daemon, {"delta": "one", "at": 0}, {"delta": " two", "at": 3}).startswith("bob: one two\n")
    assert chat(daemon, {"delta": "one", "at": 0}).startswith("bob: one two\n")
    assert chat(daemon).startswith("bob: one two\n")


def test_a_chat_shows_the_whole_answer_if_what_grew_was_another_one(daemon: ScriptedDaemon) -> None:
    """After a restart, or a gap."""
    again = chat(daemon, {"delta": "wo", "at": 0}, {"delta": "one", "at": 0})
    assert again.startswith("bob: wo\nThe answer begins again.\nbob: one two\n")
    gap = chat(daemon, {"delta": "one", "at": 0}, {"delta": "o", "at": 6})
    assert gap.startswith("bob: one [...] o\nbob: one two\n")


def test_a_chat_goes_on_after_an_error(daemon: ScriptedDaemon) -> None:
    """It is shown below the pieces."""
    daemon.script["call"] = FlowFailed("It broke.")
    assert chat(daemon, {"delta": "one"}).startswith("bob: one\nError [flow_failed]: It broke.")


def test_a_chat_that_no_terminal_shows_asks_for_no_progress(daemon: ScriptedDaemon) -> None:
    """Nobody would see it."""
    daemon.script.update(submit={"id": "2" * 32}, wait={"data": {"api_output": "one two"}})
    ended = run_here(daemon.home, "chat", "bob/Assistant", stdin="hi\n")
    assert ended.out == "bob: one two\n"
    assert "call" not in dict(daemon.asked)
