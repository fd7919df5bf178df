"""The commands `ask`, `confirm`, `tell` and `asked`: what they send, print, and end with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon, moment, run_here

from p2pflows.contacts import Contacts

ID = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9"
BOB = "b0" * 32


def ended(outcome: str = "answered", **more: Any) -> dict[str, Any]:
    """Return a question as the daemon describes it."""
    return {
        "id": ID, "kind": "question", "text": "Hm?", "expects": "", "to": BOB, "to_name": "bob", "endpoint": "User",
        "created": moment(-65), "expires": moment(600), "where": "", "outcome": outcome, "value": "Yes",
        "answer": "Yes", "remark": "", "by": BOB, "name": "bob", "at": moment(-5), "error": None,
        "people": [{"user": BOB, "to_name": "bob", "endpoint": "User", "where": "sent", "outcome": outcome}],
        "need": "first", "quorum": 0, **more,
    }  # fmt: skip


def failed(outcome: str, code: str, **more: Any) -> dict[str, Any]:
    """Return a question without an answer."""
    error = {"code": code, "message": "It went wrong.", "hint": "Try again.", **more}
    return ended(outcome, value=None, answer="", error=error)


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["--yes-no"], {"schema": {"type": "boolean"}}),
        (["--choice", "a", "--choice", "b"], {"schema": {"enum": ["a", "b"]}}),
        (["--form", "form.json"], {"schema": {"type": "integer"}}),
        (["--edit", "doc.json"], {"draft": {"size": 5}}),
        (["--form", "form.json", "--default", "7"], {"schema": {"type": "integer"}, "default": 7}),
        (["--default", "7"], {"default": "7"}),
        (["--timeout", "2m"], {"timeout": 120.0}),
    ],
)
def test_options_say_what_the_answer_must_be(
    daemon: ScriptedDaemon, tmp_path: Path, words: list[str], sent: dict[str, Any]
) -> None:
    """Each becomes a schema, a document, or a default."""
    (tmp_path / "form.json").write_text('{"type": "integer"}')
    (tmp_path / "doc.json").write_text('{"size": 5}')
    daemon.script.update(ask={"id": ID}, wait=ended())
    done = run_here(daemon.home, "ask", "bob", "Hm?", *words, cwd=tmp_path)
    assert (done.code, done.out, done.err) == (0, "Yes\n", "")
    (_, asked), waited = daemon.asked
    assert {**asked, "id": ID} == {"id": ID, "who": ["bob"], "text": "Hm?", **sent}
    assert waited == ("wait", {"id": ID})


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["bob"],
        ["bob", "Hm?", "--choice", "a"],
        ["bob", "Hm?", "--choice", "a", "--choice", "b", "--yes-no"],
        ["bob", "Hm?", "--form", "nowhere.json"],
        ["bob", "Hm?", "--form", "broken.json"],
        ["bob", "Hm?", "--form", "list.json"],
        ["bob", "Hm?", "--yes-no", "--default", "perhaps"],
        ["bob", "@nowhere.txt"],
    ],
)
def test_wrong_use_is_said_before_anything_is_sent(daemon: ScriptedDaemon, tmp_path: Path, words: list[str]) -> None:
    """With what to do next."""
    (tmp_path / "broken.json").write_text("{type: integer}")
    (tmp_path / "list.json").write_text("[]")
    done = run_here(daemon.home, "ask", *words, cwd=tmp_path)
    assert done.code == 2
    assert len(done.err.splitlines()) >= 2
    assert daemon.asked == []


def test_the_text_comes_from_stdin_or_a_file(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    """`@@` is a literal @."""
    (tmp_path / "letter.txt").write_text("Dear Bob\n")
    daemon.script.update(
        ask={"id": ID}, wait=ended(), tell={"sent": [{"id": ID, "user": BOB, "name": "bob", "endpoint": "Boss"}]}
    )
    run_here(daemon.home, "ask", "bob", "-", stdin="two\nlines\n")
    run_here(daemon.home, "ask", "bob", "@letter.txt", cwd=tmp_path)
    run_here(daemon.home, "ask", "bob", "@@home?")
    texts = [params["text"] for method, params in daemon.asked if method == "ask"]
    assert texts == ["two\nlines", "Dear Bob", "@home?"]
    assert run_here(daemon.home, "tell", "bob/Boss", "@letter.txt", cwd=tmp_path).code == 0
    assert daemon.asked[-1] == ("tell", {"who": ["bob/Boss"], "text": "Dear Bob"})


@pytest.mark.parametrize(
    ("outcome", "code", "exit_code"),
    [
        ("declined", "declined", 1),
        ("expired", "deadline", 5),
        ("cancelled", "cancelled", 1),
        ("failed", "unreachable", 3),
        ("failed", "not_allowed", 4),
        ("failed", "bad_answer", 1),
    ],
)
@pytest.mark.parametrize("command", ["ask", "confirm", "wait"])
def test_no_answer_is_an_error(daemon: ScriptedDaemon, command: str, outcome: str, code: str, exit_code: int) -> None:
    """With its own exit code; as JSON, the outcome is printed in place of the error."""
    daemon.script.update(ask={"id": ID}, wait=failed(outcome, code))
    words = ["wait", ID] if command == "wait" else [command, "bob", "Hm?"]
    done = run_here(daemon.home, *words)
    assert (done.code, done.out) == (exit_code, "")
    assert done.err == f"Error [{code}]: It went wrong.\nTry again.\n"
    done = run_here(daemon.home, *words, "--json")
    assert (done.code, done.document["outcome"], done.err) == (exit_code, outcome, "")


@pytest.mark.parametrize(("value", "code"), [(True, 0), (False, 11), ("yes", 11), (None, 11), (1, 11)])
def test_only_yes_is_yes(daemon: ScriptedDaemon, value: Any, code: int) -> None:
    """Whatever a daemon may return."""
    daemon.script.update(ask={"id": ID}, wait=ended(value=value))
    assert run_here(daemon.home, "confirm", "bob", "Hm?").code == code
    assert run_here(daemon.home, "confirm", "bob", "Hm?", "--json").code == code
    assert daemon.asked[0][1]["schema"] == {"type": "boolean"}


def test_words_of_another_user_cannot_control_the_terminal(daemon: ScriptedDaemon) -> None:
    """A remark is one line of theirs; an answer that is piped on is exact."""
    daemon.script.update(ask={"id": ID}, wait=ended(answer="a\x1b[2J", remark="b\x1b[2J\nError: c"))
    done = run_here(daemon.home, "ask", "bob", "Hm?")
    assert done.out == "a\x1b[2J\n"
    assert done.err == "bob adds: b\\x1b[2J\\nError: c\n"


def test_detach_prints_the_id_only(daemon: ScriptedDaemon) -> None:
    """And the question stays open for a week."""
    daemon.script["ask"] = {"id": ID}
    assert run_here(daemon.home, "ask", "bob", "Hm?", "--detach").out == f"{ID}\n"
    assert run_here(daemon.home, "confirm", "bob", "Hm?", "--detach", "--json").document == {"id": ID}
    assert [params["timeout"] for _, params in daemon.asked] == [604_800.0, 604_800.0]


def test_asked_lists_open_ones_and_what_became_of_others(daemon: ScriptedDaemon) -> None:
    """In pages; `clear` says how many it has forgotten."""
    entries = [ended("open", where="shown to them", answer=""), failed("failed", "unreachable") | {"kind": "note"}]
    daemon.script.update(asked={"asked": entries, "more": True}, clear_asked={"cleared": 1_234})
    done = run_here(daemon.home, "asked", "--page", "2")
    assert done.out.splitlines() == [
        "ID        TO   ASKED   LEFT  STATE          ANSWER          TEXT",
        "4f1c22d9  bob  1m ago  9m    shown to them                  Hm?",
        "4f1c22d9  bob  1m ago        failed         It went wrong.  Hm?",
    ]
    assert "p2pflows asked --page 3" in done.err
    assert "p2pflows outbox retry ID" in done.err
    assert daemon.asked == [("asked", {"limit": 50, "offset": 50, "open": False})]
    assert run_here(daemon.home, "asked", "--json").document == entries
    assert run_here(daemon.home, "asked", "clear").err == "Forgot 1,234.\n"
    daemon.script["asked"] = {"asked": [], "more": False}
    assert run_here(daemon.home, "asked").err == "You have asked nothing.\n"


@pytest.mark.parametrize(
    ("words", "sent"),
    [
        (["ask", "bob", "carol", "Hm?", "--first"], {"who": ["bob", "carol"]}),
        (["ask", "@team", "Hm?", "--all"], {"who": ["@team"], "need": "all"}),
        (["confirm", "@team", "Hm?", "--all"], {"who": ["@team"], "need": "unanimous"}),
        (["confirm", "@team", "Hm?", "--quorum", "2"], {"who": ["@team"], "need": "quorum", "quorum": 2}),
        (
            ["ask", "bob", "Hm?", "--then", "carol", "--after", "20m", "--then", "@team", "--after", "1h"],
            {"then": [{"who": ["carol"], "after": 1200.0}, {"who": ["@team"], "after": 3600.0}]},
        ),
        (["ask", "bob", "Hm?", "--in", "1h"], {"delay": 3600.0}),
    ],
)
def test_several_people_are_asked(daemon: ScriptedDaemon, words: list[str], sent: dict[str, Any]) -> None:
    """Whose answer counts, who is asked later, and when to begin."""
    daemon.script.update(ask={"id": ID}, wait=ended(value=True))
    assert run_here(daemon.home, *words).code == 0
    found = daemon.asked[0][1]
    assert {key: found.get(key) for key in sent} == sent


@pytest.mark.parametrize(
    "words",
    [
        ["bob", "carol", "Hm?"],
        ["bob", "@team", "Hm?"],
        ["@team", "Hm?", "--first", "--all"],
        ["@team", "Hm?", "--quorum", "2"],
        ["bob", "Hm?", "--then", "carol"],
        ["bob", "Hm?", "--at", "noon"],
        ["bob", "Hm?", "--at", "2020-01-01T10:00"],
        ["bob", "Hm?", "--at", "18:30", "--in", "1h"],
    ],
)
def test_unclear_wishes_are_refused(daemon: ScriptedDaemon, words: list[str]) -> None:
    """Before anybody is asked."""
    assert run_here(daemon.home, "ask", *words).code == 2
    assert daemon.asked == []


def test_a_time_of_day_is_the_next_one(daemon: ScriptedDaemon) -> None:
    """In at most a day."""
    daemon.script.update(ask={"id": ID}, wait=ended())
    run_here(daemon.home, "ask", "bob", "Hm?", "--at", "18:30")
    assert 0 < daemon.asked[0][1]["delay"] <= 86_400


def test_the_answers_of_all_have_a_line_each(daemon: ScriptedDaemon) -> None:
    """Also if somebody has not answered, which is an error then."""
    people = [
        {**ended(), "user": BOB, "name": "bob", "answer": "yes\x1b"},
        {**failed("declined", "declined"), "user": BOB, "to_name": "carol"},
    ]
    question = failed("declined", "declined", **{"from": BOB, "name": "carol"}) | {"need": "all", "people": people}
    daemon.script.update(ask={"id": ID}, wait=question)
    done = run_here(daemon.home, "ask", "@team", "Hm?", "--all")
    assert (done.code, done.out) == (1, "bob: yes\x1b\n")
    assert done.err.startswith("carol: declined\nError [declined]: carol says: ")


def test_who_said_what_is_said_when_a_group_is_undecided(daemon: ScriptedDaemon) -> None:
    """For each of them, before the error; as JSON it is in the outcome."""
    error = {"code": "unreachable", "message": "They are offline.", "hint": ""}
    people = [
        {**ended(), "user": BOB, "name": "bob", "answer": "yes\x1b"},
        {**failed("declined", "declined"), "user": BOB, "to_name": "carol"},
        {**ended("failed", error=error), "user": BOB, "to_name": "dave"},
        {**ended("expired"), "to_name": None, "user": BOB},
    ]
    question = failed("failed", "undecided") | {"need": "quorum", "quorum": 2, "people": people}
    daemon.script.update(ask={"id": ID}, wait=question)
    done = run_here(daemon.home, "confirm", "@team", "Hm?", "--quorum", "2")
    assert (done.code, done.out) == (1, "")
    assert done.err.splitlines()[:5] == [
        "bob says: yes\\x1b",
        "carol: declined",
        "dave: could not be reached",
        "b0b0b0b0…: no answer",
        "Error [undecided]: It went wrong.",
    ]


def test_contacts_are_put_into_groups(tmp_path: Path) -> None:
    """A group follows its members: a contact who is removed leaves it, and one who is renamed stays."""
    bob, carol = (f"{number:064x}" for number in (1, 2))
    book = Contacts(tmp_path / "contacts.yaml")
    book.add("bob", bob)
    book.add("carol", carol)
    assert run_here(tmp_path, "contacts", "group").err.startswith("You have no groups.")
    assert run_here(tmp_path, "contacts", "group", "add", "@team", "bob", "carol").err == "In @team: bob, carol.\n"
    assert run_here(tmp_path, "contacts", "group", "add", "team", "dave").code == 3
    run_here(tmp_path, "contacts", "rename", "carol", "caro")
    found = run_here(tmp_path, "contacts", "group", "list", "--json").document
    assert found == [{"name": "team", "members": ["bob", "caro"]}]
    run_here(tmp_path, "contacts", "remove", "bob")
    assert run_here(tmp_path, "contacts", "group", "list").out.splitlines()[1:] == ["@team  caro"]
    assert run_here(tmp_path, "contacts", "group", "remove", "team", "caro").err == "@team is gone.\n"
    assert run_here(tmp_path, "contacts", "group", "remove", "team").code == 3
    assert "groups" not in (tmp_path / "contacts.yaml").read_text()
