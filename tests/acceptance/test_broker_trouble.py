"""A broker that does not let us in: status, the log and every error of a call say why."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator

import pytest
from support.network import MOSQUITTO, Network
from support.people import Person
from support.processes import free_port, wait_until

from p2pflows.errors import Unreachable

MOSQUITTO_PASSWD = shutil.which("mosquitto_passwd")
ACL = """
user deaf
topic read p2pflows/#
topic write p2pflows/1/+/status
topic write p2pflows/1/+/card
user whole
topic readwrite p2pflows/#
"""


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The host and port of a mosquitto with two users, one of whom may publish to nobody."""
    if MOSQUITTO is None or MOSQUITTO_PASSWD is None:
        pytest.skip("mosquitto is not installed")
    folder, port = tmp_path_factory.mktemp("broker"), free_port()
    for number, name in enumerate(("deaf", "whole")):
        words = [MOSQUITTO_PASSWD, "-b", *["-c"][number:], str(folder / "passwords"), name, "right"]
        subprocess.run(words, check=True, capture_output=True)
    (folder / "acl").write_text(ACL)
    root = "user root\n" if os.geteuid() == 0 else ""
    (folder / "conf").write_text(
        f"{root}allow_anonymous false\npassword_file {folder}/passwords\nacl_file {folder}/acl\n"
        f"listener {port} 127.0.0.1\n"
    )
    process = subprocess.Popen([MOSQUITTO, "-c", folder / "conf"], stderr=subprocess.DEVNULL)

    def answers() -> bool:
        with socket.socket() as connection:
            return connection.connect_ex(("127.0.0.1", port)) == 0

    wait_until(answers)
    yield f"127.0.0.1:{port}"
    process.terminate()
    process.wait()


def _error_of_call(alice: Person, seconds: float) -> str:
    with pytest.raises(Unreachable) as caught:
        alice.request("call", address="bob/User", data={"text": "Are you there?"}, timeout=seconds)
    return caught.value.message


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("mqtt://whole:wrong@{}", "refuses us (not authorized); check the user name and password"),
        ("mqtt://whole:right@localhost:1", "cannot be reached (connection refused)"),
        ("mqtt://whole:right@nowhere.invalid", "cannot be reached (n"),
        ("mqtts://whole:right@{}", "cannot be reached ("),
        ("mqtts://whole:right@{}?ca_file=/nowhere/ca.crt", "/nowhere/ca.crt"),
    ],
)
def test_the_reason_is_named_everywhere(address: str, url: str, reason: str) -> None:
    """A wrong password, host, port, CA file and TLS differ, in status and in the error of a call."""
    network = Network(program=None, broker=url.format(address))
    try:
        alice, bob = network.person("alice").without_workers(), network.person("bob")
        alice.add_contact(bob)
        alice.start(wait=False)
        now = alice.wait_for_status(lambda now: bool(now["broker"]["reason"]))
        assert reason in now["broker"]["reason"].lower()
        assert reason in _error_of_call(alice, 0.2).lower()
        assert "right@" not in alice.log_text() + str(now)
    finally:
        network.close()


def test_a_right_that_is_missing_is_named(address: str) -> None:
    """A broker that takes no messages to a neighbour is named, and the neighbour is not blamed."""
    network = Network(program=None, broker=f"mqtt://deaf:right@{address}")
    try:
        alice, bob = network.person("alice").without_workers(), network.person("bob")
        alice.add_contact(bob)
        alice.start(wait=False)
        alice.wait_for_status(lambda now: bool(now["broker"]["connected"]))
        said: list[str] = []

        def names_the_right() -> bool:
            said.append(_error_of_call(alice, 1.0))
            return said[-1].startswith("The broker does not take messages to bob. The broker refuses our messages on ")

        wait_until(names_the_right)  # mosquitto 2.0 also cuts the connection at every refusal
        assert "(not authorized); ask its operator to let us publish there." in said[-1]
    finally:
        network.close()


def test_a_daemon_comes_back_to_more_than_its_broker_sends_ahead(network_on_each_broker: Network) -> None:
    """A hundred messages are what iotcore sends ahead; until they are acknowledged, SUBSCRIBE has no answer."""
    alice = network_on_each_broker.person("alice").without_workers().start()  # who runs the broker
    bob = network_on_each_broker.person("bob").without_workers()
    for person, other in ((alice, bob), (bob, alice)):
        person.cli("contacts", "add", other.name, other.user_id).ok()
    bob.start().stop()
    notes = [f"Note {number}" for number in range(250)]
    for note in notes:
        alice.request("tell", who=["bob"], text=note)
    bob.start()
    wait_until(lambda: bob.request("inbox", limit=1)["notes"] == len(notes))
    found = bob.request("inbox", limit=len(notes))["prompts"]
    assert sorted(prompt["text"] for prompt in found) == sorted(notes)
    wait_until(lambda: alice.status()["pending"] == 0)
