"""What arrives at the endpoint `_questions`: who works on an answer, and to which part that goes."""

from __future__ import annotations

from p2pflows.errors import BadInput
from p2pflows.protocol.claims import Claim
from p2pflows.protocol.message import Message
from p2pflowsd.asking.claims import QuestionClaims
from p2pflowsd.human.claims import Claims
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.running.settlement import Settlement


class ClaimDesk:
    """Passes claims on: those of people whom we ask, and what our askers say about those of others."""

    def __init__(self, *, own: QuestionClaims, of_prompts: Claims, settlement: Settlement) -> None:
        self._own = own
        self._of_prompts = of_prompts
        self._settlement = settlement

    def receive(self, row: IncomingRow, message: Message) -> None:
        """Take in a request to `_questions`, and end it."""
        try:
            claim = Claim.read(message.data)
        except ValueError:
            error = BadInput("There is no such operation.", "See the specification of the protocol.")
            self._settlement.fail(row, error)
            return
        try:
            part = self._own if claim.op in ("claim", "release") else self._of_prompts
            part.receive(row.peer, claim)
        except BadInput as error:
            self._settlement.fail(row, error)
        else:
            self._settlement.finish(row, {})
