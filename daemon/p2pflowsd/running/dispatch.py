"""Frames to and from the workers of each dispatch point (docs/PROTOCOL.md, section 15)."""

from __future__ import annotations

import math
import socket
from collections.abc import Callable

from p2pflows.errors import TooLarge, WorkerLost
from p2pflows.protocol import topics
from p2pflows.protocol.asks import Ask, Recorded
from p2pflows.protocol.channel import BadFrame, Channel
from p2pflows.protocol.envelope import Refused
from p2pflows.protocol.progress import RESTART
from p2pflows.protocol.worker_frames import (
    CANCELLED,
    DaemonFrame,
    Failure,
    Overdue,
    Success,
    SuspendedRun,
    TaskResult,
    WorkerFrame,
)
from p2pflowsd.clock import Clock
from p2pflowsd.faults import Faults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.link import Link
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.declarations import Declarations
from p2pflowsd.running.instances import is_request
from p2pflowsd.running.leases import GRACE_PERIOD_S, Leases
from p2pflowsd.running.loads import Loads
from p2pflowsd.running.points import Point, Points, Worker
from p2pflowsd.running.reports import Reports
from p2pflowsd.running.runs import Runs
from p2pflowsd.running.scheduler import Assignment
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.running.spending import Spending
from p2pflowsd.running.task import Task, row_id_of
from p2pflowsd.running.task_specs import TaskSpecs
from p2pflowsd.running.worker_outbox import MAX_AHEAD_BYTES, MAX_FRAME_BYTES
from p2pflowsd.running.worker_tokens import WorkerTokens
from p2pflowsd.sending.notices import Notices

MAX_ATTEMPTS = 3
MAX_CHANNELS = 256
"""How many channels are kept; anybody may name a topic."""
MAX_WORKERS_OF_TOKEN = 500
"""How many workers may be connected with one token; anyone who has it may call themselves ever new names."""
MAX_PARKED = 20_000
"""How many runs of one worker may wait for answers."""
HEARTBEAT_TIMEOUT_S = 15.0
"""Seconds without a heartbeat (one every 2 s) after which a worker counts as lost."""
RECOVERY_S = 5.0
"""How long a worker has for a heartbeat after the daemon stood still."""
OVERDUE_AFTER_S = 1.0
"""How long a cancelled task may take to end before its slot counts as occupied."""
PACKET_OVERHEAD_BYTES = 8_000
"""Bytes of a frame beside its tasks, rounded up."""


class Dispatch:
    """Leases tasks to workers, and takes in what these send."""

    def __init__(
        self,
        *,
        user: str,
        boot: int,
        journal: Journal,
        link: Link,
        clock: Clock,
        faults: Faults,
        points: Points,
        tokens: WorkerTokens,
        leases: Leases,
        loads: Loads,
        declarations: Declarations,
        specs: TaskSpecs,
        runs: Runs,
        spending: Spending,
        settlement: Settlement,
        notices: Notices,
        reports: Reports,
        log: OwnersLog,
        replace_process: Callable[[int], bool],
    ) -> None:
        self._user = user
        self._boot = boot
        self._journal = journal
        self._link = link
        self._clock = clock
        self._faults = faults
        self._points = points
        self._tokens = tokens
        self._leases = leases
        self._loads = loads
        self._declarations = declarations
        self._specs = specs
        self._runs = runs
        self._spending = spending
        self._settlement = settlement
        self._notices = notices
        self._reports = reports
        self._log = log
        self._replace_process = replace_process
        self._frame_number = 0
        self._channels: dict[topics.ResultsTopic, Channel] = {}
        self.may_run: Callable[[Task], bool] = lambda _task: True
        """Whether the sender of a task may still make it run; if not, it has ended the task."""

    # From workers.

    def receive(self, topic: topics.ResultsTopic, payload: bytes, *, is_local: bool) -> None:
        """Take in a frame from a worker.

        Args:
            topic: where it came.
            payload: the sealed frame.
            is_local: whether it came over the socket of this machine, where a worker needs no token.

        Raises:
            BadFrame: it is not sealed with the key of its token or point, or malformed, or of another worker.
            Refused: the token is not good, or the frame was seen before.
        """
        queue = topics.queue_of(topic.point, topic.token)
        channel = self._channel_of(topic)
        frame = WorkerFrame.read(*channel.open(topics.results(self._user, queue), payload))
        token = topic.token or ("" if is_local else self._tokens.old_id(topic.point))
        name, now = frame.worker.name, self._clock.elapsed()
        if token and (problem := self._tokens.problem(topic.point, token)) is not None:
            self._refuse(name, queue, channel, problem)
            raise Refused("worker_token")
        point = self._points.get(topic.point)
        worker = point.workers.get(name)
        if worker is None:
            if frame.bye:
                return
            if token and self._points.workers_with(token) >= MAX_WORKERS_OF_TOKEN:
                raise Refused("workers_full")
            worker = point.workers[name] = Worker(channel, queue, token, now)
        _check(worker, token, frame)
        worker.last_number, worker.last_heard = frame.number, now
        if frame.bye and not frame.draining:
            worker.lost_at = now + GRACE_PERIOD_S
        elif frame.boot == self._boot:
            self._take_in(point, worker, frame)
        if frame.bye and frame.draining:
            self._remove(point, name, graceful=True)

    def _channel_of(self, topic: topics.ResultsTopic) -> Channel:
        """The sealed channel of a topic, from a few that are kept: deriving a key takes longer than opening a frame."""
        channel = self._channels.get(topic)
        if channel is None:
            if len(self._channels) >= MAX_CHANNELS:
                self._channels.clear()
            channel = self._channels[topic] = Channel(self._tokens.key(topic.point, topic.token))
        return channel

    def _take_in(self, point: Point, worker: Worker, frame: WorkerFrame) -> None:
        name = frame.worker.name
        worker.lost_at = None
        worker.host, worker.pid, worker.slots = frame.worker.host, frame.worker.pid, frame.worker.slots
        worker.keys = frame.worker.keys
        now = self._clock.elapsed()
        worker.overdue = {task: worker.overdue.get(task, now) for task in frame.overdue}
        overdue = len(self._occupying(worker))
        point.scheduler.announce(name, frame.worker.slots, draining=frame.draining, overdue=overdue)
        worker.outbox.finished += [result.task for result in frame.results if self._take_result(point, name, result)]
        if frame.held is not None:
            self._leases.reconcile(point, name, frame.seen, frame.held, self._loads.task_ids)
            worker.is_greeted = True
        else:
            self._leases.confirm(point, name, frame.received)
        self._note_parked(point, worker, frame)
        for run in frame.suspended:
            self._take_suspended(point, name, run, frame.seen)
        # Each ask is answered once, as its answer may be much longer than a line that repeats it.
        asks: dict[tuple[str, int], Ask] = {}
        for ask in frame.asks:
            asks.setdefault((ask.task, ask.call_index), ask)
        for ask in asks.values():
            task = self._leases.find_leased(point, name, ask.task)
            if task is not None:  # else it was cancelled, and the worker gets to know by a frame under way
                status = self._runs.record(task.row, ask)
                self._leases.answer_ask(task.row.row_id, ask.call_index, status)
        for task_id, call_index in dict.fromkeys(frame.waits):
            task = self._leases.find_leased(point, name, task_id)
            if task is not None:
                self._answer_wait(task.row, call_index)
        for task_id, data in frame.progress:
            task = self._leases.find_leased(point, name, task_id)
            if task is not None and self._reports.report(task.row, data):
                self._leases.note_report(task.row.row_id)

    @staticmethod
    def _note_parked(point: Point, worker: Worker, frame: WorkerFrame) -> None:
        """Note which runs of a worker wait for answers now; the scheduler does not count those as running."""
        if frame.held is not None:
            changed, worker.parked = worker.parked ^ set(frame.parked), set(frame.parked)
        else:
            changed = {*frame.parked, *frame.unparked}
            worker.parked.update(frame.parked)
            worker.parked.difference_update(frame.unparked)
        for task_id in changed:
            row_id = row_id_of(task_id)
            if row_id in worker.leased:
                point.scheduler.set_waiting(row_id, task_id in worker.parked)

    def _take_result(self, point: Point, worker: str, result: TaskResult) -> bool:
        """Take in a result.

        Returns:
            False if it is early: an earlier result of its lane was lost, and both will come again.
        """
        if self._loads.take_result(point, result):
            return True
        task = self._leases.find(result.task)
        is_cancelled = result.error is not None and result.error.kind == CANCELLED
        if is_cancelled or task is None or task.row.row_id not in point.scheduler:
            self._take_spent(result)
            return True
        row = task.row
        if not point.scheduler.is_head(row.row_id):
            return False
        if result.spent:
            self._spending.add(row, result.spent)
        if self._leases.holds(point, worker, row.row_id):
            self._points.paces.note(task.flow.endpoint, result.took_ms)
            self._leases.forget(row.row_id)
        else:
            self._leases.drop(row.row_id)
        match result.outcome:
            case Failure(error):
                self._settlement.fail(row, error)
            case Success(data) if row.instance is not None:
                self._runs.on_run_finished(task, data)
            case Success(data):
                self._settlement.finish(row, data)
        return True

    def _take_spent(self, result: TaskResult) -> None:
        """Count what a cancelled task has spent until it ended."""
        row = self._leases.take_cancelled(result.task)
        if row is not None:
            self._spending.add(row, result.spent)

    def _take_suspended(self, point: Point, name: str, run: SuspendedRun, seen: int) -> None:
        """Let a task wait without a worker; a worker that repeats itself may have got the task again meanwhile."""
        worker = point.workers[name]
        worker.parked.discard(run.task)
        worker.outbox.acknowledged.append(run.task)
        task = self._leases.find_leased(point, name, run.task)
        if task is None or not self._leases.has_seen(task.row.row_id, seen):
            return
        if not self._runs.suspend(task.row, run.awaited):
            self._leases.requeue(point, [task.row.row_id])

    def _answer_wait(self, row: IncomingRow, call_index: int) -> None:
        """Send the result of an ask again, in case the frame that carried it was lost."""
        status = self._runs.status_of(row, call_index)
        if not isinstance(status, Recorded):
            self._leases.answer_ask(row.row_id, call_index, status)

    # Workers that are gone, or have to go.

    def _refuse(self, name: str, queue: str, channel: Channel, problem: str) -> None:
        """Tell a worker why nothing is taken from it; releases that do not know the reason still end."""
        self._frame_number += 1
        frame = DaemonFrame(worker=name, boot=self._boot, number=self._frame_number, stop=True, refused=problem)
        topic = topics.dispatch(self._user, queue, name)
        self._link.publish(topic, channel.seal(topic, *frame.to_wire()), qos=0)

    def disconnect_refused(self) -> None:
        """End the workers whose tokens are not good any more; others get their tasks."""
        for point in self._points:
            for name, worker in list(point.workers.items()):
                problem = self._tokens.problem(point.name, worker.token) if worker.token else None
                if problem is not None:
                    self._refuse(name, worker.queue, worker.channel, problem)
                    self._remove(point, name, graceful=True)
                    self._log.note("worker_token", "", "", problem)

    def on_process_ended(self, point_name: str, pid: int) -> None:
        """Remove a worker whose process has ended on this machine; its link need not break first."""
        point = self._points.get(point_name)
        for name in [name for name, worker in point.workers.items() if _is_here(worker) and worker.pid == pid]:
            self._remove(point, name, graceful=point.workers[name].is_being_replaced)

    def tick(self) -> None:
        """Remove silent workers and those whose tokens have expired, and see to the loads that they leave."""
        now = self._clock.elapsed()
        self.disconnect_refused()
        for point in self._points:
            for name, worker in list(point.workers.items()):
                is_silent = now - worker.last_heard > HEARTBEAT_TIMEOUT_S
                if is_silent or (worker.lost_at is not None and worker.lost_at <= now):
                    self._remove(point, name, graceful=worker.is_being_replaced)
                elif worker.overdue:
                    self._see_to_overdue(point, worker)
        self._loads.tick()

    def _occupying(self, worker: Worker) -> list[Overdue]:
        """The cancelled tasks that had time to end, and still occupy slots of a worker."""
        latest = self._clock.elapsed() - OVERDUE_AFTER_S
        return [task for task, since in worker.overdue.items() if since <= latest]

    def _see_to_overdue(self, point: Point, worker: Worker) -> None:
        """Log which runs go on though nobody waits for them; replace a process of ours that has no other slot."""
        occupying = self._occupying(worker)
        for endpoint in {task.endpoint for task in occupying}:
            text = f"A run of {endpoint!r} goes on though nobody waits for it. It occupies a slot of {point.name!r}."
            self._log.note("overdue", "", endpoint, text)
        if (
            _is_here(worker)
            and not worker.is_being_replaced
            and 0 < worker.slots - len(worker.parked) <= len(occupying)
        ):
            worker.is_being_replaced = self._replace_process(worker.pid)

    def forgive_silence(self) -> None:
        """Give every worker time for one more heartbeat: this daemon stood still, so it could not hear them."""
        now = self._clock.elapsed()
        for point in self._points:
            for worker in point.workers.values():
                worker.last_heard = max(worker.last_heard, now - HEARTBEAT_TIMEOUT_S + RECOVERY_S)
                if worker.lost_at is not None:
                    worker.lost_at = max(worker.lost_at, now + GRACE_PERIOD_S)

    def _remove(self, point: Point, name: str, *, graceful: bool) -> None:
        """Requeue the tasks of a worker that is gone, and give up those whose attempts are used up."""
        for row in self._leases.reported_by(point, name):
            self._reports.report(row, RESTART)
        for task in self._leases.remove_worker(point, name, graceful=graceful):
            attempts = task.row.attempts
            if attempts >= MAX_ATTEMPTS:
                self._leases.forget(task.row.row_id)
                self._settlement.bury(
                    task.row,
                    WorkerLost(
                        f"The worker died at each of {attempts} attempts to run {task.flow.endpoint!r}.",
                        "Its owner can run it again: p2pflows outbox",
                    ),
                )

    # To workers.

    def prepare(self) -> None:
        """Lease what can be leased; called before a commit, as it may record."""
        fresh = self._leases.take_data()
        if not self._link.connected or self._leases.are_held_back:
            return
        self._declarations.look()
        for point in self._points:
            if self._declarations.are_open(point.name):
                continue
            assignments = self._fitting(point, point.scheduler.assign())
            if not assignments:
                continue
            bodies = self._journal.incoming.bodies([row_id for _, row_id in assignments if row_id not in fresh])
            for worker, row_id in assignments:
                task = self._leases[row_id]
                if not self.may_run(task):
                    continue
                spec = self._specs.describe(task, data=fresh.get(row_id), body=bodies.get(row_id, b""))
                if spec.size() > self._link.max_packet - PACKET_OVERHEAD_BYTES:
                    self._leases.forget(row_id)
                    self._settlement.fail(task.row, _too_large(task.flow))
                    continue
                if point.workers[worker].outbox.add(spec):
                    self._leases.wait_for_commit()
                if self._leases.lease(row_id, worker, self._frame_number + 1) and is_request(task.row):
                    self._notices.confirm(task.row.peer, task.row.id)

    def _fitting(self, point: Point, assignments: list[Assignment]) -> list[Assignment]:
        """Those that may leave together with others of their lane; the others wait, and their bodies are not read."""
        sizes = self._journal.incoming.sizes([row_id for _, row_id in assignments])
        if sum(sizes.values()) <= MAX_FRAME_BYTES:
            return assignments
        ahead = MAX_AHEAD_BYTES // len({self._leases[row_id].lane for _, row_id in assignments})
        used: dict[str, float] = {}
        fitting: list[Assignment] = []
        waiting: set[int] = set()
        for assignment in assignments:
            lane = self._leases[assignment.task].lane
            size = used.get(lane, 0) + sizes.get(assignment.task, 0)
            most = ahead if self._keeps_order(point, assignment.worker) else 0
            if size <= max(most, MAX_FRAME_BYTES) or lane not in used:
                used[lane] = size
                fitting.append(assignment)
            else:
                used[lane] = math.inf
                waiting.add(assignment.task)
        point.scheduler.requeue(waiting, unsent=True)
        return fitting

    def _keeps_order(self, point: Point, name: str) -> bool:
        """Whether a worker that misses a frame gets none behind it."""
        return self._link.keeps_order(topics.dispatch(self._user, point.workers[name].queue, name))

    def on_commit(self, *, acknowledge: bool) -> None:
        """Send what waited for the commit.

        Args:
            acknowledge: send acknowledgements even if there is nothing else to send.
        """
        self._leases.release_committed()
        self.flush(acknowledge=acknowledge)

    def flush(self, *, acknowledge: bool = False) -> None:
        """Send what workers are due.

        Args:
            acknowledge: send acknowledgements even if there is nothing else to send.
        """
        if not self._link.connected:
            return
        for point in self._points:
            for name, worker in point.workers.items():
                acknowledge_now = acknowledge or point.scheduler.is_draining(name)
                if not worker.is_greeted or worker.outbox.is_due(acknowledge=acknowledge_now):
                    self._send(point, name, worker)

    def _send(self, point: Point, name: str, worker: Worker) -> None:
        topic = topics.dispatch(self._user, worker.queue, name)
        in_order = self._keeps_order(point, name)
        self._faults.reach("dispatch.before_publish")
        while True:
            self._frame_number += 1
            frame, unsent = worker.outbox.next_frame(name, self._boot, self._frame_number, in_order=in_order)
            self._leases.set_frame((task.id for task in frame.tasks), frame.number)
            self._link.publish(topic, worker.channel.seal(topic, *frame.to_wire()), qos=0)
            self._leases.requeue(point, [row_id_of(task.id) for task in unsent], unsent=True)
            if not worker.outbox.needs_another_frame:
                break
        self._faults.reach("dispatch.after_publish")


def _is_here(worker: Worker) -> bool:
    """Whether a worker runs on this machine. The holder of a token may say so of any process."""
    return not worker.token and worker.host == socket.gethostname()


def _too_large(flow: Served) -> TooLarge:
    return TooLarge(
        f"What {flow.endpoint!r} keeps and what it is sent are together too large for its worker.",
        "Send less at a time, or a reference to the data.",
    )


def _check(worker: Worker, token: str, frame: WorkerFrame) -> None:
    """Check that a frame is a new one of a worker.

    Raises:
        BadFrame: it is of another worker, or fills too much memory.
        Refused: it was seen before.
    """
    if worker.token != token:
        raise BadFrame("the worker has another token")
    if len(frame.parked) + (len(worker.parked) if frame.held is None else 0) > MAX_PARKED:
        raise BadFrame("too many of its runs wait")
    if frame.number <= worker.last_number:
        raise Refused("replayed")
