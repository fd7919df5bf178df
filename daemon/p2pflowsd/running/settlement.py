"""How a request ends: with a result, with an error, or as a dead letter; its sender hears of each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pflows.errors import BadInput, FileLost, FlowFailed, P2pflowsError, TooLarge
from p2pflows.protocol import topics
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.message import Type
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.running.effects import Effects
from p2pflowsd.running.instances import is_request, requested_endpoint
from p2pflowsd.running.turns import Turns
from p2pflowsd.sending.notices import Notices
from p2pflowsd.sending.outbox import Outbox

ERROR_LIFETIME_MS = 24 * 3_600_000
"""How long an error of a post travels, which has no deadline of its own."""
MAX_ERROR_CHARS = 4_000
_ANSWER_LESS = "Its author can let it answer with less, or with a reference."


class Settlement:
    """Ends requests.

    `user` is the id of the daemon's owner, to whom errors say more than to others.

    `answer_lifetime_ms` returns how long an answer to a user is kept at most; None for as long as they wait for it.
    """

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        outbox: Outbox,
        notices: Notices,
        effects: Effects,
        turns: Turns,
        log: OwnersLog,
        answer_lifetime_ms: Callable[[str], int | None] = lambda _peer: None,
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._outbox = outbox
        self._notices = notices
        self._effects = effects
        self._turns = turns
        self._log = log
        self._answer_lifetime_ms = answer_lifetime_ms

    def finish(self, row: IncomingRow, data: dict[str, Any]) -> None:
        """End a request with its result; a call is answered."""
        self._turns.touch(row.instance)
        if row.type == Type.CALL:
            try:
                self._reply(row, Type.REPLY, data, row.expires)
            except TooLarge as error:
                self.fail(row, FlowFailed(f"The answer is too large. {error.message}", _ANSWER_LESS))
                return
            except FileLost as error:
                self.fail(row, FlowFailed(f"The answer does not arrive. {error.message}", error.hint))
                return
            except BadInput:
                self.fail(row, FlowFailed("The answer cannot be sent as JSON.", "Ask its owner to mend it."))
                return
        self._journal.incoming.move(row.row_id, IncomingState.DONE)

    def fail(self, row: IncomingRow, error: P2pflowsError) -> None:
        """End a request with an error."""
        self._fail(row, IncomingState.FAILED, error)

    def bury(self, row: IncomingRow, error: P2pflowsError) -> None:
        """End a request whose worker died at every attempt; its owner may run it again."""
        again = is_request(row) and row.endpoint != topics.INSTANCES
        self._fail(row, IncomingState.DEAD if again else IncomingState.FAILED, error)

    def fail_unanswerable(self, row_id: int, state: str, error: FlowFailed) -> None:
        """Fail a call if no later run can answer it.

        That is so when no call made for it is open, no answer to such a call is still to be run, and the instance's
        state does not hold the request, which a flow needs to answer it later.

        Args:
            row_id: the row of the call.
            state: the state of its instance.
            error: what its sender reads.
        """
        if self._journal.incoming.state(row_id) != IncomingState.AWAITING_REPLY:
            return
        request = self._journal.incoming.get(row_id)
        if request is None or request.id in state:
            return
        if self._journal.outgoing.has_open_of_root(row_id) or self._journal.incoming.has_answers_for(row_id):
            return
        self.fail(request, error)

    def tell_error(self, row: IncomingRow, error: P2pflowsError) -> None:
        """Send an error to the sender of a request."""
        # Errors of posts have no client waiting at a deadline, so they travel long enough to arrive.
        expires = row.expires if row.type == Type.CALL else self._clock.now() + ERROR_LIFETIME_MS
        if error.details and self._is_from_owner(row):
            error = type(error)(error.details, f"It failed in {requested_endpoint(self._journal, row)!r}.")
        self._reply(row, Type.ERROR, error.as_wire(MAX_ERROR_CHARS), expires)

    def _is_from_owner(self, row: IncomingRow) -> bool:
        """Whether the owner sent a request in person; a run of theirs may pass errors on to its own caller."""
        if row.peer != self._user:
            return False
        sent = self._journal.outgoing.find(row.id)
        return sent is not None and sent.origin is None

    def _fail(self, row: IncomingRow, state: IncomingState, error: P2pflowsError) -> None:
        self._turns.touch(row.instance)
        endpoint = requested_endpoint(self._journal, row)
        if not self._journal.incoming.move(row.row_id, state, error.kind):
            return
        if state is not IncomingState.DEAD:  # a dead letter keeps its records for when it is run again
            self._effects.undo(row.row_id)
        error = _located(error, row, endpoint)
        where = "" if row.instance is None else f" (instance {row.instance[:8]}…)"
        self._log.note(error.kind, row.peer, endpoint, (error.details or error.message) + where)
        if is_request(row):
            self.tell_error(row, error)
            return
        root = None if row.root_request is None else self._journal.incoming.get(row.root_request)
        if root is not None and root.state in (IncomingState.READY, IncomingState.AWAITING_REPLY):
            self.fail(root, error)
        elif (
            root is not None
            and root.type == Type.POST
            and self._journal.incoming.record_failure(root.row_id, error.kind)
        ):
            self.tell_error(root, error)

    def _reply(self, row: IncomingRow, kind: Type, data: dict[str, Any], expires: int) -> None:
        lifetime_ms = self._answer_lifetime_ms(row.peer)
        if lifetime_ms is not None:
            expires = min(expires, self._clock.now() + lifetime_ms)
        self._outbox.accept(
            kind,
            row.peer,
            topics.REPLY,
            data,
            expires=expires,
            conversation=row.conversation,
            in_reply_to=row.id,
            answerer=row.endpoint,
            message_id=id_of_answer(row.peer, row.id) if row.state == IncomingState.ASKED else None,
        )
        self._notices.drop_receipt(row.peer, row.id)


def id_of_answer(peer: str, question_id: str) -> str:
    """Return the id of the message with which this user's human answers a question, or declines it."""
    return derived_id("answer of the human", peer, question_id)


def _located(error: P2pflowsError, row: IncomingRow, endpoint: str) -> P2pflowsError:
    """The error of a flow with a hint that says which flow, and which instance, failed."""
    if not isinstance(error, FlowFailed) or not is_request(row):
        return error
    where = repr(endpoint) if row.instance is None else f"instance {row.instance[:8]}… of {endpoint!r}"
    located = type(error)(error.message, f"It failed in {where}. {error.hint}".strip())
    located.details = error.details
    return located
