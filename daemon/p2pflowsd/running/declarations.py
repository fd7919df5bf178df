"""Declarations: what the flows that an earlier release served may call, which that release did not record.

When a worker of their dispatch point is there, it loads them once more and says what they declare. Until then their
tasks wait; if the loading fails, their runs may call nothing until the owner serves them again.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from p2pflows.contacts import Contacts, resolve
from p2pflows.errors import P2pflowsError
from p2pflows.flows.config import with_user_ids
from p2pflows.protocol.worker_frames import Failure, Outcome, Success
from p2pflowsd.clock import Clock
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.running.catalog import Catalog, Served, may_call
from p2pflowsd.running.loads import Loads
from p2pflowsd.running.points import Points

RETRY_S = 60.0
"""How long after a failure a flow is loaded again."""


class Declarations:
    """Completes the catalog of one daemon."""

    def __init__(
        self,
        *,
        user: str,
        clock: Clock,
        contacts: Contacts,
        catalog: Catalog,
        points: Points,
        loads: Loads,
        log: OwnersLog,
    ) -> None:
        self._user = user
        self._clock = clock
        self._contacts = contacts
        self._catalog = catalog
        self._points = points
        self._loads = loads
        self._log = log
        self._open: dict[str, str] = {}
        self._failed_at: dict[str, float] = {}

    def are_open(self, point: str) -> bool:
        """Whether a worker of a dispatch point is about to say what a flow declares; its tasks wait for that."""
        return point in self._open.values()

    def look(self) -> None:
        """Have the flows loaded whose declarations are not known, where there is a worker."""
        for flow in self._catalog.undeclared():
            failed_at = self._failed_at.get(flow.endpoint)
            is_due = failed_at is None or self._clock.elapsed() - failed_at > RETRY_S
            if is_due and flow.endpoint not in self._open and self._points.has_greeted(flow.dispatch_point):
                if failed_at is None:  # tasks wait for the first attempt only
                    self._open[flow.endpoint] = flow.dispatch_point
                else:
                    self._failed_at[flow.endpoint] = self._clock.elapsed()
                self._loads.start(flow, partial(self._on_loaded, flow))

    def _on_loaded(self, flow: Served, outcome: Outcome) -> None:
        self._open.pop(flow.endpoint, None)
        now = self._catalog.get(flow.endpoint)
        if now is None or now.revision != flow.revision or now.subflows is not None:
            return
        try:
            served = now.model_copy(update={"subflows": self._declared(outcome)})
        except P2pflowsError as error:
            self._failed_at[flow.endpoint] = self._clock.elapsed()
            self._log.note("undeclared", "", flow.endpoint, f"{_SERVED_BEFORE} It may call nothing: {error.message}")
            return
        self._catalog.put(served)
        named = ", ".join(may_call(served, self._user, self._contacts.known.by_user.get) or ["nothing"])
        self._log.note("declared", "", flow.endpoint, f"{_SERVED_BEFORE} It may call {named}.")

    def _declared(self, outcome: Outcome) -> dict[str, Any]:
        match outcome:
            case Failure(error):
                raise error
            case Success(description) if isinstance(description.get("subflows"), dict):
                named = with_user_ids(
                    description["subflows"], lambda who: resolve(who, self._contacts.known, self._user)
                )
                return dict(named)
        raise P2pflowsError("its worker is of an earlier release.")


_SERVED_BEFORE = "It was served by an earlier release."
