"""Authority: which flows a run may call, and which mounts of a run speak for its owner.

A worker holds the key of one dispatch point, and is not trusted beyond it. A run acts in its owner's name, so it may
call only the subflows that its flow declares; a mount that differs from the declaration has a stranger's rights.
"""

from __future__ import annotations

from typing import Any

from p2pflows.errors import NotAllowed, UsageError
from p2pflows.flows.config import LOCAL, SUBFLOWS, SubflowSpec, merge, subflow_specs
from p2pflows.protocol import topics
from p2pflows.protocol.asks import FlowRequest
from p2pflows.protocol.run_result import Mounted
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.running.catalog import Catalog, Served
from p2pflowsd.running.instances import Instances, requested_endpoint
from p2pflowsd.running.origin import AskOrigin, read_origin


class Authority:
    """Decides what runs may do in the name of their owner."""

    def __init__(self, *, user: str, journal: Journal, catalog: Catalog, instances: Instances) -> None:
        self._user = user
        self._journal = journal
        self._catalog = catalog
        self._instances = instances

    def is_owners_wish(self, row: IncomingRow) -> bool:
        """Whether a mount request speaks for the owner of the flow: the owner made it, or declared it in a flow."""
        if row.peer != self._user:
            return False
        sent = self._journal.outgoing.find(row.id)
        if sent is None or sent.origin is None:
            return True
        origin = read_origin(sent.origin)
        return isinstance(origin, AskOrigin) and origin.is_declared

    def declares(self, row: IncomingRow, request: FlowRequest) -> bool:
        """Whether a run's mount request asks for a subflow with just the config that its flow declares."""
        flow = self._flow_of(row)
        if flow is None:
            return False
        wanted = request.data.get("config_overrides") or {}
        specs = self._specs(row, flow).values()
        return any(_matches(spec, request, self._user) and spec.overrides == wanted for spec in specs)

    def check_call(self, row: IncomingRow, request: FlowRequest, mounted: Mounted | None) -> None:
        """Check that a run may send a request.

        Args:
            row: the request that the run is for.
            request: what it sends.
            mounted: the instance that the run has mounted, at its end.

        Raises:
            NotAllowed: its flow does not declare that.
        """
        if row.instance is None:
            raise NotAllowed("Functions and commands cannot call other flows.", "Serve a class with subflows_config.")
        known = self._journal.instances.get(row.instance)
        parts = None if known is None else self._instances.subflows(known)
        if mounted is not None:
            parts = list(mounted.subflows.values())
        whom = (request.user, request.data.get("endpoint") if _mounts(request) else request.endpoint)
        if request.endpoint == topics.INSTANCES and not _mounts(request):
            target = (request.user, request.data.get("instance"))
            if request.data.get("op") != "reset" or target not in [(part.user, part.instance) for part in parts or ()]:
                raise NotAllowed("A flow can only mount and reset its own subflows.", "Let its owner do it.")
        elif parts is not None:
            instances = [part.instance for part in parts if (part.user, part.endpoint) == whom]
            if not instances or not (_mounts(request) or request.instance in instances):
                raise _undeclared(row, request)
        else:
            self._check_declared(row, request)

    def check_mounted(self, row: IncomingRow, flow: Served, mounted: Mounted) -> None:
        """Check that a new instance has no other subflows than its flow declares.

        Raises:
            NotAllowed: it has.
        """
        if not mounted.subflows:
            return
        if flow.subflows is None:
            raise _unknown(flow)
        declared = {(self._user_of(spec), spec.endpoint) for spec in self._specs(row, flow).values()}
        for key, part in mounted.subflows.items():
            if (part.user, part.endpoint) not in declared:
                raise NotAllowed(f"{flow.endpoint!r} does not declare the subflow {key!r}.", "Serve its class again.")

    def _check_declared(self, row: IncomingRow, request: FlowRequest) -> None:
        flow = self._flow_of(row)
        if flow is None:  # a right ends when it is taken, also for what runs
            raise _undeclared(row, request)
        if flow.subflows is None:
            raise _unknown(flow)
        if not any(_matches(spec, request, self._user) for spec in self._specs(row, flow).values()):
            raise _undeclared(row, request)

    def _specs(self, row: IncomingRow, flow: Served) -> dict[str, SubflowSpec]:
        """The subflows that a flow declares, as the owner's overrides in a mount request change them."""
        config: dict[str, Any] = {SUBFLOWS: flow.subflows}
        if row.endpoint == topics.INSTANCES:
            overrides = self._journal.incoming.data(row.row_id).get("config_overrides") or {}
            if SUBFLOWS in overrides and self._may_override(row, flow):
                config = merge(config, {SUBFLOWS: overrides[SUBFLOWS]})
        try:
            return subflow_specs(config, me=self._user, complete=False)
        except UsageError:
            return {}

    def _may_override(self, row: IncomingRow, flow: Served) -> bool:
        return self.is_owners_wish(row) or any(key.split(".")[0] == SUBFLOWS for key in flow.overridable)

    def _flow_of(self, row: IncomingRow) -> Served | None:
        return self._catalog.get(requested_endpoint(self._journal, row))

    def _user_of(self, spec: SubflowSpec) -> str:
        return self._user if spec.user == LOCAL else spec.user


def _mounts(request: FlowRequest) -> bool:
    return request.endpoint == topics.INSTANCES and request.data.get("op") == "mount"


def _matches(spec: SubflowSpec, request: FlowRequest, me: str) -> bool:
    endpoint = request.data.get("endpoint") if _mounts(request) else request.endpoint
    return (me if spec.user == LOCAL else spec.user, spec.endpoint) == (request.user, endpoint)


def _unknown(flow: Served) -> NotAllowed:
    return NotAllowed(
        f"{flow.endpoint!r} was served by an earlier release, which did not record what it may call.",
        "Its owner serves it again.",
    )


def _undeclared(row: IncomingRow, request: FlowRequest) -> NotAllowed:
    endpoint = request.data.get("endpoint") if _mounts(request) else request.endpoint
    return NotAllowed(
        f"{row.endpoint!r} declares no subflow {endpoint!r} of {request.user[:8]}….",
        "Its author lists the flows that it calls in subflows_config.",
    )
