"""MqttLink against real brokers, and against scripted ones where a real one will not misbehave on demand."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path

import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from support.mqtt_peer import Peer, until

from p2pflows.links import mqtt, mqtt_connection
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.delivery import Will
from p2pflows.links.mqtt_probe import probe
from p2pflowsd.processes.broker_programs import Program
from p2pflowsd.processes.embedded_broker import EmbeddedBroker


async def test_messages_pass_both_ways(broker: EmbeddedBroker) -> None:
    """Two links on one broker must hear each other, and learn how fast the broker is."""
    url = await broker.ensure()
    async with Peer(url, "t/a", name="a") as a, Peer(url, "t/b", name="b") as b:
        await a.up()
        await b.up()
        assert a.link.publish("t/b", b"to b")
        await b.hears(b"to b")
        assert b.link.publish("t/a", b"to a")
        await a.hears(b"to a")
        await until(lambda: a.link.round_trip is not None)
        assert a.ups == [False]
        assert a.link.connected
        assert a.link.max_packet <= 1_048_576
        assert not a.problems + b.problems


async def test_what_was_not_acknowledged_comes_again(broker: EmbeddedBroker) -> None:
    """A persistent session must bring back exactly what was not acknowledged, in order."""
    url = await broker.ensure()
    async with Peer(url, name="sender") as sender:
        await sender.up()
        async with Peer(url, "t/in", name="keeper", persistent=True, acks=False) as first:
            await first.up()
            for number in range(4):
                sender.link.publish("t/in", b"%d" % number)
            await first.hears(b"0", b"1", b"2", b"3")
            first.link.ack(first.batches[0][0])
            await first.link.close()
        async with Peer(url, "t/in", name="keeper", persistent=True) as again:
            await again.hears(b"1", b"2", b"3")
            await again.up()
            assert again.ups == [True]


async def test_a_late_ack_does_nothing(broker: EmbeddedBroker) -> None:
    """Acknowledging a delivery of a connection that is gone must not touch the new connection."""
    url = await broker.ensure()
    async with Peer(url, name="sender") as sender:
        await sender.up()
        async with Peer(url, "t/in", name="keeper", persistent=True, acks=False) as keeper:
            await keeper.up()
            sender.link.publish("t/in", b"1")
            await keeper.hears(b"1")
            late = keeper.batches[0][0]
            keeper.cut()
            keeper.link.ack(late)
            await keeper.up(2)
            keeper.link.ack(late)
            await keeper.hears(b"1", b"1")
            keeper.link.ack(keeper.batches[-1][-1])
            sender.link.publish("t/in", b"2")
            await keeper.hears(b"1", b"1", b"2")
            assert len(keeper.downs) == 1


async def test_deliveries_come_batched_and_in_order(broker: EmbeddedBroker) -> None:
    """A burst larger than the broker's window must arrive whole and in order, many messages to a batch."""
    url = await broker.ensure()
    async with Peer(url, "t/in", name="taker") as taker, Peer(url, name="sender") as sender:
        await taker.up()
        await sender.up()
        burst = [b"%d" % number for number in range(500)]
        assert all(sender.link.publish("t/in", payload) for payload in burst)
        await taker.hears(*burst)
        assert len(taker.batches) < len(burst) / 2


async def test_retained_messages_say_so(broker: EmbeddedBroker, program: Program) -> None:
    """The retain flag must be seen on a stored message; live, mosquitto shows it as it was published.

    iotcore 0.4.0 does not know retainAsPublished: it clears the flag on live messages, whatever was asked.
    """
    url = await broker.ensure()
    async with Peer(url, "t/card", name="early") as early, Peer(url, name="sender") as sender:
        await early.up()
        await sender.up()
        sender.link.publish("t/card", b"card", retain=True)
        await early.hears(b"card")
        assert early.batches[0][0].retain is (program == "mosquitto")
        async with Peer(url, "t/card", name="late") as late:
            await late.hears(b"card")
            assert late.batches[0][0].retain


async def test_live_subscription(broker: EmbeddedBroker) -> None:
    """A filter added to a live link must bring its messages, stored ones too."""
    url = await broker.ensure()
    async with Peer(url, "t/in") as peer:
        await peer.up()
        peer.link.publish("t/card", b"card", retain=True)
        peer.link.subscribe(["t/card"])
        await peer.hears(b"card")
        assert peer.ups == [False]


async def test_a_goodbye_withholds_the_will(broker: EmbeddedBroker) -> None:
    """Closing must let what was published arrive and send no will; vanishing must send the will."""
    url = await broker.ensure()
    will = Will("t/in", b"will", retain=False)
    async with Peer(url, "t/in", name="taker") as taker:
        await taker.up()
        async with Peer(url, name="polite", will=will) as polite:
            await polite.up()
            polite.link.publish("t/in", b"bye")
            await polite.link.close()
            await polite.task
            assert not polite.link.connected
            assert polite.downs == ["closed"]
            assert not polite.link.publish("t/in", b"too late")
        await taker.hears(b"bye")
        async with Peer(url, name="rude", will=will) as rude:
            await rude.up()
        await taker.hears(b"bye", b"will")


async def test_wrong_password_is_told_once(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password must give one plain sentence, and never the password, however often it is tried."""
    monkeypatch.setattr(mqtt, "_CONNECT_TIMEOUT_S", 0.5)  # iotcore closes without an answer: told after a while
    url = replace(await broker.ensure(), password="wrong-one")  # noqa: S106 - wrong on purpose
    async with Peer(url) as peer:
        await until(lambda: bool(peer.problems))
        await asyncio.sleep(0.5)
    (problem,) = peer.problems
    assert "check the user name and password" in problem
    assert "wrong-one" not in problem
    assert not peer.ups


async def test_probe_measures_or_raises(broker: EmbeddedBroker) -> None:
    """A probe must give a time for a good broker, and raise an OSError for a refusing or absent one."""
    url = await broker.ensure()
    assert 0 < await probe(url, 3.0) < 3.0
    with pytest.raises(OSError, match=r"."):
        await probe(replace(url, password="wrong-one"), 3.0)  # noqa: S106 - wrong on purpose
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await probe(replace(url, port=trial.getsockname()[1]), 3.0)


async def test_the_link_outlives_a_killed_broker(broker: EmbeddedBroker) -> None:
    """When the broker is killed the link must say so, refuse to publish, and come back by itself."""
    url = await broker.ensure()
    async with Peer(url, "t/in", persistent=True) as peer:
        await peer.up()
        assert broker._child.pid
        os.kill(broker._child.pid, signal.SIGKILL)
        await until(lambda: len(peer.downs) == 1 and not broker._running)
        assert not peer.link.connected
        assert not peer.link.publish("t/in", b"lost")
        await broker.ensure()
        await peer.up(2)
        peer.link.publish("t/in", b"kept")
        await peer.hears(b"kept")
        assert not peer.problems


async def test_a_fault_in_a_callback_ends_run(broker: EmbeddedBroker) -> None:
    """What a callback of ours raises must come out of run(), even if it looks like a network fault."""
    async with Peer(await broker.ensure(), "t/in") as peer:

        def fail(_: bool) -> None:
            raise ConnectionError("ours")

        peer.link._on_up = fail
        with pytest.raises(ConnectionError, match="ours"):
            await peer.task
        assert not peer.link.connected
        peer.task = asyncio.create_task(asyncio.sleep(0))


async def test_too_large_is_told_and_not_sent(broker: EmbeddedBroker) -> None:
    """A message over the broker's limit must be refused here, once told, as the broker would cut the link."""
    async with Peer(await broker.ensure(), "t/in") as peer:
        await peer.up()
        largest = b"x" * (peer.link.max_packet - len("t/in") - 16)
        assert peer.link.publish("t/in", largest)
        await peer.hears(largest)
        assert not peer.link.publish("t/in", largest + b"x")
        assert not peer.link.publish("t/in", largest + b"x")
        assert len(peer.problems) == 1
        assert not peer.downs


async def test_an_unreadable_message_cannot_jam_the_link(mosquitto: str, free_port: int, tmp_path: Path) -> None:
    """A message that paho cannot parse must not come back for ever: its session is given up."""
    assert mosquitto
    embedded = EmbeddedBroker(free_port, directory=tmp_path / "b", program="mosquitto", log=logging.getLogger())
    url = await embedded.ensure()
    evil = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    evil.ContentType = "\ufeff"
    async with Peer(url, "t/in", name="victim", persistent=True) as victim, Peer(url, name="evil") as sender:
        await victim.up()
        await sender.up()
        assert sender.link._connection
        sender.link._connection._client.publish("t/in", b"evil", qos=1, properties=evil)
        await victim.up(2)
        sender.link.publish("t/in", b"good")
        await victim.hears(b"good")
        assert victim.ups == [False, False]
    await embedded.close()


class Script:
    """A broker that does as it is told: answers to packet types, or silence."""

    def __init__(self, **answers: Callable[[bytes], bytes]) -> None:
        self.answers = answers
        self.seen: list[str] = []
        self.clients: list[asyncio.Task[None] | None] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer one client until it goes."""
        self.clients.append(asyncio.current_task())
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while "disconnect" not in self.seen:
                self._answer(*await self._packet(reader), writer)
        writer.close()

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[BrokerUrl]:
        """Serve on a free port until every client has gone."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        yield BrokerUrl("127.0.0.1", server.sockets[0].getsockname()[1], username="me")
        server.close()
        await until(lambda: all(client is None or client.done() for client in self.clients))

    async def _packet(self, reader: asyncio.StreamReader) -> tuple[str, bytes]:
        kind = (await reader.readexactly(1))[0] >> 4
        length = shift = 0
        while True:
            (byte,) = await reader.readexactly(1)
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        names = {1: "connect", 3: "publish", 8: "subscribe", 12: "ping", 14: "disconnect"}
        return names.get(kind, str(kind)), await reader.readexactly(length)

    def _answer(self, name: str, body: bytes, writer: asyncio.StreamWriter) -> None:
        self.seen.append(name)
        if name in self.answers:
            writer.write(self.answers[name](body))


def welcome(_: bytes) -> bytes:
    """A CONNACK that accepts."""
    return bytes.fromhex("2003000000")


def granted(subscribe: bytes) -> bytes:
    """A SUBACK that grants one filter."""
    return bytes.fromhex("9004") + subscribe[:2] + bytes.fromhex("0001")


def denied(subscribe: bytes) -> bytes:
    """A SUBACK that refuses one filter."""
    return bytes.fromhex("9004") + subscribe[:2] + bytes.fromhex("0087")


@pytest.mark.parametrize(
    ("connack", "words"),
    [
        ("20020001", "does not speak MQTT 5"),
        ("2003008400", "does not speak MQTT 5"),
        ("2003008700", "check the user name and password"),
        ("20050000022400", "does not support QoS 1"),
        ("2003008900", "server busy"),
    ],
)
async def test_a_refused_connect_is_told_once(connack: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that refuses us or lacks what we need must be named in one plain sentence, over many tries."""
    monkeypatch.setattr(mqtt, "_REFUSED_DELAY_S", 0.05)
    script = Script(connect=lambda _: bytes.fromhex(connack))
    async with script.running() as url, Peer(url) as peer:
        await until(lambda: script.seen.count("connect") > 3)
    (problem,) = peer.problems
    assert words in problem
    assert str(url) in problem


async def test_a_broker_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that takes connections and says nothing must be given up in bounded time, and told of once."""
    monkeypatch.setattr(mqtt_connection, "_ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(mqtt, "_CONNECT_TIMEOUT_S", 0.5)
    script = Script()
    async with script.running() as url, Peer(url) as peer:
        await until(lambda: script.seen.count("connect") > 4)
    (problem,) = peer.problems
    assert "does not answer" in problem


async def test_a_broker_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A half-open connection must be noticed within one and a half keepalive times."""
    monkeypatch.setattr(mqtt_connection, "_KEEPALIVE_S", 1)
    script = Script(connect=welcome, subscribe=granted)
    async with script.running() as url, Peer(url, "t/in") as peer:
        await peer.up()
        await until(lambda: bool(peer.downs), limit=4.0)
        assert "ping" in script.seen
        await peer.up(2)


async def test_pings_keep_an_idle_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle link whose pings are answered must stay."""
    monkeypatch.setattr(mqtt_connection, "_KEEPALIVE_S", 1)
    script = Script(connect=welcome, subscribe=granted, ping=lambda _: bytes.fromhex("d000"))
    async with script.running() as url, Peer(url, "t/in") as peer:
        await until(lambda: script.seen.count("ping") >= 2)
        assert peer.ups == [False]
        assert not peer.downs


async def test_a_refused_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused filter must be told once and keep the link from being up, until the broker grants it."""
    monkeypatch.setattr(mqtt, "_REFUSED_DELAY_S", 0.5)
    script = Script(connect=welcome, subscribe=denied)
    async with script.running() as url, Peer(url, "t/in") as peer:
        await until(lambda: script.seen.count("subscribe") >= 2)
        assert not peer.ups
        script.answers["subscribe"] = granted
        await peer.up()
    (problem,) = peer.problems
    assert "refuses us the topic t/in (not authorized)" in problem
    assert script.seen.count("connect") == 1


async def test_a_refused_message_is_told_once() -> None:
    """A PUBACK that refuses must be told once for each topic."""

    def refuse(publish: bytes) -> bytes:
        return b"\x40\x03" + publish[6:8] + b"\x87"

    script = Script(connect=welcome, subscribe=granted, publish=refuse)
    async with script.running() as url, Peer(url, "t/in") as peer:
        await peer.up()
        for topic in ("t/aa", "t/aa", "t/bb", "t/aa"):
            assert peer.link.publish(topic, b"x")
        await until(lambda: len(peer.problems) >= 2)
        await peer.link.close()
    assert [problem.split()[6] for problem in peer.problems] == ["t/aa", "t/bb"]


async def test_a_taken_client_id_is_told() -> None:
    """A link thrown out for another one with its client id must say so, and wait before it returns."""
    script = Script(connect=welcome, subscribe=lambda body: granted(body) + bytes.fromhex("e0028e00"))
    async with script.running() as url, Peer(url, "t/in") as peer:
        await until(lambda: bool(peer.problems))
        await asyncio.sleep(0.3)
    assert "Another program uses our client id" in peer.problems[0]
    assert script.seen.count("connect") == 1


async def test_two_links_with_one_client_id(broker: EmbeddedBroker) -> None:
    """Links that throw each other out must slow down, though mosquitto and iotcore give no reason."""
    url = await broker.ensure()
    async with Peer(url, name="same") as first, Peer(url, name="same") as second:
        await until(lambda: len(first.ups + second.ups) > 3)
        before = len(first.ups + second.ups)
        await asyncio.sleep(1.0)
        assert len(first.ups + second.ups) - before < 10
