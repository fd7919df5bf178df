"""What the user and other people say to each other: notes, questions and answers of both, in one order."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable

from p2pflows.errors import Declined
from p2pflows.protocol.message import Message, Type
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.clock import Clock
from p2pflowsd.human.texts import text_in
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import LineRow, OutgoingRow, PromptRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState, PromptState
from p2pflowsd.running.settlement import id_of_answer
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.own_messages import OwnMessages

MAX_LINES = 20_000
"""Lines with all people together; the oldest go first."""
MAX_LINES_OF_PEER = 2_000
MAX_FORGOTTEN = 500
MAX_CHARS = 4_000
"""How much of a line is kept here; its message is longer."""
HUMAN_ENDPOINT = "User"
"""Under which people are served, unless they say otherwise."""

_REPLIES = {
    PromptState.ANSWERED: "answer",
    PromptState.DECLINED: "declined",
    PromptState.DELEGATED: "delegated",
}


def delegated_text(to: str, why: str) -> str:
    """Return the text of a line which says that a question was passed on.

    Args:
        to: the id of the user who is asked instead.
        why: the reason; may be empty.
    """
    return f"{to} {why}".rstrip()


class Transcript:
    """The lines of all conversations with people.

    Args:
        journal: where lines are stored.
        clock: the time.
        callbacks: run after the commit.
        messages: tell what the user sends.
        outbox: tells what becomes of it.
        on_line: called after the commit with each line that is new or has changed.
    """

    def __init__(
        self,
        *,
        journal: Journal,
        clock: Clock,
        callbacks: Callbacks,
        messages: OwnMessages,
        outbox: Outbox,
        on_line: Callable[[LineRow], None],
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._callbacks = callbacks
        self._on_line = on_line
        self._counts = Counter(journal.lines.counts())
        self._human_endpoints = journal.lines.human_endpoints()
        self._under_way = {_sent_as(line): line for line in journal.lines.under_way()}
        """What the user has said and whose fate is not known yet, by the id of the message that says it."""
        self._catch_up()
        messages.on_sent = self.on_sent
        outbox.on_stored = self.on_stored
        outbox.on_ended.append(self.on_ended)

    def is_human(self, peer: str, endpoint: str) -> bool:
        """Return whether a person is known to be behind an endpoint."""
        return endpoint == HUMAN_ENDPOINT or (peer, endpoint) in self._human_endpoints

    def note_human(self, peer: str, endpoint: str) -> None:
        """Remember that a person is behind an endpoint."""
        self._human_endpoints.add((peer, endpoint))

    # What the user sends.

    def on_sent(self, message: Message) -> None:
        """Add what the user has sent, if it went to a person and says something."""
        text = text_in(message.data)
        if message.type == Type.CANCEL or text is None or not self.is_human(message.recipient, message.endpoint):
            return
        kind = "note" if message.type == Type.POST else "question"
        line = self._add(
            message.recipient,
            by_me=True,
            kind=kind,
            message=message.id,
            endpoint=message.endpoint,
            conversation=message.conversation,
            text=text,
            state="sent",
        )
        self._under_way[message.id] = line

    def on_stored(self, peer: str, message_id: str, note: str) -> None:
        """Note that a message of the user is with its recipient, or `held` there."""
        line = self._under_way.get(message_id)
        if line is None or line.peer != peer:
            return
        self._set_state(line, "held" if note == "held" else "delivered")
        if line.kind != "question" and note != "held":
            del self._under_way[message_id]

    def on_ended(self, row: OutgoingRow, state: OutgoingState, answer: bytes | None) -> None:
        """Note how a message of the user has ended, and add the answer if it has one."""
        line = self._under_way.pop(row.id, None)
        if line is None:
            return
        content = json.loads(answer or b"{}")
        if state == OutgoingState.DONE:
            self._set_state(line, "answered" if line.kind == "question" else "delivered")
        elif state == OutgoingState.FAILED:
            self._set_state(line, str(content.get("kind", "failed")))
        else:
            self._set_state(line, state)
        if self._journal.lines.delegate_of(line.message) is not None:
            return  # it was answered by somebody else, to another question
        if line.kind == "question" and state == OutgoingState.DONE:
            self._add_reply(line, "answer", str(content.get("human_input") or json.dumps(content, ensure_ascii=False)))
        elif line.kind == "question" and content.get("kind") == Declined.kind:
            self._add_reply(line, "declined", str(content.get("message", "")))

    # What others send.

    def on_asked(self, prompt: PromptRow) -> None:
        """Add a question or a note of another person."""
        self._add(
            prompt.peer,
            by_me=False,
            kind="note" if prompt.type == Type.POST else "question",
            message=prompt.id,
            endpoint=prompt.endpoint,
            conversation=prompt.conversation,
            label=prompt.label,
            text=prompt.text,
            state=PromptState.OPEN,
        )

    def on_prompt_ended(self, prompt: PromptRow, state: PromptState, answer: str | None) -> None:
        """Note how a prompt has ended, and add the user's answer if there is one."""
        line = self._journal.lines.of_message(prompt.id, by_me=False)
        if line is None:
            return
        self._set_state(line, state)
        kind = _REPLIES.get(state)
        if kind is not None:
            self._add_reply(line, kind, answer or "")

    def on_passed_on(self, row: OutgoingRow, to: str, why: str) -> None:
        """Add that the person who was asked has passed the question on."""
        self._add(
            row.peer,
            by_me=False,
            kind="delegated",
            message=row.id,
            endpoint=row.endpoint,
            conversation=row.conversation,
            text=delegated_text(to, why),
            state="answered",
        )

    def _add_reply(self, line: LineRow, kind: str, text: str) -> None:
        """Add what the one who was asked says to a question."""
        reply = self._add(
            line.peer,
            by_me=not line.by_me,
            kind=kind,
            message=line.message,
            endpoint=line.endpoint,
            conversation=line.conversation,
            text=text,
            state="answered" if line.by_me else "sent",
        )
        if reply.by_me:
            self._under_way[_sent_as(reply)] = reply

    def _add(
        self,
        peer: str,
        *,
        by_me: bool,
        kind: str,
        message: str,
        endpoint: str,
        conversation: str,
        text: str,
        state: str,
        label: str = "",
    ) -> LineRow:
        self._make_room(peer)
        self._counts[peer] += 1
        line = self._journal.lines.add(
            LineRow(
                row_id=0,
                peer=peer,
                by_me=int(by_me),
                kind=kind,
                message=message,
                endpoint=endpoint,
                conversation=conversation,
                label=label,
                text=text[:MAX_CHARS],
                at=self._clock.now(),
                state=state,
            )
        )
        self._changed(line)
        return line

    def forget_before(self, at: int) -> None:
        """Forget the oldest lines, as far as they were said before a time in milliseconds; at most some hundreds."""
        self._counts.subtract(self._journal.lines.remove_before(at, MAX_FORGOTTEN))

    def _make_room(self, peer: str) -> None:
        if self._counts[peer] >= MAX_LINES_OF_PEER:
            first: str | None = self._journal.lines.remove_first(peer)
        elif self._counts.total() >= MAX_LINES:
            first = self._journal.lines.remove_first()
        else:
            return
        if first is not None:
            self._counts[first] -= 1

    def _set_state(self, line: LineRow, state: str) -> None:
        if line.state != state:
            self._journal.lines.set_state(line.row_id, state)
            line = line._replace(state=state)
            if line.by_me and _sent_as(line) in self._under_way:
                self._under_way[_sent_as(line)] = line
            self._changed(line)

    def _changed(self, line: LineRow) -> None:
        self._callbacks.after_commit(lambda: self._on_line(line))

    def _catch_up(self) -> None:
        """Forget what has ended without a word, as its message is gone from the journal."""
        for message_id in list(self._under_way):
            row = self._journal.outgoing.find(message_id)
            if row is None or row.state not in OPEN_OUTGOING:
                del self._under_way[message_id]


def _sent_as(line: LineRow) -> str:
    """Return the id of the message that says what the user has said."""
    return line.message if line.kind in ("note", "question") else id_of_answer(line.peer, line.message)
