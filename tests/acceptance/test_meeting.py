"""People meet by one line: real daemons, a real broker and real commands."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.network import Network
from support.people import Person
from support.processes import wait_until

from p2pflows.contacts import Contacts
from p2pflows.errors import NotAllowed, P2pflowsError


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A network of people who do not know each other."""
    network = Network()
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


def names(person: Person) -> dict[str, str]:
    """The contacts of a person."""
    return Contacts(person.home / "contacts.yaml").book().by_name


def test_two_people_meet_by_one_line(people: tuple[Person, Person, Person]) -> None:
    """Two commands make each a contact of the other; both see the same words, and nobody else gets in by the line."""
    alice, bob, eve = people
    alice.request("serve", endpoint="Desk", kind="human", allow="me")
    revoked = alice.request("invite", name="mallory")
    alice.request("revoke_invitation", id=revoked["id"])
    for line, reason in ((revoked["line"], "revoked"), (revoked["line"][:-1], "changed")):
        with pytest.raises(P2pflowsError, match=reason):
            eve.request("accept_invitation", line=line)

    inviting = alice.start_command("invite", "--for", "robert", "--allow", "Desk", "--wait", "--json")
    assert inviting.process.stdout is not None
    line = json.loads(inviting.process.stdout.readline())["line"]
    met = bob.cli("accept", line.upper(), "--as", "alice", "--yes", "--json").ok().document
    assert (met["state"], met["user"], met["name"]) == ("met", alice.user_id, "alice")
    with pytest.raises(NotAllowed, match="used already"):
        eve.request("accept_invitation", line=line)
    assert (names(alice), names(bob), names(eve)) == ({"robert": bob.user_id}, {"alice": alice.user_id}, {})

    (found,) = inviting.wait().ok().lines
    assert (found["name"], found["words"]) == ("robert", met["words"])
    assert bob.cli("contacts", "verify", "alice", "--yes").ok().out == f"{met['words']}\n"
    for person in (alice, bob):
        wait_until(lambda person=person: met["words"] in person.request("log")["entries"][-1]["detail"])  # type: ignore[misc]
    asked = bob.request("submit", address="alice/Desk", data={"text": "May I?"})["id"]
    (prompt,) = alice.wait_for_prompts()
    alice.request("answer", id=prompt["id"], text="You may.")
    assert bob.request("wait", id=asked)["data"] == {"human_input": "You may."}


def test_an_invitation_is_accepted_while_the_inviter_is_away(people: tuple[Person, Person, Person]) -> None:
    """The acceptance waits, also through a kill of the acceptor's daemon, and arrives when the inviter is back."""
    alice, _, eve = people
    line = alice.request("invite", name="eve", expires=48 * 3600)["line"]
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
    alice.request("introduce", first="robert", second="eve")
    for person, other, name in ((bob, eve, "eve"), (eve, bob, "robert")):
        wait_until(lambda person=person: bool(person.request("requests")["requests"]))  # type: ignore[misc]
        shown = person.cli("requests").ok().out
        assert f"introduced by alice as {name}" in shown
        command = next(line for line in shown.splitlines() if "allow them with" in line).partition(": p2pflows ")[2]
        person.cli(*command.split()).ok()
        book = Contacts(person.home / "contacts.yaml").book()
        assert (book.by_name[name], book.introduced_by) == (other.user_id, {other.user_id: alice.user_id})
        assert other.user_id not in book.verified
