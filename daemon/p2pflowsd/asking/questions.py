"""The questions of this user: asked, decided once, kept until they are cleared.

What a question is and what has become of it is in the journal, in the same transaction as the messages of it, so a
daemon that starts again goes on. A question has one outcome; whatever comes after it changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from p2pflows.errors import (
    BadAnswer,
    BadInput,
    Cancelled,
    DeadlinePassed,
    Declined,
    NotAllowed,
    P2pflowsError,
    TooLarge,
    UsageError,
    from_peer,
)
from p2pflows.forms.wire import SHOWN, read_reply, with_form
from p2pflows.protocol import strict_json
from p2pflows.protocol.message import Type, new_id
from p2pflowsd.asking import rules
from p2pflowsd.asking.origin import question_in, write_origin
from p2pflowsd.asking.question import Person, Result, Wish, people_from_json, people_to_json, with_result
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.faults import Faults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import OutgoingRow, QuestionRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState, QuestionState
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.own_messages import OwnMessages

MAX_TEXT_BYTES = 100_000
MAX_OPEN = 1_000
"""Open questions of this user."""
_MIN_CANCEL_LIFETIME_MS = 60_000
_SETTLED = "It is settled."

OnEnd = Callable[[QuestionRow], None]
"""Takes a question that has ended."""


@dataclass(frozen=True, slots=True)
class Answerer:
    """Somebody to ask: a user, and the endpoint of their human."""

    user: str
    endpoint: str


class Questions:
    """The questions that this user asks."""

    def __init__(
        self,
        *,
        journal: Journal,
        clock: Clock,
        entropy: Entropy,
        faults: Faults,
        outbox: Outbox,
        messages: OwnMessages,
        callbacks: Callbacks,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._entropy = entropy
        self._faults = faults
        self._outbox = outbox
        self._messages = messages
        self._callbacks = callbacks
        self._waiting: dict[str, list[OnEnd]] = {}

    def ask(self, text: str, people: Sequence[Answerer], wish: Wish) -> str:
        """Ask people, and return the id of the question.

        Args:
            text: the question.
            people: whom to ask.
            wish: what else the asker wants.

        Raises:
            BadInput: the text is empty, the form cannot be shown, or the default does not fit it.
            NotAllowed: too many questions are open.
            CallError: a message to one of the people cannot be sent; see `Outbox.accept`.
        """
        form = wish.read_form()
        if form is not None:
            form.check_own()
        if not text.strip():
            raise BadInput("The question is empty.", "Give a text.")
        if len(text.encode(errors="surrogatepass")) > MAX_TEXT_BYTES:
            raise TooLarge(f"The question is longer than {MAX_TEXT_BYTES:,} bytes.", "Ask with less, or with a link.")
        _check_default(wish)
        if self._journal.questions.count_open() >= MAX_OPEN:
            raise NotAllowed(
                f"You have {MAX_OPEN:,} open questions, as many as there may be.",
                "See them with: p2pflows asked; withdraw some with: p2pflows cancel ID",
            )
        data = with_form({"api_output": text}, form)
        for answerer in people:
            self._outbox.check(answerer.user, answerer.endpoint, data)
        now = self._clock.now()
        question_id = new_id(now, self._entropy(10))
        asked = [Person(answerer.user, answerer.endpoint, question_id) for answerer in people]
        row = QuestionRow(
            row_id=0,
            id=question_id,
            text=text,
            wish=wish.to_json(),
            people=people_to_json(asked),
            created=now,
            expires=now + wish.life_ms,
            due=None,
            state=QuestionState.OPEN,
            result=None,
            ended=None,
        )
        row = row._replace(row_id=self._journal.questions.add(row))
        for person in asked:
            self._send(row, person, data, wish.source)
        self._faults.reach("questions.asked")
        return question_id

    def find(self, part: str) -> QuestionRow | None:
        """Return the question with an id; None if there is none.

        Args:
            part: the id, or the beginning or end of it.

        Raises:
            UsageError: several questions have an id like that.
        """
        found = self._journal.questions.matching(part)
        if len(found) > 1:
            raise UsageError(f"Several questions of yours have an id like {part!r}.", "Give more of the id.")
        return found[0] if found else None

    def wait(self, row: QuestionRow, on_end: OnEnd) -> None:
        """Call back once when a question has ended and that is committed; after this batch if it has ended already."""
        if row.state == QuestionState.OPEN:
            self._waiting.setdefault(row.id, []).append(on_end)
        else:
            self._callbacks.after_commit(lambda: on_end(row))

    def stop_waiting(self, question_id: str, on_end: OnEnd) -> None:
        """Forget a client that has left."""
        waiting = self._waiting.get(question_id, [])
        if on_end in waiting:
            waiting.remove(on_end)
        if not waiting:
            self._waiting.pop(question_id, None)

    def take_over(self, other: Questions) -> None:
        """Go on for the clients of a node that failed."""
        for question_id, waiting in other._waiting.items():
            row = self.find(question_id)
            if row is not None:
                for on_end in waiting:
                    self.wait(row, on_end)

    def cancel(self, row: QuestionRow) -> None:
        """Withdraw a question.

        Raises:
            BadInput: it has ended already.
        """
        if row.state != QuestionState.OPEN:
            raise BadInput(f"Question {row.id[-8:]} is already {row.state}.", "There is nothing left to cancel.")
        error = Cancelled("You withdrew it.")
        result = Result(QuestionState.CANCELLED, at=self._clock.now(), error=error.as_wire())
        self._end(row, people_from_json(row.people), result, "")

    def on_call_settled(self, sent: OutgoingRow, state: OutgoingState, answer: bytes | None) -> bool:
        """Record the end of a call that asks somebody; return False if the call is no question's."""
        row_id = question_in(sent.origin)
        row = None if row_id is None else self._journal.questions.get(row_id)
        if row is not None and row.state == QuestionState.OPEN:
            self._record(row, sent, state, answer)
        return row_id is not None

    def _record(self, row: QuestionRow, sent: OutgoingRow, state: OutgoingState, answer: bytes | None) -> None:
        """Record the end of a call that asks somebody."""
        wish = Wish.from_json(row.wish)
        result = self._result(sent, state, json.loads(answer or b"{}"), wish)
        people = with_result(people_from_json(row.people), sent.id, result)
        decided = rules.decide(wish, people, self._clock.now())
        if decided is None:
            self._journal.questions.set_people(row.row_id, people_to_json(people), row.due)
        else:
            self._end(row, people, decided, _SETTLED)

    def on_progress(self, peer: str, message_id: str, data: dict[str, Any]) -> None:
        """Record that a question is before the eyes of the human; only the one who was asked may say so."""
        sent = self._journal.outgoing.find(message_id) if data == SHOWN else None
        if sent is not None and question_in(sent.origin) is not None and sent.note != NOTE_SHOWN:
            self._journal.outgoing.set_note(message_id, peer, NOTE_SHOWN)

    def _send(self, row: QuestionRow, person: Person, data: dict[str, Any], source: str) -> None:
        self._messages.send(
            Type.CALL,
            person.user,
            person.endpoint,
            data,
            life_ms=row.expires - self._clock.now(),
            source=source,
            message_id=person.call,
            origin=write_origin(row.row_id),
        )

    def _end(self, row: QuestionRow, people: list[Person], result: Result, why: str) -> None:
        """End a question, and withdraw it from those who have not answered.

        Args:
            row: the question.
            people: those who were asked.
            result: how it ended.
            why: what those are told from whom it is withdrawn; may be empty.
        """
        now = self._clock.now()
        still_open = [person for person in people if person.result.outcome == QuestionState.OPEN and person.call]
        ended = [
            replace(person, result=Result(QuestionState.CANCELLED, at=now))
            if person.result.outcome == QuestionState.OPEN
            else person
            for person in people
        ]
        self._journal.questions.end(row.row_id, result.outcome, result.to_json(), people_to_json(ended), now)
        self._faults.reach("questions.ended")
        for person in still_open:
            self._withdraw(person, why)
        done = self._journal.questions.get(row.row_id)
        for on_end in self._waiting.pop(row.id, ()):
            self._callbacks.after_commit(lambda on_end=on_end: on_end(done))  # type: ignore[misc]

    def _withdraw(self, person: Person, why: str) -> None:
        sent = self._journal.outgoing.find(person.call)
        if sent is None or sent.state not in OPEN_OUTGOING:
            return
        error = strict_json.dumps(Cancelled("You withdrew it.").as_wire())
        if self._outbox.end(sent, OutgoingState.CANCELLED, error):
            expires = max(sent.expires, self._clock.now() + _MIN_CANCEL_LIFETIME_MS)
            data = {"reason": why} if why else {}
            self._outbox.accept(Type.CANCEL, sent.peer, sent.endpoint, data, expires=expires, in_reply_to=sent.id)

    def _result(self, sent: OutgoingRow, state: OutgoingState, content: dict[str, Any], wish: Wish) -> Result:
        """Return what has become of the call that asks somebody.

        Args:
            sent: the call.
            state: its final state.
            content: the data of the reply, or of the error.
            wish: what the asker wants.
        """
        at = self._clock.now()
        if state is OutgoingState.DONE:
            try:
                reply = read_reply(wish.read_form(), content)
            except (BadAnswer, BadInput) as error:
                return Result(QuestionState.FAILED, at=at, by=sent.peer, error=error.as_wire())
            return Result(QuestionState.ANSWERED, reply.value, reply.text, reply.remark, sent.peer, at)
        kind = content.get("kind")
        timed_out = state is OutgoingState.EXPIRED
        if kind == Declined.kind:
            return Result(QuestionState.DECLINED, at=at, by=sent.peer, error=content)
        if state is OutgoingState.CANCELLED:
            return Result(QuestionState.CANCELLED, at=at, error=content)
        if timed_out and kind == DeadlinePassed.kind:
            return Result(QuestionState.EXPIRED, at=at, error=content)
        return Result(QuestionState.FAILED, at=at, error={**content, "timed_out": timed_out})


NOTE_SHOWN = "shown"
"""The note of a call whose question is before the eyes of the human."""


def _check_default(wish: Wish) -> None:
    """Check the value that holds if nobody answers.

    Raises:
        BadInput: it does not fit the form.
    """
    form = wish.read_form()
    for value in wish.default:
        if form is not None:
            try:
                form.check(value)
            except BadInput as error:
                raise BadInput(f"The default does not fit: {error.message}", error.hint) from None
        elif not isinstance(value, str):
            raise BadInput("The default is not a text.", "Give a text, or say what the answer must be.")
    try:
        strict_json.check_numbers(wish.default)
        wish.to_json().encode()
    except (ValueError, RecursionError) as error:
        raise BadInput("The question cannot be written as JSON.", "Use Unicode text and plain values.") from error


def as_error(result: Result) -> P2pflowsError | None:
    """Return why there is no answer; None if there is one, or a default."""
    if result.outcome in (QuestionState.ANSWERED, QuestionState.DEFAULTED, QuestionState.OPEN):
        return None
    return from_peer(result.error)
