"""Strangers: their messages wait, unseen and unrun, until the recipient decides."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.network import Network
from support.people import Person
from support.processes import wait_until


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """A network for these tests, because each test adds a stranger."""
    network = Network()
    try:
        yield network
    finally:
        network.close()


@pytest.fixture(scope="module")
def bob(network: Network) -> Person:
    """Bob, who has no contacts, and serves a flow that leaves a trace."""
    bob = network.person("bob").start()
    bob.write_file("trace.sh", "#!/bin/sh\ncat >> traces\n", executable=True)
    bob.serve("trace", "--exec", "./trace.sh")
    bob.serve("open", "--exec", "cat", "--allow", "anyone")
    return bob


@pytest.fixture
def carol(network: Network, bob: Person) -> Iterator[Person]:
    """A new user in each test; she has bob as a contact, and he does not know her."""
    number = len(network.people)
    carol = network.person(f"carol{number}").without_workers()
    carol.start()
    carol.add_contact(bob)
    yield carol
    carol.stop()


def traces(bob: Person) -> str:
    """The traces that the flow has left."""
    file = bob.folder / "traces"
    return file.read_text() if file.exists() else ""


def wait_for_request(bob: Person, carol: Person, messages: int = 1) -> dict[str, object]:
    """Wait until bob's request of carol holds so many messages; returns the request."""
    found: list[dict[str, object]] = []

    def is_there() -> bool:
        found[:] = [request for request in bob.request("requests")["requests"] if request["user"] == carol.user_id]
        return bool(found) and found[0]["messages"] == messages

    wait_until(is_there)
    return found[0]


def test_a_strangers_call_waits(bob: Person, carol: Person) -> None:
    """A stranger's call neither runs nor shows; `requests` lists it, and at its deadline she gets the reason."""
    call = carol.start_command("call", "bob/trace", "from=carol", "--timeout", "2s", "--json")
    ask = carol.start_command("call", "bob/User", "text=psst", "--timeout", "2s", "--json")
    wait_for_request(bob, carol, 2)
    (request,) = bob.cli("requests", "--json").ok().document
    assert (request["user"], sorted(request["endpoints"]), request["messages"]) == (carol.user_id, ["User", "trace"], 2)
    assert carol.user_id in bob.cli("requests").ok().out
    assert bob.status()["requests"] == 1
    for command in (call, ask):
        result = command.wait()
        assert (result.code, result.error["code"]) == (4, "not_allowed")
        assert result.seconds < 10
    assert bob.cli("inbox", "--json", "--all").ok().document == []
    assert traces(bob) == ""
    bob.cli("deny", carol.user_id).ok()
    bob.wait_for_status(lambda now: now["requests"] == 0)


def test_the_wish_to_be_let_in_outlives_the_message(bob: Person, carol: Person) -> None:
    """When her call has ended, bob still sees that she asked; when he allows her, she reads it and calls again."""
    call = carol.cli("call", "bob/trace", '{"n":1}', "--timeout", "1s", "--json")
    assert (call.code, call.error["code"]) == (4, "not_allowed")
    assert "p2pflows log" in call.error["hint"]
    request = wait_for_request(bob, carol, 0)
    assert request["endpoints"] == ["trace"]
    assert "asked for trace" in bob.cli("requests").ok().out
    allowed = bob.cli("allow", carol.user_id, "--name", carol.name)
    assert "they are told" in allowed.ok().err
    wait_until(lambda: "They allow you to call them now" in carol.cli("log").ok().out)
    assert carol.request("call", address="bob/trace", data={"n": 2}, timeout=30)["data"] == {"text": ""}
    assert traces(bob) == '{"n":2}\n'
    (bob.folder / "traces").unlink()
    bob.cli("contacts", "remove", carol.name).ok()


def test_allow_lets_in_what_waits(bob: Person, carol: Person) -> None:
    """A stranger who is allowed becomes a contact, and the messages that waited run and show once."""
    call = carol.start_command("call", "bob/trace", '{"n":1}', "--timeout", "30s")
    wait_for_request(bob, carol)
    carol.cli("send", "bob/trace", '{"n":2}').ok()
    ask = carol.start_command("call", "bob/User", "text=Hello from next door", "--timeout", "30s")
    wait_for_request(bob, carol, 3)
    name = carol.name
    allowed = bob.cli("allow", carol.user_id[:16], "--name", name, "--json").ok().document
    assert allowed == {"user": carol.user_id, "name": name, "released": 3, "told": False}
    assert call.wait().ok().document == {"text": ""}
    (prompt,) = bob.wait_for_prompts()
    assert (prompt["name"], prompt["text"]) == (name, "Hello from next door")
    bob.cli("answer", prompt["id"], "Hello!").ok()
    assert ask.wait().ok().document == {"human_input": "Hello!"}
    wait_until(lambda: traces(bob).count("\n") == 2)
    assert traces(bob) == '{"n":1}\n{"n":2}\n'
    assert carol.request("call", address="bob/trace", data={"n": 3}, timeout=30)["data"] == {"text": ""}
    (bob.folder / "traces").unlink()
    bob.cli("contacts", "remove", name).ok()


def test_adding_a_contact_lets_in_what_waits(bob: Person, carol: Person) -> None:
    """`contacts add` lets in what waits, as `allow` does."""
    call = carol.start_command("call", "bob/trace", '{"n":1}', "--timeout", "30s")
    wait_for_request(bob, carol)
    bob.cli("contacts", "add", carol.name, carol.user_id).ok()
    assert call.wait().ok().document == {"text": ""}
    (bob.folder / "traces").unlink()
    bob.cli("contacts", "remove", carol.name).ok()


def test_deny(bob: Person, carol: Person) -> None:
    """A denied stranger gets an error at once; her later messages are refused and counted, until she is allowed."""
    call = carol.start_command("call", "bob/trace", '{"n":1}', "--timeout", "30s", "--json")
    wait_for_request(bob, carol)
    assert bob.cli("deny", carol.user_id, "--json").ok().document == {"user": carol.user_id, "dropped": 1}
    result = call.wait()
    assert (result.code, result.error["code"]) == (4, "not_allowed")
    blocked = bob.refused("blocked")
    later = [
        carol.start_command("call", f"bob/{name}", "n=2", "--timeout", "1s", "--json") for name in ("trace", "open")
    ]
    for command in later:
        result = command.wait()
        assert (result.code, result.error["code"]) == (3, "unreachable")
        assert result.seconds < 10
    assert bob.refused("blocked") > blocked
    assert carol.user_id not in {request["user"] for request in bob.request("requests")["requests"]}
    assert traces(bob) == ""
    bob.cli("allow", carol.user_id, "--name", carol.name).ok()
    assert carol.request("call", address="bob/trace", data={"n": 3}, timeout=30)["data"] == {"text": ""}
    (bob.folder / "traces").unlink()
    bob.cli("contacts", "remove", carol.name).ok()


def test_what_a_stranger_may_hold_is_bounded(bob: Person, carol: Person) -> None:
    """A stranger's messages wait up to a limit; further ones are refused and counted, and the others run in order."""
    lines = "".join(f'{{"n":{n}}}\n' for n in range(60))
    carol.cli("send", "bob/trace", "--lines", stdin=lines).ok()
    wait_until(lambda: bob.refused("requests_full") > 0)
    wait_for_request(bob, carol, 20)
    full = bob.refused("requests_full")
    bob.cli("allow", carol.user_id, "--name", carol.name).ok()
    wait_until(lambda: traces(bob).count("\n") == 60, 30)
    assert traces(bob) == lines
    assert full > 0
    (bob.folder / "traces").unlink()
    bob.cli("contacts", "remove", carol.name).ok()


def test_a_stranger_may_call_what_is_for_anyone(bob: Person, carol: Person) -> None:
    """An endpoint served to anyone runs for a stranger at once, and it is all that she sees."""
    assert carol.cli("call", "bob/open", '{"n":1}', "--timeout", "10s").ok().document == {"n": 1}
    assert [flow["endpoint"] for flow in carol.cli("ls", "bob", "--json").ok().document] == ["open"]
    hidden = carol.cli("describe", "bob/trace", "--json").ok().document
    missing = carol.cli("describe", "bob/missing", "--json").ok().document
    assert (hidden["served"], hidden["allowed"]) == (missing["served"], missing["allowed"]) == (False, False)
    assert carol.user_id not in {request["user"] for request in bob.request("requests")["requests"]}


def test_a_stranger_learns_nothing_of_what_is_served(bob: Person, carol: Person) -> None:
    """A stranger cannot distinguish a served endpoint from one that does not exist."""
    started = [
        carol.start_command("call", f"bob/{endpoint}", "{}", "--timeout", "1s", "--json")
        for endpoint in ("trace", "missing")
    ]
    served, missing = (command.wait() for command in started)
    assert served.code == missing.code == 4
    assert served.error == missing.error
    assert bob.user_id


def test_removing_a_contact_takes_effect_at_once(bob: Person, carol: Person) -> None:
    """A removed contact reaches nothing from that moment on, nor do their messages under way."""
    bob.cli("contacts", "add", carol.name, carol.user_id).ok()
    assert carol.request("call", address="bob/trace", data={"n": 1}, timeout=30)["data"] == {"text": ""}
    before = traces(bob)
    bob.cli("contacts", "remove", carol.name).ok()
    result = carol.cli("call", "bob/trace", "n=2", "--timeout", "1s", "--json")
    assert (result.code, result.error["code"]) == (4, "not_allowed")
    assert traces(bob) == before
    (bob.folder / "traces").unlink()


def test_allow_names(bob: Person, carol: Person, network: Network) -> None:
    """A flow served to one contact by name is open to that contact alone."""
    dora = network.person(f"dora{len(network.people)}").without_workers().start()
    for person in (carol, dora):
        bob.add_contact(person)
    dora.add_contact(bob)
    bob.serve("special", "--exec", "cat", "--allow", carol.name)
    assert carol.request("call", address="bob/special", data={"n": 1}, timeout=30)["data"] == {"n": 1}
    result = dora.cli("call", "bob/special", "n=1", "--json")
    assert (result.code, result.error["code"]) == (4, "not_allowed")
    assert bob.cli("serve", "special", "--exec", "cat", "--allow", "nobody-i-know").code in (2, 3)
    for person in (carol, dora):
        bob.cli("contacts", "remove", person.name).ok()
    result = carol.cli("call", "bob/special", "n=1", "--timeout", "1s", "--json")
    assert (result.code, result.error["code"]) == (4, "not_allowed")


def test_requests_survive_a_restart(bob: Person, carol: Person) -> None:
    """Messages that wait for a decision survive a kill -9."""
    message = carol.request("submit", address="bob/trace", data={"n": 1}, timeout=60)["id"]
    wait_for_request(bob, carol)
    bob.kill_daemon()
    bob.start()
    wait_for_request(bob, carol)
    bob.cli("allow", carol.user_id, "--name", carol.name).ok()
    assert carol.request("wait", id=message, timeout=30)["data"] == {"text": ""}
    (bob.folder / "traces").unlink()
    bob.cli("contacts", "remove", carol.name).ok()
