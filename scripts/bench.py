"""Measure echo calls through two daemons and a worker process, and raw paho-mqtt at QoS 1 on the same broker.

Calls are signed, sealed, journalled with fsync and dispatched to a worker process. A third measurement is the cost of
the same hops with this work and nothing else (bare_hops.py). Compare the ratios: the absolute figures change with the
load of the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import bare_hops
import raw_paho
from raw_paho import IN_FLIGHT

import p2pflows
from p2pflows.home import Home

PAYLOAD = 200
FLOW = """
def echo(text: str) -> str:
    return text
"""


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="under two minutes: one round of each")
    parser.add_argument("--broker", default=None, help="mosquitto or iotcore; default: as `up` chooses")
    parser.add_argument("--size", type=int, default=PAYLOAD, help="bytes of text in each call")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    arguments = parser.parse_args()
    if arguments.broker:
        os.environ["P2PFLOWS_EMBEDDED"] = arguments.broker
    rounds, single, many = (2, 300, 6_000) if arguments.quick else (5, 1_000, 20_000)
    with tempfile.TemporaryDirectory(prefix="p2pflows-bench-") as folder, ExitStack() as stack:
        port = _free_port()
        os.environ["P2PFLOWS_BROKER"] = f"embedded:{port}"
        alice = stack.enter_context(_daemon(Path(folder) / "alice"))
        bob = stack.enter_context(_daemon(Path(folder) / "bob"))
        url = _prepare(alice, bob, Path(folder))
        broker = _client(alice).request("status")["broker"]["name"]
        stack.enter_context(raw_paho.process(url, __file__, "--echo"))
        results: dict[str, dict[str, list[float]]] = {name: defaultdict(list) for name in ("paho", "bare", "p2pflows")}
        for number in range(rounds):
            bare = Path(folder) / f"bare-{number}"
            bare.mkdir()
            for name, (times, rate) in (
                ("paho", _measure_paho(url, arguments.size, single, many)),
                ("bare", (bare_hops.measure(url, bare, arguments.size, single), None)),
                ("p2pflows", _measure_ours(alice, arguments.size, single, many)),
            ):
                results[name]["p50"].append(statistics.median(times))
                results[name]["p99"].append(statistics.quantiles(times, n=100)[-1])
                if rate is not None:
                    results[name]["rate"].append(rate)
        mine = _client(bob).request("status")["broker"]["name"]
        broker = mine if broker == "shared" else broker
    _report(results, broker, arguments)


def _report(results: dict[str, dict[str, list[float]]], broker: str, arguments: argparse.Namespace) -> None:
    median = {
        name: {what: statistics.median(values) for what, values in kinds.items()} for name, kinds in results.items()
    }
    mine, base = median["p2pflows"], median["paho"]
    ratio = {what: mine[what] / base[what] for what in base}
    if arguments.json:
        print(json.dumps({"broker": broker, "bytes": arguments.size, **median, "ratio": ratio}))
        return
    print(f"echo of {arguments.size} bytes on {broker}, {os.cpu_count()} cores: one at a time; {IN_FLIGHT} in flight\n")
    print(f"{'':32}{'p50 ms':>10}{'p99 ms':>10}{'calls/s':>12}")
    for name, label in (
        ("paho", "raw paho-mqtt QoS 1"),
        ("bare", "the hops of a call, bare"),
        ("p2pflows", "p2pflows, everything on"),
    ):
        rate = f"{median[name]['rate']:,.0f}" if "rate" in median[name] else ""
        print(f"{label:32}{median[name]['p50'] * 1000:>10.2f}{median[name]['p99'] * 1000:>10.2f}{rate:>12}")
    print(f"{'p2pflows to raw paho-mqtt':32}{ratio['p50']:>9.2f}x{ratio['p99']:>9.2f}x{ratio['rate']:>11.2f}x")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _daemon(home: Path) -> Iterator[Home]:
    home.mkdir()
    log = (home / "log").open("w")
    process = subprocess.Popen(
        [sys.executable, "-m", "p2pflowsd"], env={**os.environ, "P2PFLOWS_HOME": str(home)}, stdout=log, stderr=log
    )
    try:
        where = Home(home)
        _until(lambda: where.socket.exists() and _client(where).request("status")["broker"]["connected"])
        yield where
    finally:
        process.terminate()
        process.wait(20)


def _client(home: Home) -> p2pflows.Client:
    return p2pflows.connect(home.path)


def _prepare(alice: Home, bob: Home, folder: Path) -> str:
    """Make the two contacts of each other, and serve the echo; return the URL of the broker."""
    from p2pflows.contacts import Contacts
    from p2pflows.protocol.channel import read_token

    ids = {home: _client(home).request("id")["user_id"] for home in (alice, bob)}
    Contacts(alice.contacts).add("bob", ids[bob])
    Contacts(bob.contacts).add("alice", ids[alice])
    (folder / "echo.py").write_text(FLOW)
    _until(lambda: any(point["free"] for point in _client(bob).request("status")["workers"]))
    _client(bob).request("serve", endpoint="echo", kind="python", target=f"{folder}/echo.py:echo", cwd=str(folder))
    return read_token(_client(bob).request("worker_token", dispatch_point="default", local=True)["token"]).broker


def _until(condition: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        try:
            if condition():
                return
        except p2pflows.DaemonNotRunning:
            pass
        time.sleep(0.05)
    raise SystemExit("The daemons did not start; nothing was measured.")


def _measure_ours(alice: Home, size: int, single: int, many: int) -> tuple[list[float], float]:
    return asyncio.run(_ours(alice, size, single, many))


async def _ours(alice: Home, size: int, single: int, many: int) -> tuple[list[float], float]:
    data = {"text": "x" * size}
    async with p2pflows.connect_async(alice.path) as client:
        for _ in range(50):
            await client.call("bob/echo", data)
        times = []
        for _ in range(single):
            began = time.perf_counter()
            await client.call("bob/echo", data)
            times.append(time.perf_counter() - began)
        left = many

        async def one() -> None:
            nonlocal left
            while left > 0:
                left -= 1
                await client.call("bob/echo", data)

        began = time.perf_counter()
        await asyncio.gather(*(one() for _ in range(IN_FLIGHT)))
        return times, many / (time.perf_counter() - began)


def _echo(url: str) -> None:
    client = raw_paho.connect(url)

    def message(_client: object, _data: object, message: Any) -> None:
        raw_paho.set_quick_ack(client)
        client.publish("bench/back", message.payload, qos=1)

    client.on_message = message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.subscribe("bench/there", qos=1)
    client.loop_forever()


def _measure_paho(url: str, size: int, single: int, many: int) -> tuple[list[float], float]:
    client = raw_paho.connect(url)
    slots = threading.Semaphore(0)

    def message(*_: object) -> None:
        raw_paho.set_quick_ack(client)
        slots.release()

    client.on_message = message
    subscribed = threading.Event()
    client.on_subscribe = lambda *_: subscribed.set()
    client.subscribe("bench/back", qos=1)
    client.loop_start()
    subscribed.wait(10)
    payload = b"x" * size

    def exchange(count: int, window: int) -> list[float]:
        times = []
        sent = done = 0
        while done < count:
            began = time.perf_counter()
            while sent < count and sent - done < window:
                client.publish("bench/there", payload, qos=1)
                sent += 1
            slots.acquire()
            done += 1
            times.append(time.perf_counter() - began)
        return times

    exchange(50, 1)
    times = exchange(single, 1)
    began = time.perf_counter()
    exchange(many, IN_FLIGHT)
    rate = many / (time.perf_counter() - began)
    client.loop_stop()
    client.disconnect()
    return times, rate


if __name__ == "__main__":
    if sys.argv[1:] == ["--echo"]:
        _echo(sys.stdin.readline().strip())
    else:
        main()
