"""Ending what is served: an endpoint, and the instances of its flow."""

from __future__ import annotations

from collections import deque

from p2pflows.errors import NotServed
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running.catalog import Catalog
from p2pflowsd.running.instance_changes import InstanceChanges
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.running.turns import Turns

MAX_ENDED = 50
"""How many requests for an endpoint that is not served any more one batch ends."""


class Serving:
    """Stops serving endpoints."""

    def __init__(
        self,
        *,
        journal: Journal,
        catalog: Catalog,
        leases: Leases,
        turns: Turns,
        settlement: Settlement,
        changes: InstanceChanges,
    ) -> None:
        self._turns = turns
        self._to_end: deque[tuple[int, str]] = deque()
        """The rows of requests that wait, each with the endpoint that is not served any more."""
        self._journal = journal
        self._catalog = catalog
        self._leases = leases
        self._settlement = settlement
        self._changes = changes

    def unserve(self, endpoint: str) -> None:
        """Stop serving an endpoint; its tasks that wait or run end as they would after a restart, some in each batch.

        Instances that exist go on until they are deleted.

        Raises:
            NotServed: nothing is served under it.
        """
        flow = self._catalog.get(endpoint)
        if flow is not None and flow.kind == "class" and not flow.closed and self._journal.instances.of(endpoint):
            self._catalog.put(flow.model_copy(update={"closed": True}))
            return
        self._catalog.remove(endpoint)
        waiting = [*self._leases.rows_of(endpoint), *self._turns.waiting()]
        self._to_end += ((row_id, endpoint) for row_id in waiting)

    @property
    def is_ending(self) -> bool:
        """Whether requests are left for the next batch to end."""
        return bool(self._to_end)

    def end_unserved(self) -> None:
        """End some of the requests for what is not served any more."""
        for _ in range(min(MAX_ENDED, len(self._to_end))):
            row_id, endpoint = self._to_end.popleft()
            row = self._journal.incoming.get(row_id)
            if row is None or row.state != IncomingState.READY:
                continue
            if (self._leases.endpoint_of(row_id) or row.endpoint) == endpoint:
                self.end(row, endpoint)

    def end(self, row: IncomingRow, endpoint: str) -> None:
        """End a request that waits or runs, as its endpoint is not served any more."""
        self._leases.drop(row.row_id)
        self._settlement.fail(row, NotServed(f"{endpoint!r} is not served any more."))

    def delete(self, endpoint: str) -> int:
        """Stop serving an endpoint, delete all its instances, and return how many there were.

        Raises:
            NotServed: nothing is served under it, and it has no instances.
        """
        rows = self._journal.instances.of(endpoint)
        for row in rows:
            self._changes.delete(row.id, recursive=True)
        if self._catalog.get(endpoint) is not None or not rows:
            self.unserve(endpoint)
        return len(rows)
