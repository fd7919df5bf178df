"""The method about what was spent at models."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal

from pydantic import Field

from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import MustBe, Parameters
from p2pflowsd.journal.rows import SpendingRow
from p2pflowsd.journal.spending import KEPT_DAYS
from p2pflowsd.node import Node
from p2pflowsd.running.spending import DAY_MS, MILLION

_FIELDS = ("calls", "tokens_in", "tokens_out", "cached")


class UsageParameters(Parameters):
    """How to group what was spent, and since when."""

    by: Annotated[
        Literal["caller", "endpoint", "model", "day"],
        MustBe("caller, endpoint, model or day", "See: p2pflows usage --help"),
    ] = "caller"
    days: Annotated[int, Field(ge=1, le=KEPT_DAYS), MustBe(f"a whole number from 1 to {KEPT_DAYS}")] = 30


async def usage(daemon: Daemon, params: UsageParameters) -> Any:
    """Say what runs have spent at models on the last `days`, today included; days begin at midnight, UTC.

    Returns:
        `since`: the first day; `entries`: list of the name of the group (`caller`, `endpoint`, `model` or `day`),
        `calls`, `tokens_in`, `tokens_out`, `cached`, `cost` (null if no model of it has a price), the most tokens
        first, days in order; of a caller also `user`
    """
    rows = await daemon.read(lambda: daemon.node.spending.since(params.days))
    priced = daemon.node.spending.priced
    groups: dict[str, dict[str, Any]] = {}
    for row in rows:
        key = _key(row, params.by)
        entry = groups.setdefault(
            key, {**_named(daemon.node, params.by, key), **dict.fromkeys(_FIELDS, 0), "cost": None}
        )
        for field in _FIELDS:
            entry[field] += getattr(row, field)
        if row.cost or row.model in priced:
            entry["cost"] = (entry["cost"] or 0.0) + row.cost / MILLION
    entries = list(groups.values())
    if params.by != "day":
        entries.sort(key=lambda entry: -(entry["tokens_in"] + entry["tokens_out"]))
    first = daemon.node.clock.now() // DAY_MS - params.days + 1
    return {"since": _date(first), "entries": entries}


def _key(row: SpendingRow, by: str) -> str:
    return _date(row.day) if by == "day" else str(getattr(row, by))


def _named(node: Node, by: str, key: str) -> dict[str, Any]:
    if by != "caller":
        return {by: key}
    return {"caller": "me" if key == node.user else node.name_of(key) or key, "user": key}


def _date(day: int) -> str:
    return (dt.date(1970, 1, 1) + dt.timedelta(days=day)).isoformat()
