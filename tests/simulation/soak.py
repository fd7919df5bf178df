"""A long random life of a small world; `scripts/simulate --seed N --steps M` runs it.

Everything that happens follows from the seed. On a violation the seed is printed, and history and journals are kept.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

from simulation.broker import PacketFaults
from simulation.checker import check
from simulation.machine import Machine
from simulation.world import CLASSES, ECHO, HUMAN, MAX_SECONDS, SPREAD, World

from p2pflows.protocol import topics
from p2pflows.protocol.message import Type, derived_id

PACKET_FAULTS = (
    PacketFaults(),
    PacketFaults(delay=0.2),
    PacketFaults(repeat=0.3),
    PacketFaults(reorder=0.2),
    PacketFaults(drop=0.1),
    PacketFaults(drop=0.3),
    PacketFaults(drop=0.1, repeat=0.1, delay=0.1, reorder=0.1),
)


class Life:
    """Random actions upon a world; each method is one kind of thing that happens."""

    def __init__(self, world: World, random: Random, *, restores: bool = False) -> None:
        self._world = world
        self._random = random
        self._copies: list[tuple[Machine, Path]] = []
        self._count = 0
        self._things: dict[Callable[[], None], int] = {
            self.call: 12, self.post: 8, self.ask: 6, self.answer: 14, self.decline: 1, self.cancel: 3, self.pause: 14,
            self.change_packet_faults: 2, self.cut: 3, self.cut_worker: 2, self.forget: 1, self.kill_at_point: 6,
            self.start: 6, self.kill_worker: 3, self.stop_worker: 1, self.hire: 4, self.talk: 14, self.mount: 4,
            self.use: 10, self.unmount: 1, self.retry: 2, self.forget_conversation: 1, self.plague: 1,
            self.fill_disk: 3,
        }  # fmt: skip
        if restores:
            self._things |= {self.back_up: 2, self.restore: 2}

    def step(self) -> None:
        """Let one thing happen."""
        (thing,) = self._random.choices(list(self._things), list(self._things.values()))
        thing()

    def call(self) -> None:
        """Somebody calls somebody's flow, a few times at once."""
        one, other = self._pair()
        for _ in range(self._random.choice((1, 1, 3, 8))):
            one.send(
                Type.CALL,
                other,
                self._random.choice((ECHO, ECHO, ECHO, SPREAD, "nowhere")),
                self._data(),
                self._seconds(),
            )

    def post(self) -> None:
        """Somebody posts to somebody's flow."""
        one, other = self._pair()
        for _ in range(self._random.choice((1, 1, 3))):
            one.send(Type.POST, other, ECHO, self._data(), self._seconds())

    def ask(self) -> None:
        """Somebody asks or tells a human something."""
        one, other = self._pair()
        self._count += 1
        one.send(
            self._random.choice((Type.CALL, Type.CALL, Type.POST)),
            other,
            HUMAN,
            {"text": f"question {self._count}"},
            self._seconds(),
        )

    def answer(self) -> None:
        """A human answers one of the open prompts, sometimes twice."""
        machine = self._somebody()
        prompts = [prompt for prompt, kind in machine.open_prompts() if kind == "call"]
        if prompts:
            prompt = self._random.choice(prompts)
            for _ in range(self._random.choice((1, 1, 2))):
                self._count += 1
                machine.answer(prompt, f"answer {self._count}")

    def decline(self) -> None:
        """A human declines one of the open prompts."""
        machine = self._somebody()
        prompts = machine.open_prompts()
        if prompts:
            prompt, _ = self._random.choice(prompts)
            machine.ask(lambda node: node.inbox.decline(prompt, "no time"))

    def talk(self) -> None:
        """Somebody writes to a class that remembers their conversation, a few times at once."""
        one, other = self._pair()
        (endpoint,) = self._random.choices(list(CLASSES), list(CLASSES.values()))
        for _ in range(self._random.choice((1, 1, 2, 4))):
            conversation = derived_id(one.user, other.user, endpoint, self._random.randrange(3))
            one.send(self._kind(), other, endpoint, self._task(), self._seconds(), conversation=conversation)

    def mount(self) -> None:
        """Somebody asks for an instance of their own."""
        one, other = self._pair()
        (endpoint,) = self._random.choices(list(CLASSES), list(CLASSES.values()))
        one.send(Type.CALL, other, topics.INSTANCES, {"op": "mount", "endpoint": endpoint}, self._seconds())

    def use(self) -> None:
        """Somebody writes to an instance that they have, a few times at once."""
        one, other = self._pair()
        mounted = one.mounted(other)
        if mounted:
            endpoint, instance = self._random.choice(mounted)
            for _ in range(self._random.choice((1, 1, 2, 4))):
                one.send(self._kind(), other, endpoint, self._task(), self._seconds(), instance=instance)

    def unmount(self) -> None:
        """Somebody gives an instance back."""
        one, other = self._pair()
        mounted = one.mounted(other)
        if mounted:
            _, instance = self._random.choice(mounted)
            one.send(Type.CALL, other, topics.INSTANCES, {"op": "delete", "instance": instance}, MAX_SECONDS)

    def forget_conversation(self) -> None:
        """Somebody deletes what their flow remembers of a conversation."""
        machine = self._somebody()
        conversations = machine.conversations()
        if conversations:
            instance = self._random.choice(conversations)
            machine.ask(lambda node: node.changes.delete(instance, recursive=True))

    def retry(self) -> None:
        """Somebody runs a request again that has killed its workers."""
        machine = self._somebody()
        dead = machine.dead_letters()
        if dead:
            message_id = self._random.choice(dead)
            machine.ask(lambda node: node.retries.retry(message_id))

    def cancel(self) -> None:
        """Somebody withdraws what has no answer yet."""
        machine = self._somebody()
        live = machine.live()
        if live:
            message_id = self._random.choice(live)
            machine.ask(lambda node: node.messages.cancel(message_id))

    def pause(self) -> None:
        """Some time passes."""
        self._world.run(self._random.choice((0.003, 0.01, 0.05, 0.5, 3.0)))

    def change_packet_faults(self) -> None:
        """The network gets better or worse."""
        self._world.broker.packet_faults = self._random.choice(PACKET_FAULTS)

    def cut(self) -> None:
        """A daemon's link breaks."""
        self._somebody().cut(self._random.choice((0.05, 1.0, 8.0)))

    def cut_worker(self) -> None:
        """A worker's link breaks."""
        worker = self._world.workers[self._somebody().name]
        if worker.running:
            worker.link.cut(self._random.choice((0.05, 1.0, 8.0)))

    def forget(self) -> None:
        """The broker restarts and has lost everything."""
        self._world.broker.forget()

    def kill_at_point(self) -> None:
        """A daemon will die at one of its next crash points."""
        machine = self._somebody()
        if machine.running:
            machine.faults.arm("", self._random.randrange(1, 30))
            if self._random.random() < 0.3:
                machine.at_death = self._world.broker.forget

    def fill_disk(self) -> None:
        """A daemon's disk has room for some more pages only: small commits pass, large ones fail."""
        self._somebody().fill_disk(self._random.choice((0, 1, 2, 5)))

    def start(self) -> None:
        """A dead daemon is started again."""
        self._somebody().start()

    def kill_worker(self) -> None:
        """A worker dies, whatever it does."""
        self._world.dismiss(self._somebody(), noticed=self._random.random() < 0.5)

    def plague(self) -> None:
        """A machine's workers die again and again, so that what they run ends as a dead letter."""
        machine = self._somebody()
        for _ in range(3):
            self._world.hire(machine)
            self._world.run(self._random.choice((0.1, 1.0)))
            self._world.dismiss(machine, noticed=True)

    def stop_worker(self) -> None:
        """A worker is asked to end."""
        worker = self._world.workers[self._somebody().name]
        if worker.running:
            worker.stop()

    def hire(self) -> None:
        """A worker is started where there is none."""
        self._world.hire(self._somebody(), self._random.choice((1, 2, 4)))

    def back_up(self) -> None:
        """Somebody copies their journal."""
        machine = self._somebody()
        if machine.running:
            path = self._world.folder / f"copy-{len(self._copies)}.sqlite3"
            machine.back_up(path)
            self._copies.append((machine, path))

    def restore(self) -> None:
        """Somebody puts an old copy of their journal back."""
        if self._copies:
            machine, path = self._random.choice(self._copies)
            machine.restore(path)

    def _somebody(self) -> Machine:
        return self._random.choice(self._world.machines)

    def _pair(self) -> tuple[Machine, Machine]:
        one, other = self._random.sample(self._world.machines, 2)
        return (one, one) if self._random.random() < 0.1 else (one, other)

    def _data(self) -> dict[str, object]:
        self._count += 1
        kind = self._random.random()
        if kind < 0.1:
            return {"fails": f"on purpose {self._count}"}
        if kind < 0.3:
            return {"number": self._count, "seconds": self._random.choice((0.3, 1.0, 8.0))}
        return {"number": self._count}

    def _kind(self) -> Type:
        return self._random.choice((Type.CALL, Type.CALL, Type.CALL, Type.POST))

    def _task(self) -> dict[str, object]:
        """Data for a class."""
        extra: dict[str, Any] = {"patience": 1.5} if self._random.random() < 0.1 else {}
        if self._random.random() < 0.5:
            extra["dawdles"] = self._random.choice((0.3, 2.0))
        if self._random.random() < 0.15:
            extra["withdraws"] = self._random.choice((0.01, 0.5, 3.0))
        if self._random.random() < 0.2:
            extra["human"] = True
        if self._random.random() < 0.2:
            extra["asks"] = {"seconds": self._random.choice((0.3, 3.0))}
        if self._random.random() < 0.2:
            extra.setdefault("asks", {})["says"] = {"ponders": self._random.choice((0.3, 3.0))}
        return {**self._data(), **extra}

    def _seconds(self) -> float:
        return self._random.choice((1.0, 20.0, MAX_SECONDS, MAX_SECONDS, MAX_SECONDS))


def live(seed: int, steps: int, *, people: int = 3, restores: bool = False) -> tuple[list[str], Path | None]:
    """Live one life; gives what is wrong, and where its files are if something is."""
    world = World(seed, people)
    try:
        life = Life(world, Random(seed + 1), restores=restores)  # noqa: S311 - a simulation, no secrets
        world.run(1.0)
        for _ in range(steps):
            life.step()
        wrong = [f"unsettled: {what}" for what in world.settle()] + check(world.facts)
    except BaseException:
        sys.stderr.write(f"seed {seed} failed; files: {world.keep()}\n")
        raise
    if wrong:
        return wrong, world.keep()
    world.close()
    return [], None


def main() -> int:
    """Live lives from the command line; gives the exit code."""
    parser = argparse.ArgumentParser(prog="scripts/simulate", description="Random lives of small worlds, checked.")
    parser.add_argument("--seed", type=int, default=None, help="of the first life; without it, the clock's")
    parser.add_argument("--lives", type=int, default=1, help="how many lives, each with the next seed")
    parser.add_argument("--steps", type=int, default=300, help="things that happen in each")
    parser.add_argument("--people", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--restores", action="store_true", help="old copies of journals are put back too")
    options = parser.parse_args()
    first = options.seed if options.seed is not None else time.time_ns() // 1_000_000
    for seed in range(first, first + options.lives):
        wrong, kept = live(seed, options.steps, people=options.people, restores=options.restores)
        if wrong:
            sys.stdout.write("\n".join([f"seed {seed}:", *wrong, f"history and journals: {kept}", ""]))
            return 1
    sys.stdout.write(f"{options.lives} lives from seed {first}, {options.steps} steps each: all invariants hold\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
