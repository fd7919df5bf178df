"""Ending what is served: an endpoint, and the instances of its flow."""

from __future__ import annotations

from p2pflows.errors import NotServed
from p2pflowsd.journal import Journal
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running.catalog import Catalog
from p2pflowsd.running.instance_changes import InstanceChanges
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.settlement import Settlement


class Serving:
    """Stops serving endpoints."""

    def __init__(
        self, *, journal: Journal, catalog: Catalog, leases: Leases, settlement: Settlement, changes: InstanceChanges
    ) -> None:
        self._journal = journal
        self._catalog = catalog
        self._leases = leases
        self._settlement = settlement
        self._changes = changes

    def unserve(self, endpoint: str) -> None:
        """Stop serving an endpoint; its tasks that wait or run end as they would after a restart.

        Instances that exist go on until they are deleted.

        Raises:
            NotServed: nothing is served under it.
        """
        flow = self._catalog.get(endpoint)
        if flow is not None and flow.kind == "class" and not flow.closed and self._journal.instances.of(endpoint):
            self._catalog.put(flow.model_copy(update={"closed": True}))
            return
        self._catalog.remove(endpoint)
        for row in self._journal.incoming.in_state(IncomingState.READY):
            awaits_turn = row.endpoint == endpoint and row.instance is not None
            if awaits_turn or self._leases.endpoint_of(row.row_id) == endpoint:
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
