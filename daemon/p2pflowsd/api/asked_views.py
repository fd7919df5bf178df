"""What this user has asked, as JSON (docs/CONTROL.md): questions to humans, and calls and posts beside them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from p2pflows.errors import from_peer
from p2pflows.protocol.message import Type
from p2pflowsd.api.views import claim, rfc3339
from p2pflowsd.asking.question import Person, Result, Wish, people_from_json
from p2pflowsd.asking.questions import NOTE_SHOWN, NOTE_SNOOZED, as_error
from p2pflowsd.human.texts import text_in
from p2pflowsd.journal.rows import OutgoingRow, QuestionRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState, QuestionState
from p2pflowsd.node import Node
from p2pflowsd.sending.outbox import NO_ROOM

_OUTCOMES = {
    OutgoingState.PENDING: QuestionState.OPEN,
    OutgoingState.STORED: QuestionState.OPEN,
    OutgoingState.DONE: QuestionState.ANSWERED,
    OutgoingState.CANCELLED: QuestionState.CANCELLED,
}
_OF_KINDS = {"declined": QuestionState.DECLINED, "deadline": QuestionState.EXPIRED}


def question(node: Node, row: QuestionRow) -> dict[str, Any]:
    """A question to humans."""
    people = people_from_json(row.people)
    wish = Wish.from_json(row.wish)
    form, first = wish.read_form(), people[0]
    return {
        "id": row.id,
        "kind": "question",
        "text": row.text,
        "expects": "" if form is None else form.expects,
        "to": first.user,
        "to_name": node.name_of(first.user),
        "endpoint": first.endpoint,
        "created": rfc3339(row.created),
        "expires": rfc3339(row.expires),
        "need": wish.need,
        "quorum": wish.quorum,
        "where": _where_question(node, row, wish, people) if row.state == QuestionState.OPEN else "",
        **claim(node, row.claimed_by, row.claimed_until if row.state == QuestionState.OPEN else 0),
        **_result(node, Result.from_json(row.result)),
        "people": [
            {
                "user": person.user,
                "to_name": node.name_of(person.user),
                "endpoint": person.endpoint,
                "where": _where(node, person) if person.result.outcome == QuestionState.OPEN else "",
                "hops": [asdict(hop) for hop in node.delegations.hops(person.call)] if person.call else [],
                **_result(node, person.result),
            }
            for person in people
        ],
    }


def are_open(node: Node, calls: Sequence[OutgoingRow], limit: int) -> list[dict[str, Any]]:
    """The questions of this user that are open and some open calls, newest first."""
    questions = [question(node, row) for row in node.journal.questions.open(limit)]
    return _newest(questions + [_call(node, row) for row in calls])[:limit]


def have_ended(node: Node, calls: Sequence[OutgoingRow], limit: int) -> list[dict[str, Any]]:
    """The questions of this user that have ended and some calls that have, newest first."""
    questions = [question(node, row) for row in node.journal.questions.ended(limit)]
    return _newest(questions + [_call(node, row) for row in calls])[:limit]


def _newest(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(entries, key=lambda entry: str(entry["created"]), reverse=True)


def _result(node: Node, result: Result) -> dict[str, Any]:
    error = as_error(result)
    return {
        "outcome": result.outcome,
        "value": result.value,
        "answer": result.text,
        "remark": result.remark,
        "files": result.files,
        "by": result.by,
        "name": node.name_of(result.by) if result.by else None,
        "at": None if result.at is None else rfc3339(result.at),
        "error": None
        if error is None
        else (error.said_by(error.user, node.name_of(error.user)) if error.user else error).as_reply(),
    }


def _call(node: Node, row: OutgoingRow) -> dict[str, Any]:
    """A call of this user, or a post that failed, in the form of a question."""
    body = node.journal.outgoing.body(row.id)
    data = json.loads(body).get("data", {}) if body else {}
    content = json.loads(row.answer or b"{}")
    is_open = row.state in OPEN_OUTGOING
    outcome = _OUTCOMES.get(OutgoingState(row.state)) or _OF_KINDS.get(str(content.get("kind")), QuestionState.FAILED)
    error = None if is_open or outcome == QuestionState.ANSWERED else from_peer(content)
    return {
        "id": row.id,
        "kind": "call" if row.type == Type.CALL else "note",
        "text": text_in(data) or "",
        "expects": "",
        "to": row.peer,
        "to_name": node.name_of(row.peer),
        "endpoint": row.endpoint,
        "created": rfc3339(row.created),
        "expires": rfc3339(row.expires),
        "need": "first",
        "quorum": 0,
        "where": _where_sent(node, row) if is_open else "",
        **claim(node, "", 0),
        "outcome": outcome,
        "value": content if outcome == QuestionState.ANSWERED and row.answer is not None else None,
        "answer": str(content.get("human_input", "")) if outcome == QuestionState.ANSWERED else "",
        "remark": "",
        "files": [],
        "by": "" if is_open else row.peer,
        "name": None if is_open else node.name_of(row.peer),
        "at": None,
        "error": None
        if error is None
        else (error.said_by(error.user, node.name_of(error.user)) if error.user else error).as_reply(),
        "people": [],
    }


def _where_question(node: Node, row: QuestionRow, wish: Wish, people: list[Person]) -> str:
    """Say in a few words how far a question has got."""
    if not any(person.call for person in people):
        return f"begins at {rfc3339(wish.start)}"
    if len(people) == 1:
        return _where(node, people[0])
    answered = sum(person.result.outcome == QuestionState.ANSWERED for person in people)
    claimed = row.claimed_until > node.clock.now()
    by = f"claimed by {node.name_of(row.claimed_by) or row.claimed_by[:8]}; " if claimed else ""
    return f"{by}{answered} of {len(people)} have answered"


def _where(node: Node, person: Person) -> str:
    sent = node.journal.outgoing.find(person.call) if person.call else None
    return "not sent yet" if sent is None else _where_sent(node, sent)


def _where_sent(node: Node, sent: OutgoingRow) -> str:
    """Say in a few words how far a message has got, or the one that asks somebody else instead."""
    last = node.delegations.last(sent)
    if last.id == sent.id:
        return _where_message(node, sent)
    return f"passed on to {node.name_of(last.peer) or last.peer[:8]}: {_where_message(node, last)}"


def _where_message(node: Node, sent: OutgoingRow) -> str:
    if sent.state == OutgoingState.STORED:
        if sent.note == NOTE_SHOWN:
            return "shown to them"
        if sent.note.startswith(NOTE_SNOOZED):
            return f"put off until {rfc3339(int(sent.note.removeprefix(NOTE_SNOOZED)))}"
        return {"held": "waits to be allowed", "waiting": "waits for a worker"}.get(sent.note, "arrived")
    if sent.note in NO_ROOM:
        return "waits for room there"
    if not node.outbox.attempts(sent.id):
        return "waits to be sent"
    return "sent" if node.presence.online(sent.peer) else "sent; they are offline"
