"""A small world: a broker, a few people with daemons and workers, and everything that can go wrong among them.

The same seed gives the same world, down to the last byte of every message id.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from random import Random
from typing import Self

from simulation import flows
from simulation.broker import PacketFaults, SimulatedBroker
from simulation.history import Fact
from simulation.machine import Machine
from simulation.timeline import Timeline
from simulation.worker import POINT, Worker

from p2pflows.protocol.message import Type
from p2pflowsd.running.catalog import HUMAN_SCHEMA, Served
from p2pflowsd.running.effects import POST_LIFETIME_MS

MEMORY_DISK = Path("/dev/shm")  # noqa: S108 - a fresh private folder is made there
NAMES = ("ann", "bob", "cyd")
ECHO, SPREAD, HUMAN = "echo", "spread", flows.HUMAN
CLASSES = {
    flows.COUNTER: 2, flows.TALLY: 1, flows.PAIR: 6, flows.HUB: 2, flows.GUIDE: 6, flows.TOWER: 4, flows.RUIN: 1,
    flows.CLERK: 6,
}  # fmt: skip
"""What else everybody serves, and how often it is used, as weights."""
PROGRESS = 30.0
"""Seconds after the last fault in which everything that needs no human must have settled, but for what flows take."""
ROUND = 5.0
"""Seconds in which humans, in the end, look for what they are asked next."""
ROUNDS = 100
MAX_SECONDS = 600.0
"""No message that a person in a simulation sends lives longer, in seconds."""


class World:
    """People who know one another, each with a daemon, a human, echo flows in order and in parallel, and classes.

    Args:
        seed: decides everything that chance decides.
        people: how many.
    """

    def __init__(self, seed: int, people: int = 2) -> None:
        self.random = Random(seed)  # noqa: S311 - a simulation, no secrets
        self.timeline = Timeline()
        self.broker = SimulatedBroker(self.timeline, self.random)
        self.facts: list[Fact] = []
        self.folder = Path(tempfile.mkdtemp(prefix="p2pflows-", dir=MEMORY_DISK if MEMORY_DISK.is_dir() else None))
        self.machines = [
            Machine(
                timeline=self.timeline, broker=self.broker, folder=self.folder, name=name, random=self.random,
                facts=self.facts,
            )
            for name in NAMES[:people]
        ]  # fmt: skip
        self.workers: dict[str, Worker] = {}
        for machine, neighbour in zip(self.machines, self.machines[1:] + self.machines[:1], strict=True):
            machine.serves = _served(machine.user, neighbour.user)
            for other in self.machines:
                if other is not machine:
                    machine.contacts.add(other.name, other.user)
            machine.start()
            self.hire(machine)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hire(self, machine: Machine, slots: int = 2) -> Worker:
        """Start a machine's worker anew, if none runs."""
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

    def dismiss(self, machine: Machine, *, noticed: bool) -> None:
        """Kill a machine's worker; a supervisor on the same machine notices at once, a broker later."""
        worker = self.workers[machine.name]
        worker.kill()
        if noticed:
            machine.ask(lambda node: node.dispatch.on_process_ended(POINT, worker.pid))

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.timeline.run(seconds)

    def settle(self) -> list[str]:
        """End all faults, let time pass until every deadline is over; gives what did not settle as it must."""
        self.broker.packet_faults = PacketFaults()
        for machine in self.machines:
            machine.faults.disarm()
            machine.free_disk()
            machine.cut(0.0)
            machine.start()
            if self.workers[machine.name].draining:
                self.workers[machine.name].kill()
            self.hire(machine).link.cut(0.0)
        self.run(1.0)
        self.run(PROGRESS + sum(machine.work() for machine in self.machines))
        stuck = [what for machine in self.machines for what in machine.unsettled()]
        for _ in range(ROUNDS):
            if not self._answer_all():
                break
            self.run(ROUND)
        self.run(PROGRESS)
        restored = any(fact.kind == "restored" for fact in self.facts)
        if not restored:  # a journal that was put back has forgotten what it owes
            stuck += [f"unanswered: {what}" for machine in self.machines for what in machine.unanswered()]
        self._sleep(2 * POST_LIFETIME_MS / 1000 if restored else MAX_SECONDS)
        stuck += [f"at the very end: {what}" for machine in self.machines for what in machine.unsettled()]
        stuck += self.probe()
        for machine in self.machines:
            machine.collect()
        return stuck

    def _answer_all(self) -> bool:
        """Let every human answer what they are asked; whether anybody was asked or may be asked soon."""
        asked = [
            (machine, prompt) for machine in self.machines for prompt, kind in machine.open_prompts() if kind == "call"
        ]
        for machine, prompt in asked:
            machine.answer(prompt, f"late answer to {prompt}")
        return bool(asked) or any(machine.unanswered() for machine in self.machines)

    def probe(self) -> list[str]:
        """Let everybody call everybody once more; gives who got no answer, in words."""
        asked = [
            (one, other, one.send(Type.CALL, other, ECHO, {"probe": other.name}, PROGRESS))
            for one in self.machines
            for other in self.machines
        ]
        self.run(PROGRESS - 1.0)
        return [
            f"{one.name} gets no answer from {other.name}"
            for one, other, told in asked
            if one.state_of(told.result) != "done"
        ]

    def _sleep(self, seconds: float) -> None:
        """Let much time pass cheaply: everybody sleeps, and looks around now and then."""
        for _ in range(10):
            self.timeline.sleep(seconds / 10)
            self.run(1.0)

    def close(self) -> None:
        """End everything and remove the files."""
        for machine in self.machines:
            machine.close()
        shutil.rmtree(self.folder)

    def keep(self) -> Path:
        """Write the history beside the journals; gives the folder."""
        path = self.folder / "history.jsonl"
        path.write_text("".join(fact.to_json() + "\n" for fact in self.facts), encoding="utf-8")
        return self.folder


def _served(me: str, neighbour: str) -> list[Served]:
    classes = [
        Served(
            endpoint=name, kind="class", target=f"flows.py:{name}", dispatch_point=POINT,
            singleton=name in flows.SINGLETONS, interleaved=name in flows.INTERLEAVED, config={"subflows": parts},
        )
        for name, parts in flows.subflows(me, neighbour).items()
    ]  # fmt: skip
    return [
        Served(endpoint=ECHO, kind="python", target="flows.py:echo", dispatch_point=POINT),
        Served(endpoint=SPREAD, kind="python", target="flows.py:spread", dispatch_point=POINT, parallel=True),
        Served(endpoint=HUMAN, kind="human", schema=HUMAN_SCHEMA),
        *classes,
    ]
