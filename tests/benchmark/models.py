"""What a question to a neighbour's chat costs, beside a direct request to its model server, which answers at once."""

from __future__ import annotations

import contextlib
import os
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from openai import OpenAI
from support.model_server import ModelServer
from support.network import Network

import p2pflows

CALLS, AT_ONCE, ROUNDS, SINGLE = 200, 8, 5, 50
POINT = "assistant"
_MS = 1_000
_ANSWER = "You said: Hello"


class Cost(NamedTuple):
    """What one question takes, in milliseconds.

    Args:
        many: with others at once: the time of all, divided by their number.
        single: one after the other, the median.
        cpu: the processor time of all processes, with others at once.
    """

    many: float
    single: float
    cpu: float


def measure_all(progress: Callable[[str], None], calls: int = CALLS, rounds: int = ROUNDS) -> dict[str, Cost]:
    """Measure in turn with real processes; the medians of some rounds, by name.

    Args:
        progress: called with what is measured.
        calls: how many questions are asked in each round.
        rounds: how many rounds there are.
    """
    network, clients = Network(), threading.local()
    with contextlib.ExitStack() as stack:
        stack.callback(network.close)
        url, server = stack.enter_context(_served())
        alice, bob = network.pair()
        worker = bob.start_worker("--dispatch-point", POINT, "--api-base", url)
        bob.wait_for_status(lambda now: any(each["dispatch_point"] == POINT for each in now["workers"]))
        bob.write_file("bench_echo.py", f"def echo(query: str) -> dict:\n    return {{'api_output': {_ANSWER!r}}}\n")
        bob.cli("serve", "Chat", "--chat", "--model", "m", "--dispatch-point", POINT).ok()
        bob.cli("serve", "Echo", "bench_echo.py:echo", "--dispatch-point", POINT).ok()
        direct: Any = stack.enter_context(OpenAI(api_key="none", base_url=url, max_retries=0))

        def ask_directly() -> str:
            asked = [{"role": "user", "content": "Hello"}]
            pieces = direct.chat.completions.create(model="m", messages=asked, stream=True)
            return "".join(piece.choices[0].delta.content or "" for piece in pieces)

        def ask_bob(endpoint: str) -> str:
            if not hasattr(clients, "mine"):
                clients.mine = stack.enter_context(p2pflows.connect(alice.home))
            return str(clients.mine.call(f"bob/{endpoint}", {"query": "Hello"})["api_output"])

        ways: dict[str, Callable[[], str]] = {
            "a direct request": ask_directly,
            "a question to bob/Chat": lambda: ask_bob("Chat"),
            "an echo by the same worker": lambda: ask_bob("Echo"),
        }
        assert alice.daemon is not None
        assert bob.daemon is not None
        processes = [os.getpid(), server, alice.daemon.pid, bob.daemon.pid, worker.pid]
        processes += [] if network.broker_pid is None else [network.broker_pid]
        found: dict[str, list[Cost]] = {name: [] for name in ways}
        with ThreadPoolExecutor(AT_ONCE) as threads:
            for number in range(rounds + 1):  # the first one warms up
                for name, ask in ways.items():
                    progress(f"round {number} of {rounds}: {name}")
                    cost = _measure(ask, threads, calls, processes)
                    found[name] += [cost] if number else []
    return {name: Cost(*map(statistics.median, zip(*costs, strict=True))) for name, costs in found.items()}


def table(found: dict[str, Cost]) -> str:
    """Return the costs as text."""
    first = next(iter(found.values()))
    rows = [f"ms for one                   {AT_ONCE} at once  ratio   one at a time   processor time"]
    for name, each in found.items():
        rows.append(
            f"  {name:28}{each.many:7.2f}  {each.many / first.many:4.2f}x  {each.single:13.2f}   {each.cpu:14.2f}"
        )
    return "\n".join(rows)


def _measure(ask: Callable[[], str], threads: ThreadPoolExecutor, calls: int, processes: list[int]) -> Cost:
    cpu, begun = _cpu_s(processes), time.perf_counter()
    assert set(threads.map(lambda _: ask(), range(calls))) == {_ANSWER}
    many, cpu = time.perf_counter() - begun, _cpu_s(processes) - cpu
    single = []
    for _ in range(min(SINGLE, calls)):
        begun = time.perf_counter()
        ask()
        single.append(time.perf_counter() - begun)
    return Cost(many * _MS / calls, statistics.median(single) * _MS, cpu * _MS / calls)


def _cpu_s(processes: list[int]) -> float:
    """Return the processor time that processes have taken."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in processes]
    return sum(int(each[11]) + int(each[12]) for each in fields) / os.sysconf("SC_CLK_TCK")


@contextlib.contextmanager
def _served() -> Iterator[tuple[str, int]]:
    """Run the model server in a process of its own; yield its URL and process id."""
    command = [sys.executable, "-m", "benchmark.models"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        yield server.stdout.readline().strip(), server.pid
        server.stdin.close()  # which ends it


if __name__ == "__main__":
    with ModelServer(is_prompt=True) as running:
        sys.stdout.write(f"{running.url}\n")
        sys.stdout.flush()
        sys.stdin.read()
