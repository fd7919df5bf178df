"""MqttLink against real brokers, and against scripted ones for faults that a real broker does not show on demand."""

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
from support.listening import stop_listening
from support.mqtt_peer import Peer, wait_until

from p2pflows.links import mqtt, mqtt_connection
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.delivery import Will
from p2pflows.links.mqtt_probe import probe
from p2pflowsd.processes.broker_programs import Program
from p2pflowsd.processes.embedded_broker import EmbeddedBroker


async def test_messages_pass_both_ways(broker: EmbeddedBroker) -> None:
    """Two links on one broker receive each other's messages, and learn the limits and the speed of the broker."""
    url = await broker.ensure()
    async with Peer(url, "t/a", name="a") as a, Peer(url, "t/b", name="b") as b:
        await a.wait_until_up()
        await b.wait_until_up()
        assert a.link.publish("t/b", b"to b")
        await b.wait_for(b"to b")
        assert b.link.publish("t/a", b"to a")
        await a.wait_for(b"to a")
        await wait_until(lambda: a.link.round_trip is not None)
        assert a.ups == [False]
        assert a.link.connected
        assert a.link.max_packet <= 1_048_576
        assert not a.problems + b.problems


async def test_what_was_not_acknowledged_comes_again(broker: EmbeddedBroker) -> None:
    """A persistent session brings back exactly the messages that were not acknowledged, in order."""
    url = await broker.ensure()
    async with Peer(url, name="sender") as sender:
        await sender.wait_until_up()
        async with Peer(url, "t/in", name="keeper", persistent=True, acks=False) as first:
            await first.wait_until_up()
            for number in range(4):
                sender.link.publish("t/in", b"%d" % number)
            await first.wait_for(b"0", b"1", b"2", b"3")
            first.link.ack(first.batches[0][0])
            await first.link.close()
        async with Peer(url, "t/in", name="keeper", persistent=True) as again:
            await again.wait_for(b"1", b"2", b"3")
            await again.wait_until_up()
            assert again.ups == [True]


async def test_a_late_ack_does_nothing(broker: EmbeddedBroker) -> None:
    """An acknowledgement of a delivery of an earlier connection does not touch the new connection."""
    url = await broker.ensure()
    async with Peer(url, name="sender") as sender:
        await sender.wait_until_up()
        async with Peer(url, "t/in", name="keeper", persistent=True, acks=False) as keeper:
            await keeper.wait_until_up()
            sender.link.publish("t/in", b"1")
            await keeper.wait_for(b"1")
            late = keeper.batches[0][0]
            keeper.cut()
            keeper.link.ack(late)
            await keeper.wait_until_up(2)
            keeper.link.ack(late)
            await keeper.wait_for(b"1", b"1")
            keeper.link.ack(keeper.batches[-1][-1])
            sender.link.publish("t/in", b"2")
            await keeper.wait_for(b"1", b"1", b"2")
            assert len(keeper.downs) == 1


async def test_deliveries_come_batched_and_in_order(broker: EmbeddedBroker) -> None:
    """A burst larger than the broker's window arrives whole and in order, with many messages in a batch."""
    url = await broker.ensure()
    async with Peer(url, "t/in", name="taker") as taker, Peer(url, name="sender") as sender:
        await taker.wait_until_up()
        await sender.wait_until_up()
        burst = [b"%d" % number for number in range(500)]
        assert all(sender.link.publish("t/in", payload) for payload in burst)
        await taker.wait_for(*burst)
        assert len(taker.batches) < len(burst) / 2


async def test_retained_messages_say_so(broker: EmbeddedBroker, program: Program) -> None:
    """A stored message has the retain flag; a live one has it on mosquitto as it was published.

    iotcore 0.4.0 does not know retainAsPublished: it clears the flag on live messages, whatever was asked.
    """
    url = await broker.ensure()
    async with Peer(url, "t/card", name="early") as early, Peer(url, name="sender") as sender:
        await early.wait_until_up()
        await sender.wait_until_up()
        sender.link.publish("t/card", b"card", retain=True)
        await early.wait_for(b"card")
        assert early.batches[0][0].retain is (program == "mosquitto")
        async with Peer(url, "t/card", name="late") as late:
            await late.wait_for(b"card")
            assert late.batches[0][0].retain


async def test_live_subscription(broker: EmbeddedBroker) -> None:
    """A filter that a connected link adds brings its messages, stored ones, too."""
    url = await broker.ensure()
    async with Peer(url, "t/in") as peer:
        await peer.wait_until_up()
        peer.link.publish("t/card", b"card", retain=True)
        peer.link.subscribe(["t/card"])
        await peer.wait_for(b"card")
        assert peer.ups == [False]


async def test_any_number_of_subscriptions(broker: EmbeddedBroker) -> None:
    """Filters that are too many for one packet travel in several, and all of them are granted."""
    filters = [f"t/{number:080}" for number in range(15_000)]
    async with Peer(await broker.ensure(), *filters) as peer:
        await peer.wait_until_up()
        for topic in (filters[0], filters[7_000], filters[-1]):
            peer.link.publish(topic, topic.encode())
        await peer.wait_for(*(topic.encode() for topic in (filters[0], filters[7_000], filters[-1])))


async def test_many_subscriptions_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that answers one SUBSCRIBE after the other, each in time, is not given up before the last."""
    monkeypatch.setattr(mqtt_connection, "_ANSWER_TIMEOUT_S", 1.5)
    monkeypatch.setattr(mqtt_connection, "_MAX_SUBSCRIBE_BYTES", 12)
    late: list[asyncio.TimerHandle] = []

    def grant_later(subscribe: bytes) -> bytes:
        late.append(asyncio.get_running_loop().call_later(len(late), clients[-1].write, granted(subscribe)))
        return b""

    clients: list[asyncio.StreamWriter] = []
    script = Script(connect=welcome, subscribe=grant_later)
    serve = script.serve

    async def keep(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        clients.append(writer)
        await serve(reader, writer)

    monkeypatch.setattr(script, "serve", keep)
    async with script.running() as url, Peer(url, "t/1", "t/2", "t/3", "t/4") as peer:
        await peer.wait_until_up()
    assert script.seen.count("connect") == 1
    assert len(late) == 4


async def test_a_goodbye_withholds_the_will(broker: EmbeddedBroker) -> None:
    """Closing delivers what was published, and sends no will; a lost connection sends the will."""
    url = await broker.ensure()
    will = Will("t/in", b"will", retain=False)
    async with Peer(url, "t/in", name="taker") as taker:
        await taker.wait_until_up()
        async with Peer(url, name="polite", will=will) as polite:
            await polite.wait_until_up()
            polite.link.publish("t/in", b"bye")
            await polite.link.close()
            await polite.task
            assert not polite.link.connected
            assert polite.downs == ["closed"]
            assert not polite.link.publish("t/in", b"too late")
        await taker.wait_for(b"bye")
        async with Peer(url, name="rude", will=will) as rude:
            await rude.wait_until_up()
        await taker.wait_for(b"bye", b"will")


async def test_a_wrong_password_is_reported_once(broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong password is reported in one plain sentence, without the password, however often it is tried."""
    monkeypatch.setattr(mqtt, "_CONNECT_TIMEOUT_S", 0.5)  # iotcore closes without an answer: told after a while
    url = replace(await broker.ensure(), password="wrong-one")  # noqa: S106 - wrong on purpose
    async with Peer(url) as peer:
        await wait_until(lambda: bool(peer.problems))
        await asyncio.sleep(0.5)
    (problem,) = peer.problems
    assert "check the user name and password" in problem
    assert "wrong-one" not in problem
    assert not peer.ups


async def test_probe_measures_or_raises(broker: EmbeddedBroker) -> None:
    """A probe returns a time for a good broker, and raises OSError for a refusing or absent one."""
    url = await broker.ensure()
    assert 0 < await probe(url, 3.0) < 3.0
    with pytest.raises(OSError, match=r"."):
        await probe(replace(url, password="wrong-one"), 3.0)  # noqa: S106 - wrong on purpose
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectionRefusedError):
            await probe(replace(url, port=trial.getsockname()[1], socket=None), 3.0)


async def test_the_link_outlives_a_killed_broker(broker: EmbeddedBroker) -> None:
    """When the broker is killed, the link reports it, refuses to publish, and reconnects by itself."""
    url = await broker.ensure_for_workers()
    async with Peer(url, "t/in", persistent=True) as peer:
        await peer.wait_until_up()
        assert broker._child.pid
        os.kill(broker._child.pid, signal.SIGKILL)
        await wait_until(lambda: len(peer.downs) == 1 and not broker._running)
        assert not peer.link.connected
        assert not peer.link.publish("t/in", b"lost")
        await broker.ensure()
        await peer.wait_until_up(2)
        peer.link.publish("t/in", b"kept")
        await peer.wait_for(b"kept")
        assert not peer.problems


async def test_a_fault_in_a_callback_ends_run(broker: EmbeddedBroker) -> None:
    """An exception of a callback leaves run(), even if it looks like a network fault."""
    async with Peer(await broker.ensure(), "t/in") as peer:

        def fail(_: bool) -> None:
            raise ConnectionError("ours")

        peer.link._on_up = fail
        with pytest.raises(ConnectionError, match="ours"):
            await peer.task
        assert not peer.link.connected
        peer.task = asyncio.create_task(asyncio.sleep(0))


async def test_a_message_over_the_limit_is_not_sent(broker: EmbeddedBroker) -> None:
    """The link refuses a message over the broker's limit, and reports it once; the broker would cut the connection."""
    async with Peer(await broker.ensure(), "t/in") as peer:
        await peer.wait_until_up()
        largest = b"x" * (peer.link.max_packet - len("t/in") - 16)
        assert peer.link.publish("t/in", largest)
        await peer.wait_for(largest)
        assert not peer.link.publish("t/in", largest + b"x")
        assert not peer.link.publish("t/in", largest + b"x")
        assert len(peer.problems) == 1
        assert not peer.downs


async def test_an_unreadable_message_does_not_block_the_link(mosquitto: str, free_port: int, tmp_path: Path) -> None:
    """A message that paho cannot parse does not come back for ever: the link drops its session."""
    assert mosquitto
    embedded = EmbeddedBroker(free_port, directory=tmp_path / "b", program="mosquitto", log=logging.getLogger())
    url = await embedded.ensure()
    evil = Properties(PacketTypes.PUBLISH)  # type: ignore[no-untyped-call]
    evil.ContentType = "\ufeff"
    async with Peer(url, "t/in", name="victim", persistent=True) as victim, Peer(url, name="evil") as sender:
        await victim.wait_until_up()
        await sender.wait_until_up()
        assert sender.link._connection
        sender.link._connection._client.publish("t/in", b"evil", qos=1, properties=evil)
        await victim.wait_until_up(2)
        sender.link.publish("t/in", b"good")
        await victim.wait_for(b"good")
        assert victim.ups == [False, False]
    await embedded.close()


class Script:
    """A scripted broker: it answers each packet type as told, or not at all."""

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
        """Serve on a free port; on leaving, wait until every client has gone."""
        server = await asyncio.start_server(self.serve, "127.0.0.1", 0)
        yield BrokerUrl("127.0.0.1", server.sockets[0].getsockname()[1], username="me")
        await stop_listening(server)
        await wait_until(lambda: all(client is None or client.done() for client in self.clients))

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
async def test_a_refused_connect_is_reported_once(connack: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A broker that refuses us or lacks a feature is reported in one plain sentence, over many tries."""
    monkeypatch.setattr(mqtt, "_REFUSED_DELAY_S", 0.05)
    script = Script(connect=lambda _: bytes.fromhex(connack))
    async with script.running() as url, Peer(url) as peer:
        await wait_until(lambda: script.seen.count("connect") > 3)
    (problem,) = peer.problems
    assert words in problem
    assert str(url) in problem


async def test_a_broker_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link gives up a broker that accepts connections and says nothing, and reports it once."""
    monkeypatch.setattr(mqtt_connection, "_ANSWER_TIMEOUT_S", 0.2)
    monkeypatch.setattr(mqtt, "_CONNECT_TIMEOUT_S", 0.5)
    script = Script()
    async with script.running() as url, Peer(url) as peer:
        await wait_until(lambda: script.seen.count("connect") > 4)
    (problem,) = peer.problems
    assert "does not answer" in problem


async def test_a_broker_that_falls_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """The link notices a half-open connection within one and a half keepalive times."""
    monkeypatch.setattr(mqtt_connection, "_KEEPALIVE_S", 1)
    script = Script(connect=welcome, subscribe=granted)
    async with script.running() as url, Peer(url, "t/in") as peer:
        await peer.wait_until_up()
        await wait_until(lambda: bool(peer.downs), limit=4.0)
        assert "ping" in script.seen
        await peer.wait_until_up(2)


async def test_a_broker_that_acknowledges_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dead link is noticed sooner than by its pings when something waits for it."""
    monkeypatch.setattr(mqtt_connection, "_PUBACK_TIMEOUT_S", 1.0)
    script = Script(connect=welcome, subscribe=granted)
    async with script.running() as url, Peer(url, "t/in") as peer:
        await peer.wait_until_up()
        assert peer.link.publish("t/out", b"x")
        peer.link.flush()
        await wait_until(lambda: bool(peer.downs), limit=5.0)
        assert "does not acknowledge" in peer.downs[0]


async def test_a_broker_that_loses_a_window_of_acknowledgements(monkeypatch: pytest.MonkeyPatch) -> None:
    """A link on which nothing more can be sent is given up, although the broker goes on to answer pings."""
    monkeypatch.setattr(mqtt_connection, "_KEEPALIVE_S", 1)
    monkeypatch.setattr(mqtt_connection, "_BLOCKED_TIMEOUT_S", 2.5)
    welcome_with_a_window_of_one = bytes.fromhex("2006000003210001")
    pong = bytes.fromhex("d000")
    script = Script(connect=lambda _: welcome_with_a_window_of_one, subscribe=granted, ping=lambda _: pong)
    async with script.running() as url, Peer(url, "t/in") as peer:
        await peer.wait_until_up()
        for payload in (b"x", b"y"):
            assert peer.link.publish("t/out", payload)
        peer.link.flush()
        await wait_until(lambda: bool(peer.downs), limit=8.0)
        assert "acknowledges nothing any more" in peer.downs[0]
        assert script.seen.count("ping") >= 2


async def test_pings_keep_an_idle_link(monkeypatch: pytest.MonkeyPatch) -> None:
    """An idle link stays connected as long as its pings are answered."""
    monkeypatch.setattr(mqtt_connection, "_KEEPALIVE_S", 1)
    script = Script(connect=welcome, subscribe=granted, ping=lambda _: bytes.fromhex("d000"))
    async with script.running() as url, Peer(url, "t/in") as peer:
        await wait_until(lambda: script.seen.count("ping") >= 2)
        assert peer.ups == [False]
        assert not peer.downs


async def test_a_refused_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A refused filter is reported once, and the link is not up until the broker grants it."""
    monkeypatch.setattr(mqtt, "_REFUSED_DELAY_S", 0.5)
    script = Script(connect=welcome, subscribe=denied)
    async with script.running() as url, Peer(url, "t/in") as peer:
        await wait_until(lambda: script.seen.count("subscribe") >= 2)
        assert not peer.ups
        script.answers["subscribe"] = granted
        await peer.wait_until_up()
    (problem,) = peer.problems
    assert "refuses us the topic t/in (not authorized)" in problem
    assert script.seen.count("connect") == 1


async def test_a_refused_message_is_reported_once() -> None:
    """A PUBACK that refuses is reported once for each topic."""

    def refuse(publish: bytes) -> bytes:
        return b"\x40\x03" + publish[6:8] + b"\x87"

    script = Script(connect=welcome, subscribe=granted, publish=refuse)
    async with script.running() as url, Peer(url, "t/in") as peer:
        await peer.wait_until_up()
        for topic in ("t/aa", "t/aa", "t/bb", "t/aa"):
            assert peer.link.publish(topic, b"x")
        await wait_until(lambda: len(peer.problems) >= 2)
        await peer.link.close()
    assert [problem.split()[6] for problem in peer.problems] == ["t/aa", "t/bb"]


async def test_a_taken_client_id_is_reported() -> None:
    """A link that another one with its client id has replaced reports it, and waits before it reconnects."""
    script = Script(connect=welcome, subscribe=lambda body: granted(body) + bytes.fromhex("e0028e00"))
    async with script.running() as url, Peer(url, "t/in") as peer:
        await wait_until(lambda: bool(peer.problems))
        await asyncio.sleep(0.3)
    assert "Another program uses our client id" in peer.problems[0]
    assert script.seen.count("connect") == 1


async def test_two_links_with_one_client_id(broker: EmbeddedBroker) -> None:
    """Links that replace each other slow down, although mosquitto and iotcore report no reason."""
    url = await broker.ensure()
    async with Peer(url, name="same") as first, Peer(url, name="same") as second:
        await wait_until(lambda: len(first.ups + second.ups) > 3)
        before = len(first.ups + second.ups)
        await asyncio.sleep(1.0)
        assert len(first.ups + second.ups) - before < 10
