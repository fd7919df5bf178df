"""A worker in the simulation: the real bookkeeping and frames of `p2pflows.worker`, with flows that echo."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from random import Random

from simulation.broker import Packet, SimulatedBroker, SimulatedLink, Will
from simulation.history import Fact
from simulation.machine import Machine
from simulation.timeline import Timeline

from p2pflows import topics
from p2pflows.channel import BadFrame, Channel
from p2pflows.worker import frames
from p2pflows.worker.frames import Result, Task
from p2pflows.worker.lanes import Lanes
from p2pflowsd.dispatch import point_key

BEAT = 1.0
RESEND = 2.0
POINT = "default"


class Worker:
    """One worker process of a machine's dispatch point.

    A task's data says what it does: `seconds` it takes (some milliseconds otherwise), `fails` with a text, or else
    it echoes its data, with a number that no other run has.
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
        self._send()
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
        if received is not None:
            self._start_tasks()
            if received.new_boot:
                self._hello()
            self._say_goodbye()

    def _start_tasks(self) -> None:
        while self.running and (task := self._lanes.take()) is not None:
            self._start(task)

    def _start(self, task: Task) -> None:
        about = {"peer": task.sender, "endpoint": task.endpoint, "worker": self.name, "parallel": task.lane == task.id}
        self._facts.append(Fact(self.machine.clock.now(), self.machine.user, "run", task.message, about))
        data = json.loads(task.data)
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
        fresh = self._lanes.fresh(self._timeline.elapsed)
        if fresh:
            self._send(fresh)
        self._start_tasks()
        self._say_goodbye()

    def _beat(self) -> None:
        if not self.running:
            return
        self._timeline.after(BEAT, self._beat)
        self._beats += 1
        overdue = self._lanes.overdue(self._timeline.elapsed, RESEND)
        if overdue or self._beats % 2 == 0:
            self._send(overdue)

    def _hello(self) -> None:
        if self.running:
            self._send(self._lanes.unacknowledged(self._timeline.elapsed))

    def _send(self, results: Sequence[Result] = (), *, bye: bool = False) -> None:
        header = self._lanes.header(results, bye=bye)
        self.link.publish(self._results, self._channel.seal(self._results, header, [result.data for result in results]))
