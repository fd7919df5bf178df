"""A worker in the simulation: the real bookkeeping and frames of `p2pflows.worker`, flows that echo, and classes."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from random import Random
from typing import Any

from simulation.broker import Packet, SimulatedBroker, SimulatedLink, Will
from simulation.flows import Turn
from simulation.history import Fact
from simulation.machine import Machine
from simulation.runs import ScriptedRun
from simulation.timeline import Timeline

from p2pflows.protocol import topics
from p2pflows.protocol.channel import BadFrame, Channel
from p2pflows.worker import frames
from p2pflows.worker.frames import Ask, Result, Task
from p2pflows.worker.lanes import Lanes
from p2pflowsd.running.leases import point_key

BEAT = 1.0
RESEND = 2.0
POINT = "default"


class Worker:
    """One worker process of a machine's dispatch point.

    A task's data says what it does: `seconds` it takes (some milliseconds otherwise), `fails` with a text, or else
    it echoes its data, with a number that no other run has. Tasks of classes run the scripts of `simulation.flows`.
    """

    def __init__(
        self,
        *,
        timeline: Timeline,
        broker: SimulatedBroker,
        machine: Machine,
        random: Random,
        slots: int,
        facts: list[Fact],
    ) -> None:
        self.running = True
        self.pid = random.randrange(2, 4_000_000)
        self.machine = machine
        self.name = f"w-{random.randbytes(8).hex()}"
        self._timeline = timeline
        self._random = random
        self._facts = facts
        self._channel = Channel(point_key(machine.identity, POINT))
        self._results = topics.results(machine.user, POINT)
        self._presence = topics.status(machine.user)
        self._last_presence: bytes | None = None
        self._lanes = Lanes({"worker": self.name, "slots": slots, "pid": self.pid, "host": socket.gethostname()})
        self.link = SimulatedLink(
            broker, self.name, persistent=False,
            subscriptions=lambda: [topics.dispatch(machine.user, POINT, self.name), self._presence],
            will=self._will,
            on_arrival=self._arrived, on_up=self._hello,
        )  # fmt: skip
        self.last_will: Will | None = None
        self._beats = 0
        self._runs: dict[str, ScriptedRun] = {}
        self._progress: list[dict[str, Any]] = []
        timeline.after(BEAT, self._beat)

    @property
    def draining(self) -> bool:
        """Whether it takes no more tasks."""
        return self._lanes.draining

    def kill(self) -> None:
        """End the process, as by kill -9."""
        if self.running:
            self.running = False
            self.link.die()

    def stop(self) -> None:
        """Take no more tasks; say goodbye once what runs is done and acknowledged."""
        self._lanes.drain()
        for task in self._lanes.abandoned:
            self._stop_run(task)
        self._send()
        self._say_goodbye()

    # What runs want (runs.Host).

    def ask(self, ask: Ask) -> None:
        """Have the daemon keep something."""
        self._lanes.ask(ask)

    def park(self, task: Task) -> None:
        """A task waits for others."""
        self._lanes.park(task)

    def unpark(self, task: Task) -> None:
        """A task goes on."""
        self._lanes.unpark(task)

    def pause(self, run: ScriptedRun, seconds: float) -> None:
        """Let a run go on in so many seconds."""
        self._timeline.after(seconds, lambda: self._go_on(run))

    def tell(self, task: Task, data: dict[str, Any]) -> None:
        """Tell a caller something."""
        self._progress.append({"task": task.id, "data": data})

    def saw(self, task: Task, kind: str, k: int, what: Any) -> None:
        """A run has learned what came of a call, or the result of a step."""
        about = {"peer": task.sender, "k": k, "what": what, "worker": self.name}
        self._facts.append(Fact(self.machine.clock.now(), self.machine.user, kind, task.message, about))

    def ended(self, task: Task, result: Result) -> None:
        """A run has its end."""
        self._runs.pop(task.id, None)
        self._lanes.finish(task, result)

    def _go_on(self, run: ScriptedRun) -> None:
        if self.running:
            run.go_on()
            self._start_tasks()
            self._tell_all()

    def _stop_run(self, task: Task) -> None:
        run = self._runs.get(task.id)
        if run is not None:
            run.stop()

    def _tell_all(self) -> None:
        """Send what is there to be told, as it happens."""
        fresh, asks = self._lanes.fresh(self._timeline.elapsed), self._lanes.asks(self._timeline.elapsed)
        if self._lanes.parked_changed() or fresh or asks or self._progress:
            self._send(fresh, asks=asks)
        self._say_goodbye()

    def _will(self) -> Will:
        self.last_will = Will(self._results, self._channel.seal(self._results, self._lanes.will()), retain=False)
        return self.last_will

    def _say_goodbye(self) -> None:
        if self.running and self._lanes.draining and self._lanes.idle:
            self._send(bye=True)
            self.running = False
            self._timeline.after(BEAT, self.link.die)

    def _arrived(self, packet: Packet) -> None:
        self.link.ack(packet)
        if packet.topic == self._presence:
            if packet.payload != self._last_presence:
                self._last_presence = packet.payload
                self._hello()
            return
        try:
            frame = frames.read(*self._channel.open(packet.topic, packet.payload))
        except BadFrame:
            return
        received = self._lanes.receive(frame)
        if received is None:
            return
        for task in received.to_stop:
            self._stop_run(task)
        for answer in received.answers:
            run = self._runs.get(answer.task)
            if run is not None:
                run.answered(answer.k, answer.value)
        self._start_tasks()
        if received.new_boot:
            self._hello()
        self._tell_all()

    def _start_tasks(self) -> None:
        while self.running and (task := self._lanes.take()) is not None:
            self._start(task)

    def _start(self, task: Task) -> None:
        data = json.loads(task.data)
        about = {
            "peer": task.sender,
            "endpoint": task.endpoint,
            "instance": data.get("instance"),
            "worker": self.name,
            "parallel": task.lane == task.id,
        }
        if task.op == "run":
            self._facts.append(Fact(self.machine.clock.now(), self.machine.user, "run", task.message, about))
        if task.target["kind"] == "class":
            self._runs[task.id] = run = ScriptedRun(task, Turn(task, self._random).script(), self)
            run.go_on()
            return
        if "fails" in data:
            result = Result(task.id, {"kind": "flow_failed", "message": str(data["fails"])}, b"null")
        else:
            result = Result(task.id, None, json.dumps({"echo": data, "run": self._random.randrange(2**32)}).encode())
        seconds = float(data.get("seconds", 0.02 * self._random.random()))
        self._timeline.after(seconds, lambda: self._finish(task, result))

    def _finish(self, task: Task, result: Result) -> None:
        if not self.running:
            return
        self._lanes.finish(task, result)
        self._start_tasks()
        self._tell_all()

    def _beat(self) -> None:
        if not self.running:
            return
        self._timeline.after(BEAT, self._beat)
        self._beats += 1
        beats = self._beats % 2 == 0
        overdue = self._lanes.overdue(self._timeline.elapsed, RESEND)
        asks = self._lanes.asks(self._timeline.elapsed, RESEND)
        if overdue or asks or beats:
            self._send(overdue, asks=asks, waits=self._lanes.waits if beats else [])

    def _hello(self) -> None:
        if self.running:
            self._send(self._lanes.unacknowledged(self._timeline.elapsed))

    def _send(
        self,
        results: Sequence[Result] = (),
        *,
        asks: Sequence[Ask] = (),
        waits: Sequence[tuple[str, int]] = (),
        bye: bool = False,
    ) -> None:
        progress, self._progress = self._progress, []
        header = {
            **self._lanes.header(results, bye=bye),
            "asks": [{"task": ask.task, "k": ask.k, **ask.content} for ask in asks],
            "waits": waits,
            "progress": progress,
        }
        self.link.publish(self._results, self._channel.seal(self._results, header, [result.data for result in results]))
