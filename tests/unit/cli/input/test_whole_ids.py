"""Ids of instances and conversations, written in short."""

from __future__ import annotations

from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon, run_here

ONE, TWO = "46ea674daf8e5450c2f58fca8af075ee", "46ea000000000000c2f58fca8ab07511"


@pytest.fixture
def listing(daemon: ScriptedDaemon) -> ScriptedDaemon:
    """A daemon with two instances and two conversations."""
    daemon.script["instances"] = {"instances": [{"instance": ONE}, {"instance": TWO}]}
    daemon.script["conversations"] = {"conversations": [{"conversation": each} for each in (ONE, TWO, ONE)]}
    daemon.script.update(delete_instance={}, reset_instance={}, submit={"id": ONE}, send={"id": ONE})
    daemon.script["wait"] = {"id": ONE, "data": {}}
    return daemon


@pytest.mark.parametrize("part", ["46ea67", "75ee", "8af075ee", "8af075", ONE.upper(), ONE])
@pytest.mark.parametrize(
    ("words", "method"),
    [
        (["unmount", "{}", "--of", "bob"], "delete_instance"),
        (["reset", "{}", "--of", "bob"], "reset_instance"),
        (["call", "bob/x", "--instance", "{}", "{{}}"], "submit"),
        (["send", "bob/x", "--instance", "{}", "{{}}"], "send"),
    ],
)
def test_an_instance_may_be_written_in_short(listing: ScriptedDaemon, words: list[str], method: str, part: str) -> None:
    """By the beginning or the end of its id, or the beginning of what is shown of it."""
    ended = run_here(listing.home, *(word.format(part) for word in words))
    assert ended.code == 0, ended
    asked = dict(listing.asked)
    assert asked[method]["instance"] == ONE
    assert ("instances" in asked) == (part.lower() != ONE)
    assert asked.get("instances", {"user": "bob"}) == {"user": "bob"}


@pytest.mark.parametrize("part", ["46ea67", "75ee", ONE])
def test_a_conversation_may_be_written_in_short(listing: ScriptedDaemon, part: str) -> None:
    """Like an instance."""
    assert run_here(listing.home, "send", "bob/x", "--conversation", part, "{}").code == 0
    assert dict(listing.asked)["send"]["conversation"] == ONE


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["unmount", "46ea"], "Several instances have an id like '46ea': 8ab07511, 8af075ee.\nGive more of it."),
        (["reset", "46"], "'46' is not an id: give its first or last 4 to 32 hex digits.\nSee: p2pflows instances"),
        (["reset", "0000", "--of", "bob"], "No instance has an id like '0000'.\nSee: p2pflows instances bob"),
        (["call", "bob/x", "--conversation", "46ea"], "Several conversations have an id like '46ea': 8ab07511, 8af0"),
        (["call", "bob/x", "--conversation", "xyz0"], "'xyz0' is not an id"),
        (["call", "bob/x", "--conversation", "0000"], "No conversation has an id like '0000'.\nSee: p2pflows chat"),
    ],
)
def test_an_unclear_id_is_refused(listing: ScriptedDaemon, words: list[str], message: str) -> None:
    """With the ids that it may stand for, and nothing is sent."""
    ended = run_here(listing.home, *words)
    assert (ended.code, ended.out) == (2, "")
    assert message in ended.err
    assert {method for method, _ in listing.asked} <= {"instances", "conversations"}


@pytest.mark.parametrize("words", [["unmount", "46ea67"], ["send", "me/x", "{}", "--instance", "46ea67"]])
def test_an_instance_of_ones_own(listing: ScriptedDaemon, words: list[str]) -> None:
    """Is looked up among those of one's own flows."""
    assert run_here(listing.home, *words).code == 0
    about: dict[str, Any] = dict(listing.asked)["instances"]
    assert about in ({}, {"user": "me"})
