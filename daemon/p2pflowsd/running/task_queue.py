"""From an admitted request to a queued task: which flow runs it, and at which dispatch point."""

from __future__ import annotations

from typing import Any

from p2pflows.protocol import topics
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running.catalog import Catalog, Served
from p2pflowsd.running.effects import Effects
from p2pflowsd.running.instances import is_request, read_mount
from p2pflowsd.running.leases import Leases
from p2pflowsd.sending.notices import Notices


class TaskQueue:
    """Queues requests for workers."""

    def __init__(
        self, *, user: str, journal: Journal, catalog: Catalog, leases: Leases, effects: Effects, notices: Notices
    ) -> None:
        self._user = user
        self._journal = journal
        self._catalog = catalog
        self._leases = leases
        self._effects = effects
        self._notices = notices

    def add(self, row: IncomingRow, flow: Served, data: dict[str, Any] | None = None) -> None:
        """Queue a request; its sender hears of it if no worker is there."""
        if not self._leases.add(row, flow, data) and is_request(row):
            self._notices.received(row.peer, row.id, waiting=True)

    def add_run(self, row: IncomingRow, flow: Served) -> None:
        """Queue a run of an instance, at the dispatch point that the instance was mounted for."""
        found = self._journal.instances.get(row.instance or "")
        if found is not None and found.point is not None:
            flow = flow.model_copy(update={"dispatch_point": found.point})
        self.add(row, flow.model_copy(update={"first": found is None}))

    def add_first_run(self, instance: str, row: IncomingRow, flow: Served) -> None:
        """Queue a request for an instance that it names for the first time."""
        self._journal.incoming.set_instance(row.row_id, instance)
        self.add_run(row._replace(instance=instance), flow)

    def release_waiting(self, instance: str, flow: Served) -> None:
        """Let requests that waited for the mount of a parallel flow run side by side, if it is mounted now."""
        for row in self._journal.incoming.open_of(instance) if self._journal.instances.get(instance) else ():
            if self._leases.endpoint_of(row.row_id) is not None:
                self._leases.drop(row.row_id)
                self.add_run(row, flow)

    def flow_of(self, row: IncomingRow) -> Served | None:
        """The flow that runs a request which is recorded already; None if it is served no more."""
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
        if flow is None:
            return None
        first = row.instance is not None and instance is None
        return flow.model_copy(update={"dispatch_point": point or flow.dispatch_point, "first": first})

    def restore(self) -> list[IncomingRow]:
        """Queue what the journal holds after a restart.

        A task that runs an instance already goes on before what others have asked of that instance; otherwise the
        order is that of the streams, which may not be that of arrival.

        Returns:
            The requests whose flow is served no more.
        """
        ready, orphans = [], []
        rows = self._journal.incoming.in_state(IncomingState.READY)
        for row in sorted(rows, key=lambda row: (not self._effects.has_begun(row.row_id), row.epoch, row.seq)):
            flow = self.flow_of(row)
            if flow is not None and flow.kind != "human":
                ready.append((row, flow))
            else:
                orphans.append(row)
        self._leases.restore(ready)
        return orphans
