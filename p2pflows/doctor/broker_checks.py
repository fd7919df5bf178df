"""Looks at the broker: name, port, certificate, credentials, rights on topics, size of packets, round trip."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import ssl
import time
from collections.abc import AsyncIterator, Callable, Iterator

from p2pflows.doctor.finding import Finding, fine, note, problem
from p2pflows.links.broker_url import BrokerUrl, Embedded
from p2pflows.links.delivery import Delivery
from p2pflows.links.mqtt_connection import BrokerRefused, Connection, NoAnswer, describe, first_set
from p2pflows.protocol import topics
from p2pflows.terminal import run_interruptible

TIMEOUT_S = 5.0
USUAL_PACKET_BYTES = 1_000_000
SLOW_S = 0.5
_EDIT = "Correct `broker` in config.yaml, or P2PFLOWS_BROKER"


def check_broker(broker: BrokerUrl | Embedded, user: str | None, *, daemon_runs: bool) -> Iterator[Finding]:
    """Whether a daemon can work with its broker.

    Args:
        broker: the setting.
        user: whose daemon; None if there is no identity yet.
        daemon_runs: whether the daemon runs; it has an embedded broker in use then.
    """
    if isinstance(broker, Embedded):
        if not daemon_runs:
            yield from _check_port(broker)
        return
    yield from run_interruptible(_look(broker, user or "0" * 64))


def _check_port(broker: Embedded) -> Iterator[Finding]:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind(("127.0.0.1", broker.port))
        except OSError as error:
            text = (
                f"Port {broker.port} is in use ({describe(error)}): by another of your daemons, or by something else."
            )
            yield note("broker", text, "If p2pflows up complains, write another one: broker: embedded:PORT")
        else:
            yield fine("broker", f"embedded; port {broker.port} is free")


async def _look(url: BrokerUrl, user: str) -> list[Finding]:
    for step in (_resolve, _reach):
        found = await asyncio.to_thread(step, url)
        if found is not None:
            return [found]
    return [finding async for finding in _work(url, user)]


def _resolve(url: BrokerUrl) -> Finding | None:
    try:
        socket.getaddrinfo(url.host, url.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        return problem("broker", f"No host {url.host!r} is known here ({said}).", f"{_EDIT}, or check the network.")
    return None


def _reach(url: BrokerUrl) -> Finding | None:
    """Connect, and with mqtts check the certificate."""
    try:
        plain = socket.create_connection((url.host, url.port), TIMEOUT_S)
    except OSError as error:
        text = f"Nothing answers at {url.host}, port {url.port} ({describe(error)})."
        return problem("broker", text, f"{_EDIT}, or start the broker; a firewall may be in between.")
    with plain:
        return _check_certificate(url, plain) if url.tls else None


def _check_certificate(url: BrokerUrl, plain: socket.socket) -> Finding | None:
    try:
        context = ssl.create_default_context(cafile=url.ca_file)
    except OSError as error:
        text = f"The CA file {url.ca_file} cannot be used ({describe(error)})."
        return problem("broker", text, f"Ask the broker's operator for it, or correct the path. {_EDIT}.")
    try:
        with context.wrap_socket(plain, server_hostname=url.host):
            return None
    except ssl.SSLCertVerificationError as error:
        return problem(
            "broker", f"The certificate of {url} is not good: {error.verify_message}.", _how_to_trust(url, error)
        )
    except (OSError, ValueError) as error:
        said = describe(error) if isinstance(error, OSError) else str(error)
        text = f"{url} does not speak TLS there ({said})."
        return problem("broker", text, f"Write mqtt:// if it has no TLS, or the port that has. {_EDIT}.")


def _how_to_trust(url: BrokerUrl, error: ssl.SSLCertVerificationError) -> str:
    said = error.verify_message
    if "expired" in said or "not yet valid" in said:
        return "Check the clock of this machine (date); if it is right, the operator has to renew the certificate."
    if "mismatch" in said or "not valid for" in said:
        return f"Use the name that the certificate has. {_EDIT}."
    return f"Name the CA that signed it: {url}?ca_file=/path/ca.crt. {_EDIT}."


async def _work(url: BrokerUrl, user: str) -> AsyncIterator[Finding]:
    """Connect as a daemon does, subscribe to its topics, and publish."""
    heard = asyncio.Event()
    connection = Connection(
        url, f"doctor-{os.getpid()}", session_seconds=0, clean=True, will=None, after_read=lambda _: heard.set()
    )
    began = time.monotonic()
    try:
        await connection.open()
    except BrokerRefused as error:
        yield problem("broker", str(error), _EDIT + ".")
        return
    except NoAnswer as error:
        text = f"Something listens at {url}, but no MQTT broker: {error}."
        yield problem("broker", text, f"Is it mqtts:// in place of mqtt://, or another port? {_EDIT}.")
        return
    except OSError as error:
        yield problem("broker", f"{url} cannot be used: {describe(error)}.", _EDIT + ".")
        return
    took = time.monotonic() - began
    try:
        async for finding in _use(connection, heard, url, user):
            yield finding
        if took > SLOW_S:
            yield note("broker", f"It takes {took:.1f} s to connect to {url}.", "A broker nearby would answer sooner.")
    finally:
        await connection.close()
        connection.abort()


async def _use(connection: Connection, heard: asyncio.Event, url: BrokerUrl, user: str) -> AsyncIterator[Finding]:
    own = topics.dispatch(user, "doctor", f"w-{os.getpid()}")  # to which no daemon subscribes
    connection.subscribe([*topics.daemon_filters(user), own])
    await _hear(heard, connection, lambda: connection.granted or bool(connection.refused))
    refused = sorted(connection.refused)
    for topic in (topics.inbox("0" * 64, topics.NOTICE), own):
        connection.publish(topic, b"", qos=1, retain=False)
    arrived: list[Delivery] = []

    def has_come_back() -> bool:
        arrived.extend(connection.take_arrived())
        return any(delivery.topic == own for delivery in arrived)

    comes_back = await _hear(heard, connection, has_come_back)
    refused_messages = connection.take_refused_messages()
    rights = "The operator has to grant it; see the example in broker-config."
    if connection.ended.is_set():
        yield problem("broker", f"{url} ended the connection: {connection.reason}.", "Look at the log of the broker.")
        return
    for name in refused:
        yield problem("rights", f"{url} does not let you subscribe to {name}.", rights)
    for topic, reason in refused_messages:
        yield problem("rights", f"{url} does not let you publish to {topic} ({reason}).", rights)
    if not comes_back and not refused and not refused_messages:
        yield problem("rights", f"{url} does not deliver what is published to topics of yours, such as {own}.", rights)
    elif not refused and not refused_messages:
        took = f"{(connection.round_trip or 0) * 1000:.1f} ms"
        yield fine("broker", f"{url}: subscribed, published and received, round trip {took}")
    if connection.max_packet < USUAL_PACKET_BYTES:
        text = f"{url} takes packets of at most {connection.max_packet:,} bytes: larger messages fail."
        yield note("packets", text, f"Ask its operator for a limit of at least {USUAL_PACKET_BYTES:,} bytes.")
    if url.is_exposed:
        text = f"User and password travel to {url} without encryption."
        yield note("broker", text, "Use mqtts:// if the broker has TLS.")


async def _hear(heard: asyncio.Event, connection: Connection, is_enough: Callable[[], bool]) -> bool:
    """Wait until enough was heard of the broker, or for some seconds; return whether it was."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(TIMEOUT_S):
            while not is_enough() and not connection.ended.is_set():
                heard.clear()
                await first_set(heard, connection.ended)
            return not connection.ended.is_set()
    return False
