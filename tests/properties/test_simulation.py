"""Whatever happens to daemons, workers and the broker, `simulation.checker` finds no violation."""

from __future__ import annotations

import os
from pathlib import Path

from hypothesis import HealthCheck, note, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from simulation.broker import PacketFaults
from simulation.checker import check
from simulation.machine import POINTS
from simulation.world import CLASSES, ECHO, FEW_MESSAGES, HUMAN, MAX_LIFETIME_S, SPREAD, World

from p2pflows.protocol import topics
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.message import Type

SETTINGS = settings(
    max_examples=200 if os.environ.get("P2PFLOWS_SLOW_TESTS") else 20,
    stateful_step_count=40,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
WHO = st.integers(0, 1)
LIFETIMES_S = st.sampled_from((MAX_LIFETIME_S, MAX_LIFETIME_S, 20.0, 1.0))
CHANCES = st.sampled_from((0.0, 0.0, 0.1, 0.4))
PAUSES_S = st.sampled_from((0.002, 0.01, 0.05, 0.5, 3.0))
CUTS_S = st.sampled_from((0.05, 1.0, 8.0))
CLASS_NAMES = st.sampled_from([name for name, weight in CLASSES.items() for _ in range(weight)])
CLASS_DATA = st.fixed_dictionaries(
    {},
    optional={
        "fails": st.just("on purpose"),
        "seconds": st.sampled_from((0.3, 2.0)),
        "timeout": st.just(1.5),
        "max_pause": st.just(1.0),
        "cancel_after": st.sampled_from((0.01, 0.5)),
        "human": st.just(True),
        "subflow_data": st.sampled_from(({"seconds": 2.0}, {"reply_data": {"answer_seconds": 2.0}})),
    },
)
"""The data of a message to a class; see `simulation.flows`."""


class Faults(RuleBasedStateMachine):
    """Two people send messages to each other, and everything around them fails."""

    world: World | None = None

    @initialize(seed=st.integers(0, 2**32 - 1))
    def begin(self, seed: int) -> None:
        """Start with a new world."""
        self.world = World(seed, people=2, kept_messages=FEW_MESSAGES)
        self.world.run(0.5)
        self.count = 0

    @rule(
        one=WHO,
        other=WHO,
        endpoint=st.sampled_from((ECHO, ECHO, SPREAD, "nowhere")),
        seconds=LIFETIMES_S,
        times=st.integers(1, 5),
    )
    def call(self, one: int, other: int, endpoint: str, seconds: float, times: int) -> None:
        """Somebody calls a flow, several times at once."""
        for _ in range(times):
            self._send(Type.CALL, one, other, endpoint, seconds, {})

    @rule(who=WHO, pages=st.integers(0, 5))
    def fill_disk(self, who: int, pages: int) -> None:
        """The disk of a daemon has space for only a few more pages."""
        self._world.machines[who].fill_disk(pages)

    @rule(one=WHO, other=WHO, seconds=LIFETIMES_S)
    def post(self, one: int, other: int, seconds: float) -> None:
        """Somebody posts to a flow."""
        self._send(Type.POST, one, other, ECHO, seconds, {})

    @rule(one=WHO, other=WHO, seconds=LIFETIMES_S, slow=st.sampled_from((0.3, 2.0)))
    def call_slowly(self, one: int, other: int, seconds: float, slow: float) -> None:
        """Somebody calls a flow that takes long."""
        self._send(Type.CALL, one, other, ECHO, seconds, {"seconds": slow})

    @rule(one=WHO, other=WHO, kind=st.sampled_from((Type.CALL, Type.CALL, Type.POST)), seconds=LIFETIMES_S)
    def ask(self, one: int, other: int, kind: Type, seconds: float) -> None:
        """Somebody calls a human, or posts to them."""
        self._send(kind, one, other, HUMAN, seconds, {"text": "a question"})

    @rule(
        one=WHO,
        other=WHO,
        flow=st.tuples(CLASS_NAMES, st.integers(0, 1)),
        messages=st.lists(CLASS_DATA, min_size=1, max_size=3),
    )
    def use_conversation(self, one: int, other: int, flow: tuple[str, int], messages: list[dict[str, object]]) -> None:
        """Somebody writes to a class under one of two conversations, several times at once."""
        endpoint, conversation = flow
        for data in messages:
            life = MAX_LIFETIME_S if "timeout" not in data else 2.5
            self._send(Type.CALL, one, other, endpoint, life, data, conversation=derived_id(endpoint, conversation))

    @rule(one=WHO, other=WHO, endpoint=CLASS_NAMES, seconds=LIFETIMES_S)
    def mount(self, one: int, other: int, endpoint: str, seconds: float) -> None:
        """Somebody mounts an instance."""
        machines = self._world.machines
        data = {"op": "mount", "endpoint": endpoint}
        machines[one].send(Type.CALL, machines[other], topics.INSTANCES, data, seconds)

    @rule(one=WHO, other=WHO, which=st.integers(0, 5), kind=st.sampled_from((Type.CALL, Type.POST)), data=CLASS_DATA)
    def use_instance(self, one: int, other: int, which: int, kind: Type, data: dict[str, object]) -> None:
        """Somebody writes to an instance that they have mounted."""
        mounted = self._world.machines[one].mounted(self._world.machines[other])
        if mounted:
            endpoint, instance = mounted[which % len(mounted)]
            self._send(kind, one, other, endpoint, MAX_LIFETIME_S, data, instance=instance)

    @rule(one=WHO, other=WHO, which=st.integers(0, 5))
    def unmount(self, one: int, other: int, which: int) -> None:
        """Somebody deletes an instance that they have mounted."""
        machines = self._world.machines
        mounted = machines[one].mounted(machines[other])
        if mounted:
            data = {"op": "delete", "instance": mounted[which % len(mounted)][1]}
            machines[one].send(Type.CALL, machines[other], topics.INSTANCES, data, MAX_LIFETIME_S)

    @rule(who=WHO, which=st.integers(0, 5))
    def forget_conversation(self, who: int, which: int) -> None:
        """Somebody deletes the instance of a conversation with their flow."""
        instances = self._world.machines[who].conversations()
        if instances:
            instance = instances[which % len(instances)]
            self._world.machines[who].ask(lambda node: node.changes.delete(instance, recursive=True))

    @rule(who=WHO)
    def retry(self, who: int) -> None:
        """Somebody retries a dead letter."""
        dead = self._world.machines[who].dead_letters()
        if dead:
            self._world.machines[who].ask(lambda node: node.retries.retry(dead[0]))

    @rule(who=WHO, which=st.integers(0, 5), times=st.integers(1, 2))
    def answer(self, who: int, which: int, times: int) -> None:
        """A human answers a prompt, perhaps twice."""
        prompts = [prompt for prompt, kind in self._world.machines[who].open_prompts() if kind == Type.CALL]
        for _ in range(times if prompts else 0):
            self.count += 1
            self._world.machines[who].answer(prompts[which % len(prompts)], f"answer {self.count}")

    @rule(who=WHO, which=st.integers(0, 5))
    def decline(self, who: int, which: int) -> None:
        """A human declines a question, or puts a note away."""
        prompts = self._world.machines[who].open_prompts()
        if prompts:
            self._world.machines[who].decline(*prompts[which % len(prompts)])

    @rule(who=WHO, which=st.integers(0, 5))
    def cancel(self, who: int, which: int) -> None:
        """Somebody withdraws an open request."""
        open_requests = self._world.machines[who].open_requests()
        if open_requests:
            self._world.machines[who].ask(lambda node: node.messages.cancel(open_requests[which % len(open_requests)]))

    @rule(seconds=PAUSES_S)
    def wait(self, seconds: float) -> None:
        """Time passes."""
        self._world.run(seconds)

    @rule(drop=CHANCES, repeat=CHANCES, delay=CHANCES, reorder=CHANCES)
    def change_packet_faults(self, drop: float, repeat: float, delay: float, reorder: float) -> None:
        """The network loses, repeats, delays and reorders packets from now on, or does not."""
        self._world.broker.packet_faults = PacketFaults(drop, repeat, delay, reorder)

    @rule(who=WHO, seconds=CUTS_S)
    def cut(self, who: int, seconds: float) -> None:
        """The link of a daemon breaks."""
        self._world.machines[who].cut(seconds)

    @rule(who=WHO, seconds=CUTS_S)
    def cut_worker(self, who: int, seconds: float) -> None:
        """The link of a worker breaks."""
        self._world.workers[self._world.machines[who].name].link.cut(seconds)

    @rule()
    def restart_broker(self) -> None:
        """The broker loses everything."""
        self._world.broker.forget()

    @rule(who=WHO, point=st.sampled_from(("", *POINTS)), count=st.integers(1, 12))
    def crash(self, who: int, point: str, count: int) -> None:
        """A daemon will be killed at the n-th passage of one crash point, or of any."""
        self._world.machines[who].faults.arm(point, count)

    @precondition(lambda self: self.world is not None and not all(machine.running for machine in self.world.machines))
    @rule()
    def start(self) -> None:
        """All daemons that do not run are started."""
        for machine in self._world.machines:
            machine.start()

    @rule(who=WHO, noticed=st.booleans())
    def kill_worker(self, who: int, noticed: bool) -> None:
        """A worker is killed, whatever it does."""
        self._world.kill_worker(self._world.machines[who], noticed=noticed)

    @rule(who=WHO, slots=st.integers(1, 3))
    def start_worker(self, who: int, slots: int) -> None:
        """A worker is started where none runs."""
        self._world.start_worker(self._world.machines[who], slots)

    def teardown(self) -> None:
        """End all faults, let time pass, and check that every accepted message has ended as promised."""
        if self.world is None:
            return
        violations = [f"not settled: {what}" for what in self.world.settle()] + check(self.world.facts)
        for fact in self.world.facts if violations else ():
            note(fact.to_json())
        self.world.close()
        assert not violations, "\n".join(violations)

    @property
    def _world(self) -> World:
        assert self.world is not None
        return self.world

    def _send(  # noqa: PLR0917 - the order that every rule uses
        self, kind: Type, one: int, other: int, endpoint: str, life: float, data: dict[str, object], **where: str
    ) -> None:
        self.count += 1
        machines = self._world.machines
        machines[one].send(kind, machines[other], endpoint, {"number": self.count, **data}, life, **where)


class Restores(Faults):
    """In addition, somebody replaces their journal by an old copy; the promises of all others still hold."""

    def __init__(self) -> None:
        super().__init__()
        self.copies: list[tuple[int, Path]] = []

    @rule(who=WHO)
    def back_up(self, who: int) -> None:
        """Somebody copies their journal."""
        path = self._world.folder / f"copy-{len(self.copies)}.sqlite3"
        self._world.machines[who].back_up(path)
        self.copies.append((who, path))

    @precondition(lambda self: bool(self.copies))
    @rule(which=st.integers(0, 5))
    def restore(self, which: int) -> None:
        """Somebody replaces their journal by an old copy."""
        who, path = self.copies[which % len(self.copies)]
        self._world.machines[who].restore(path)


TestFaults = Faults.TestCase
TestFaults.settings = SETTINGS
TestRestores = Restores.TestCase
TestRestores.settings = SETTINGS
