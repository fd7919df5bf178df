"""A simulated worker: the real lanes and frames of `p2pflows.worker`, with flows that echo, and scripts for classes."""

from __future__ import annotations

import json
import socket
from collections.abc import Sequence
from random import Random
from typing import Any

from simulation.broker import Packet, SimulatedBroker, SimulatedLink, Will
from simulation.flows import ScriptContext
from simulation.history import Fact
from simulation.machine import Machine
from simulation.runs import ScriptedRun
from simulation.timeline import Timeline

from p2pflows.protocol import topics
from p2pflows.protocol.asks import Ask
from p2pflows.protocol.channel import BadFrame, Channel
from p2pflows.protocol.worker_frames import ClassTarget, DaemonFrame, ErrorInfo, Progress, TaskResult, WorkerInfo
from p2pflows.worker.lanes import HeldTask, Lanes
from p2pflows.worker.packing import Updates
from p2pflowsd.running.worker_tokens import point_key

HEARTBEAT_INTERVAL_S = 1.0
RESEND_AFTER_S = 2.0
POINT = "default"
MAX_WAITING = (0, 1, 256)
"""How many waiting runs a worker keeps at hand: some suspend all of them, most of them, or none."""


class Worker:
    """A worker process of the dispatch point of a machine.

    Tasks of classes run the scripts of `simulation.flows`. All other tasks echo their data, with a number that no other
    run has. The data may have `seconds`, which the task then takes instead of some milliseconds, and `fails`, the text
    of an error with which the task then ends.
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
        max_waiting = MAX_WAITING[self.pid % len(MAX_WAITING)]
        self._lanes = Lanes(WorkerInfo(self.name, slots, self.pid, socket.gethostname()), max_waiting)
        self.link = SimulatedLink(
            broker, self.name, persistent=False,
            subscriptions=lambda: [topics.dispatch(machine.user, POINT, self.name), self._presence],
            will=self._will,
            on_arrival=self._arrived, on_up=self._announce,
        )  # fmt: skip
        self.last_will: Will | None = None
        self._ticks = 0
        self._runs: dict[str, ScriptedRun] = {}
        self._progress: list[Progress] = []
        timeline.after(HEARTBEAT_INTERVAL_S, self._send_heartbeat)

    @property
    def draining(self) -> bool:
        """Whether it accepts no more tasks."""
        return self._lanes.draining

    def kill(self) -> None:
        """End the process, as by kill -9."""
        if self.running:
            self.running = False
            self.link.kill()

    def stop(self) -> None:
        """Accept no more tasks, and end once all running tasks are finished and acknowledged."""
        self._lanes.drain()
        for task in self._lanes.abandoned:
            self._stop_run(task)
        self._send()
        self._end_if_idle()

    # The interface runs.Host.

    def ask(self, ask: Ask) -> None:
        """Ask the daemon for something."""
        self._lanes.add_ask(ask)

    def park(self, task: HeldTask) -> None:
        """Free the slot of a task that waits for a call."""
        self._lanes.park(task)

    def unpark(self, task: HeldTask) -> None:
        """Give a task a slot again."""
        self._lanes.unpark(task)

    def pause(self, run: ScriptedRun, seconds: float) -> None:
        """Resume a run in some seconds."""
        self._timeline.after(seconds, lambda: self._resume(run))

    def send_progress(self, task: HeldTask, data: dict[str, Any]) -> None:
        """Send progress to the caller of a task."""
        self._progress.append(Progress(task.spec.id, data))

    def add_result(self, task: HeldTask, kind: str, k: int, what: Any) -> None:
        """Add the result that a run got of a call or step to the history."""
        about = {"peer": task.spec.sender, "k": k, "what": what, "worker": self.name}
        self._facts.append(Fact(self.machine.clock.now(), self.machine.user, kind, task.spec.message, about))

    def on_ended(self, task: HeldTask, result: TaskResult) -> None:
        """Store the result of a run that has ended."""
        self._runs.pop(task.spec.id, None)
        self._lanes.finish(task, result)

    def _resume(self, run: ScriptedRun) -> None:
        if self.running:
            run.resume()
            self._start_tasks()
            self._send_news()

    def _stop_run(self, task: HeldTask) -> None:
        run = self._runs.get(task.spec.id)
        if run is not None:
            run.stop()

    def _send_news(self) -> None:
        """Send everything that is new since the last frame."""
        now = self._timeline.elapsed
        fresh, updates = self._lanes.fresh_results(now), Updates(self._lanes.fresh_asks(now))
        if self._lanes.take_slots_changed() or fresh or updates or self._progress:
            self._send(fresh, updates, is_full=False)
        self._end_if_idle()

    def _will(self) -> Will:
        self.last_will = Will(
            self._results, self._channel.seal(self._results, *self._lanes.next_will().to_wire()), retain=False
        )
        return self.last_will

    def _end_if_idle(self) -> None:
        if self.running and self._lanes.draining and self._lanes.is_idle:
            self._send(bye=True)
            self.running = False
            self._timeline.after(HEARTBEAT_INTERVAL_S, self.link.kill)

    def _arrived(self, packet: Packet) -> None:
        self.link.ack(packet)
        if packet.topic == self._presence:
            if packet.payload != self._last_presence:
                self._last_presence = packet.payload
                self._announce()
            return
        try:
            frame = DaemonFrame.read(*self._channel.open(packet.topic, packet.payload))
        except BadFrame:
            return
        received = self._lanes.receive(frame)
        if received is None:
            return
        for task in received.to_stop:
            self._stop_run(task)
        for settled in received.settled:
            run = self._runs.get(settled.task)
            if run is not None:
                run.deliver(settled.call_index, settled.result)
        self._start_tasks()
        if received.is_new_boot:
            self._announce()
        self._send_news()

    def _start_tasks(self) -> None:
        while self.running and (task := self._lanes.take()) is not None:
            self._start(task)

    def _start(self, task: HeldTask) -> None:
        spec = task.spec
        data = json.loads(spec.data)
        about = {
            "peer": spec.sender,
            "endpoint": spec.endpoint,
            "instance": data.get("instance"),
            "worker": self.name,
            "parallel": spec.lane == spec.id,
        }
        if spec.op == "run":
            self._facts.append(Fact(self.machine.clock.now(), self.machine.user, "run_started", spec.message, about))
        if isinstance(spec.target, ClassTarget):
            self._runs[spec.id] = run = ScriptedRun(task, ScriptContext(spec, self._random).script(), self)
            run.resume()
            return
        if "fails" in data:
            result = TaskResult(spec.id, ErrorInfo("flow_failed", str(data["fails"])), b"null")
        else:
            reply = {"echo": data, "run": self._random.randrange(2**32)}
            result = TaskResult(spec.id, None, json.dumps(reply).encode())
        seconds = float(data.get("seconds", 0.02 * self._random.random()))
        self._timeline.after(seconds, lambda: self._finish(task, result))

    def _finish(self, task: HeldTask, result: TaskResult) -> None:
        if not self.running:
            return
        self._lanes.finish(task, result)
        self._start_tasks()
        self._send_news()

    def _send_heartbeat(self) -> None:
        if not self.running:
            return
        self._timeline.after(HEARTBEAT_INTERVAL_S, self._send_heartbeat)
        self._ticks += 1
        is_heartbeat = self._ticks % 2 == 0
        overdue = self._lanes.overdue_results(self._timeline.elapsed, RESEND_AFTER_S)
        updates = Updates(
            self._lanes.due_asks(self._timeline.elapsed, RESEND_AFTER_S), self._lanes.waits if is_heartbeat else []
        )
        if overdue or updates.asks or is_heartbeat:
            self._send(overdue, updates)

    def _announce(self) -> None:
        if self.running:
            self._send(self._lanes.unacknowledged_results(self._timeline.elapsed))

    def _send(
        self,
        results: Sequence[TaskResult] = (),
        updates: Updates | None = None,
        *,
        bye: bool = False,
        is_full: bool = True,
    ) -> None:
        updates = updates or Updates()
        updates.progress, self._progress = self._progress, []
        frame = self._lanes.next_frame(results, updates, bye=bye, is_full=is_full)
        self.link.publish(self._results, self._channel.seal(self._results, *frame.to_wire()))
