"""How fast a file travels, beside raw paho-mqtt with pieces of the same size; and what a small call takes meanwhile."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import paho.mqtt.client as mqtt
from paho.mqtt.enums import CallbackAPIVersion
from support.network import Network
from support.people import Person

import p2pflows
from p2pflows.client import Client
from p2pflows.links import broker_url
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.protocol.channel import read_token
from p2pflows.protocol.file_frames import MAX_PIECE_BYTES
from p2pflowsd.transfers.window import MAX_WINDOW_BYTES

CALLS = 100
ROUNDS = 3
SIZE = 100_000_000
_MS = 1_000
FLOWS = '''
from p2pflows import File


def measure(file: File) -> int:
    """Return the size of a file."""
    return file.path.stat().st_size


def echo(n: int) -> int:
    """Return the number."""
    return n
'''
_RECEIVED = "bench/received"
_PIECES = "bench/pieces"


class Latency(NamedTuple):
    """What calls took, in milliseconds."""

    median: float
    p99: float
    worst: float


class Figures(NamedTuple):
    """What one run has shown; rates are in bytes for each second."""

    file_rate: float
    paho_rate: float
    quiet: Latency
    beside: Latency


def measure_all(progress: Callable[[str], None], size: int = SIZE) -> Figures:
    """Measure on real daemons, in turn with raw paho-mqtt on the same broker; the medians of some rounds."""
    network = Network()
    try:
        alice, bob = network.pair()
        bob.write_file("bench_files.py", FLOWS)
        for name in ("measure", "echo"):
            bob.serve(name, f"bench_files.py:{name}")
        path = alice.folder / "large.bin"
        path.write_bytes(os.urandom(size))
        url = read_token(alice.request("worker_token", local=True)["token"]).broker
        rates, raw = [], []
        beside: list[float] = []
        with p2pflows.connect(alice.home) as me:
            quiet = [_call(me) for _ in range(CALLS)]
            for number in range(ROUNDS):
                progress(f"round {number + 1} of {ROUNDS}")
                rates.append(_send(alice, me, path, beside))
                raw.append(raw_paho(url, size))
        return Figures(statistics.median(rates), statistics.median(raw), _latency(quiet), _latency(beside))
    finally:
        network.close()


def table(found: Figures, size: int = SIZE) -> str:
    """Return the figures as text."""
    ratio = found.file_rate / found.paho_rate
    rows = [f"a file of {size / 1e6:.0f} MB: {found.file_rate / 1e6:.0f} MB/s, {ratio:.2f} of raw paho-mqtt at QoS 0"]
    rows += ["a small call                 median     p99   worst (ms)"]
    for name, each in (("alone", found.quiet), ("beside the file", found.beside)):
        rows.append(f"  {name:24} {each.median:8.1f} {each.p99:7.1f} {each.worst:7.1f}")
    return "\n".join(rows)


def _call(me: Client) -> float:
    """Make a small call; return how long it took, in milliseconds."""
    begun = time.perf_counter()
    me.call("bob/echo", {"n": 1})
    return (time.perf_counter() - begun) * _MS


def _send(alice: Person, me: Client, path: Path, beside: list[float]) -> float:
    """Send the file, with small calls beside it; return its rate."""
    reference = me.request("files_put", path=str(path))["file"]

    def send() -> None:
        with p2pflows.connect(alice.home) as other:
            other.call("bob/measure", {"file": reference})

    transfer = threading.Thread(target=send)
    begun = time.perf_counter()
    transfer.start()
    while transfer.is_alive():
        beside.append(_call(me))
    return path.stat().st_size / (time.perf_counter() - begun)


def _latency(took: list[float]) -> Latency:
    return Latency(statistics.median(took), statistics.quantiles(took, n=100)[-1], max(took))


def raw_paho(url: str, size: int) -> float:
    """Send as many bytes from one process to another with paho alone, with as much under way; return the rate."""
    with subprocess.Popen([sys.executable, __file__, url, str(size)]) as receiver:
        client, received, changed = connect(url), [0], threading.Condition()

        def on_message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
            with changed:
                received[0] = int(message.payload or 0)
                changed.notify()

        client.on_message = on_message
        client.subscribe(_RECEIVED)
        client.loop_start()
        with changed:
            changed.wait_for(lambda: received[0] < 0, 30)
        piece, sent = os.urandom(MAX_PIECE_BYTES), 0
        begun = time.perf_counter()
        while sent < size:
            with changed:
                changed.wait_for(lambda: sent - max(0, received[0]) < MAX_WINDOW_BYTES)  # noqa: B023 - it is called at once
            client.publish(_PIECES, piece)
            sent += len(piece)
        receiver.wait()
        took = time.perf_counter() - begun
        client.loop_stop()
        client.disconnect()
    return size / took


def connect(url: str) -> mqtt.Client:
    """Connect a client to the broker of the daemons."""
    address = broker_url.parse(url)
    assert isinstance(address, BrokerUrl)
    client = mqtt.Client(CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5)
    client.username_pw_set(address.username, address.password)
    client.connect(address.host, address.port)
    return client


def _receive(url: str, size: int) -> None:
    """Receive so many bytes, and say after each piece how many have come."""
    client, total = connect(url), [0]

    def on_message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
        total[0] += len(message.payload)
        client.publish(_RECEIVED, str(total[0]))
        if total[0] >= size:
            client.publish(_RECEIVED, "", retain=True)
            client.disconnect()

    def on_subscribe(*_: object) -> None:
        client.publish(_RECEIVED, "-1", retain=True)  # the sender may subscribe later

    client.on_message = on_message
    client.on_subscribe = on_subscribe
    client.subscribe(_PIECES)
    client.loop_forever()


if __name__ == "__main__":
    _receive(sys.argv[1], int(sys.argv[2]))
