"""The questions of this user: asked, decided once, kept until they are cleared.

What a question is and what has become of it is in the journal, in the same transaction as the messages of it, so a
daemon that starts again goes on. A question has one outcome; whatever comes after it changes nothing.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

from p2pflows.errors import (
    BadAnswer,
    BadInput,
    CallError,
    Cancelled,
    DeadlinePassed,
    Declined,
    Delegated,
    NotAllowed,
    P2pflowsError,
    TooLarge,
    UsageError,
    from_peer,
)
from p2pflows.forms.wire import ATTACHED, SHOWN, SNOOZED, read_reply, with_form
from p2pflows.protocol import strict_json
from p2pflows.protocol.claims import ASKED_OF
from p2pflows.protocol.ids import derived_id, new_id
from p2pflows.protocol.message import Type
from p2pflowsd.asking import rules
from p2pflowsd.asking.claims import Hops, QuestionClaims
from p2pflowsd.asking.origin import question_in, write_origin
from p2pflowsd.asking.question import Need, Person, Result, Wish, people_from_json, people_to_json, with_result
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.faults import Faults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import OutgoingRow, QuestionRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState, QuestionState
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.own_messages import OwnMessages

MAX_TEXT_BYTES = 100_000
MAX_PEOPLE = 50
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
    """The questions that this user asks.

    Attributes:
        claims: who works on their answers.
    """

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
        hops: Hops,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._entropy = entropy
        self._faults = faults
        self._outbox = outbox
        self._messages = messages
        self._callbacks = callbacks
        self.claims = QuestionClaims(journal=journal, clock=clock, outbox=outbox, hops=hops)
        self._waiting: dict[str, list[OnEnd]] = {}
        self._next_due: int | None = journal.questions.next_due()
        """When something is to be done for a question, in milliseconds since the Unix epoch."""

    def ask(self, text: str, people: Sequence[Answerer], wish: Wish, question_id: str = "") -> str:
        """Ask people, and return the id of the question.

        Args:
            text: the question.
            people: whom to ask.
            wish: what else the asker wants.
            question_id: a new id; if a question has it already, this is a repetition, which asks nobody.

        Raises:
            BadInput: the text is empty, the form cannot be shown, or the default does not fit it.
            UsageError: a message has the id.
            NotAllowed: too many questions are open.
            CallError: a message to one of the people cannot be sent; see `Outbox.accept`.
        """
        if question_id and self._journal.questions.matching(question_id):
            return question_id
        if question_id and self._journal.outgoing.find(question_id) is not None:
            raise UsageError("A message of yours has this id.", "Leave the id out.")
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
        everybody = _check_people(people, wish)
        for answerer in everybody:
            self._outbox.check(answerer.user, answerer.endpoint, _data(text, wish, len(everybody)))
        now = self._clock.now()
        start = max(wish.start, now)
        row = QuestionRow(
            row_id=0,
            id=question_id or new_id(now, self._entropy(10)),
            text=text,
            wish=wish.to_json(),
            people="[]",
            created=now,
            expires=start + wish.life_ms,
            due=None,
            state=QuestionState.OPEN,
            result=None,
            ended=None,
        )
        row = row._replace(row_id=self._journal.questions.add(row))
        asked = [Person(answerer.user, answerer.endpoint) for answerer in dict.fromkeys(people)]
        if start > now:
            self._set_people(row, asked, start)
        else:
            self._decide(row, wish, self._send_to(row, wish, asked), _next_due(row, wish, 0))
        self._faults.reach("questions.asked")
        return row.id

    def tick(self) -> None:
        """Do what is due: ask those who are to be asked now."""
        now = self._clock.now()
        if self._next_due is None or self._next_due > now:
            return
        for row in self._journal.questions.due(now):
            people, wish = people_from_json(row.people), Wish.from_json(row.wish)
            if row.expires > now:
                self._go_on(row, wish, people)
            elif any(person.call for person in people):  # the ends of the calls end it
                self._set_people(row, people, None)
            else:
                result = Result(QuestionState.EXPIRED, at=now, error=rules.expired().as_wire())
                self._end(row, people, rules.with_default(wish, result, now), "")
        self._next_due = self._journal.questions.next_due()

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
        self._decide(row, wish, people, row.due)

    def _decide(self, row: QuestionRow, wish: Wish, people: list[Person], due: int | None) -> None:
        """End a question if what has become of those who were asked decides it; else store that, or ask others.

        Args:
            row: the question.
            wish: what the asker wants.
            people: those who were asked.
            due: when others are asked.
        """
        now = self._clock.now()
        may_ask_more = _step_of(people) < len(wish.steps) and row.expires > now
        decided = rules.decide(wish, people, now, may_ask_more=may_ask_more)
        if decided is not None:
            self._end(row, people, decided, _SETTLED)
        elif may_ask_more and all(person.result.outcome != QuestionState.OPEN for person in people):
            self._go_on(row, wish, people)
        else:
            self._set_people(row, people, due)

    def _go_on(self, row: QuestionRow, wish: Wish, people: list[Person]) -> None:
        """Ask those of the next step, or those of the first one if nobody was asked yet."""
        if all(not person.call for person in people):
            self._decide(row, wish, self._send_to(row, wish, people), _next_due(row, wish, 0))
            return
        step = _step_of(people) + 1
        more = [Person(user, endpoint, step=step) for user, endpoint in wish.steps[step - 1]["people"]]
        asked = self._send_to(row, wish, more, len(people))
        self.claims.tell(row.row_id, asked)
        self._decide(row, wish, [*people, *asked], _next_due(row, wish, step))

    def _set_people(self, row: QuestionRow, people: Sequence[Person], due: int | None) -> None:
        self._journal.questions.set_people(row.row_id, people_to_json(people), due)
        if due is not None and (self._next_due is None or due < self._next_due):
            self._next_due = due

    def on_progress(self, sent: OutgoingRow, data: dict[str, Any]) -> None:
        """Record that the one who was asked a question sees it, or has put it off."""
        note = _note_in(data)
        if note and question_in(sent.origin) is not None and sent.note != note:
            self._journal.outgoing.set_note(sent.id, sent.peer, note)

    def _send_to(self, row: QuestionRow, wish: Wish, people: Sequence[Person], before: int = 0) -> list[Person]:
        """Send a question to some people, and return them with the ids of the messages.

        If one person alone is asked, the message has the id of the question.

        Args:
            row: the question.
            wish: what the asker wants.
            people: whom to ask.
            before: how many were asked before.
        """
        now = self._clock.now()
        data = _data(row.text, wish, before + len(people))
        is_alone = len(people) == 1 and people[0].step == 0
        sent = []
        for person in people:
            call = row.id if is_alone else new_id(now, self._entropy(10))
            try:
                self._messages.send(
                    Type.CALL,
                    person.user,
                    person.endpoint,
                    data,
                    life_ms=row.expires - now,
                    source=wish.source,
                    message_id=call,
                    origin=write_origin(row.row_id),
                )
            except CallError as error:  # the broker takes less than when it was checked
                sent.append(
                    replace(person, call=call, result=Result(QuestionState.FAILED, at=now, error=error.as_wire()))
                )
            else:
                sent.append(replace(person, call=call))
        return sent

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

    def _answerer(self, sent: OutgoingRow) -> str:
        """Return the user whose answer ended a call: the one who was asked, or the last to whom it was passed on."""
        delegate = self._journal.lines.delegate_of(sent.id)
        if delegate is None:
            return sent.peer
        follower = self._journal.outgoing.find(derived_id("delegated", sent.id, delegate[0]))
        return delegate[0] if follower is None else self._answerer(follower)

    def _result(self, sent: OutgoingRow, state: OutgoingState, content: dict[str, Any], wish: Wish) -> Result:
        """Return what has become of the call that asks somebody.

        Args:
            sent: the call.
            state: its final state.
            content: the data of the reply, or of the error.
            wish: what the asker wants.
        """
        at, by = self._clock.now(), self._answerer(sent)
        if state is OutgoingState.DONE:
            try:
                reply = read_reply(wish.read_form(), content)
            except (BadAnswer, BadInput) as error:
                return Result(QuestionState.FAILED, at=at, by=by, error=error.as_wire())
            return Result(QuestionState.ANSWERED, reply.value, reply.text, reply.remark, by, at, files=reply.files)
        kind = content.get("kind")
        timed_out = state is OutgoingState.EXPIRED
        if kind in (Declined.kind, Delegated.kind):
            return Result(QuestionState(kind), at=at, by=by, error=content)
        if state is OutgoingState.CANCELLED:
            return Result(QuestionState.CANCELLED, at=at, error=content)
        if timed_out and kind == DeadlinePassed.kind:
            return Result(QuestionState.EXPIRED, at=at, error=content)
        return Result(QuestionState.FAILED, at=at, error={**content, "timed_out": timed_out})


NOTE_SHOWN = "shown"
"""The note of a call whose question is before the eyes of the human."""
NOTE_SNOOZED = "snoozed "
"""The note of a call whose question the human has put off, before the time until which, in milliseconds."""
MAX_TIME_MS = 253_402_300_799_000
"""The last time that RFC 3339 can write."""


def _note_in(data: dict[str, Any]) -> str:
    """Return what progress says of a question, as it is stored; empty if it says nothing of that kind."""
    until = data.get("until")
    if data == SHOWN:
        return NOTE_SHOWN
    if data.get("human") == SNOOZED and type(until) is int and 0 < until <= MAX_TIME_MS:
        return f"{NOTE_SNOOZED}{until}"
    return ""


def _data(text: str, wish: Wish, count: int) -> dict[str, Any]:
    """Return the data of a call that asks somebody.

    Args:
        text: the question.
        wish: what the asker wants.
        count: how many are asked.
    """
    data = with_form({"api_output": text}, wish.read_form())
    data |= {ATTACHED: wish.files} if wish.files else {}
    may_be_claimed = count > 1 and wish.need in (Need.FIRST, Need.QUORUM)
    return {**data, ASKED_OF: count} if may_be_claimed else data


def _step_of(people: Sequence[Person]) -> int:
    """Return the last step whose people were asked."""
    return max((person.step for person in people), default=0)


def _next_due(row: QuestionRow, wish: Wish, step: int) -> int | None:
    """Return when others are asked after a step; None if nobody is."""
    if step >= len(wish.steps):
        return None
    return row.expires - wish.life_ms + int(wish.steps[step]["after_ms"])


def _check_people(people: Sequence[Answerer], wish: Wish) -> list[Answerer]:
    """Return everybody who is or may be asked.

    Raises:
        BadInput: there is nobody, there are too many, or what is wanted of them makes no sense.
    """
    everybody = [*people, *(Answerer(*each) for step in wish.steps for each in step["people"])]
    count = len(set(people))
    if not all([people, *(step["people"] for step in wish.steps)]) or len(everybody) > MAX_PEOPLE:
        raise BadInput(f"A question goes to 1 to {MAX_PEOPLE} people.", "Name them, or a group of them.")
    if wish.steps and len(set(everybody)) < len(everybody):
        raise BadInput("Somebody is to be asked twice.", "Name everybody once.")
    if wish.need == Need.QUORUM and not 1 <= wish.quorum <= count:
        raise BadInput(f"{wish.quorum} of {count} people cannot agree.", "Ask more people, or let fewer decide.")
    if wish.need != Need.FIRST and wish.steps:
        raise BadInput("Others are asked only where the first answer counts.", "Leave out who is asked later.")
    if wish.need == Need.ALL and wish.default:
        raise BadInput("A default takes the place of one answer, not of several.", "Leave it out.")
    times = [0, *(step["after_ms"] for step in wish.steps), wish.life_ms]
    if any(later <= earlier for earlier, later in pairwise(times)):
        raise BadInput(
            "Others are to be asked after the question's end, or not in order.", "Give the question a longer timeout."
        )
    return everybody


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
