"""The commands with which people meet: what they ask of the daemon, what they show, and what they refuse."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon, moment, run_here, run_in_terminal

from p2pflows.contacts import Contacts
from p2pflows.errors import NotAllowed
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.invitation import Invitation
from p2pflows.protocol.words import words_of

ALICE, BOB = (Identity(bytes([number]) * 32).user_id for number in (1, 2))
ID = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9"
LINE = Invitation(ALICE, bytes(16), 1_800_000_000, "mqtts://broker.example.org", "alice").to_text()
WORDS = "one two three four five"
MADE = {
    "id": ID, "line": LINE, "command": f"p2pflows accept {LINE}", "expires": moment(3600), "broker": "embedded",
    "one_machine": True,
}  # fmt: skip
READ = {
    "id": ID, "user": ALICE, "suggested": "alice", "name": "alice", "known": False, "expires": moment(3600),
    "broker": "mqtts://broker.example.org", "own_broker": "mqtts://broker.example.org", "same_broker": True,
    "one_machine": False, "words": WORDS,
}  # fmt: skip
MET = {"id": ID, "state": "met", "user": ALICE, "name": "alice"}


def test_invite_prints_the_command_for_the_other_and_nothing_else(daemon: ScriptedDaemon) -> None:
    """On stdout; all that is said about it goes to stderr, as that an embedded broker serves one machine."""
    daemon.script["invite"] = MADE
    ended = run_here(daemon.home, "invite", "--for", "bob", "--expires", "2d", "--allow", "a,b", "--my-name", "alice")
    assert ended.ok().out == f"p2pflows accept {LINE}\n"
    assert daemon.asked == [("invite", {"name": "bob", "expires": 172_800.0, "allow": "a,b", "own_name": "alice"})]
    assert "to bob, and to nobody else" in ended.err
    assert "serves this machine only" in ended.err
    assert str(daemon.home / "config.yaml") in ended.err
    assert run_here(daemon.home, "invite", "--json").ok().document == MADE
    daemon.script["invite"] = {**MADE, "one_machine": False}
    assert "this machine only" not in run_here(daemon.home, "invite").ok().err


def test_invite_draws_the_line(daemon: ScriptedDaemon) -> None:
    """For a camera; the command stands below it."""
    daemon.script["invite"] = MADE
    drawn = run_here(daemon.home, "invite", "--qr").ok().out
    assert drawn.count("█") > 100
    assert drawn.endswith(f"p2pflows accept {LINE}\n")


def test_invite_waits_for_everybody_whom_it_brings(daemon: ScriptedDaemon) -> None:
    """Each comes with the words to compare; the end of the invitation ends the command."""
    daemon.script["invite"] = MADE
    users = [
        {"user": BOB, "name": name, "words": f"words of {name}", "suggested": "", "at": moment(0)} for name in "ab"
    ]
    states = iter([{"state": "open", "users": users[:1]}, {"state": "used", "users": users}])
    daemon.script["wait_invitation"] = lambda _: next(states)
    ended = run_here(daemon.home, "invite", "--uses", "2", "--wait").ok()
    assert ended.out.splitlines()[1:] == ["words of a", "words of b"]
    assert "a has accepted" in ended.err
    assert [params.get("after") for method, params in daemon.asked if method == "wait_invitation"] == [0, 1]
    daemon.script["wait_invitation"] = {"state": "expired", "users": []}
    over = run_here(daemon.home, "invite", "--wait")
    assert (over.code, "nobody has used it" in over.err) == (2, True)


def test_invitations_are_listed_and_revoked(daemon: ScriptedDaemon) -> None:
    """Each has a row, and whom it brought."""
    row = {"id": ID, "state": "open", "name": "bob", "allow": "", "uses": 1, "used": 0, "created": moment(0),
           "expires": moment(605), "users": []}  # fmt: skip
    used = {**row, "state": "used", "used": 1, "users": [{"user": BOB, "name": "bob", "words": WORDS}]}
    daemon.script.update(invitations={"invitations": [row, used]}, revoke_invitation={"id": ID})
    listed = run_here(daemon.home, "invite", "list").ok().out.splitlines()
    assert [line.split() for line in listed[1:]] == [
        ["4f1c22d9", "bob", "open", "10m", "0", "of", "1"], ["4f1c22d9", "bob", "used", "1", "of", "1", "bob"]
    ]  # fmt: skip
    assert run_here(daemon.home, "invite", "list", "--json").ok().document == [row, used]
    assert run_here(daemon.home, "invite", "revoke", "4f1c").ok().err == "Revoked 4f1c22d9.\n"
    daemon.script["invitations"] = {"invitations": []}
    assert "no invitation lately" in run_here(daemon.home, "invite", "list").ok().err


@pytest.mark.parametrize("words", [[LINE], [LINE[:50], LINE[50:]], ["p2pflows", "accept", LINE.upper()]])
def test_accept_shows_who_asks_before_anything_is_sent(daemon: ScriptedDaemon, words: list[str]) -> None:
    """User id, name, end, broker and words; scripts say --yes."""
    daemon.script.update(read_invitation={**READ, "expires": moment(3600)}, accept_invitation=MET)
    refused = run_here(daemon.home, "accept", *words)
    assert (refused.code, "--yes" in refused.err) == (2, True)
    assert [method for method, _ in daemon.asked] == ["read_invitation"]
    for shown in (ALICE, "alice, as they suggest", "59m", "mqtts://broker.example.org, as yours", WORDS):
        assert shown in refused.err
    agreed = run_here(daemon.home, "accept", *words, "--as", "ann", "--my-name", "bob", "--yes", "--timeout", "1m")
    assert "p2pflows contacts verify alice" in agreed.ok().err
    assert agreed.out == ""
    line = " ".join(words)
    assert daemon.asked[-1] == (
        "accept_invitation", {"line": line, "name": "ann", "own_name": "bob", "timeout": 60.0}
    )  # fmt: skip
    as_json = run_here(daemon.home, "accept", *words, "--yes", "--json").ok()
    assert as_json.document == {**MET, "words": WORDS}
    assert as_json.err == ""


def test_accept_says_when_an_invitation_has_ended(daemon: ScriptedDaemon) -> None:
    """By the clock of the reader; the inviter's daemon decides."""
    daemon.script.update(read_invitation={**READ, "expires": moment(-65)}, accept_invitation=MET)
    assert "ended    1m ago\n" in run_here(daemon.home, "accept", LINE, "--yes").ok().err


def test_accept_reads_a_pasted_mail(daemon: ScriptedDaemon) -> None:
    """From stdin, with all that stands around the line."""
    daemon.script.update(read_invitation=READ, accept_invitation=MET)
    mail = f"Hi!\n> {LINE[:60]}\n> {LINE[60:]}\n"
    for words in ([], ["-"]):
        run_here(daemon.home, "accept", *words, "--yes", stdin=mail).ok()
    assert {params["line"] for _, params in daemon.asked} == {mail}


def test_accept_says_that_the_inviter_is_away(daemon: ScriptedDaemon) -> None:
    """The daemon goes on by itself, and that is a success."""
    daemon.script.update(read_invitation=READ, accept_invitation={**MET, "state": "sent"})
    ended = run_here(daemon.home, "accept", LINE, "--yes").ok()
    assert f"p2pflows wait {ID}" in ended.err
    daemon.script["accept_invitation"] = NotAllowed("The invitation was revoked.").said_by(ALICE, "alice")
    refused = run_here(daemon.home, "accept", LINE, "--yes")
    assert (refused.code, "alice says: The invitation was revoked." in refused.err) == (4, True)


@pytest.mark.parametrize(
    ("changes", "code", "said"),
    [
        ({"same_broker": None, "own_broker": "mqtts://other.org"}, 0, "Unless both are the same one"),
        ({"same_broker": False, "own_broker": "embedded"}, 3, "broker: mqtts://USER:PASSWORD@broker.example.org into"),
        (
            {"same_broker": False, "broker": "embedded", "own_broker": "embedded:18884", "one_machine": True},
            3,
            "Ask them to use a broker that both of you reach",
        ),
    ],
)
def test_accept_says_what_to_do_when_brokers_differ(
    daemon: ScriptedDaemon, changes: dict[str, Any], code: int, said: str
) -> None:
    """A message that cannot arrive is not sent."""
    daemon.script.update(read_invitation={**READ, **changes}, accept_invitation=MET)
    ended = run_here(daemon.home, "accept", LINE, "--yes")
    assert ended.code == code
    assert said in ended.err
    assert f"Their daemon uses the broker {changes.get('broker', READ['broker'])}, and yours" in ended.err
    assert ("accept_invitation" in [method for method, _ in daemon.asked]) == (code == 0)


def test_accept_asks_on_a_terminal(daemon: ScriptedDaemon) -> None:
    """It takes a line that is pasted in pieces; only a yes is a yes, and a no sends nothing."""
    daemon.script.update(read_invitation=READ, accept_invitation=MET)
    pasted = f"> {LINE[:70]}\n> {LINE[70:]}\n"
    code, shown = run_in_terminal(daemon.home, "accept", NO_COLOR="1", typed=f"{pasted}\n")
    assert code == 1
    assert "Do you want to become contacts? [y/N]" in shown
    assert "Nothing was sent." in shown
    assert "accept_invitation" not in [method for method, _ in daemon.asked]
    code, shown = run_in_terminal(daemon.home, "accept", NO_COLOR="1", typed=f"{pasted}y\n")
    assert (code, "alice is your contact now" in shown) == (0, True)


def test_verify_compares_the_words_and_needs_no_daemon(tmp_path: Path) -> None:
    """It shows them, asks, and marks the contact; if the words differ, it says what to do."""
    me = run_here(tmp_path, "init").ok().out.strip()
    Contacts(tmp_path / "contacts.yaml").add("bob", BOB)
    words = words_of(me, BOB)
    asked = run_here(tmp_path, "contacts", "verify", "bob")
    assert (asked.code, asked.out) == (2, f"{words}\n")
    code, shown = run_in_terminal(tmp_path, "contacts", "verify", "bob", NO_COLOR="1", typed="n\n")
    assert (code, "trust nothing that comes in their name" in shown) == (1, True)
    assert run_here(tmp_path, "contacts", "--json").document[0]["verified"] is False
    assert run_in_terminal(tmp_path, "contacts", "verify", "bob", NO_COLOR="1", typed="y\n")[0] == 0
    (bob,) = run_here(tmp_path, "contacts", "--json").ok().document
    assert bob["verified"] is True
    assert run_here(tmp_path, "contacts", "list").ok().out.endswith(f"{BOB}  verified\n")
    done = run_here(tmp_path, "contacts", "verify", "bob", "--yes", "--json").ok()
    assert done.document == {"name": "bob", "user": BOB, "words": words, "verified": True}
    assert run_here(tmp_path, "contacts", "verify", "carol").code == 3


def test_requests_show_introductions_and_wishes(daemon: ScriptedDaemon) -> None:
    """Who introduces whom, with the one command that accepts; and strangers whose messages have passed."""
    by = [{"user": ALICE, "name": "alice", "as": "Bob"}, {"user": "c1" * 32, "name": None, "as": ""}]
    row = {"user": BOB, "endpoints": [], "messages": 0, "first": moment(-5), "last": moment(-5), "introduced_by": by}
    wish = {**row, "user": "d1" * 32, "endpoints": ["trace"], "introduced_by": []}
    daemon.script["requests"] = {"requests": [row, wish]}
    shown = run_here(daemon.home, "requests").ok().out
    assert "introduced by alice as Bob\n" in shown
    assert f"p2pflows allow {BOB} --name Bob\n" in shown
    assert "introduced by c1c1c1c1…\n" in shown
    assert "asked for trace 5s ago, and waits no more; if you allow them, they are told" in shown
    daemon.script["introduce"] = {"messages": [ID, ID]}
    assert run_here(daemon.home, "introduce", "bob", "carol").ok().err.startswith("Told bob and carol.")
    assert daemon.asked[-1] == ("introduce", {"first": "bob", "second": "carol"})
