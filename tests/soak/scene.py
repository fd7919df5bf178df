"""A whole soak: brokers, users, faults, the wait until everything has ended, and what came of it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from simulation.history import Fact
from soak import brokers, fault_plan, partitions, samples
from soak.brokers import Broker
from soak.fault_runner import FaultRunner
from soak.history_log import HistoryLog
from soak.participant import Participant, start_all
from soak.partitions import Namespace, NamespaceFailed
from soak.samples import Sample
from soak.traffic import Asked, Pace, User
from soak.verdict import Evidence, count_reruns, judge, read_effects
from support.memory_disk import memory_disk

USER_NAMES = ("ann", "bob", "cat", "dan", "eve", "fay", "gus", "hal")
SETTLE_TIMEOUT_S = 300.0
_SAMPLE_INTERVAL_S = 1.0
_MAX_EXTRA_S = 600.0
"""How long users may go on sending after the planned time, until they have sent as many messages as was asked for."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a soak is to do.

    Attributes:
        seed: the seed of all random choices.
        seconds: how long messages are sent and faults happen.
        users: how many users there are.
        broker: one of `brokers.KINDS`.
        rate: messages a second, of all users together.
        messages: how many messages at least; None if the time alone decides.
        kills: how many daemons and workers are killed.
        others: how many other faults happen.
        without: names of faults that do not happen.
        namespaces: whether daemons run in network namespaces, where that is possible.
        out: the folder for the history, the picture and the logs.
    """

    seed: int
    seconds: float
    users: int
    broker: str
    rate: float
    messages: int | None
    kills: int
    others: int
    without: tuple[str, ...]
    namespaces: bool
    out: Path


@dataclass(slots=True)
class Outcome:
    """What came of a soak.

    Attributes:
        violations: a sentence for each broken promise, and for each fault of a daemon itself.
        settle_s: seconds from the end of the faults until nothing was open; None if that did not happen.
        open_at_end: how many messages and requests were open when the faults had ended.
        asked: all accepted messages, by the name of their sender.
        ends: how the messages of each kind ended, by (kind, end).
        faults: how often each fault happened.
        reruns: how often the code of a flow ran again for a message.
        unsure: how many messages may or may not have been accepted, as the daemon died.
        series: the samples of each daemon.
        marks: when each fault began, and its name.
        calm_from: when the faults had ended, in seconds after the beginning.
        partitions_by: what cuts a daemon off: `network namespaces`, or `the proxy`, with the reason.
    """

    violations: list[str] = field(default_factory=list)
    settle_s: float | None = None
    open_at_end: int = 0
    asked: dict[str, list[Asked]] = field(default_factory=dict)
    ends: Counter[tuple[str, str]] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    reruns: int = 0
    unsure: int = 0
    series: dict[str, list[Sample]] = field(default_factory=dict)
    marks: list[tuple[float, str]] = field(default_factory=list)
    calm_from: float = 0.0
    partitions_by: str = ""


class Scene:
    """Brokers and users of one soak; `run` runs it once, and `close` ends all processes.

    Args:
        options: what to do.
        say: told what is going on, a line at a time.

    Raises:
        UsageError: there is no such broker here.
    """

    def __init__(self, options: Options, say: Callable[[str], None]) -> None:
        self._options = options
        self._say = say
        # A short path, for unix sockets take about a hundred bytes.
        self._folder = Path(tempfile.mkdtemp(prefix="soak-", dir=memory_disk() or "/tmp"))  # noqa: S108 - private
        self._brokers: Sequence[Broker] = []
        self._participants: list[Participant] = []
        self._users: list[User] = []
        self._log = HistoryLog(options.out / "history.jsonl")
        self._outcome = Outcome()

    async def run(self) -> Outcome:
        """Run the soak, and return what came of it.

        Raises:
            UsageError: the broker cannot be used.
        """
        options, outcome = self._options, self._outcome
        self._brokers = brokers.make(options.broker, self._folder)
        for broker in self._brokers:
            await broker.start()
        await self._make_participants()
        self._say(f"homes in {self._folder}")
        self._say(f"{options.users} daemons run; partitions by {outcome.partitions_by}")
        began = self._log.elapsed()
        runner = FaultRunner(self._participants, self._brokers, self._log)
        plan = fault_plan.plan(
            options.seed, seconds=options.seconds, users=options.users, kills=options.kills, others=options.others,
            without=options.without,
        )  # fmt: skip
        self._make_users()
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(user.run()) for user in self._users]
            tasks.append(group.create_task(self._sample()))
            await runner.run(plan)
            await asyncio.sleep(max(0.0, began + options.seconds - self._log.elapsed()))
            await self._wait_for_senders()
            runner.heal()
            await self._settle()
            for task in tasks:
                task.cancel()
        self._read_histories()
        outcome.faults, outcome.marks = runner.counts, runner.happened
        self._judge()
        return outcome

    async def close(self) -> None:
        """End all processes, and keep logs, and after a violation journals."""
        ends = [participant.close() for participant in self._participants]
        ends += [broker.close() for broker in self._brokers]
        for error in await asyncio.gather(*ends, return_exceptions=True):
            if error is not None:
                self._say(f"not ended as it should: {error!r}")
        self._log.close()
        for log in self._folder.glob("*.log"):
            shutil.copy(log, self._options.out)
        if self._outcome.violations:
            shutil.copytree(
                self._folder, self._options.out / "homes", dirs_exist_ok=True, ignore=shutil.ignore_patterns("*.sock")
            )
        shutil.rmtree(self._folder, ignore_errors=True)

    async def _make_participants(self) -> None:
        options = self._options
        namespaces: list[Namespace | None] = [None] * options.users
        self._outcome.partitions_by = "the proxy"
        if options.namespaces:
            try:
                namespaces = [*await partitions.make(options.users)]
                self._outcome.partitions_by = "network namespaces"
            except NamespaceFailed as error:
                self._outcome.partitions_by = f"the proxy ({error})"
        for number, (name, namespace) in enumerate(zip(USER_NAMES, namespaces, strict=False)):
            broker = self._brokers[number % len(self._brokers)]
            random = Random(f"{options.seed} frames {name}")  # noqa: S311 - decides what goes wrong
            participant = Participant(
                name, self._folder, broker, random, namespace=namespace, has_remote_worker=number == 1
            )
            self._participants.append(participant)
            await participant.prepare()
        await start_all(self._participants)

    def _make_users(self) -> None:
        options, people = self._options, self._participants
        private_to = {one.name: people[(number + 1) % len(people)].name for number, one in enumerate(people)}
        count = None if options.messages is None else -(-options.messages // options.users)
        pace = Pace(options.rate / options.users, count)
        for one in people:
            others = [other for other in people if other is not one]
            random = Random(f"{options.seed} traffic {one.name}")  # noqa: S311 - decides what is sent
            self._users.append(User(one, others, private_to, pace=pace, random=random, log=self._log))

    async def _wait_for_senders(self) -> None:
        deadline = self._log.elapsed() + _MAX_EXTRA_S
        while not all(user.is_done for user in self._users) and self._log.elapsed() < deadline:  # noqa: ASYNC110
            await asyncio.sleep(0.2)
        for user in self._users:
            user.stop_sending()

    async def _sample(self) -> None:
        said = time.monotonic()
        while True:
            for participant in self._participants:
                participant.read_history()
                sample = samples.take(participant, self._log.elapsed())
                self._outcome.series.setdefault(participant.name, []).append(sample)
            if time.monotonic() - said > 10:
                said = time.monotonic()
                waiting = sum(series[-1].backlog for series in self._outcome.series.values())
                sent = sum(len(user.asked) for user in self._users)
                self._say(f"{self._log.elapsed():5.0f} s: {sent:,} messages accepted, {waiting:,} open")
            await asyncio.sleep(_SAMPLE_INTERVAL_S)

    async def _settle(self) -> None:
        """Wait until nothing is open any more."""
        outcome, began = self._outcome, self._log.elapsed()
        outcome.calm_from = began
        outcome.open_at_end = self._open()
        self._say(f"{began:5.0f} s: the faults have ended, {outcome.open_at_end:,} open")
        while self._log.elapsed() - began < SETTLE_TIMEOUT_S:
            if self._open() == 0:
                outcome.settle_s = self._log.elapsed() - began
                await asyncio.sleep(2 * _SAMPLE_INTERVAL_S)  # for the clients to hear of the last ends
                return
            await asyncio.sleep(0.1)

    def _open(self) -> int:
        return sum(participant.open_messages() for participant in self._participants)

    def _read_histories(self) -> None:
        for participant in self._participants:
            participant.read_history()

    def _judge(self) -> None:
        outcome = self._outcome
        outcome.asked = {user.name: list(user.asked.values()) for user in self._users}
        facts: list[Fact] = []
        for participant, user in zip(self._participants, self._users, strict=True):
            facts += [*participant.facts, *user.facts]
        evidence = Evidence(
            facts,
            outcome.asked,
            {one.name: read_effects(one.person.folder / "effects") for one in self._participants},
            {one.person.user_id: one.name for one in self._participants},
        )
        self._count_ends(facts)
        outcome.unsure = sum(len(user.unsure) for user in self._users)
        outcome.reruns = count_reruns(evidence)
        outcome.violations = judge(evidence)
        if outcome.settle_s is None:
            outcome.violations.insert(
                0, f"I1: {self._open()} messages were open {SETTLE_TIMEOUT_S:.0f} s after the faults"
            )
        for participant in self._participants:
            outcome.violations += participant.faults_reported()
        for user in self._users:
            outcome.violations += user.problems

    def _count_ends(self, facts: list[Fact]) -> None:
        """Count how messages ended: calls as their client was told, posts as the journal of their sender says."""
        states = {fact.id: fact.about["state"] for fact in facts if fact.kind == "outgoing_moved"}
        for messages in self._outcome.asked.values():
            for message in messages:
                end = message.end if message.wants_answer else states.get(message.id)
                self._outcome.ends[message.kind, end or "open"] += 1


async def run(options: Options, say: Callable[[str], None]) -> Outcome:
    """Run a soak, and end everything that it has started, however it ends."""
    scene = Scene(options, say)
    try:
        return await scene.run()
    finally:
        closing = asyncio.ensure_future(scene.close())
        while not closing.done():
            with contextlib.suppress(asyncio.CancelledError):  # also after a second Ctrl-C
                await asyncio.shield(closing)
