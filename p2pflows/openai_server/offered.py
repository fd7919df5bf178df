"""Which flows are models: those that take a `query` and need nothing else."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from p2pflows.client.async_client import AsyncClient
from p2pflows.contacts import Contacts
from p2pflows.errors import NotAllowed, NotServed, P2pflowsError, Unreachable, UsageError

MAX_CONTACTS = 200
"""How many contacts are asked what they serve."""
_MAX_ASKED_AT_ONCE = 20
_LIST_TIMEOUT_S = 3.0
"""How long the list waits for contacts; those that are offline say nothing."""
_REMEMBERED_S = 60.0
_MAX_REMEMBERED = 1_000
_LIST_REMEMBERED_S = 10.0


@dataclass(frozen=True, slots=True)
class Offer:
    """A flow that is a model.

    Args:
        address: `CONTACT/ENDPOINT`, or `me/ENDPOINT`.
        remembers: whether it keeps what was said in a conversation.
    """

    address: str
    remembers: bool


class Offers:
    """The flows that the user may call and that are models."""

    def __init__(self, contacts: Contacts) -> None:
        self._contacts = contacts
        self._known: dict[str, tuple[float, Offer]] = {}
        self._listed: tuple[float, list[str]] | None = None

    async def names(self, me: AsyncClient) -> list[str]:
        """Return the names of all models whose owners answer in time, the user's own first.

        Raises:
            P2pflowsError: the daemon does not answer.
        """
        if self._listed is None or time.monotonic() - self._listed[0] >= _LIST_REMEMBERED_S:
            names = await self._ask_all(me)
            self._listed = time.monotonic(), names
        return self._listed[1]

    async def _ask_all(self, me: AsyncClient) -> list[str]:
        own = (await me.request("ls"))["flows"]
        self._contacts.reload_if_changed()
        contacts = sorted(self._contacts.known.by_user.values())[:MAX_CONTACTS]
        free = asyncio.Semaphore(_MAX_ASKED_AT_ONCE)

        async def theirs(name: str) -> list[dict[str, Any]]:
            try:
                async with free, asyncio.timeout(_LIST_TIMEOUT_S):
                    return list((await me.request("ls", user=name))["flows"])
            except (P2pflowsError, TimeoutError):
                return []

        found = await asyncio.gather(*map(theirs, contacts))
        names = [f"me/{flow['endpoint']}" for flow in own if _is_model(flow)]
        for contact, flows in zip(contacts, found, strict=True):
            names += [f"{contact}/{flow['endpoint']}" for flow in flows if _is_model(flow)]
        return names

    async def find(self, me: AsyncClient, name: str) -> Offer:
        """Return the flow that is a model; without the name of a contact, it is the user's own.

        Raises:
            P2pflowsError: there is none, or its owner cannot be asked.
        """
        now = time.monotonic()
        known = self._known.get(name)
        if known is not None and now - known[0] < _REMEMBERED_S:
            return known[1]
        address = name if "/" in name else f"me/{name}"
        try:
            flow = await me.request("describe", address=address)
        except UsageError as error:  # what is no address cannot be served
            raise NotServed(error.message, error.hint) from None
        offer = Offer(address, flow.get("kind") == "class")
        _check(flow, address)
        if len(self._known) >= _MAX_REMEMBERED:
            self._known.clear()
        self._known[name] = (now, offer)
        return offer


def _check(flow: Mapping[str, Any], address: str) -> None:
    if flow.get("online") is False and flow.get("served") is None:
        raise Unreachable(f"The daemon of {address.partition('/')[0]} cannot be reached.", "Try again later.")
    if flow.get("allowed") is False and flow.get("served"):
        raise NotAllowed(f"You may not call {address!r}.", "Ask its owner to serve it to you.")
    if not flow.get("served"):
        raise NotServed(f"There is no model {address!r}.", "See: p2pflows ls CONTACT")
    if not _is_model(flow):
        raise NotServed(f"{address!r} is no model: it does not take a 'query' alone.", "Use: p2pflows call")


def _is_model(flow: Mapping[str, Any]) -> bool:
    match flow:
        case {"kind": "human"}:
            return False
        case {"schema": {"properties": dict(properties)} as schema}:
            return "query" in properties and set(schema.get("required") or ()) <= {"query"}
    return False
