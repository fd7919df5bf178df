"""The commands that show and tidy the inbox: `inbox`, `dismiss` and `snooze`."""

from __future__ import annotations

import re

import pytest
from support.scripted_daemon import ScriptedDaemon, moment, prompt, run_here

ID, OTHER = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9", "1197f6a0c3de7b0e9a5d0f0e4f1c0000"


def test_a_page_ends_with_what_is_left(daemon: ScriptedDaemon) -> None:
    """It says how much is open in all, and how to see the next page; parts of a page are read until it is full."""
    parts = {
        None: {"prompts": [prompt(ID, "Tea?")], "next": ID, "questions": 1, "notes": 100_000},
        ID: {"prompts": [prompt(OTHER, "Hi", wants_answer=False)], "next": OTHER, "questions": 1, "notes": 100_000},
    }
    daemon.script["inbox"] = lambda params: parts[params.get("page")]
    ended = run_here(daemon.home, "inbox", "--limit", "2", "--from", "bob", "--since", "2026-01-31T10:00+01:00")
    assert [line.split()[-1] for line in ended.out.splitlines()] == ["TEXT", "Tea?", "Hi"]
    assert ended.err.splitlines() == [
        "There are more: 1 question and 100,000 notes are open. Next: --page 4f1c0000; or --groups",
        "Answer with: p2pflows answer ID TEXT, or put a note away: p2pflows dismiss ID",
    ]
    since = {"user": "bob", "since": "2026-01-31T09:00:00.000Z"}
    assert [params for _, params in daemon.asked] == [{"limit": 2, **since}, {"limit": 1, "page": ID, **since}]


def test_a_narrow_terminal_shows_fewer_columns(daemon: ScriptedDaemon) -> None:
    """At 40 columns there is room for the text."""
    daemon.script["inbox"] = {"prompts": [prompt(ID, "Tea?")]}
    assert run_here(daemon.home, "inbox", COLUMNS="40").out.splitlines() == [
        "ID        FROM  LEFT  TEXT",
        "4f1c22d9  bob   1h    Tea?",
    ]


def test_snoozed_ones_say_until_when(daemon: ScriptedDaemon) -> None:
    """They are listed apart, with how to show one again."""
    daemon.script["inbox"] = {"prompts": [prompt(ID, "Tea?", snoozed=moment(605))]}
    ended = run_here(daemon.home, "inbox", "--snoozed")
    assert "in 10m  Tea?" in ended.out
    assert ended.err == "Show one again with: p2pflows snooze ID --end\n"


def test_groups_are_counted(daemon: ScriptedDaemon) -> None:
    """By contact, and for one contact by conversation."""
    group = {
        "user": "b0" * 32,
        "name": "bob",
        "conversation": None,
        "questions": 2,
        "notes": 1,
        "first": prompt(ID, "Tea?"),
    }
    daemon.script["inbox_groups"] = {"groups": [group]}
    assert run_here(daemon.home, "inbox", "--groups").out.splitlines() == [
        "FROM  QUESTIONS  NOTES  FIRST",
        "bob           2      1  Tea?",
    ]
    daemon.script["inbox_groups"] = {"groups": [{**group, "conversation": OTHER}]}
    assert "4f1c0000" in run_here(daemon.home, "inbox", "--groups", "--from", "bob").out
    daemon.script["inbox_groups"] = {"groups": []}
    assert run_here(daemon.home, "inbox", "--groups").err == "There are no open questions.\n"


def test_notes_are_dismissed(daemon: ScriptedDaemon) -> None:
    """Several at once, or all of one contact."""
    daemon.script.update(dismiss=lambda params: {"ids": params["ids"]}, dismiss_all={"dismissed": 1200})
    assert run_here(daemon.home, "dismiss", ID, OTHER).err == "Put away 2 notes.\n"
    assert run_here(daemon.home, "dismiss", "--from", "bob", "--all").err == "Put away 1,200 notes.\n"
    assert daemon.asked == [("dismiss", {"ids": [ID, OTHER]}), ("dismiss_all", {"user": "bob"})]


def test_a_question_is_snoozed(daemon: ScriptedDaemon) -> None:
    """For a while, or not any more."""
    daemon.script["snooze"] = lambda params: {"id": ID, "until": moment(3605) if params["seconds"] else None}
    assert re.fullmatch(r"4f1c22d9 is hidden until .*\d\d:\d\d\.\n", run_here(daemon.home, "snooze", "22d9", "1h").err)
    assert run_here(daemon.home, "snooze", "22d9", "--end").err == "4f1c22d9 is shown again.\n"
    assert [params["seconds"] for _, params in daemon.asked] == [3600.0, 0]


def test_a_question_is_claimed_and_released(daemon: ScriptedDaemon) -> None:
    """For half an hour, or a time, or not any more."""
    daemon.script["claim"] = lambda params: {"id": ID, "until": None if params.get("seconds") == 0 else moment(1805)}
    assert re.fullmatch(r"You are on 4f1c22d9 until .*\d\d:\d\d\.\n", run_here(daemon.home, "claim", "22d9").err)
    run_here(daemon.home, "claim", "22d9", "--for", "2h").ok()
    assert run_here(daemon.home, "claim", "22d9", "--release").err == "You are not on 4f1c22d9 any more.\n"
    assert [params.get("seconds") for _, params in daemon.asked] == [None, 7200.0, 0]


def test_who_is_on_a_question_stands_beside_it(daemon: ScriptedDaemon) -> None:
    """In the list, and in full."""
    claim = {"claimed_by": "c" * 64, "claimed_name": "carol", "claimed_until": moment(1205)}
    question = {**prompt(ID, "Deploy?"), "about": {}, "answer": None, "asked_of": 3, **claim}
    daemon.script["inbox"] = {"prompts": [question], "next": None, "questions": 1, "notes": 0}
    assert "Deploy?  (claimed by carol, 20m left)" in run_here(daemon.home, "inbox").out
    daemon.script["prompt"] = {**question, "claimed_name": "me", "form": None}
    shown = run_here(daemon.home, "show", ID).out
    assert "3 people" in shown
    assert "by you, 20m left" in shown


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["inbox", "--watch", "--all"], "--watch shows everything that arrives."),
        (["inbox", "--groups", "--kind", "note"], "--groups cannot be combined with --kind."),
        (["inbox", "--all", "--snoozed"], "Past questions are not snoozed."),
        (["inbox", "--since", "yesterday"], "'yesterday' is no time: give 1h"),
        (["inbox", "--limit", "0"], "0 is not in the range"),
        (["dismiss"], "What to dismiss is not clear."),
        (["dismiss", "--all"], "What to dismiss is not clear."),
        (["dismiss", ID, "--from", "bob", "--all"], "What to dismiss is not clear."),
        (["snooze", ID], "For how long is not clear."),
        (["snooze", ID, "1h", "--end"], "For how long is not clear."),
        (["claim", ID, "--for", "1h", "--release"], "A claim that you release has no time."),
        (["snooze", ID, "soon"], "is not a length of time"),
    ],
)
def test_wrong_use_is_explained(daemon: ScriptedDaemon, words: list[str], told: str) -> None:
    """With exit code 2, before anything is asked of the daemon."""
    ended = run_here(daemon.home, *words)
    assert ended.code == 2
    assert told in ended.err
    assert daemon.asked == []
