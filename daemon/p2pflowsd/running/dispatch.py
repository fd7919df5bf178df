"""Frames to and from the workers of each dispatch point (docs/PROTOCOL.md, Dispatch)."""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass
from itertools import takewhile

from p2pflows.errors import NoWorker, TooLarge, WorkerLost
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.asks import AskAnswer, Recorded, Unrecorded
from p2pflows.protocol.envelope import Refused
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.worker_frames import (
    ClassTarget,
    DaemonFrame,
    ExecTarget,
    Failure,
    Outcome,
    PythonTarget,
    Success,
    TaskResult,
    TaskSpec,
    TaskTarget,
    WorkerFrame,
    json_size,
)
from p2pflowsd.clock import Clock
from p2pflowsd.faults import Faults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.link import Link
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.effects import Effects
from p2pflowsd.running.instances import Instances, is_request
from p2pflowsd.running.leases import GRACE_PERIOD_S, Leases, Point, Worker, lane_of, row_id_of, task_id
from p2pflowsd.running.runs import Runs
from p2pflowsd.running.scheduler import Assignment
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.sending.notices import Notices
from p2pflowsd.sending.waiters import is_progress

MAX_ATTEMPTS = 3
HEARTBEAT_TIMEOUT_S = 15.0
"""Seconds without a heartbeat (one every 2 s) after which a worker counts as dead."""
LOAD_TIMEOUT_S = 30.0
MAX_FRAME_BYTES = 400_000
PACKET_OVERHEAD_BYTES = 8_000
"""Bytes that a frame takes beside its tasks, rounded up."""

OnLoaded = Callable[[Outcome], None]


@dataclass(slots=True)
class _Load:
    point: str
    on_loaded: OnLoaded
    until: float


class Dispatch:
    """All dispatch points of one daemon."""

    def __init__(
        self,
        *,
        identity: Identity,
        journal: Journal,
        link: Link,
        clock: Clock,
        faults: Faults,
        boot: int,
        name_of: Callable[[str], str | None],
        leases: Leases,
        runs: Runs,
        effects: Effects,
        settlement: Settlement,
        instances: Instances,
        notices: Notices,
    ) -> None:
        self._identity = identity
        self._journal = journal
        self._link = link
        self._clock = clock
        self._faults = faults
        self._boot = boot
        self._name_of = name_of
        self._leases = leases
        self._runs = runs
        self._effects = effects
        self._settlement = settlement
        self._instances = instances
        self._notices = notices
        self._loads: dict[str, _Load] = {}
        self._frame = 0
        self._load_count = 0

    def load(self, flow: Served, on_loaded: OnLoaded) -> None:
        """Let a worker load a flow and describe it.

        Args:
            flow: the flow.
            on_loaded: called with its description, or why it cannot be loaded.
        """
        point = self._leases.point(flow.dispatch_point)
        worker = next((worker for worker in point.workers.values() if worker.greeted and worker.leaves is None), None)
        if worker is None:
            on_loaded(Failure(_no_worker(flow.dispatch_point)))
            return
        self._load_count += 1
        task = f"load-{self._boot}-{self._load_count}"
        self._loads[task] = _Load(flow.dispatch_point, on_loaded, self._clock.elapsed() + LOAD_TIMEOUT_S)
        expires = self._clock.now() + int(LOAD_TIMEOUT_S * 1000)
        worker.tasks.append(
            TaskSpec(
                id=task,
                op="load",
                lane=task,
                endpoint=flow.endpoint,
                revision=flow.revision,
                target=_target(flow),
                sender=self._identity.user_id,
                conversation="",
                message="",
                expires=expires,
                data=b"{}",
            )
        )

    def receive(self, point_name: str, payload: bytes) -> None:
        """Take in a frame from a worker.

        Raises:
            BadFrame: it is not sealed with the point's key, or malformed.
            Refused: it was seen before.
        """
        topic = topics.results(self._identity.user_id, point_name)
        header, blobs = self._leases.channel(point_name).open(topic, payload)
        point = self._leases.point(point_name)
        frame = WorkerFrame.read(header, blobs)
        name = frame.worker.name
        known = point.workers.get(name)
        if known is None and not frame.bye:
            known = point.workers[name] = Worker(self._clock.elapsed())
        if known is None:
            return
        if frame.number <= known.counter:
            raise Refused("replayed")
        known.counter, known.heard = frame.number, self._clock.elapsed()
        if frame.bye and not frame.draining:
            known.leaves = known.heard + GRACE_PERIOD_S
        elif frame.boot == self._boot:
            self._take_in(point, known, frame)
        if frame.bye and frame.draining:
            self._lost(point, name, graceful=True)

    def _take_in(self, point: Point, worker: Worker, frame: WorkerFrame) -> None:
        name = frame.worker.name
        worker.leaves = None
        worker.host, worker.pid = frame.worker.host, frame.worker.pid
        point.scheduler.announce(name, frame.worker.slots, draining=frame.draining)
        worker.finished += [result.task for result in frame.results if self._take_result(point, name, result)]
        self._leases.reconcile(point, name, frame.seen, frame.held, self._loads)
        worker.greeted = True
        worker.parked = frame.parked
        for ask in frame.asks:
            row = self._leases.leased(point, name, ask.task)
            if row is not None:  # else it was withdrawn, and the frame that says so is under way
                status = self._runs.record(row, ask)
                self._leases.answer_ask(row.row_id, ask.call_index, status, after_commit=True)
        for task, call_index in frame.waits:
            row = self._leases.leased(point, name, task)
            if row is not None:
                self._answer_wait(row, call_index)
        for task, data in frame.progress:
            row = self._leases.leased(point, name, task)
            if row is not None and is_progress(data):
                self._notices.progress(row.peer, row.id, data)

    def _answer_wait(self, row: IncomingRow, call_index: int) -> None:
        """Send the result of an ask again, in case the frame that carried it was lost."""
        status = self._runs.status_of(row, call_index)
        if not isinstance(status, Recorded):
            self._leases.answer_ask(row.row_id, call_index, status, after_commit=isinstance(status, Unrecorded))

    def process_ended(self, point_name: str, pid: int) -> None:
        """A worker process that runs on this machine has ended; no need to wait for its link to break."""
        point = self._leases.point(point_name)
        here = socket.gethostname()
        for name in [name for name, worker in point.workers.items() if (worker.host, worker.pid) == (here, pid)]:
            self._lost(point, name, graceful=False)

    def tick(self) -> None:
        """Notice what time alone can tell: silent workers, and loads that nobody finished."""
        elapsed = self._clock.elapsed()
        for point in self._leases.points.values():
            for name, worker in list(point.workers.items()):
                if elapsed - worker.heard > HEARTBEAT_TIMEOUT_S or (
                    worker.leaves is not None and worker.leaves <= elapsed
                ):
                    self._lost(point, name, graceful=False)
        for task, load in list(self._loads.items()):
            if load.until <= elapsed:
                del self._loads[task]
                load.on_loaded(
                    Failure(
                        WorkerLost(
                            "The worker did not load the flow in time.", "See its messages where `p2pflows up` runs."
                        )
                    )
                )

    def prepare(self) -> None:
        """Decide which worker runs what next; called before a commit, as it may record."""
        fresh = self._leases.take_fresh()
        if not self._link.connected or self._leases.frozen:
            return
        for point in self._leases.points.values():
            given = self._leaving(point, point.scheduler.assign(), fresh)
            if not given:
                continue
            bodies = self._journal.incoming.bodies([row_id for _, row_id in given if row_id not in fresh])
            for worker_name, row_id in given:
                row, flow = self._leases.rows[row_id]
                if row.instance is None:
                    content = fresh[row_id] if row_id in fresh else json.loads(bodies[row_id]).get("data", {})
                    data = strict_json.dumps(content)  # not larger than it came
                else:
                    data = self._instances.task_payload(row, flow, bodies[row_id])
                task = self._describe(row, flow, data)
                if task.size() > self._link.max_packet - PACKET_OVERHEAD_BYTES:
                    self._leases.forget(row_id)
                    self._settlement.fail(row, _over_limit(flow))
                    continue
                point.workers[worker_name].tasks.append(task)
                if self._leases.lease(row_id, worker_name, self._frame + 1) and is_request(row):
                    self._notices.received(row.peer, row.id)

    def _leaving(self, point: Point, given: list[Assignment], fresh: Collection[int]) -> list[Assignment]:
        """Those that fit into one frame of their lane; the others wait again, and are not even read."""
        sizes = self._journal.incoming.sizes([row_id for _, row_id in given if row_id not in fresh])
        if sum(sizes.values()) <= MAX_FRAME_BYTES:
            return given
        used: dict[str, float] = {}
        leaving: list[Assignment] = []
        waiting: list[Assignment] = []
        for each in given:
            lane = lane_of(*self._leases.rows[each.task])
            size = used.get(lane, 0) + sizes.get(each.task, 0)
            fits = size <= MAX_FRAME_BYTES or lane not in used
            used[lane] = size if fits else math.inf
            (leaving if fits else waiting).append(each)
        point.scheduler.requeue({each.task for each in waiting}, unsent=True)
        return leaving

    def committed(self, *, flush: bool) -> None:
        """What workers have finished is kept now: they may forget it.

        Args:
            flush: tell them even if there is nothing else to tell.
        """
        self._leases.committed()
        self.flush(acknowledge=flush)

    def flush(self, *, acknowledge: bool = False) -> None:
        """Publish what workers are due.

        Args:
            acknowledge: send acknowledgements even if there is nothing else to send.
        """
        if not self._link.connected:
            return
        for name, point in self._leases.points.items():
            for worker_name, worker in point.workers.items():
                many = len(worker.acknowledged) >= 64  # noqa: PLR2004 - a batch, no more
                if (
                    worker.tasks
                    or worker.answers
                    or worker.cancelled
                    or not worker.greeted
                    or many
                    or (acknowledge and worker.acknowledged)
                ):
                    self._send(name, point, worker_name, worker)

    def _send(self, point_name: str, point: Point, name: str, worker: Worker) -> None:
        topic = topics.dispatch(self._identity.user_id, point_name, name)
        acknowledged, cancelled = worker.acknowledged, worker.cancelled
        tasks, answers = worker.tasks, worker.answers
        worker.acknowledged, worker.cancelled, worker.tasks, worker.answers = [], [], [], []
        self._faults.reach("dispatch.before_publish")
        while True:
            count, size = 0, 0
            while count < len(tasks) and (count == 0 or size + tasks[count].size() < MAX_FRAME_BYTES):
                size += tasks[count].size()
                count += 1
            few = _fitting(answers, MAX_FRAME_BYTES - size, least=0 if count else 1)
            self._frame += 1
            frame = DaemonFrame(
                worker=name,
                boot=self._boot,
                number=self._frame,
                tasks=tasks[:count],
                done=acknowledged,
                cancel=cancelled,
                answers=answers[:few],
            )
            for task in frame.tasks:
                lease = self._leases.leases.get(row_id_of(task.id))
                if lease is not None:
                    lease.frame = self._frame
            self._link.publish(topic, point.channel.seal(topic, *frame.to_wire()), qos=0)
            # A lane's tasks travel in one frame: a worker that misses it must not run what comes behind.
            lane = tasks[count - 1].lane if count else None
            torn = list(takewhile(lambda task: task.lane == lane, tasks[count:]))  # noqa: B023 - used at once
            self._leases.requeue(point, [row_id_of(task.id) for task in torn], unsent=True)
            count += len(torn)
            tasks, acknowledged, cancelled, answers = tasks[count:], [], [], answers[few:]
            if not tasks and not answers:
                break
        self._faults.reach("dispatch.after_publish")

    def _describe(self, row: IncomingRow, flow: Served, data: bytes) -> TaskSpec:
        return TaskSpec(
            id=task_id(row),
            op="mount" if row.endpoint == topics.INSTANCES else "run",
            lane=lane_of(row, flow),
            endpoint=flow.endpoint,
            revision=flow.revision,
            target=_target(flow),
            sender=row.peer,
            sender_name=self._name_of(row.peer) or "",
            conversation=row.conversation,
            message=row.id,
            expires=row.expires,
            attempt=row.attempts + 1,
            records=self._effects.records(row.row_id),
            data=data,
        )

    def _take_result(self, point: Point, worker: str, result: TaskResult) -> bool:
        """Take in a result; False if it is early: an earlier one of its lane got lost, and both will come again."""
        load = self._loads.get(result.task)
        if load is not None and load.point == point.name:
            del self._loads[result.task]
            load.on_loaded(result.outcome)
            return True
        known = self._leases.find(result.task)
        if known is None or known[0].row_id not in point.scheduler:
            return True
        row, flow = known
        if not point.scheduler.is_head(row.row_id):
            return False
        if self._leases.holds(point, worker, row.row_id):
            self._leases.forget(row.row_id)
        else:
            self._leases.drop(row.row_id)
        match result.outcome:
            case Failure(error):
                self._settlement.fail(row, error)
            case Success(data) if row.instance is not None:
                self._runs.on_run_finished(row, flow, data)
            case Success(data):
                self._settlement.finish(row, data)
        return True

    def _lost(self, point: Point, name: str, *, graceful: bool) -> None:
        """Requeue the tasks of a worker that is gone, and give up those that killed too many."""
        for row in self._leases.remove_worker(point, name, graceful=graceful):
            if row.attempts >= MAX_ATTEMPTS:
                _, flow = self._leases.rows[row.row_id]
                self._leases.forget(row.row_id)
                self._settlement.bury(
                    row,
                    WorkerLost(
                        f"The worker died at each of {row.attempts} attempts to run {flow.endpoint!r}.",
                        "Its owner can run it again: p2pflows outbox",
                    ),
                )


def _no_worker(point: str) -> NoWorker:
    return NoWorker(
        f"No worker serves the dispatch point {point!r}.", f"Start one: p2pflows worker --dispatch-point {point}"
    )


def _target(flow: Served) -> TaskTarget:
    match flow.kind:
        case "exec":
            return ExecTarget(flow.target, flow.cwd)
        case "class":
            return ClassTarget(flow.target, flow.cwd, flow.config)
        case _:
            return PythonTarget(flow.target, flow.cwd)


def _fitting(answers: list[AskAnswer], max_bytes: int, least: int) -> int:
    """How many answers fit into a frame; at least so many, so that it makes progress."""
    count = size = 0
    while count < len(answers):
        size += json_size(answers[count].as_json())
        if count >= least and size > max_bytes:
            break
        count += 1
    return count


def _over_limit(flow: Served) -> TooLarge:
    return TooLarge(
        f"What {flow.endpoint!r} keeps and what it is sent are together too large for its worker.",
        "Send less at a time, or a reference to the data.",
    )
