"""What methods return: rows and counters of the journal as JSON (docs/CONTROL.md)."""

from __future__ import annotations

import json
from typing import Any

from p2pflowsd.human.conversations import Conversation
from p2pflowsd.human.inbox import rfc3339
from p2pflowsd.journal.rows import IncomingRow, LogRow, OutgoingRow
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.node import Node
from p2pflowsd.running.instances import requested_endpoint

_REFUSED = "refused."


def counts(node: Node) -> dict[str, Any]:
    """The counts in `status`."""
    journal, counters = node.journal, node.journal.counters
    return {
        "accepted": counters.get("accepted", 0),
        "delivered": counters.get("delivered", 0),
        "received": counters.get("received", 0),
        "refused": {
            name.removeprefix(_REFUSED): count for name, count in sorted(counters.items()) if name.startswith(_REFUSED)
        },
        "pending": node.outbox.pending,
        "dead": len(journal.incoming.in_state(IncomingState.DEAD)),
        "prompts_open": len(journal.prompts.open()),
        "requests": len({row.peer for row in journal.incoming.in_state(IncomingState.HELD)}),
        "served": len(node.catalog),
        "workers": node.leases.status(),
    }


def outbox(node: Node) -> dict[str, Any]:
    """The messages that are not delivered, and dead letters."""
    outgoing = node.journal.outgoing
    return {
        "pending": [{**_sent(node, row), "attempts": node.outbox.attempts(row.id)} for row in outgoing.pending()],
        "failed": [{**_sent(node, row), "error": json.loads(row.answer or b"{}")} for row in outgoing.unsent()],
        "dead": [_dead_letter(node, row) for row in node.journal.incoming.in_state(IncomingState.DEAD)],
    }


def requests(node: Node) -> list[dict[str, Any]]:
    """The strangers whose requests are held, in the order in which they first came."""
    strangers: dict[str, dict[str, Any]] = {}
    for row in node.journal.incoming.in_state(IncomingState.HELD):
        received, endpoint = rfc3339(row.received), requested_endpoint(node.journal, row)
        stranger = strangers.setdefault(row.peer, {"user": row.peer, "endpoints": [], "messages": 0, "first": received})
        if endpoint not in stranger["endpoints"]:
            stranger["endpoints"].append(endpoint)
        stranger["messages"] += 1
        stranger["last"] = received
    return list(strangers.values())


def own_instances(node: Node, endpoint: str | None) -> list[dict[str, Any]]:
    """The instances of the user's flows, or of one of them."""
    return [
        with_dates({**node.instances.show(row), "name": node.name_of(row.client)})
        for row in node.journal.instances.of(endpoint)
    ]


def with_dates(instance: dict[str, Any]) -> dict[str, Any]:
    """An instance with its times, which daemons tell each other in milliseconds, as RFC 3339."""
    return {**instance, "created": rfc3339(instance["created"]), "used": rfc3339(instance["used"])}


def conversation(node: Node, found: Conversation) -> dict[str, Any]:
    """A conversation with the other user's name."""
    return {**found.as_json(), "name": node.name_of(found.user)}


def log_entry(node: Node, row: LogRow) -> dict[str, Any]:
    """An entry of the owner's log."""
    return {
        "n": row.row_id,
        "at": rfc3339(row.at),
        "what": row.what,
        "peer": row.peer,
        "endpoint": row.endpoint,
        "detail": row.detail,
        "name": node.name_of(row.peer),
    }


def _sent(node: Node, row: OutgoingRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "to": row.peer,
        "name": node.name_of(row.peer),
        "endpoint": row.endpoint,
        "type": row.type,
        "created": rfc3339(row.created),
        "expires": rfc3339(row.expires),
        "state": row.state,
    }


def _dead_letter(node: Node, row: IncomingRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "from": row.peer,
        "name": node.name_of(row.peer),
        "endpoint": row.endpoint,
        "received": rfc3339(row.received),
        "attempts": row.attempts,
        "error": row.error,
    }
