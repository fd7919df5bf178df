"""A long simulation with random actions; `scripts/simulate --seed N --steps M` runs it.

The seed determines everything that happens. After a violation it is printed, and history and journals are kept.
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
from simulation.world import CLASSES, ECHO, FEW_MESSAGES, HUMAN, MAX_LIFETIME_S, SPREAD, World

from p2pflows.protocol import topics
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.message import Type
from p2pflows.settings.limits import Limits

PACKET_FAULTS = (
    PacketFaults(),
    PacketFaults(delay=0.2),
    PacketFaults(repeat=0.3),
    PacketFaults(reorder=0.2),
    PacketFaults(drop=0.1),
    PacketFaults(drop=0.3),
    PacketFaults(drop=0.1, repeat=0.1, delay=0.1, reorder=0.1),
)


TIGHT = Limits(requests_per_contact=8, blocked_per_contact=4)


class RandomActions:
    """Random actions in a world; each public method is one kind of action."""

    def __init__(self, world: World, random: Random, *, restores: bool = False) -> None:
        self._world = world
        self._random = random
        self._copies: list[tuple[Machine, Path]] = []
        self._count = 0
        self._actions: dict[Callable[[], None], int] = {
            self.call: 12, self.post: 8, self.ask: 6, self.answer: 14, self.decline: 1, self.cancel: 3, self.pause: 14,
            self.change_packet_faults: 2, self.cut: 3, self.cut_worker: 2, self.restart_broker: 1,
            self.kill_at_point: 6, self.start: 6, self.kill_worker: 3, self.stop_worker: 1, self.start_worker: 4,
            self.use_conversation: 14, self.mount: 4, self.use_instance: 10, self.unmount: 1, self.retry: 2,
            self.forget_conversation: 1, self.kill_workers_repeatedly: 1, self.fill_disk: 3,
        }  # fmt: skip
        if restores:
            self._actions |= {self.back_up: 2, self.restore: 2}

    def step(self) -> None:
        """Perform a random action."""
        (action,) = self._random.choices(list(self._actions), list(self._actions.values()))
        action()

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
        """Somebody calls a human, or posts to them."""
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
        """A human declines one of the open questions, or puts a note away."""
        machine = self._somebody()
        prompts = machine.open_prompts()
        if prompts:
            machine.decline(*self._random.choice(prompts))

    def use_conversation(self) -> None:
        """Somebody writes to a class under one of three conversations, a few times at once."""
        one, other = self._pair()
        (endpoint,) = self._random.choices(list(CLASSES), list(CLASSES.values()))
        for _ in range(self._random.choice((1, 1, 2, 4))):
            conversation = derived_id(one.user, other.user, endpoint, self._random.randrange(3))
            one.send(self._kind(), other, endpoint, self._task(), self._seconds(), conversation=conversation)

    def mount(self) -> None:
        """Somebody mounts an instance."""
        one, other = self._pair()
        (endpoint,) = self._random.choices(list(CLASSES), list(CLASSES.values()))
        one.send(Type.CALL, other, topics.INSTANCES, {"op": "mount", "endpoint": endpoint}, self._seconds())

    def use_instance(self) -> None:
        """Somebody writes to an instance that they have mounted, a few times at once."""
        one, other = self._pair()
        mounted = one.mounted(other)
        if mounted:
            endpoint, instance = self._random.choice(mounted)
            for _ in range(self._random.choice((1, 1, 2, 4))):
                one.send(self._kind(), other, endpoint, self._task(), self._seconds(), instance=instance)

    def unmount(self) -> None:
        """Somebody deletes an instance that they have mounted."""
        one, other = self._pair()
        mounted = one.mounted(other)
        if mounted:
            _, instance = self._random.choice(mounted)
            one.send(Type.CALL, other, topics.INSTANCES, {"op": "delete", "instance": instance}, MAX_LIFETIME_S)

    def forget_conversation(self) -> None:
        """Somebody deletes the instance of a conversation with their flow."""
        machine = self._somebody()
        conversations = machine.conversations()
        if conversations:
            instance = self._random.choice(conversations)
            machine.ask(lambda node: node.changes.delete(instance, recursive=True))

    def retry(self) -> None:
        """Somebody retries a dead letter."""
        machine = self._somebody()
        dead = machine.dead_letters()
        if dead:
            message_id = self._random.choice(dead)
            machine.ask(lambda node: node.retries.retry(message_id))

    def cancel(self) -> None:
        """Somebody withdraws an open request."""
        machine = self._somebody()
        requests = machine.open_requests()
        if requests:
            message_id = self._random.choice(requests)
            machine.ask(lambda node: node.messages.cancel(message_id))

    def pause(self) -> None:
        """Some time passes."""
        self._world.run(self._random.choice((0.003, 0.01, 0.05, 0.5, 3.0)))

    def change_packet_faults(self) -> None:
        """The network loses, repeats, delays or reorders more packets, or fewer."""
        self._world.broker.packet_faults = self._random.choice(PACKET_FAULTS)

    def cut(self) -> None:
        """The link of a daemon breaks."""
        self._somebody().cut(self._random.choice((0.05, 1.0, 8.0)))

    def cut_worker(self) -> None:
        """The link of a worker breaks."""
        worker = self._world.workers[self._somebody().name]
        if worker.running:
            worker.link.cut(self._random.choice((0.05, 1.0, 8.0)))

    def restart_broker(self) -> None:
        """The broker restarts, and has lost everything."""
        self._world.broker.forget()

    def kill_at_point(self) -> None:
        """A daemon will be killed at one of its next crash points."""
        machine = self._somebody()
        if machine.running:
            machine.faults.arm("", self._random.randrange(1, 30))
            if self._random.random() < 0.3:
                machine.on_death = self._world.broker.forget

    def fill_disk(self) -> None:
        """The disk of a daemon has space for only a few more pages: small commits succeed, large ones fail."""
        self._somebody().fill_disk(self._random.choice((0, 1, 2, 5)))

    def start(self) -> None:
        """A daemon is started, unless it runs."""
        self._somebody().start()

    def kill_worker(self) -> None:
        """A worker is killed, whatever it does."""
        self._world.kill_worker(self._somebody(), noticed=self._random.random() < 0.5)

    def kill_workers_repeatedly(self) -> None:
        """The workers of a machine are killed several times, so that what they run becomes a dead letter."""
        machine = self._somebody()
        for _ in range(3):
            self._world.start_worker(machine)
            self._world.run(self._random.choice((0.1, 1.0)))
            self._world.kill_worker(machine, noticed=True)

    def stop_worker(self) -> None:
        """A worker is stopped after its tasks."""
        worker = self._world.workers[self._somebody().name]
        if worker.running:
            worker.stop()

    def start_worker(self) -> None:
        """A worker is started where none runs."""
        self._world.start_worker(self._somebody(), self._random.choice((1, 2, 4)))

    def back_up(self) -> None:
        """Somebody copies their journal."""
        machine = self._somebody()
        if machine.running:
            path = self._world.folder / f"copy-{len(self._copies)}.sqlite3"
            machine.back_up(path)
            self._copies.append((machine, path))

    def restore(self) -> None:
        """Somebody replaces their journal by an old copy."""
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
        """Return the data of a message to a class; see `simulation.flows`."""
        extra: dict[str, Any] = {"timeout": 1.5} if self._random.random() < 0.1 else {}
        if self._random.random() < 0.5:
            extra["max_pause"] = self._random.choice((0.3, 2.0))
        if self._random.random() < 0.15:
            extra["cancel_after"] = self._random.choice((0.01, 0.5, 3.0))
        if self._random.random() < 0.2:
            extra["human"] = True
        if self._random.random() < 0.2:
            extra["subflow_data"] = {"seconds": self._random.choice((0.3, 3.0))}
        if self._random.random() < 0.2:
            extra.setdefault("subflow_data", {})["reply_data"] = {"answer_seconds": self._random.choice((0.3, 3.0))}
        return {**self._data(), **extra}

    def _seconds(self) -> float:
        return self._random.choice((1.0, 20.0, MAX_LIFETIME_S, MAX_LIFETIME_S, MAX_LIFETIME_S))


def simulate(
    seed: int, steps: int, *, people: int = 3, restores: bool = False, is_tight: bool = False
) -> tuple[list[str], Path | None]:
    """Run one simulation.

    Args:
        seed: the seed of all random choices.
        steps: how many random actions to perform.
        people: how many people there are.
        restores: whether journals are replaced by old copies, too.
        is_tight: whether daemons have room for a few requests only.

    Returns:
        A sentence for each violation, and the folder with history and journals if there are any.
    """
    world = World(seed, people, kept_messages=FEW_MESSAGES, limits=TIGHT if is_tight else None)
    try:
        actions = RandomActions(world, Random(seed + 1), restores=restores)  # noqa: S311 - a simulation, no secrets
        world.run(1.0)
        for _ in range(steps):
            actions.step()
        violations = [f"not settled: {what}" for what in world.settle()] + check(world.facts)
    except BaseException:
        sys.stderr.write(f"seed {seed} failed; files: {world.save_history()}\n")
        raise
    if violations:
        return violations, world.save_history()
    world.close()
    return [], None


def main() -> int:
    """Run simulations from the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="scripts/simulate",
        description="Simulate people, daemons, workers and a broker with random faults, and check the history.",
    )
    parser.add_argument(
        "--seed", type=int, default=None, help="seed of the first simulation; by default it is taken from the clock"
    )
    parser.add_argument("--runs", type=int, default=1, help="how many simulations to run, each with the next seed")
    parser.add_argument("--steps", type=int, default=300, help="random actions in each")
    parser.add_argument("--people", type=int, default=3, choices=(1, 2, 3))
    parser.add_argument("--restores", action="store_true", help="also replace journals by old copies")
    parser.add_argument("--tight", action="store_true", help="let daemons have room for a few requests only")
    options = parser.parse_args()
    first = options.seed if options.seed is not None else time.time_ns() // 1_000_000
    for seed in range(first, first + options.runs):
        violations, files = simulate(
            seed, options.steps, people=options.people, restores=options.restores, is_tight=options.tight
        )
        if violations:
            sys.stdout.write("\n".join([f"seed {seed}:", *violations, f"history and journals: {files}", ""]))
            return 1
    sys.stdout.write(f"{options.runs} simulations from seed {first}, {options.steps} actions each: no violation\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
