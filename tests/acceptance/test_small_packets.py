"""Brokers that take small packets only: one that announces its limit, and one that hangs up without a word."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.network import MOSQUITTO, Network
from support.people import Person
from support.processes import free_port, wait_until

from p2pflows.errors import TooLarge

LIMIT = 20_000
LARGE = "x" * 100_000

pytestmark = pytest.mark.skipif(not MOSQUITTO, reason="mosquitto is not installed")


@contextlib.contextmanager
def mosquitto(folder: Path, *settings: str) -> Iterator[int]:
    """Run a mosquitto with these settings; yields its port."""
    port, config = free_port(), folder / "mosquitto.conf"
    config.write_text("\n".join(["allow_anonymous true", f"listener {port} 127.0.0.1", *settings, ""]))
    assert MOSQUITTO is not None
    with subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL) as process:
        try:
            yield port
        finally:
            process.terminate()


class HangingUp(threading.Thread):
    """A way to a broker that closes the connection when a client sends a packet of more than some bytes."""

    def __init__(self, broker: int, limit: int) -> None:
        super().__init__(daemon=True)
        self.hung_up = 0
        self._broker, self._limit = broker, limit
        self._loop = asyncio.new_event_loop()
        self._writers: list[asyncio.StreamWriter] = []
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.port = self._server.sockets[0].getsockname()[1]

    def run(self) -> None:
        """Serve until `stop`."""
        self._loop.run_forever()
        self._server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    def stop(self) -> None:
        """Stop serving."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self.join()

    async def _end(self) -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        for writer in self._writers:
            writer.close()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        broker, to_broker = await asyncio.open_connection("127.0.0.1", self._broker)
        back = asyncio.create_task(self._copy(broker, to_client))
        self._writers += [to_client, to_broker]
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while (packet := await self._packet(client)) is not None:
                to_broker.write(packet)
        to_broker.close()
        to_client.close()
        back.cancel()

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while content := await reader.read(65_536):
                writer.write(content)

    async def _packet(self, client: asyncio.StreamReader) -> bytes | None:
        """Read a packet; None if it is too large."""
        head = await client.readexactly(2)
        length, shift = head[1] & 127, 7
        while head[-1] > 127:
            head += await client.readexactly(1)
            length |= (head[-1] & 127) << shift
            shift += 7
        if length > self._limit:
            self.hung_up += 1
            return None
        return head + await client.readexactly(length)


def people(network: Network) -> tuple[Person, Person]:
    """Start alice and bob, who know each other and have no workers."""
    return network.pair(workers=False)


def test_a_broker_that_hangs_up_on_large_messages(tmp_path: Path) -> None:
    """The message it hangs up on ends as too_large, which names broker and size; everything else goes on."""
    with mosquitto(tmp_path) as port:
        proxy = HangingUp(port, LIMIT)
        proxy.start()
        network = Network(program=None, broker=f"mqtt://127.0.0.1:{proxy.port}")
        try:
            alice, bob = people(network)
            large = alice.request("submit", address="bob/User", data={"text": LARGE}, timeout=120)["id"]
            small = alice.request("submit", address="bob/User", data={"text": "small"}, timeout=120)["id"]
            many = [alice.request("send", address="bob/User", data={"text": "y" * 900})["id"] for _ in range(60)]
            with pytest.raises(TooLarge, match=r"message is 100,\d+ bytes, more than the broker mqtt://127.0.0.1:\d+"):
                alice.request("wait", id=large, timeout=60)
            wait_until(lambda: len(bob.prompts()) == 1 + len(many), 30)
            (asked,) = [prompt for prompt in bob.prompts() if prompt["text"] == "small"]
            bob.request("answer", id=asked["id"], text="yes")
            assert alice.request("wait", id=small, timeout=30)["data"]["human_input"] == "yes"
            hung_up = proxy.hung_up
            assert hung_up <= 20
            assert "it hangs up on larger ones" in alice.cli("status").ok().out
            assert "hangs up when it is sent a message of" in alice.log_text()
            assert any(entry["what"] == "too_large" for entry in alice.request("log")["entries"])
            with pytest.raises(TooLarge):
                alice.request("call", address="bob/User", data={"text": LARGE})
            assert proxy.hung_up == hung_up
        finally:
            network.close()
            proxy.stop()


def test_a_broker_that_announces_its_limit(tmp_path: Path) -> None:
    """A message over the announced limit is refused at once; many small ones are sent in packets that fit."""
    with mosquitto(tmp_path, f"max_packet_size {LIMIT}") as port:
        network = Network(program=None, broker=f"mqtt://127.0.0.1:{port}")
        try:
            alice, bob = people(network)
            with pytest.raises(TooLarge, match="the limit is 19,000"):
                alice.request("call", address="bob/User", data={"text": LARGE})
            bob.stop()
            ids = [alice.request("send", address="bob/User", data={"text": "y" * 900})["id"] for _ in range(60)]
            bob.start()
            assert alice.request("wait", id=ids[-1], timeout=30)["state"] == "delivered"
            assert len(bob.prompts()) == len(ids)
            assert "up to 20 kB (it says so)" in alice.cli("status").ok().out
        finally:
            network.close()


def test_a_large_message_from_before_the_broker_was_known(tmp_path: Path) -> None:
    """What was accepted while the broker was away ends as too_large when it turns out not to fit; the rest is sent."""
    port = free_port()
    network = Network(program=None, broker=f"mqtt://127.0.0.1:{port}")
    try:
        alice = network.person("alice").without_workers().start(wait=False)
        bob = network.person("bob").without_workers()
        alice.add_contact(bob)
        wait_until((alice.home / "daemon.sock").exists)
        large = alice.request("submit", address="bob/User", data={"text": LARGE}, timeout=120)["id"]
        config = tmp_path / "mosquitto.conf"
        config.write_text(f"allow_anonymous true\nlistener {port} 127.0.0.1\nmax_packet_size {LIMIT}\n")
        assert MOSQUITTO is not None
        with subprocess.Popen([MOSQUITTO, "-c", str(config)], stderr=subprocess.DEVNULL) as process:
            try:
                with pytest.raises(TooLarge, match="more than the broker"):
                    alice.request("wait", id=large, timeout=30)
            finally:
                process.terminate()
    finally:
        network.close()
