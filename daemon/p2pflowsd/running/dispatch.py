"""Dispatch points: leases tasks to workers in sealed frames, takes results in, notices who died.

Leases live in memory. After a restart of the daemon, tasks that waited before it are kept back for a moment, so that
workers which outlived it can say what they hold (docs/PROTOCOL.md, Dispatch).
"""

from __future__ import annotations

import json
import math
import socket
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any, Protocol

from p2pflows.errors import BadInput, NoWorker, P2pflowsError, TooLarge, WorkerLost
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.envelope import Refused
from p2pflows.protocol.identity import Identity
from p2pflowsd.clock import Clock
from p2pflowsd.faults import Faults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.link import Link
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.frames import Frame, fitting, outcome_of, size_of
from p2pflowsd.running.scheduler import MAX_WINDOW, Assignment, Scheduler

MAX_ATTEMPTS = 3
GRACE_PERIOD_S = 2.0
"""Seconds for a worker to come back after its link broke, or after a restart of the daemon."""
HEARTBEAT_TIMEOUT_S = 15.0
"""Seconds without a heartbeat (one every 2 s) after which a worker counts as dead."""
LOST_FRAME_TIMEOUT_S = 6.0
"""Seconds after which a lease that its worker does not report never reached it."""
LOAD_TIMEOUT_S = 30.0
MAX_FRAME_BYTES = 400_000
PACKET_OVERHEAD_BYTES = 8_000
"""Bytes that a frame takes beside its tasks, rounded up."""
_MAX_DIGITS = 19

Loaded = Callable[[dict[str, Any] | P2pflowsError], None]


class Owner(Protocol):
    """What a dispatch point tells the rest of the daemon; called inside a transaction."""

    def finished(self, row: IncomingRow, data: dict[str, Any]) -> None:
        """A task has a result."""

    def failed(self, row: IncomingRow, error: P2pflowsError) -> None:
        """A task has ended in an error."""

    def died(self, row: IncomingRow, error: P2pflowsError) -> None:
        """A task's worker died at every attempt."""

    def ran(self, row: IncomingRow, flow: Served, content: dict[str, Any]) -> None:
        """A run of an instance has ended well, and this is what it leaves behind."""

    def started(self, row: IncomingRow) -> None:
        """A task that waited for a worker was leased."""

    def brief(self, row: IncomingRow, flow: Served, body: bytes) -> bytes:
        """What a worker has to know to run an instance."""

    def records(self, row_id: int) -> list[list[Any]]:
        """What earlier attempts to run a task have kept."""

    def asked(self, row: IncomingRow, content: Any) -> None:
        """A running task wants something kept.

        Raises:
            ValueError: it is nothing that a task can ask.
        """

    def awaited(self, row: IncomingRow, k: int) -> None:
        """A running task still waits for an answer."""

    def progressed(self, row: IncomingRow, data: dict[str, Any]) -> None:
        """A running task has something to tell before its end."""


@dataclass(slots=True)
class _Lease:
    worker: str
    frame: int
    at: float


@dataclass(slots=True)
class _Worker:
    heard: float
    counter: int = 0
    greeted: bool = False
    leaves: float | None = None
    host: str = ""
    pid: int = 0
    finished: list[str] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    parked: set[str] = field(default_factory=set)
    """Tasks that wait for others and hold no slot: if they go down with the worker, it is not their doing."""
    unknown: dict[str, float] = field(default_factory=dict)
    """Tasks that it holds and nobody waits for, and since when: whatever told it so may be lost."""
    recorded: list[dict[str, Any]] = field(default_factory=list)
    answers: list[dict[str, Any]] = field(default_factory=list)
    tasks: list[dict[str, Any]] = field(default_factory=list)
    blobs: list[bytes] = field(default_factory=list)


@dataclass(slots=True)
class _Load:
    point: str
    done: Loaded
    until: float


@dataclass(slots=True)
class _Point:
    name: str
    channel: Channel
    scheduler: Scheduler = field(default_factory=Scheduler)
    workers: dict[str, _Worker] = field(default_factory=dict)


def point_key(identity: Identity, point: str) -> bytes:
    """The symmetric key that a user's daemon shares with the workers of one dispatch point."""
    return identity.derive(f"dispatch point {point}")


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
        owner: Owner,
        name_of: Callable[[str], str | None],
    ) -> None:
        self._identity = identity
        self._journal = journal
        self._link = link
        self._clock = clock
        self._faults = faults
        self._boot = boot
        self._owner = owner
        self._name_of = name_of
        self._points: dict[str, _Point] = {}
        self._rows: dict[int, tuple[IncomingRow, Served]] = {}
        self._fresh: dict[int, dict[str, Any]] = {}
        self._leases: dict[int, _Lease] = {}
        self._loads: dict[str, _Load] = {}
        self._frame = 0
        self._load_count = 0
        self._told_waiting: set[int] = set()
        self._has_recorded = False
        self._frozen_until = 0.0

    def freeze(self) -> None:
        """Keep tasks back until workers had time to say what they hold."""
        self._frozen_until = self._clock.elapsed() + GRACE_PERIOD_S

    def add(self, row: IncomingRow, flow: Served, data: dict[str, Any] | None = None) -> bool:
        """Queue a request for a worker; False if its dispatch point has none now.

        Args:
            row: the request.
            flow: what runs it.
            data: its data, where at hand; if a worker does not take it at once, it is read again from the journal.
        """
        point = self._point(flow.dispatch_point)
        self._rows[row.row_id] = (row, flow)
        if data is not None:
            self._fresh[row.row_id] = data
        # The next run of an instance needs the state that this one leaves, so one is under way at a time.
        point.scheduler.add(row.row_id, _lane(row, flow), MAX_WINDOW if row.instance is None else 1)
        if point.scheduler.slots == 0:
            self._told_waiting.add(row.row_id)
            return False
        return True

    def drop(self, row_id: int) -> None:
        """A queued or leased request needs no result any more."""
        if row_id not in self._rows:
            return
        lease = self._leases.get(row_id)
        row, flow = self._rows[row_id]
        self._forget(row_id)
        worker = self._point(flow.dispatch_point).workers.get(lease.worker) if lease is not None else None
        if worker is not None:
            worker.cancelled.append(_task_id(row))

    def endpoint_of(self, row_id: int) -> str | None:
        """The endpoint whose flow runs a queued or leased request."""
        return self._rows[row_id][1].endpoint if row_id in self._rows else None

    def is_waiting(self, row_id: int) -> bool:
        """Whether a request is queued at a point that has no worker."""
        return row_id in self._told_waiting

    def load(self, flow: Served, done: Loaded) -> None:
        """Let a worker load a flow, to learn its schema or why it does not load."""
        point = self._point(flow.dispatch_point)
        name = next((name for name, worker in point.workers.items() if worker.greeted and worker.leaves is None), None)
        if name is None:
            done(_no_worker(flow.dispatch_point))
            return
        self._load_count += 1
        task = f"load-{self._boot}-{self._load_count}"
        self._loads[task] = _Load(flow.dispatch_point, done, self._clock.elapsed() + LOAD_TIMEOUT_S)
        self._put(
            point.workers[name],
            self._describe(task, "load", flow, expires=self._clock.now() + int(LOAD_TIMEOUT_S * 1000)),
            b"{}",
        )

    def has_workers(self, point: str) -> bool:
        """Whether any worker serves a dispatch point."""
        return point in self._points and self._points[point].scheduler.slots > 0

    def status(self) -> list[dict[str, Any]]:
        """Workers, slots and queue of each point."""
        return [
            {
                "dispatch_point": name,
                "workers": point.scheduler.workers,
                "slots": point.scheduler.slots,
                "free": point.scheduler.free,
                "queued": point.scheduler.queued,
            }
            for name, point in sorted(self._points.items())
            if point.scheduler.workers or point.scheduler.queued
        ]

    def receive(self, point_name: str, payload: bytes) -> None:
        """Take in a frame from a worker.

        Raises:
            BadFrame: it is not sealed with the point's key, or malformed.
            Refused: it was seen before.
        """
        point = self._points.get(point_name)
        # Whoever has not the key leaves nothing behind, not even the name of a point.
        channel = point.channel if point else Channel(point_key(self._identity, point_name))
        header, blobs = channel.open(topics.results(self._identity.user_id, point_name), payload)
        point = self._point(point_name)
        frame = Frame.read(header, blobs)
        known = point.workers.get(frame.worker)
        if known is None and not frame.bye:
            known = point.workers[frame.worker] = _Worker(self._clock.elapsed())
        if known is None:
            return
        if frame.n <= known.counter:
            raise Refused("replayed")
        known.counter, known.heard = frame.n, self._clock.elapsed()
        if frame.bye and not frame.draining:
            known.leaves = known.heard + GRACE_PERIOD_S
        elif frame.boot == self._boot:
            self._take_in(point, known, frame)
        if frame.bye and frame.draining:
            self._lost(point, frame.worker, graceful=True)

    def _take_in(self, point: _Point, worker: _Worker, frame: Frame) -> None:
        worker.leaves = None
        worker.host, worker.pid = frame.host, frame.pid
        point.scheduler.announce(frame.worker, frame.slots, draining=frame.draining)
        worker.finished += [
            task for task, error, blob in frame.results if self._result(point, frame.worker, task, error, blob)
        ]
        self._reconcile(point, frame.worker, frame.seen, frame.held)
        worker.greeted = True
        worker.parked = frame.parked
        for task, k, ask in frame.asks:
            self._asked(point, frame.worker, task, k, ask)
        for task, k in frame.waits:
            row = self._leased(point, frame.worker, task)
            if row is not None:
                self._owner.awaited(row, k)
        for task, data in frame.progress:
            row = self._leased(point, frame.worker, task)
            if row is not None:
                self._owner.progressed(row, data)

    def recorded(self, row_id: int, k: int, value: dict[str, Any]) -> None:
        """Something of a running task is kept: tell its worker after the commit."""
        self._tell(row_id, k, value, after_commit=True)

    def answered(self, row_id: int, k: int, value: dict[str, Any]) -> None:
        """What a running task waits for has come: tell its worker."""
        self._tell(row_id, k, value, after_commit=False)

    @property
    def has_recorded(self) -> bool:
        """Whether a task waits for the commit to go on."""
        return self._has_recorded

    def process_ended(self, point_name: str, pid: int) -> None:
        """A worker process that runs on this machine has ended; no need to wait for its link to break."""
        point = self._point(point_name)
        here = socket.gethostname()
        for name in [name for name, worker in point.workers.items() if (worker.host, worker.pid) == (here, pid)]:
            self._lost(point, name, graceful=False)

    def tick(self) -> None:
        """Notice what time alone can tell: silent workers, and loads that nobody finished."""
        elapsed = self._clock.elapsed()
        for point in self._points.values():
            for name, worker in list(point.workers.items()):
                if elapsed - worker.heard > HEARTBEAT_TIMEOUT_S or (
                    worker.leaves is not None and worker.leaves <= elapsed
                ):
                    self._lost(point, name, graceful=False)
        for task, load in list(self._loads.items()):
            if load.until <= elapsed:
                del self._loads[task]
                load.done(
                    WorkerLost(
                        "The worker did not load the flow in time.", "See its messages where `p2pflows up` runs."
                    )
                )

    def prepare(self) -> None:
        """Decide who runs what next; called before a commit, as it may read and note."""
        fresh, self._fresh = self._fresh, {}
        if not self._link.connected or self._clock.elapsed() < self._frozen_until:
            return
        for point in self._points.values():
            given = self._leaving(point, point.scheduler.assign(), fresh)
            if not given:
                continue
            bodies = self._journal.incoming.bodies([row_id for _, row_id in given if row_id not in fresh])
            for worker_name, row_id in given:
                row, flow = self._rows[row_id]
                if row.instance is None:
                    content = fresh[row_id] if row_id in fresh else json.loads(bodies[row_id]).get("data", {})
                    data = strict_json.dumps(content)  # not larger than it came
                else:
                    data = self._owner.brief(row, flow, bodies[row_id])
                task = self._describe(_task_id(row), "run", flow, row=row, expires=row.expires)
                if size_of(task, data) > self._link.max_packet - PACKET_OVERHEAD_BYTES:
                    self._forget(row_id)
                    self._owner.failed(row, _over_limit(flow))
                    continue
                self._put(point.workers[worker_name], task, data)
                self._leases[row_id] = _Lease(worker_name, self._frame + 1, self._clock.elapsed())
                if row_id in self._told_waiting:
                    self._told_waiting.discard(row_id)
                    self._owner.started(row)

    def _leaving(self, point: _Point, given: list[Assignment], fresh: Collection[int]) -> list[Assignment]:
        """Those that fit into one frame of their lane; the others wait again, and are not even read."""
        sizes = self._journal.incoming.sizes([row_id for _, row_id in given if row_id not in fresh])
        if sum(sizes.values()) <= MAX_FRAME_BYTES:
            return given
        used: dict[str, float] = {}
        leaving: list[Assignment] = []
        waiting: list[Assignment] = []
        for each in given:
            lane = _lane(*self._rows[each.task])
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
        self._has_recorded = False
        for point in self._points.values():
            for worker in point.workers.values():
                worker.acknowledged += worker.finished
                worker.answers += worker.recorded
                worker.finished, worker.recorded = [], []
        self.flush(acknowledge=flush)

    def flush(self, *, acknowledge: bool = False) -> None:
        """Publish what workers are due.

        Args:
            acknowledge: send acknowledgements even if there is nothing else to send.
        """
        if not self._link.connected:
            return
        for name, point in self._points.items():
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

    def _send(self, point_name: str, point: _Point, name: str, worker: _Worker) -> None:
        topic = topics.dispatch(self._identity.user_id, point_name, name)
        acknowledged, cancelled = worker.acknowledged, worker.cancelled
        tasks, blobs = worker.tasks, worker.blobs
        worker.acknowledged, worker.cancelled, worker.tasks, worker.blobs = [], [], [], []
        answers, worker.answers = worker.answers, []
        self._faults.reach("dispatch.before_publish")
        while True:
            count, size = 0, 0
            while count < len(tasks) and (count == 0 or size + size_of(tasks[count], blobs[count]) < MAX_FRAME_BYTES):
                size += size_of(tasks[count], blobs[count])
                count += 1
            few = fitting(answers, MAX_FRAME_BYTES - size, least=0 if count else 1)
            self._frame += 1
            header = {
                "worker": name,
                "boot": self._boot,
                "n": self._frame,
                "tasks": tasks[:count],
                "done": acknowledged,
                "cancel": cancelled,
                "answers": answers[:few],
                "stop": False,
            }
            for task in tasks[:count]:
                lease = self._leases.get(_number(task["task"]))
                if lease is not None:
                    lease.frame = self._frame
            self._link.publish(topic, point.channel.seal(topic, header, blobs[:count]), qos=0)
            # A lane's tasks travel in one frame: a worker that misses it must not run what comes behind.
            lane = tasks[count - 1]["lane"] if count else None
            torn = list(takewhile(lambda task: task["lane"] == lane, tasks[count:]))  # noqa: B023 - used at once
            self._put_back(point, [_number(task["task"]) for task in torn], unsent=True)
            count += len(torn)
            tasks, blobs, acknowledged, cancelled, answers = tasks[count:], blobs[count:], [], [], answers[few:]
            if not tasks and not answers:
                break
        self._faults.reach("dispatch.after_publish")

    def _point(self, name: str) -> _Point:
        point = self._points.get(name)
        if point is None:
            point = self._points[name] = _Point(name, Channel(point_key(self._identity, name)))
        return point

    def _put(self, worker: _Worker, task: dict[str, Any], data: bytes) -> None:
        worker.tasks.append(task)
        worker.blobs.append(data)

    def _describe(
        self, task: str, op: str, flow: Served, *, expires: int, row: IncomingRow | None = None
    ) -> dict[str, Any]:
        return {
            "task": task,
            "op": "mount" if row is not None and row.endpoint == topics.INSTANCES else op,
            "lane": task if row is None else _lane(row, flow),
            "endpoint": flow.endpoint,
            "revision": flow.revision,
            "target": _target(flow),
            "from": row.peer if row else self._identity.user_id,
            "name": self._name_of(row.peer) if row else None,
            "conversation": row.conversation if row else "",
            "message": row.id if row else "",
            "expires": expires,
            "attempt": row.attempts + 1 if row else 1,
            "records": self._owner.records(row.row_id) if row else [],
        }

    def _result(self, point: _Point, worker: str, task: str, error: dict[str, Any] | None, blob: bytes) -> bool:
        """Take in a result; False if it is early: an earlier one of its lane got lost, and both will come again."""
        load = self._loads.get(task)
        if load is not None and load.point == point.name:
            del self._loads[task]
            load.done(outcome_of(error, blob))
            return True
        row_id = _number(task)
        known = self._rows.get(row_id)
        if known is None or _task_id(known[0]) != task or row_id not in point.scheduler:
            return True
        row, flow = known
        if not point.scheduler.is_head(row_id):
            return False
        lease = self._leases.get(row_id)
        if lease is not None and lease.worker == worker:
            self._forget(row_id)
        else:
            self.drop(row_id)
        outcome = outcome_of(error, blob)
        if isinstance(outcome, P2pflowsError):
            self._owner.failed(row, outcome)
        elif row.instance is not None:
            self._owner.ran(row, flow, outcome)
        else:
            self._owner.finished(row, outcome)
        return True

    def _asked(self, point: _Point, worker: str, task: str, k: int, ask: Any) -> None:
        row = self._leased(point, worker, task)
        if row is None:
            return  # it was withdrawn, and its worker is told so
        try:
            self._owner.asked(row, ask)
        except ValueError:
            self.recorded(
                row.row_id, k, {"error": BadInput("The worker cannot send that.", "Bring it up to date.").as_told()}
            )

    def _leased(self, point: _Point, worker: str, task: str) -> IncomingRow | None:
        """The request that a worker runs as a task; None if it does not, or not any more."""
        row_id = _number(task)
        known = self._rows.get(row_id)
        if known is None or _task_id(known[0]) != task or not self._holds(point, worker, row_id):
            return None
        return known[0]

    def _holds(self, point: _Point, worker: str, row_id: int) -> bool:
        """Whether a request is leased to a worker; those of another point may have taken the same name."""
        lease = self._leases.get(row_id)
        return lease is not None and lease.worker == worker and row_id in point.scheduler

    def _tell(self, row_id: int, k: int, value: dict[str, Any], *, after_commit: bool) -> None:
        lease = self._leases.get(row_id)
        if lease is None:
            return  # whoever runs it next gets what is recorded with the task
        row, flow = self._rows[row_id]
        worker = self._point(flow.dispatch_point).workers[lease.worker]
        answer = {"task": _task_id(row), "k": k, **value}
        if after_commit:
            worker.recorded.append(answer)
            self._has_recorded = True
        else:
            worker.answers.append(answer)

    def _forget(self, row_id: int) -> None:
        """A request needs no worker any more."""
        self._leases.pop(row_id, None)
        _, flow = self._rows.pop(row_id)
        self._told_waiting.discard(row_id)
        self._point(flow.dispatch_point).scheduler.done(row_id)

    def _reconcile(self, point: _Point, name: str, seen: int, held: dict[str, None]) -> None:
        """Compare what we leased to a worker with what it says it holds."""
        elapsed = self._clock.elapsed()
        waiting = [row_id for row_id in map(self._waiting_number, held) if row_id in point.scheduler]
        for row_id in point.scheduler.adopt(name, waiting):
            self._leases[row_id] = _Lease(name, 0, elapsed)
        lost = []
        for row_id, lease in self._leases.items():
            if not self._holds(point, name, row_id):
                continue
            if _task_id(self._rows[row_id][0]) in held:
                point.scheduler.confirm(row_id)
            elif lease.frame <= seen or elapsed - lease.at > LOST_FRAME_TIMEOUT_S:
                lost.append(row_id)
        self._put_back(point, lost)
        worker = point.workers[name]
        if not worker.greeted:
            mine = {_task_id(self._rows[row_id][0]) for row_id in self._leases if self._holds(point, name, row_id)}
            worker.cancelled += [task for task in held if task not in mine and task not in worker.finished]
        worker.cancelled += self._still_held(worker, held)

    def _still_held(self, worker: _Worker, held: dict[str, None]) -> list[str]:
        """What a worker goes on holding although nobody waits for it: it has to be told again."""
        elapsed = self._clock.elapsed()
        unknown = [task for task in held if task not in self._loads and not self._knows(task)]
        worker.unknown = {task: worker.unknown.get(task, elapsed) for task in unknown}
        late = [task for task, since in worker.unknown.items() if elapsed - since > GRACE_PERIOD_S]
        worker.unknown |= dict.fromkeys(late, elapsed)
        return [task for task in late if task not in worker.finished]

    def _knows(self, task: str) -> bool:
        """Whether a task is queued or leased."""
        known = self._rows.get(_number(task))
        return known is not None and _task_id(known[0]) == task

    def _waiting_number(self, task: str) -> int:
        """The number of a task that is leased to nobody, else -1."""
        row_id = _number(task)
        return (
            row_id
            if row_id in self._rows and row_id not in self._leases and _task_id(self._rows[row_id][0]) == task
            else -1
        )

    def _put_back(self, point: _Point, tasks: list[int], *, unsent: bool = False) -> None:
        """Leased tasks did not reach their worker, or were not even sent to it."""
        for row_id in point.scheduler.requeue(tasks, unsent=unsent):
            del self._leases[row_id]

    def _lost(self, point: _Point, name: str, *, graceful: bool) -> None:
        parked = point.workers.pop(name).parked
        for row_id in [row_id for row_id in self._leases if self._holds(point, name, row_id)]:
            del self._leases[row_id]
        for row_id in point.scheduler.worker_lost(name):
            row, flow = self._rows[row_id]
            if graceful or _task_id(row) in parked:
                continue
            attempts = self._journal.incoming.count_attempt(row_id)
            self._rows[row_id] = (row._replace(attempts=attempts), flow)
            if attempts >= MAX_ATTEMPTS:
                self._forget(row_id)
                self._owner.died(
                    row,
                    WorkerLost(
                        f"The worker died at each of {attempts} attempts to run {flow.endpoint!r}.",
                        "Its owner can run it again: p2pflows outbox",
                    ),
                )

    def restore(self, rows: list[tuple[IncomingRow, Served]]) -> None:
        """Queue what waited before a restart."""
        for row, flow in rows:
            self.add(row, flow)
        if rows:
            self.freeze()


def _no_worker(point: str) -> NoWorker:
    return NoWorker(
        f"No worker serves the dispatch point {point!r}.", f"Start one: p2pflows worker --dispatch-point {point}"
    )


def _target(flow: Served) -> dict[str, Any]:
    match flow.kind:
        case "exec":
            return {"kind": "exec", "command": flow.target, "cwd": flow.cwd}
        case "class":
            return {"kind": "class", "target": flow.target, "cwd": flow.cwd, "config": flow.config}
        case _:
            return {"kind": "python", "target": flow.target, "cwd": flow.cwd}


def _over_limit(flow: Served) -> TooLarge:
    return TooLarge(
        f"What {flow.endpoint!r} keeps and what it is sent are together too large for its worker.",
        "Send less at a time, or a reference to the data.",
    )


def _lane(row: IncomingRow, flow: Served) -> str:
    """What has to run in order: the runs of one instance, or one sender's requests to a flow without any."""
    if flow.parallel and not flow.first:
        return _task_id(row)
    return f"{flow.endpoint}/{row.instance or row.peer}"


def _task_id(row: IncomingRow) -> str:
    return f"{row.row_id}-{row.id}"


def _number(task: str) -> int:
    head = task.partition("-")[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) <= _MAX_DIGITS else -1
