"""People meet by one line: real daemons, a real broker and real commands."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.commands import CommandResult
from support.network import MOSQUITTO, Network
from support.people import Person
from support.processes import wait_until

from p2pflows.contacts import Contacts


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A network of people who do not know each other."""
    network = Network(program="mosquitto" if MOSQUITTO else "iotcore")
    try:
        yield network
    finally:
        network.close()


@pytest.fixture(scope="module")
def people(network: Network) -> tuple[Person, Person, Person]:
    """Alice, Bob and Eve."""
    alice, bob, eve = (network.person(name).without_workers() for name in ("alice", "bob", "eve"))
    for person in (alice, bob, eve):
        person.start(wait=False)
    return alice.ready(), bob.ready(), eve.ready()


def line_of(invited: CommandResult) -> str:
    """The line in the command that `invite` prints."""
    return invited.ok().out.split()[-1]


def names(person: Person) -> dict[str, str]:
    """The contacts of a person."""
    return Contacts(person.home / "contacts.yaml").book().by_name


def test_two_people_meet_by_one_line(people: tuple[Person, Person, Person]) -> None:
    """Two commands make each a contact of the other; both see the same words, and nobody else gets in by the line."""
    alice, bob, eve = people
    alice.request("serve", endpoint="Desk", kind="human", allow="me")
    waiting = alice.start_command("invite", "--for", "bob", "--wait", piped=True)
    wait_until(lambda: bool(alice.request("invitations")["invitations"]))
    (invitation,) = alice.request("invitations")["invitations"]
    line = line_of(alice.cli("invite", "--for", "robert", "--allow", "Desk"))
    alice.cli("invite", "revoke", invitation["id"]).ok()
    revoked = waiting.wait()
    assert (revoked.code, "The invitation is revoked" in revoked.err) == (2, True)

    changed = line[:30] + ("q" if line[30] != "q" else "p") + line[31:]
    assert "was changed on its way" in bob.cli("accept", changed, "--yes").err
    late = eve.cli("accept", revoked.out.split()[-1], "--yes", "--json")
    assert (late.code, late.error["message"]) == (4, "The invitation was revoked.")

    met = bob.cli("accept", line.upper(), "--as", "alice", "--yes", "--json").ok().document
    assert (met["state"], met["user"], met["name"]) == ("met", alice.user_id, "alice")
    second = eve.cli("accept", line, "--yes", "--json")
    assert (second.code, second.error["message"]) == (4, "The invitation was used already.")
    assert names(bob) == {"alice": alice.user_id}
    assert names(alice) == {"robert": bob.user_id}
    assert names(eve) == {}

    words = met["words"]
    for person, other in ((alice, "robert"), (bob, "alice")):
        wait_until(lambda person=person: words in person.cli("log").ok().out)  # type: ignore[misc]
        assert person.cli("contacts", "verify", other, "--yes").ok().out == f"{words}\n"
        assert person.cli("contacts", "--json").ok().document[0]["verified"] is True
    assert alice.request("invitations")["invitations"][1]["users"][0]["words"] == words
    asked = bob.start_command("call", "alice/Desk", "text=May I?", "--timeout", "30s")
    (prompt,) = alice.wait_for_prompts()
    alice.cli("answer", prompt["id"], "You may.").ok()
    assert asked.wait().ok().document == {"human_input": "You may."}


def test_an_invitation_is_accepted_while_the_inviter_is_away(people: tuple[Person, Person, Person]) -> None:
    """The acceptance waits, also through a kill of the acceptor's daemon, and arrives when the inviter is back."""
    alice, _, eve = people
    line = line_of(alice.cli("invite", "--for", "eve", "--expires", "2d"))
    alice.stop()
    sent = eve.cli("accept", line, "--as", "alice", "--yes", "--timeout", "500ms", "--json").ok().document
    assert sent["state"] == "sent"
    assert names(eve) == {}
    eve.kill_daemon()
    eve.start()
    alice.start()
    wait_until(lambda: names(eve) == {"alice": alice.user_id})
    wait_until(lambda: names(alice).get("eve") == eve.user_id)


def test_a_common_friend_introduces_two_people(people: tuple[Person, Person, Person]) -> None:
    """Each reads who introduces whom, and accepts with one command; nobody is verified by it."""
    alice, bob, eve = people
    alice.cli("introduce", "robert", "eve").ok()
    for person, other, name in ((bob, eve, "eve"), (eve, bob, "robert")):
        wait_until(lambda person=person: bool(person.request("requests")["requests"]))  # type: ignore[misc]
        shown = person.cli("requests").ok().out
        assert f"introduced by alice as {name}" in shown
        command = next(line for line in shown.splitlines() if "allow them with" in line).partition(": p2pflows ")[2]
        person.cli(*command.split()).ok()
        book = Contacts(person.home / "contacts.yaml").book()
        assert (book.by_name[name], book.introduced_by) == (other.user_id, {other.user_id: alice.user_id})
        assert other.user_id not in book.verified
