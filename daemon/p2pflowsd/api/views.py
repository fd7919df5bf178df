"""What methods return: rows and counters of the journal as JSON (docs/CONTROL.md)."""

from __future__ import annotations

import json
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

from p2pflows.errors import BadInput
from p2pflows.forms.wire import DRAFT, SCHEMA, form_of
from p2pflows.protocol.claims import ASKED_OF, asked_of
from p2pflows.protocol.message import Type
from p2pflowsd.api.line_files import files_of
from p2pflowsd.human.conversations import Conversation
from p2pflowsd.human.pages import Group
from p2pflowsd.human.texts import TEXT_KEYS
from p2pflowsd.journal.rows import IncomingRow, InvitationRow, LineRow, LogRow, OutgoingRow, PromptRow
from p2pflowsd.lifecycle import IncomingState, PromptState
from p2pflowsd.node import Node
from p2pflowsd.running.instances import requested_endpoint

MAX_BLOCKED_SHOWN = 20
MAX_PEERS_SHOWN = 20
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
        "dead": journal.incoming.count_dead(),
        "prompts_open": node.inbox.open.questions + node.inbox.open.notes,
        "requests": len(requests(node)),
        "held": {"messages": journal.incoming.count_held(), "most": node.limits.requests_of_strangers},
        "blocked": [
            {"user": user, "name": node.name_of(user), "messages": count}
            for user, count in sorted(node.blocked.counts().items(), key=lambda each: -each[1])[:MAX_BLOCKED_SHOWN]
        ],
        "quotas": _quotas(node),
        "retention": node.retention.model_dump(),
        "files": {**node.files.usage()._asdict(), "limits": node.files.limits.model_dump()},
        "served": len(node.catalog),
        "workers": node.points.status(),
        "restored": [
            {"user": each.user, "name": node.name_of(each.user), "at": rfc3339(each.at), "detail": each.detail}
            for each in node.restored.recent()
        ],
        "clocks": [
            {"user": user, "name": node.name_of(user), "ahead_ms": offset}
            for user, offset in sorted(node.outbox.peer_clocks.known().items())
        ],
    }


def _quotas(node: Node) -> dict[str, Any]:
    """What each peer fills, with their names."""
    found = node.quotas.status(MAX_PEERS_SHOWN)
    return {**found, "peers": [{**peer, "name": node.name_of(peer["user"])} for peer in found["peers"]]}


def outbox(node: Node, limit: int, offset: int) -> dict[str, Any]:
    """A page of the messages that are not delivered, and of the dead letters."""
    incoming = node.journal.incoming
    return {
        "pending": [
            {**_sent(node, row), "attempts": node.outbox.attempts(row.id)} for row in node.outbox.page(offset, limit)
        ],
        "dead": [_dead_letter(node, row) for row in incoming.dead(limit, offset)],
        "count": {"pending": node.outbox.pending, "dead": incoming.count_dead()},
    }


def requests(node: Node) -> list[dict[str, Any]]:
    """The strangers who want to be let in or were introduced, in the order in which they first came."""
    strangers: dict[str, dict[str, Any]] = {}
    for wish in node.people.wishes.current():
        known = _stranger(strangers, wish.peer, wish.first)
        known["endpoints"], known["last"] = json.loads(wish.endpoints), wish.last
    incoming = node.journal.incoming
    blocked = [row for user in _blocked_strangers(node) for row in incoming.blocked_by(user)]
    for row in sorted([*incoming.in_state(IncomingState.HELD), *blocked], key=lambda row: row.row_id):
        known, endpoint = _stranger(strangers, row.peer, row.received), requested_endpoint(node.journal, row)
        if endpoint not in known["endpoints"]:
            known["endpoints"].append(endpoint)
        known["messages"] += 1
        known["last"] = max(known["last"], row.received)
    for introduced in node.people.introductions.current():
        known = _stranger(strangers, introduced.peer, introduced.at)
        by = {"user": introduced.by, "name": node.name_of(introduced.by), "as": introduced.name}
        known["introduced_by"].append(by)
    found = sorted(strangers.values(), key=lambda each: each["first"])
    return [{**each, "first": rfc3339(each["first"]), "last": rfc3339(each["last"])} for each in found]


def _stranger(strangers: dict[str, dict[str, Any]], user: str, at: int) -> dict[str, Any]:
    """The entry of a stranger among those who want to be let in; a new one if there is none."""
    new = {"user": user, "endpoints": [], "messages": 0, "first": at, "last": at, "introduced_by": []}
    return strangers.setdefault(user, new)


def invitations(node: Node) -> list[dict[str, Any]]:
    """The invitations that the user made, oldest first."""
    return [invitation(node, row) for row in node.journal.invitations.all()]


def invitation(node: Node, row: InvitationRow) -> dict[str, Any]:
    """An invitation, without its secret, and the users who have used it."""
    told = [meeting for meeting in node.journal.meetings.of(row.id) if meeting.words is not None]
    return {
        "id": row.id,
        "state": node.people.invitations.state_of(row),
        "name": row.name,
        "allow": row.allow,
        "uses": row.uses,
        "used": row.used,
        "created": rfc3339(row.created),
        "expires": rfc3339(row.expires),
        "users": [
            {
                "user": meeting.peer,
                "name": node.name_of(meeting.peer) or meeting.name,
                "suggested": meeting.suggested,
                "words": meeting.words,
                "at": rfc3339(meeting.at),
            }
            for meeting in told
        ],
    }


def own_instances(node: Node, endpoint: str | None) -> list[dict[str, Any]]:
    """The instances of the user's flows, or of one of them."""
    found = []
    for row in node.journal.instances.of(endpoint):
        flow = node.catalog.get(row.endpoint)
        about = {"name": node.name_of(row.client), "release": "" if flow is None else flow.release}
        found.append(with_dates({**node.instances.show(row), **about}))
    return found


def with_dates(instance: dict[str, Any]) -> dict[str, Any]:
    """An instance with its times, which daemons tell each other in milliseconds, as RFC 3339."""
    return {**instance, "created": rfc3339(instance["created"]), "used": rfc3339(instance["used"])}


def prompt(node: Node, row: PromptRow) -> dict[str, Any]:
    """A prompt of the human."""
    return {
        "id": row.id,
        "from": row.peer,
        "name": node.name_of(row.peer),
        "endpoint": row.endpoint,
        "text": row.text,
        "data": json.loads(row.data),
        "received": rfc3339(row.received),
        "expires": rfc3339(row.expires),
        "status": row.state,
        "wants_answer": row.type == Type.CALL,
        "conversation": row.conversation,
        "label": row.label,
        "flow": row.flow.partition("@")[0] or None,
        "dispatch_point": row.flow.partition("@")[2] or None,
        "answer": row.answer,
        **_form(row.text, json.loads(row.data)),
        "snoozed": rfc3339(row.snoozed) if row.snoozed else None,
        "asked_of": asked_of(json.loads(row.data)),
        **claim(node, row.claimed_by, row.claimed_until if row.state == PromptState.OPEN else 0),
    }


def claim(node: Node, by: str, until: int) -> dict[str, Any]:
    """Who works on the answer to a question, if somebody does."""
    if until <= node.clock.now():
        return {"claimed_by": None, "claimed_name": None, "claimed_until": None}
    return {"claimed_by": by, "claimed_name": node.name_of(by), "claimed_until": rfc3339(until)}


def group(node: Node, found: Group) -> dict[str, Any]:
    """The open prompts of one user, or of one conversation with them."""
    return {
        "user": found.user,
        "name": node.name_of(found.user),
        "conversation": found.conversation,
        "questions": found.questions,
        "notes": found.notes,
        "first": None if found.first is None else prompt(node, found.first),
    }


def _form(text: str, data: dict[str, Any]) -> dict[str, Any]:
    """What the answer to a prompt must be; empty of one that older releases have stored with another meaning."""
    try:
        form = form_of(data)
    except BadInput:
        form = None
    about = {
        name: value
        for name, value in data.items()
        if name not in (SCHEMA, DRAFT, ASKED_OF) and not (name in TEXT_KEYS and value == text)
    }
    if form is None:
        return {"about": about, "form": None}
    shown = {
        "expects": form.expects,
        "choices": form.choices,
        "fields": form.fields(),
        "schema": form.schema,
        "draft": form.draft,
    }
    return {"about": about, "form": shown}


def line(node: Node, row: LineRow) -> dict[str, Any]:
    """A line that the user and another person have said; an open question or note comes with its prompt."""
    asked = None
    if not row.by_me and row.state == PromptState.OPEN:
        found = [each for each in node.journal.prompts.matching(row.message) if each.state == PromptState.OPEN]
        asked = prompt(node, found[0]) if found else None
    to, text = ("", row.text) if row.kind != "delegated" else row.text.partition(" ")[::2]
    return {
        "n": row.row_id,
        "user": row.peer,
        "name": node.name_of(row.peer),
        "by": "me" if row.by_me else "them",
        "kind": row.kind,
        "message": row.message,
        "endpoint": row.endpoint,
        "conversation": row.conversation,
        "title": node.journal.titles.get(row.conversation),
        "label": row.label,
        "text": text,
        "to": to or None,
        "to_name": node.name_of(to) if to else None,
        "at": rfc3339(row.at),
        "state": row.state,
        "prompt": asked,
        "files": files_of(node, row),
    }


def conversation(node: Node, found: Conversation) -> dict[str, Any]:
    """A conversation with one user."""
    title = node.journal.titles.get(found.conversation)
    return {**asdict(found), "at": rfc3339(found.at), "name": node.name_of(found.user), "title": title}


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


def rfc3339(ms: int) -> str:
    """A time in milliseconds since the Unix epoch as text, in UTC."""
    return datetime.fromtimestamp(ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _blocked_strangers(node: Node) -> set[str]:
    return {user for user in node.blocked.counts() if node.name_of(user) is None}


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
