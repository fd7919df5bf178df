"""Retrying by hand: runs a dead letter again, or sends a failed message again."""

from __future__ import annotations

from p2pflows import short_ids
from p2pflows.errors import BadInput
from p2pflowsd.asking.origin import question_in
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.lifecycle import IncomingState, OutgoingState
from p2pflowsd.receiving.deadlines import Deadlines
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.settlement import ERROR_LIFETIME_MS
from p2pflowsd.running.task_queue import TaskQueue
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.own_messages import OwnMessages


class Retries:
    """Retries messages that failed for good."""

    def __init__(
        self,
        *,
        journal: Journal,
        clock: Clock,
        outbox: Outbox,
        messages: OwnMessages,
        leases: Leases,
        queue: TaskQueue,
        deadlines: Deadlines,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._outbox = outbox
        self._messages = messages
        self._leases = leases
        self._queue = queue
        self._deadlines = deadlines

    def retry(self, part: str) -> str:
        """Retry a message, and return the id under which it goes on.

        Args:
            part: its id, or the beginning or end of it.

        Raises:
            BadInput: no message, or more than one, has an id like that; or its flow is served no more.
        """
        dead = self._journal.incoming.dead_matching(part)
        unsent = [
            row
            for row in self._outbox.matching(part)
            if row.state in (OutgoingState.FAILED, OutgoingState.EXPIRED) and question_in(row.origin) is None
        ]
        found = [row.id for row in dead] + [row.id for row in unsent]
        if len(found) > 1:
            ids = short_ids.name_all(found)
            raise BadInput(f"Several messages have an id like {part!r}: {ids}.", "Give more of the id.")
        if not found:
            raise BadInput(f"No message that can be retried has an id like {part!r}.", "See: p2pflows outbox")
        if unsent:
            return self._messages.resend(unsent[0])
        request = dead[0]
        task = self._queue.task_of(request)
        if task is None:
            raise BadInput(f"You do not serve {request.endpoint!r} any more.", "Serve it again, then retry.")
        expires = self._clock.now() + ERROR_LIFETIME_MS
        self._journal.incoming.requeue_dead(request.row_id, expires)
        self._deadlines.expect(expires)
        row = request._replace(state=IncomingState.READY, attempts=0, expires=expires)
        self._queue.add_in_turn(task._replace(row=row))
        return request.id
