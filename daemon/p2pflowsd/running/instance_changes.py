"""Deleting and resetting instances, with all that waits for them and the subflows below them."""

from __future__ import annotations

from p2pflows.contacts import Contacts
from p2pflows.errors import FlowFailed
from p2pflows.protocol import topics
from p2pflows.protocol.message import Type
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, InstanceRow
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.effects import POST_LIFETIME_MS, Effects
from p2pflowsd.running.instances import Instances
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.running.turns import Turns
from p2pflowsd.sending.outbox import Outbox

MAX_FORGOTTEN = 100
"""Instances of ended conversations that one pruning deletes."""


class InstanceChanges:
    """Changes to the instances of one user's flows."""

    def __init__(
        self,
        *,
        journal: Journal,
        clock: Clock,
        contacts: Contacts,
        outbox: Outbox,
        leases: Leases,
        effects: Effects,
        settlement: Settlement,
        turns: Turns,
        instances: Instances,
    ) -> None:
        self._journal = journal
        self._clock = clock
        self._contacts = contacts
        self._outbox = outbox
        self._leases = leases
        self._effects = effects
        self._settlement = settlement
        self._turns = turns
        self._instances = instances

    def delete(self, instance: str, *, recursive: bool) -> None:
        """Delete an instance; the requests that wait for it fail.

        Args:
            instance: its id.
            recursive: delete the subflows that were mounted for it alone, too.
        """
        row = self._journal.instances.get(instance)
        waiting = self._journal.incoming.open_of(instance)
        for request in waiting:
            self._leases.drop(request.row_id)
        if row is None:
            return
        self._turns.touch(instance)
        self._journal.instances.remove(row)  # first, so that nothing runs it any more
        gone = FlowFailed(f"The instance of {row.endpoint!r} was deleted.", "Get another with: p2pflows mount ADDRESS")
        for request in waiting:
            self._settlement.fail(request, gone)
        for sent in self._journal.outgoing.of_instance(instance):  # another may have this id one day
            self._effects.withdraw_sent(sent)
        if recursive:
            self._tell_parts(row, "delete")

    def reset(self, row: InstanceRow, *, recursive: bool) -> None:
        """Forget an instance's state, and that of the subflows that were mounted for it alone if recursive."""
        self._journal.instances.reset(row.id)
        self._effects.pin_state(row.id)
        gone = FlowFailed(f"The instance of {row.endpoint!r} was reset before it answered.", "Call it again.")
        for row_id in self._journal.incoming.unanswered_of(row.id):
            self._settlement.fail_unanswerable(row_id, row.initial or "", gone)
        if recursive:
            self._tell_parts(row, "reset")

    def ensure_quota(self, row: IncomingRow, flow: Served) -> None:
        """Make sure that a request may have a new instance; its sender's longest idle conversation may go for it.

        Raises:
            NotAllowed: its sender has as many as one may have.
        """
        idle = self._instances.find_evictable(row.peer, flow, self._contacts.known)
        if idle is not None:
            self.delete(idle, recursive=True)

    def delete_idle(self) -> None:
        """Delete some instances that no message can come for any more."""
        for idle in self._instances.idle(MAX_FORGOTTEN):
            self.delete(idle.id, recursive=True)

    def _tell_parts(self, row: InstanceRow, op: str) -> None:
        """Have the subflows that were mounted for an instance alone deleted or reset, and all below them."""
        for part in self._instances.parts(row):
            data = {"op": op, "instance": part.instance, "recursive": True}
            expires = self._clock.now() + POST_LIFETIME_MS
            self._outbox.accept(Type.POST, part.user, topics.INSTANCES, data, expires=expires)
