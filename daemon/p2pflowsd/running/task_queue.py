"""From an admitted request to a queued task: which flow runs it, and at which dispatch point."""

from __future__ import annotations

from typing import Any

from p2pflows.protocol import topics
from p2pflows.protocol.instance_tasks import InstanceMessage
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running.catalog import Catalog, Served
from p2pflowsd.running.effects import Effects
from p2pflowsd.running.instances import is_request, read_mount
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.task import Task, TaskData
from p2pflowsd.running.turns import Turns
from p2pflowsd.sending.notices import Notices


class TaskQueue:
    """Queues requests for workers."""

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        catalog: Catalog,
        leases: Leases,
        effects: Effects,
        notices: Notices,
        turns: Turns,
    ) -> None:
        self._user = user
        self._journal = journal
        self._catalog = catalog
        self._leases = leases
        self._effects = effects
        self._notices = notices
        self._turns = turns

    def add(self, row: IncomingRow, flow: Served, data: dict[str, Any]) -> None:
        """Queue a request for a flow without instances."""
        self._add(Task(row, flow, flow.dispatch_point), data)

    def add_run(
        self, row: IncomingRow, flow: Served, point: str | None = None, *, message: InstanceMessage | None = None
    ) -> None:
        """Queue a run of an instance, in its turn.

        Args:
            row: the request.
            flow: its flow.
            point: the dispatch point that a mount asks for. An instance that is there stays at its own.
            message: what it runs on, if at hand; otherwise the body of the request is read.
        """
        found = self._journal.instances.get(row.instance or "")
        own_point = None if found is None else found.point
        task = Task(row, flow, own_point or point or flow.dispatch_point, is_first_run=found is None)
        self.add_in_turn(task, message)

    def add_first_run(
        self,
        instance: str,
        row: IncomingRow,
        flow: Served,
        point: str | None = None,
        *,
        message: InstanceMessage | None = None,
    ) -> None:
        """Queue a request for an instance, whose id it may or may not have named; otherwise as `add_run`."""
        if row.instance != instance:
            self._journal.incoming.set_instance(row.row_id, instance)
            row = row._replace(instance=instance)
        self.add_run(row, flow, point, message=message)

    def add_in_turn(self, task: Task, message: InstanceMessage | None = None) -> None:
        """Queue a task, unless its instance works on another request; then it waits for its turn."""
        if not task.takes_turns or self._turns.enter(task.row):
            self._add(task, message)

    def add_next_turns(self) -> list[IncomingRow]:
        """Queue the requests whose turn has come; return those whose flow is not served any more."""
        orphans = []
        for row in self._turns.next_rows():
            task = self.task_of(row)
            if task is None:
                orphans.append(row)
            else:
                self._add(task)
        return orphans

    def release_waiting(self, instance: str, flow: Served) -> None:
        """Let requests that waited for the mount of a parallel flow run side by side, if it is mounted now."""
        for row in self._journal.incoming.open_of(instance) if self._journal.instances.get(instance) else ():
            if self._leases.endpoint_of(row.row_id) is not None:
                self._leases.drop(row.row_id)
                self.add_run(row, flow)

    def task_of(self, row: IncomingRow) -> Task | None:
        """The task for a request that is recorded already; None if no worker runs it, or its flow is not served."""
        instance = None if row.instance is None else self._journal.instances.get(row.instance)
        point = None if instance is None else instance.point
        if row.endpoint == topics.INSTANCES:
            data = self._journal.incoming.data(row.row_id)
            if data.get("op") == "mount":
                mount = read_mount(data, self._user)
                flow, point = self._catalog.get(mount.endpoint), mount.dispatch_point
            else:
                flow = None if instance is None else self._catalog.get(instance.endpoint)
        else:
            flow = self._catalog.get(row.endpoint)
        if flow is None or flow.kind == "human":
            return None
        is_first_run = row.instance is not None and instance is None
        return Task(row, flow, point or flow.dispatch_point, is_first_run=is_first_run)

    def restore(self) -> list[IncomingRow]:
        """Queue what the journal holds after a restart.

        A task that runs an instance already goes on before what others have asked of that instance; otherwise the
        order is that of the streams, which may not be that of arrival.

        Returns:
            The requests whose flow is served no more.
        """
        ready, orphans = [], []
        awaiting_files = {row.row_id for row in self._journal.awaited.all()}
        rows = self._journal.incoming.in_state(IncomingState.READY)
        for row in sorted(rows, key=lambda row: (not self._effects.has_begun(row.row_id), row.epoch, row.seq)):
            if row.row_id in awaiting_files:
                continue
            task = self.task_of(row)
            if task is None:
                orphans.append(row)
            elif not task.takes_turns or self._turns.enter(row):
                ready.append(task)
        self._leases.restore(ready, self._effects.suspended())
        return orphans

    def _add(self, task: Task, data: TaskData | None = None) -> None:
        """Queue a task; its sender hears of it if no worker is there."""
        if not self._leases.add(task, data) and is_request(task.row):
            self._notices.confirm(task.row.peer, task.row.id, waiting=True)
