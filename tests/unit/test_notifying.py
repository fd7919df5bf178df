"""What is said when something waits: to whom, how much, when, and in how many messages."""

from __future__ import annotations

import errno
import os
from datetime import time
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from p2pflows import files
from p2pflows.home import Home
from p2pflows.notifying.news import News, fits, is_wanted, link_to, of_line, of_prompt, of_request, say
from p2pflows.notifying.queue import GATHER_S, MAX_WAITING, PAUSE_S, Queue
from p2pflows.notifying.state import State
from p2pflows.settings.notify import Hook, NotifySettings

ASKED = News("asked", "b" * 64, "bob", "User", "Is the door open?\x1b[2J", "1" * 32, "boolean")


def test_how_much_is_said() -> None:
    """Only the name unless the owner allows more; nothing that is said controls a terminal."""
    assert say([ASKED], "name", "http://x") == ("bob asks you", "http://x")
    assert say([ASKED], "subject").body == "Is the door open?\\x1b[2J"
    assert len(say([ASKED._replace(text="y" * 500)], "subject").body) == 80
    assert say([ASKED._replace(text="y" * 5_000)], "all").body == "y" * 1_000
    assert say([ASKED._replace(name=None, kind="wish")], "name").title == "A stranger (bbbbbbbb…) wants to be let in"


def test_many_are_one_summary() -> None:
    """It counts what they are, and names who they are from."""
    news = [ASKED._replace(id=str(n), name=f"user{n % 5}") for n in range(1_000)]
    title, body = say([*news, ASKED._replace(kind="wish", name=None)], "all")
    assert title == "1,000 questions, 1 stranger at the door"
    assert body == "200 from user0, 200 from user1, 200 from user2, 401 from 3 others"


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, True),
        ({"on": ["note"]}, False),
        ({"only_from": ["carol"]}, False),
        ({"only_from": ["bob"]}, True),
        ({"only_from": ["b" * 64]}, True),
        ({"not_from": ["bob"]}, False),
        ({"endpoints": ["Door"]}, False),
        ({"endpoints": ["User"]}, True),
    ],
)
def test_what_the_user_wants_to_hear(settings: dict[str, Any], wanted: bool) -> None:
    """By event, by person, by endpoint."""
    assert is_wanted(NotifySettings.model_validate(settings), ASKED) is wanted


def test_hooks_are_for_what_they_name() -> None:
    """A condition that does not hold keeps the command from running."""
    hook = Hook(on="asked", run=["x"], users=["bob"], forms=["boolean"])
    assert fits(hook, ASKED)
    assert not fits(hook, ASKED._replace(form="string"))
    assert not fits(hook, ASKED._replace(name="carol"))
    assert not fits(Hook(on="missed", run=["x"]), ASKED)


@pytest.mark.parametrize(
    ("quiet", "at", "is_quiet"),
    [
        ("", "03:00", False),
        ("22:00-07:00", "23:30", True),
        ("22:00-07:00", "06:59", True),
        ("22:00-07:00", "07:00", False),
        ("12:00-13:00", "12:30", True),
        ("12:00-13:00", "23:00", False),
    ],
)
def test_quiet_hours(quiet: str, at: str, is_quiet: bool) -> None:
    """They may go over midnight."""
    assert NotifySettings(quiet=quiet).is_quiet(time.fromisoformat(at)) is is_quiet


@pytest.mark.parametrize(
    "wrong", [{"quiet": "late"}, {"show": "everything"}, {"on": ["rang"]}, {"remind_before": "soon"}]
)
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    """With the field named."""
    with pytest.raises(ValidationError, match=next(iter(wrong))):
        NotifySettings.model_validate(wrong)


def test_the_queue_gathers_pauses_and_tries_again() -> None:
    """The first goes after a moment; what comes after it goes together; a failure loses nothing."""
    queue = Queue()
    queue.add(ASKED, 0.0)
    assert not queue.take(0.0)
    assert queue.take(GATHER_S, is_quiet=True) == []
    assert queue.take(GATHER_S) == [ASKED]
    queue.failed("down", GATHER_S)
    assert not queue.take(GATHER_S + 1)
    queue.add(ASKED._replace(id="2"), 2.0)
    assert len(queue.take(GATHER_S + 2)) == 2
    queue.sent([ASKED], 10.0)
    assert (len(queue), queue.problem) == (1, "")
    assert not queue.take(10.0 + PAUSE_S - 1)
    queue.forget("2", ASKED.user)
    assert queue.take(10.0 + PAUSE_S) == []


def test_the_queue_is_bounded() -> None:
    """Ten thousand wait at most; the newest stay."""
    queue = Queue()
    for n in range(MAX_WAITING + 5):
        queue.add(ASKED._replace(id=str(n)), 0.0)
    assert len(queue) == MAX_WAITING
    assert queue.take(GATHER_S)[0].id == "5"


def test_news_of_what_the_daemon_says() -> None:
    """Questions, notes, answers, strangers; not what the user has said."""
    prompt = {
        "from": "b" * 64, "name": "bob", "endpoint": "User", "text": "Hi", "id": "1", "wants_answer": False,
        "form": {"schema": {"type": "string"}}, "expires": "2026-01-01T00:00:00Z",
    }  # fmt: skip
    assert of_prompt(prompt).kind == "note"
    assert of_prompt({**prompt, "wants_answer": True}).form == "string"
    line = {
        "by": "them",
        "kind": "answer",
        "user": "b" * 64,
        "name": "bob",
        "endpoint": "User",
        "text": "Yes",
        "message": "2",
    }
    assert of_line(line) == News("answered", "b" * 64, "bob", "User", "Yes", "2")
    assert of_line({**line, "by": "me"}) is None
    assert of_line({**line, "kind": "note"}) is None
    assert of_request({"user": "c" * 64, "endpoints": ["User"]}).kind == "wish"


def test_a_link_leads_to_the_place_on_the_page() -> None:
    """To the question itself, if there is one; a summary leads to the page."""
    page = "https://pi.lan:8643"
    assert link_to([ASKED], page) == f"{page}/#q={ASKED.id}"
    assert link_to([ASKED._replace(kind="expiring")], page) == f"{page}/#q={ASKED.id}"
    assert link_to([ASKED._replace(kind="wish", id="")], page) == f"{page}/#people"
    assert link_to([ASKED._replace(kind="missed")], page) == page
    assert link_to([ASKED, ASKED], page) == page
    assert link_to([ASKED], "") == ""


def test_a_full_disk_keeps_nobody_from_being_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was told last is written once the disk takes it."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    home = Home(tmp_path)
    state = State(home)
    state.note_told("2026-01-31T00:00:00.000Z")
    with monkeypatch.context() as patch:
        patch.setattr(files, "replace", full)
        state.save()
    assert State(home).told_until == ""
    state.save()
    assert State(home).told_until == "2026-01-31T00:00:00.000Z"
