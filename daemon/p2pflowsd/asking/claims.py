"""Who says that they are on a question which several people are asked (docs/PROTOCOL.md, section 12).

The first who says so counts, and the others are told. A claim is only for people to see. It decides nothing, and it
ends by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from p2pflows.errors import BadInput
from p2pflows.protocol import topics
from p2pflows.protocol.claims import MAX_CLAIM_MS, Claim
from p2pflows.protocol.message import Type
from p2pflowsd.asking.origin import question_in
from p2pflowsd.asking.question import Person, people_from_json
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import OutgoingRow, QuestionRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, QuestionState
from p2pflowsd.sending.outbox import Outbox

MAX_CLAIMS = 50
"""How often one question may be claimed, so that nobody makes this daemon tell the others again and again."""


@dataclass(frozen=True, slots=True)
class Hops:
    """Finds messages of questions that were passed on.

    Attributes:
        first: returns the message with which a question was asked first.
        last: returns the message that asks it now.
    """

    first: Callable[[OutgoingRow], OutgoingRow]
    last: Callable[[OutgoingRow], OutgoingRow]


class QuestionClaims:
    """Who works on the answers to this user's questions."""

    def __init__(self, *, journal: Journal, clock: Clock, outbox: Outbox, hops: Hops) -> None:
        self._journal = journal
        self._clock = clock
        self._outbox = outbox
        self._hops = hops

    def receive(self, peer: str, claim: Claim) -> None:
        """Take in that somebody works on an answer, or does so no more, and tell the others.

        The first one counts, so who comes second is told who was first.

        Raises:
            BadInput: they were not asked, or are the only one.
        """
        sent = self._journal.outgoing.find(claim.question)
        row_id = None if sent is None or sent.peer != peer else question_in(self._hops.first(sent).origin)
        question = None if row_id is None else self._journal.questions.get(row_id)
        if sent is None or question is None or len(people_from_json(question.people)) == 1:
            raise BadInput("There is no such question.", "See the specification of the protocol.")
        if question.state != QuestionState.OPEN:
            return  # they are told that it is settled
        now = self._clock.now()
        is_theirs = question.claimed_by == peer and question.claimed_until > now
        is_free = question.claimed_until <= now
        if claim.op == "release":
            if is_theirs:
                self._set(question, "", 0, question.claims)
        elif (is_theirs or is_free) and sent.state in OPEN_OUTGOING and question.claims < MAX_CLAIMS:
            until = min(claim.until, question.expires, now + MAX_CLAIM_MS)
            self._set(question, peer, until, question.claims + 1)
        else:
            self._tell(sent, question)

    def tell(self, row_id: int, people: Sequence[Person]) -> None:
        """Tell people who were asked just now who works on the answer, if somebody does."""
        question = self._journal.questions.get(row_id)
        if question is not None and question.claimed_until > self._clock.now():
            self._tell_all(question, people)

    def _set(self, question: QuestionRow, by: str, until: int, claims: int) -> None:
        self._journal.questions.set_claim(question.row_id, by, until, claims)
        told = question._replace(claimed_by=by, claimed_until=until)
        self._tell_all(told, people_from_json(question.people), but=by or question.claimed_by)

    def _tell_all(self, question: QuestionRow, people: Sequence[Person], but: str = "") -> None:
        for person in people:
            sent = self._journal.outgoing.find(person.call) if person.call else None
            asked = None if sent is None else self._hops.last(sent)
            if asked is not None and asked.peer != but and asked.state in OPEN_OUTGOING:
                self._tell(asked, question)

    def _tell(self, asked: OutgoingRow, question: QuestionRow) -> None:
        """Tell somebody who was asked who works on the answer now."""
        if question.claimed_until > self._clock.now():
            claim = Claim(op="claimed", question=asked.id, until=question.claimed_until, by=question.claimed_by)
        else:
            claim = Claim(op="released", question=asked.id)
        expires = claim.until or question.expires
        self._outbox.accept(Type.POST, asked.peer, topics.QUESTIONS, claim.to_data(), expires=expires)
