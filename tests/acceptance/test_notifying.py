"""The user is told what waits for them: by a server that speaks ntfy's protocol, and by commands."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support.network import Network
from support.people import Person
from support.processes import wait_until

from p2pflows.home import Home
from p2pflows.notifying.state import failing


class Ntfy:
    """A server to which notifications are published as to ntfy: a JSON object with topic, title and message."""

    def __init__(self) -> None:
        self.heard: list[dict[str, Any]] = []
        self.status = 200
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if outer.status == 200:
                    outer.heard.append(json.loads(body))
                self.send_response(outer.status)
                self.end_headers()
                self.wfile.write(b"{}")

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name in the base class
                del format, args

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        """The address as apprise reads it."""
        return f"ntfy://127.0.0.1:{self._server.server_port}/bob?mode=private"

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def ntfy() -> Iterator[Ntfy]:
    """The server."""
    server = Ntfy()
    yield server
    server.close()


@pytest.fixture
def told(ntfy: Ntfy) -> Iterator[tuple[Person, Person]]:
    """Alice, and bob who is told by the server."""
    network = Network()
    try:
        alice, bob = network.person("alice"), network.person("bob")
        for person in (alice, bob):
            person.without_workers()
        with (bob.home / "config.yaml").open("a") as config:
            config.write(f"notify: {{urls: ['{ntfy.url}'], show: subject, remind_before: 1s}}\n")
        for person in (alice, bob):
            person.start()
        alice.add_contact(bob)
        bob.add_contact(alice)
        yield alice, bob
    finally:
        network.close()


def test_bob_is_told_once_and_many_questions_are_one_summary(told: tuple[Person, Person], ntfy: Ntfy) -> None:
    """The first comes at once with its words; three hundred more are one message; a failure is shown."""
    alice, bob = told
    alice.request("ask", who=["bob"], text="Is the door open?")
    wait_until(lambda: len(ntfy.heard) == 1, 20)
    assert (ntfy.heard[0]["topic"], ntfy.heard[0]["title"]) == ("bob", "alice asks you")
    assert ntfy.heard[0]["message"] == "Is the door open?"
    ntfy.status = 503
    for n in range(300):
        alice.request("send", address="bob/User", data={"text": f"note {n}"})
    wait_until(lambda: "ntfy" in failing(Home(bob.home)), 60)
    assert "ntfy fails" in bob.cli("status").out
    assert "ntfy does not take what it should tell you" in bob.cli("doctor").out
    assert len(ntfy.heard) == 1
    ntfy.status = 200
    wait_until(lambda: len(ntfy.heard) == 2, 30)
    assert (ntfy.heard[1]["title"], ntfy.heard[1]["message"]) == ("300 notes", "300 from alice")
    wait_until(lambda: not failing(Home(bob.home)), 10)
    assert "ntfy fails" not in bob.cli("status").out


def test_hooks_get_what_happens_until_they_are_removed(told: tuple[Person, Person], tmp_path: Path) -> None:
    """A command for questions of yes or no, one for what was missed, one for strangers; each gets JSON."""
    alice, bob = told
    files = {name: tmp_path / name for name in ("asked", "missed", "answered")}

    def add(event: str, *conditions: str) -> None:
        script = f"cat >> {shlex.quote(str(files[event]))}"
        bob.cli("hook", "add", event, *conditions, "--", "sh", "-c", script).ok()

    add("asked", "--if", "form=boolean", "--if", "from=alice")
    add("missed")
    add("answered")
    assert [each["on"] for each in bob.cli("hook", "list", "--json").document] == ["asked", "missed", "answered"]
    assert "form=boolean" in bob.cli("hook", "list").out

    def lines(name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in files[name].read_text().splitlines()] if files[name].exists() else []

    def asked() -> bool:
        alice.request("ask", who=["bob"], text="Yes?", schema={"type": "boolean"}, timeout=3)
        return bool(lines("asked"))

    wait_until(asked, 30)
    assert (lines("asked")[0]["name"], lines("asked")[0]["text"], lines("asked")[0]["form"]) == (
        "alice",
        "Yes?",
        "boolean",
    )
    wait_until(lambda: bool(lines("missed")), 40)
    question = bob.request("ask", who=["alice"], text="And you?")
    alice.wait_for_prompts()
    alice.request("answer", id=alice.prompts()[-1]["id"], text="Fine.")
    bob.request("wait", id=question["id"])
    wait_until(lambda: bool(lines("answered")), 20)
    assert lines("answered")[0]["text"] == "Fine."
    assert bob.cli("hook", "remove", "9").code == 2
    for _ in range(3):
        bob.cli("hook", "remove", "1").ok()
    assert "There are no hooks." in bob.cli("hook", "list").err


def test_a_test_says_what_fails(told: tuple[Person, Person], ntfy: Ntfy) -> None:
    """`notify` sends to all services, and names the one that does not take it without its address."""
    _, bob = told
    assert "1 service took it." in bob.cli("notify").err
    assert ntfy.heard[-1]["title"] == "p2pflows"
    ntfy.status = 500
    failed = bob.cli("notify")
    assert failed.code == 1
    assert "ntfy does not take it" in failed.err
    assert "127.0.0.1" not in failed.err
