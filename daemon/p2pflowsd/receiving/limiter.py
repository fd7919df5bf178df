"""Limits of calls: what comes beyond those that the owner has set for an endpoint is refused, with when to come again.

`at_once` is not here: what is over it waits (`running/scheduler`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import NamedTuple

from p2pflows.errors import Busy
from p2pflows.settings.call_limits import CallLimits
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.lifecycle import OPEN_INCOMING, IncomingState
from p2pflowsd.receiving.allowance import TokenBucket
from p2pflowsd.running.catalog import Catalog, Served
from p2pflowsd.running.instances import is_request
from p2pflowsd.running.spending import DAY_MS, EVERYBODY, Spending

MAX_CALLERS = 10_000
"""Of how many callers the calls are counted; beyond that, those who called nothing for longest begin anew."""
LOOK_AGAIN_S = 0.2
"""How long a caller who was over the limit of open calls counts as over it, without another look."""
_HOUR_S = 3_600
_MINUTE_S = 60


class _Who(NamedTuple):
    """Whose calls are counted: those of one caller to one endpoint, or of everybody."""

    endpoint: str
    caller: str


class _Rate(NamedTuple):
    text: str | None
    bucket: TokenBucket


class Limiter:
    """Counts the calls to endpoints with limits."""

    def __init__(self, *, user: str, journal: Journal, clock: Clock, spending: Spending) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._spending = spending
        self._open: dict[_Who, dict[int, None]] = {}
        self._full_until: dict[_Who, float] = {}
        self._rates: dict[_Who, _Rate] = {}

    def admit(self, row: IncomingRow, flow: Served) -> None:
        """Count a call, if there is room for it.

        Raises:
            Busy: a limit is reached.
        """
        limits = list(self._limits(row.peer, flow))
        for who, limit in limits:
            self._check(who, limit)
        for who, limit in limits:
            if (rate := self._rate(who, limit)) is not None:
                rate.take(1)
        self._count(row, limits)

    def restore(self, catalog: Catalog) -> None:
        """Count the calls that were open when the daemon ended, to flows where that is limited."""
        if not any(
            limit is not None and limit.open
            for flow in catalog.all()
            for limit in (flow.limits, flow.limits_per_caller)
        ):
            return
        for row in self._journal.incoming.in_state(IncomingState.READY):
            flow = catalog.get(row.endpoint)
            if flow is not None and is_request(row):
                self._count(row, self._limits(row.peer, flow))

    def _limits(self, peer: str, flow: Served) -> Iterable[tuple[_Who, CallLimits]]:
        """The limits for a caller's next call; the owner is one of everybody, and else has none."""
        if flow.limits_per_caller is not None and peer != self._user:
            yield _Who(flow.endpoint, peer), flow.limits_per_caller
        if flow.limits is not None:
            yield _Who(flow.endpoint, EVERYBODY), flow.limits

    def _count(self, row: IncomingRow, limits: Iterable[tuple[_Who, CallLimits]]) -> None:
        for who, limit in limits:
            if limit.open is None:
                continue
            rows = self._open.pop(who, {})
            rows[row.row_id] = None
            if len(self._open) >= MAX_CALLERS:
                del self._open[next(iter(self._open))]
            self._open[who] = rows

    def _check(self, who: _Who, limit: CallLimits) -> None:
        if limit.open is not None and self._is_full(who, limit.open):
            raise _busy(who, f"{limit.open:,} open calls", 0)
        rate = self._rate(who, limit)
        if rate is not None and (wait_s := rate.seconds_until(1)) > 0:
            raise _busy(who, "{:,} calls per {}".format(*limit.rate_parts), math.ceil(wait_s))
        if limit.tokens_per_day is None and limit.cost_per_day is None:
            return
        spent = self._spending.today(who.endpoint, who.caller)
        midnight_s = math.ceil((DAY_MS - self._clock.now() % DAY_MS) / 1000)
        if limit.tokens_per_day is not None and spent.tokens >= limit.tokens_per_day:
            raise _busy(who, f"{limit.tokens_per_day:,} tokens a day", midnight_s)
        if limit.cost_per_day is not None and spent.cost >= limit.cost_per_day:
            raise _busy(who, f"a cost of {limit.cost_per_day:,} a day", midnight_s)

    def _is_full(self, who: _Who, most: int) -> bool:
        """Whether as many calls are open as may be; those that have ended are forgotten when there seem to be."""
        rows = self._open.get(who)
        if rows is None or len(rows) < most:
            return False
        now = self._clock.elapsed()
        if now < self._full_until.get(who, 0.0):
            return True
        for row_id in list(rows):
            row = self._journal.incoming.get(row_id)
            if row is None or row.state not in OPEN_INCOMING:
                del rows[row_id]
        if len(rows) < most:
            self._full_until.pop(who, None)
            return False
        self._full_until[who] = now + LOOK_AGAIN_S
        return True

    def _rate(self, who: _Who, limit: CallLimits) -> TokenBucket | None:
        if limit.calls_and_seconds is None:
            return None
        known = self._rates.pop(who, None)
        if known is None or known.text != limit.rate:
            calls, seconds = limit.calls_and_seconds
            known = _Rate(limit.rate, TokenBucket(self._clock, calls / seconds, seconds))
            if len(self._rates) >= MAX_CALLERS:
                del self._rates[next(iter(self._rates))]
        self._rates[who] = known
        return known.bucket


def _busy(who: _Who, limit: str, retry_after_s: int) -> Busy:
    of = "all callers together" if who.caller == EVERYBODY else "each caller"
    when = f"in {_span(retry_after_s)}" if retry_after_s else "when one of them has ended"
    return Busy(
        f"{who.endpoint!r} allows {of} {limit}, and that is reached.",
        f"Come again {when}.",
        retry_after_s=retry_after_s,
    )


def _span(seconds: int) -> str:
    for unit, length in (("h", _HOUR_S), ("min", _MINUTE_S)):
        if seconds > 2 * length:
            return f"{math.ceil(seconds / length)} {unit}"
    return f"{seconds} s"
