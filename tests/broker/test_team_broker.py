"""The team broker that broker-config describes, with its own files and over TLS: two users, and their rights."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.mqtt_peer import Peer, wait_until

from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.mqtt_probe import probe
from p2pflows.protocol import topics

CONFIG = Path(__file__).parents[2] / "broker-config"
CONTROL = "$CONTROL/dynamic-security/v1"
ALICE, BOB = "a" * 64, "b" * 64


async def run(*words: str) -> None:
    """Run a command that must succeed."""
    process = await asyncio.create_subprocess_exec(*words, stdout=DEVNULL, stderr=DEVNULL)
    assert await process.wait() == 0, words


@pytest.fixture
def plugin() -> str:
    """The path of mosquitto's dynamic-security plugin, if its tool and openssl are installed, too."""
    found = next(Path("/usr/lib").rglob("mosquitto_dynamic_security.so"), None)
    if found is None or not shutil.which("mosquitto_ctrl") or not shutil.which("openssl"):
        pytest.skip("the dynamic-security plugin, mosquitto_ctrl or openssl is not installed")
    return str(found)


@pytest.fixture
async def url(mosquitto: str, plugin: str, free_port: int, tmp_path: Path) -> AsyncIterator[BrokerUrl]:
    """The address of a team broker with alice and bob, for its administrator."""
    key, certificate, users = (str(tmp_path / name) for name in ("server.key", "server.crt", "dynsec.json"))
    await run(
        *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
        *("-keyout", key, "-out", certificate, "-subj", "/CN=localhost"),
        *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
    )
    await run("mosquitto_ctrl", "dynsec", "init", users, "admin", "admin-secret")
    own = {
        "plugin": plugin,
        "plugin_opt_config_file": users,
        "listener": f"{free_port} 127.0.0.1",
        "certfile": certificate,
        "keyfile": key,
    }
    text = f"user root\npersistence true\npersistence_location {tmp_path}/\n" + (CONFIG / "mosquitto.conf").read_text()
    for name, value in own.items():
        text, count = re.subn(rf"^{name} .*$", f"{name} {value}", text, flags=re.MULTILINE)
        assert count == 1, name
    (tmp_path / "mosquitto.conf").write_text(text)
    process = await asyncio.create_subprocess_exec(
        mosquitto, "-c", str(tmp_path / "mosquitto.conf"), stdout=DEVNULL, stderr=DEVNULL
    )
    admin = BrokerUrl("127.0.0.1", free_port, True, "admin", "admin-secret", certificate)
    try:
        async with Peer(admin, f"{CONTROL}/response", name="admin") as peer:
            await peer.wait_until_up()
            for name, user in (("alice", ALICE), ("bob", BOB)):
                role = (CONFIG / "dynsec-role.json").read_text().replace("USER_ID", user)
                peer.link.publish(CONTROL, role.replace("NAME", name).encode())
                password = {"command": "setClientPassword", "username": name, "password": f"{name}-secret"}
                peer.link.publish(CONTROL, json.dumps({"commands": [password]}).encode())
            await wait_until(lambda: len(peer.received()) == 4)
            for response in peer.received():
                assert not [step for step in json.loads(response)["responses"] if "error" in step]
            await peer.link.close()
        yield admin
    finally:
        process.terminate()
        await process.wait()


def user(url: BrokerUrl, name: str) -> BrokerUrl:
    """The address of the broker for a user."""
    return replace(url, username=name, password=f"{name}-secret")


async def test_a_user_can_do_a_daemons_work(url: BrokerUrl) -> None:
    """A user's role lets a daemon and its worker use all their topics, without a problem."""
    contact = topics.status(BOB)
    mine = [*topics.daemon_filters(ALICE), contact]
    task = topics.dispatch(ALICE, "default", "w-1")
    async with (
        Peer(user(url, "alice"), *mine, name="daemon", persistent=True) as daemon,
        Peer(user(url, "alice"), task, topics.status(ALICE), name="worker") as worker,
        Peer(user(url, "bob"), *topics.daemon_filters(BOB), name="bob") as bob,
    ):
        for peer in (daemon, worker, bob):
            await peer.wait_until_up()
        daemon.link.publish(topics.status(ALICE), b"here", retain=True)
        await worker.wait_for(b"here")
        daemon.link.publish(task, b"task")
        await worker.wait_for(b"here", b"task")
        worker.link.publish(topics.results(ALICE, "default"), b"result")
        await daemon.wait_for(b"result")
        bob.link.publish(topics.inbox(ALICE, "User"), b"x" * 1_000_000)
        await daemon.wait_for(b"result", b"x" * 1_000_000)
        bob.link.publish(contact, b"bob is here", retain=True)
        await wait_until(lambda: len(daemon.received()) == 3)
        daemon.link.publish(topics.card(ALICE), b"card", retain=True)
        daemon.link.publish(topics.inbox(BOB, "User"), b"hello")
        await bob.wait_for(b"hello")
        assert not daemon.problems + worker.problems + bob.problems


@pytest.mark.parametrize(
    "name",
    [
        topics.inbox(ALICE, "User"),
        "p2pflows/1/+/in/#",
        "#",
        topics.results(ALICE, "default"),
        topics.dispatch(ALICE, "default", "w-1"),
        f"$share/x/{topics.inbox(ALICE, 'User')}",
        "$share/x/p2pflows/1/+/in/#",
    ],
)
async def test_nobody_subscribes_to_anothers_topics(url: BrokerUrl, name: str) -> None:
    """The broker refuses bob a subscription to alice's topics, and the report names the topic."""
    async with Peer(user(url, "bob"), name) as bob:
        await wait_until(lambda: bool(bob.problems))
        assert not bob.ups
    assert f"refuses us the topic {name} (not authorized)" in bob.problems[0]


async def test_nobody_publishes_for_another(url: BrokerUrl) -> None:
    """The broker refuses bob a message to alice's own topics, and the report names the topic.

    mosquitto 2.0.11 also cuts the connection at every refusal; the link must come back.
    """
    forged = [
        topics.status(ALICE),
        topics.card(ALICE),
        topics.dispatch(ALICE, "default", "w-1"),
        topics.results(ALICE, "default"),
    ]
    async with Peer(user(url, "bob")) as bob:
        await bob.wait_until_up()
        for count, topic in enumerate(forged, start=1):
            await wait_until(lambda: bob.link.connected)
            bob.link.publish(topic, b"forged", retain=True)
            await wait_until(lambda: len(bob.problems) == count)  # noqa: B023 - waited for in this very turn
            assert f"refuses our messages on {topic} (not authorized)" in bob.problems[-1]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_the_certificate_is_checked(url: BrokerUrl) -> None:
    """Without the CA's certificate, or with a file that is none, nothing is sent to the broker.

    paho leaves the socket of a failed handshake to the garbage collector, hence the filter above.
    """
    with pytest.raises(OSError, match="certificate verify failed"):
        await probe(replace(url, ca_file=None), 3.0)
    with pytest.raises(PermissionError, match="CA file /nowhere cannot be used"):
        await probe(replace(url, ca_file="/nowhere"), 3.0)


async def test_a_burst_over_tls(url: BrokerUrl) -> None:
    """Messages that TLS has already decrypted do not wait in its buffer."""
    async with (
        Peer(user(url, "alice"), *topics.daemon_filters(ALICE), name="taker") as taker,
        Peer(user(url, "bob"), name="sender") as sender,
    ):
        await taker.wait_until_up()
        await sender.wait_until_up()
        burst = [b"%d" % number + b"x" * 3000 for number in range(400)]
        for payload in burst:
            sender.link.publish(topics.inbox(ALICE, "User"), payload)
        await taker.wait_for(*burst)
