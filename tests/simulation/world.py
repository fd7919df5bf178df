"""A simulated world: a broker, and some people with daemons and workers.

A seed determines everything that happens, down to the last byte of every message id.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Self

import pytest
from simulation import flows
from simulation.broker import PacketFaults, SimulatedBroker
from simulation.history import Fact
from simulation.machine import Machine
from simulation.timeline import Timeline
from simulation.worker import POINT, Worker

from p2pflows.protocol.message import Type
from p2pflows.settings.limits import Limits
from p2pflowsd import node
from p2pflowsd.journal import pruning
from p2pflowsd.running.catalog import HUMAN_SCHEMA, Served
from p2pflowsd.running.effects import POST_LIFETIME_MS

MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - a new private folder is created there
NAMES = ("ann", "bob", "cyd")
ECHO, SPREAD, HUMAN = "echo", "spread", flows.HUMAN
CLASSES = {
    flows.COUNTER: 2, flows.TALLY: 1, flows.PAIR: 6, flows.HUB: 2, flows.GUIDE: 6, flows.TOWER: 4, flows.RUIN: 1,
    flows.CLERK: 6,
}  # fmt: skip
"""The classes that everybody serves, and how often each is used, as weights."""
SETTLE_TIMEOUT_S = 30.0
"""How long after the last fault everything may take that needs no human, besides the time that flows take."""
ANSWER_INTERVAL_S = 5.0
"""How often humans answer their prompts at the end."""
MAX_ANSWER_ROUNDS = 100
KEPT_REQUESTS = FEW_MESSAGES = 3
PRUNE_AFTER_ROWS = 3
"""Few, so that short lives prune too."""
MAX_LIFETIME_S = 600.0
"""The longest time before the deadline of a message that a person sends."""


class World:
    """People who are contacts of one another; each serves a human, a serial and a parallel echo flow, and classes.

    Args:
        seed: the seed of all random choices.
        people: how many people there are.
        facts: where the history goes; by default a new list.
        kept_messages: of so many of the newest messages of each person, more is kept than somebody still asks for.
        limits: of each daemon.
    """

    def __init__(
        self,
        seed: int,
        people: int = 2,
        facts: list[Fact] | None = None,
        kept_messages: int = pruning.KEPT_MESSAGES,
        limits: Limits | None = None,
    ) -> None:
        self._patches = pytest.MonkeyPatch()
        self._patches.setattr(pruning, "KEPT_REQUESTS", KEPT_REQUESTS)
        self._patches.setattr(pruning, "KEPT_MESSAGES", kept_messages)
        self._patches.setattr(node, "PRUNE_AFTER_ROWS", PRUNE_AFTER_ROWS)
        self.random = Random(seed)  # noqa: S311 - a simulation, no secrets
        self.timeline = Timeline()
        self.broker = SimulatedBroker(self.timeline, self.random)
        self.facts: list[Fact] = [] if facts is None else facts
        self.folder = Path(tempfile.mkdtemp(prefix="p2pflows-", dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None))
        self.machines = [
            Machine(
                timeline=self.timeline, broker=self.broker, folder=self.folder, name=name, random=self.random,
                facts=self.facts,
            )
            for name in NAMES[:people]
        ]  # fmt: skip
        self.settle_timeout_s = SETTLE_TIMEOUT_S if limits is None else SETTLE_TIMEOUT_S + MAX_LIFETIME_S
        """With few places, what holds all of them may wait for one of them, up to its deadline."""
        self.workers: dict[str, Worker] = {}
        for machine, peer in zip(self.machines, self.machines[1:] + self.machines[:1], strict=True):
            machine.serves = _served(machine.user, peer.user)
            machine.limits = limits or machine.limits
            for other in self.machines:
                if other is not machine:
                    machine.contacts.add(other.name, other.user)
            machine.start()
            self.start_worker(machine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start_worker(self, machine: Machine, slots: int = 2) -> Worker:
        """Start a worker for a machine, unless one runs; return the one that runs."""
        worker = self.workers.get(machine.name)
        if worker is None or not worker.running:
            worker = self.workers[machine.name] = Worker(
                timeline=self.timeline,
                broker=self.broker,
                machine=machine,
                random=self.random,
                slots=slots,
                facts=self.facts,
            )
        return worker

    def kill_worker(self, machine: Machine, *, noticed: bool) -> None:
        """Kill the worker of a machine.

        Args:
            machine: the machine.
            noticed: whether its daemon learns it at once, as from the end of its own child process; otherwise it
                learns it from the broker, later.
        """
        worker = self.workers[machine.name]
        worker.kill()
        if noticed:
            machine.ask(lambda node: node.dispatch.on_process_ended(POINT, worker.pid))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.timeline.run(seconds)

    def settle(self) -> list[str]:
        """End all faults, and let time pass until every deadline is over; describe what does not end as it must."""
        self.broker.packet_faults = PacketFaults()
        for machine in self.machines:
            machine.faults.disarm()
            machine.free_disk()
            machine.cut(0.0)
            machine.start()
            if self.workers[machine.name].draining:
                self.workers[machine.name].kill()
            self.start_worker(machine).link.cut(0.0)
        self.run(1.0)
        stuck = self._wait_until_settled(self.settle_timeout_s + sum(machine.min_work_s() for machine in self.machines))
        for _ in range(MAX_ANSWER_ROUNDS):
            if not self._answer_all():
                break
            self.run(ANSWER_INTERVAL_S)
        self.run(SETTLE_TIMEOUT_S)
        restored = any(fact.kind == "restored" for fact in self.facts)
        if not restored:  # an old copy of a journal does not have all promises of its daemon
            stuck += [f"unanswered: {what}" for machine in self.machines for what in machine.unanswered()]
        self._sleep(2 * POST_LIFETIME_MS / 1000 if restored else MAX_LIFETIME_S)
        stuck += [f"at the very end: {what}" for what in self._unsettled()]
        stuck += self.probe()
        stuck += [f"at the very end: {what}" for machine in self.machines for what in machine.wrong_counts()]
        for machine in self.machines:
            machine.collect_facts()
        return stuck

    def _wait_until_settled(self, seconds: float) -> list[str]:
        """Let time pass until nothing is open; return what still is after some seconds."""
        end = self.timeline.elapsed + seconds
        while (stuck := self._unsettled()) and (left := end - self.timeline.elapsed) > 0:
            self.run(min(left, SETTLE_TIMEOUT_S))
        return stuck

    def _unsettled(self) -> list[str]:
        """Describe what is open."""
        return [what for machine in self.machines for what in machine.unsettled()]

    def _answer_all(self) -> bool:
        """Let every human answer their prompts; return whether there were any, or may be some soon."""
        asked = [
            (machine, prompt) for machine in self.machines for prompt, kind in machine.open_prompts() if kind == "call"
        ]
        for machine, prompt in asked:
            machine.answer(prompt, f"late answer to {prompt}")
        return bool(asked) or any(machine.unanswered() for machine in self.machines)

    def probe(self) -> list[str]:
        """Let everybody call everybody once more; describe which calls got no answer.

        What was reported to the caller counts: its journal may have forgotten the call since.
        """
        requests = [
            (one, other, one.send(Type.CALL, other, ECHO, {"probe": other.name}, SETTLE_TIMEOUT_S))
            for one in self.machines
            for other in self.machines
        ]
        self.run(SETTLE_TIMEOUT_S - 1.0)
        answered = {fact.id for fact in self.facts if fact.kind == "reported" and fact.about["state"] == "done"}
        return [
            f"{one.name} gets no answer from {other.name}"
            for one, other, request in requests
            if request.result not in answered
        ]

    def _sleep(self, seconds: float) -> None:
        """Let a long time pass with few steps: suspend all machines, and let them run for a second now and then."""
        for _ in range(10):
            self.timeline.sleep(seconds / 10)
            self.run(1.0)

    def close(self) -> None:
        """End all processes, and remove the files."""
        for machine in self.machines:
            machine.close()
        self._patches.undo()
        shutil.rmtree(self.folder)

    def save_history(self) -> Path:
        """Write the history beside the journals; return the folder."""
        path = self.folder / "history.jsonl"
        path.write_text("".join(fact.to_json() + "\n" for fact in self.facts), encoding="utf-8")
        return self.folder


def _served(me: str, peer: str) -> list[Served]:
    classes = [
        Served(
            endpoint=name, kind="class", target=f"flows.py:{name}", dispatch_point=POINT,
            singleton=name in flows.SINGLETONS, interleaved=name in flows.INTERLEAVED, config={"subflows": parts},
            subflows={key: {"user_id": user, "flow_endpoint": endpoint} for key, (user, endpoint) in parts.items()},
        )
        for name, parts in flows.subflows(me, peer).items()
    ]  # fmt: skip
    return [
        Served(endpoint=ECHO, kind="python", target="flows.py:echo", dispatch_point=POINT),
        Served(endpoint=SPREAD, kind="python", target="flows.py:spread", dispatch_point=POINT, parallel=True),
        Served(endpoint=HUMAN, kind="human", schema=HUMAN_SCHEMA),
        *classes,
    ]
