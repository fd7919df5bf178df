"""What runs have spent at models: tokens and their cost, by caller, endpoint, model and day."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from p2pflows.protocol.spent import Spent
from p2pflows.settings.prices import Price
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, SpendingRow
from p2pflowsd.running.instances import is_request, requested_endpoint
from p2pflowsd.running.origin import AskOrigin, CallBackOrigin, read_origin

DAY_MS = 86_400_000
EVERYBODY = ""
"""Stands for all callers together."""
MAX_DEPTH = 16
"""How many flows that call each other are followed back to who called first."""
MILLION = 1_000_000


class Total(NamedTuple):
    """What was spent.

    Attributes:
        tokens: read and written.
        cost: in the currency of the prices.
    """

    tokens: int = 0
    cost: float = 0.0


class Spending:
    """What was spent at one daemon.

    A flow that a neighbour calls may call others of the owner's flows. What these spend is that neighbour's doing, and
    counts for each endpoint on the way, so that a limit of any of them holds.

    Args:
        user: the owner.
        journal: keeps it.
        clock: the time.
        prices: what models cost, by name.
    """

    def __init__(self, *, user: str, journal: Journal, clock: Clock, prices: Mapping[str, Price]) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._prices = prices
        self._day = self._today()
        self._totals: dict[tuple[str, str], Total] = {}
        for row in journal.spending.since(self._day):
            self._count(row)

    def today(self, endpoint: str, caller: str) -> Total:
        """Return what a caller, or EVERYBODY, has spent at an endpoint since midnight (UTC)."""
        self._begin_day()
        return self._totals.get((endpoint, caller), Total())

    def add(self, row: IncomingRow, spent: Iterable[Spent]) -> None:
        """Keep what the run of a request has spent."""
        self._begin_day()
        endpoints, caller = self._way(row)
        for each in spent:
            price = self._prices.get(each.model)
            cost = 0 if price is None else price.of(each)
            for depth, endpoint in enumerate(endpoints):
                counts = (1, each.tokens_in, each.tokens_out, each.cached, cost)
                entry = SpendingRow(self._day, endpoint, caller, each.model, int(depth == 0), *counts)
                self._journal.spending.add(entry)
                self._count(entry)

    @property
    def priced(self) -> Collection[str]:
        """The models with a price."""
        return self._prices.keys()

    def tidy(self) -> None:
        """Forget what was spent long ago."""
        self._journal.spending.tidy(self._today())

    def since(self, days: int) -> list[SpendingRow]:
        """Return what was spent on the last days, today included, each once."""
        return [row for row in self._journal.spending.since(self._today() - days + 1) if row.is_direct]

    def _way(self, row: IncomingRow) -> tuple[list[str], str]:
        """The endpoints from that of a request back to the first that was called, and who called that."""
        endpoints = []
        for _ in range(MAX_DEPTH):
            if is_request(row):
                endpoints.append(requested_endpoint(self._journal, row))
            before = self._asker(row)
            if before is None:
                break
            row = before
        return list(dict.fromkeys(endpoints)), row.peer

    def _asker(self, row: IncomingRow) -> IncomingRow | None:
        """The request whose run has made this one, if one of the owner's has."""
        if row.peer != self._user:
            return None
        if not is_request(row):
            return None if row.root_request is None else self._journal.incoming.get(row.root_request)
        sent = self._journal.outgoing.find(row.id)
        match None if sent is None or sent.origin is None else read_origin(sent.origin):
            case AskOrigin(row_id=number):
                return self._journal.incoming.get(number)
            case CallBackOrigin(root_request=int(number)):
                return self._journal.incoming.get(number)
        return None

    def _count(self, row: SpendingRow) -> None:
        for caller in (row.caller, EVERYBODY):
            before = self._totals.get((row.endpoint, caller), Total())
            tokens, cost = row.tokens_in + row.tokens_out, row.cost / MILLION
            self._totals[row.endpoint, caller] = Total(before.tokens + tokens, before.cost + cost)

    def _begin_day(self) -> None:
        if (day := self._today()) != self._day:
            self._day = day
            self._totals.clear()

    def _today(self) -> int:
        return self._clock.now() // DAY_MS
