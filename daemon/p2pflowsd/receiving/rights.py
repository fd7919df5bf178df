"""Rights of what already waits: they are looked at again when they may have ended, and when a task is about to run.

Admission decides when a request arrives. Contacts and allow rules change afterwards, so a request that was let in may
wait as a task, as a question, for its turn, or behind a gap, for a sender who has lost the right to it. Whatever may
have lost its right is reviewed in slices, so that no batch takes long; until then `may_run` stops what would start, and
`shows` hides questions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from itertools import filterfalse

from p2pflows.contacts import Contacts
from p2pflows.protocol import topics
from p2pflowsd.human.inbox import Inbox
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, PromptRow
from p2pflowsd.lifecycle import OPEN_INCOMING, IncomingState, PromptState
from p2pflowsd.receiving import gate
from p2pflowsd.receiving.blocked import BlockedRequests
from p2pflowsd.running.catalog import Catalog, Served
from p2pflowsd.running.instances import is_request, requested_endpoint
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.running.task import Task

MAX_REVIEWED = 50
"""How many requests one batch reviews."""
_AWAITS_DECISION = frozenset({IncomingState.HELD, IncomingState.BLOCKED})
"""The states in which requests of strangers rest, and have no effect."""


class Rights:
    """Ends requests whose senders may not make them any more."""

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        contacts: Contacts,
        catalog: Catalog,
        leases: Leases,
        settlement: Settlement,
        blocked: BlockedRequests,
        inbox: Inbox,
        end_unserved: Callable[[IncomingRow, str], None],
    ) -> None:
        self._user = user
        self._journal = journal
        self._contacts = contacts
        self._catalog = catalog
        self._leases = leases
        self._settlement = settlement
        self._blocked = blocked
        self._inbox = inbox
        self._end_unserved = end_unserved
        self._book = contacts.known
        self._to_review: deque[tuple[int, bool]] = deque()
        """Row ids of requests, each with whether its sender has just lost their standing."""

    @property
    def is_reviewing(self) -> bool:
        """Whether requests are left for the next batch to review."""
        return bool(self._to_review)

    def review_all(self) -> None:
        """Review the requests of all users: a rule may have changed, or contacts while the daemon was down."""
        self._review(self._journal.incoming.open_peers() - {self._user}, is_ended=False)

    def enforce(self) -> None:
        """Review some of what may have lost its right; called in each batch, before anything runs."""
        book, before = self._contacts.known, self._book
        if book is not before:
            self._book = book
            is_same = book.names is before.names
            removed = set() if is_same else set(filterfalse(book.by_user.__contains__, before.by_user))
            self._catalog.note_contacts(book)
            self._review((removed | (book.blocked - before.blocked)) - {self._user}, is_ended=True)
        for _ in range(min(MAX_REVIEWED, len(self._to_review))):
            row_id, is_ended = self._to_review.popleft()
            row = self._journal.incoming.get(row_id)
            if row is not None and row.state in OPEN_INCOMING and is_request(row):
                self._look_at(row, is_ended=is_ended)

    def may_run(self, task: Task) -> bool:
        """Return whether a task may run now; if its flow is not served or its sender lost the right to it, it ends."""
        row = task.row
        flow = self._catalog.get(task.flow.endpoint)
        if flow is None:
            self._end_unserved(row, task.flow.endpoint)
            return False
        if not is_request(row) or gate.may_call(row.peer, flow, me=self._user, book=self._contacts.known):
            return True
        self._end(row, flow.endpoint)
        return False

    def shows(self, prompt: PromptRow) -> bool:
        """Return whether a question may be shown to the human: its sender must still have the right to ask."""
        flow, book = self._catalog.get(prompt.endpoint), self._contacts.known
        if flow is None:  # it was unserved since; what was asked before stays
            return prompt.peer == self._user or (prompt.peer in book.by_user and prompt.peer not in book.blocked)
        return gate.may_call(prompt.peer, flow, me=self._user, book=book)

    def _review(self, users: set[str], *, is_ended: bool) -> None:
        for user in sorted(users):
            self._to_review += ((row_id, is_ended) for row_id in self._journal.incoming.open_of_peer(user))

    def _look_at(self, row: IncomingRow, *, is_ended: bool) -> None:
        """End a request if no rule lets its sender make it any more.

        A request of a stranger that awaits the owner's decision may go on waiting, unless its sender was a contact
        until now, or is denied.
        """
        endpoint, flow = self._target(row)
        match gate.decide(row.peer, endpoint, me=self._user, book=self._contacts.known, served=flow):
            case gate.Verdict.PASS | gate.Verdict.NOT_SERVED:
                return
            case gate.Verdict.HOLD if not is_ended and row.state in _AWAITS_DECISION:
                return
        self._end(row, endpoint)

    def _target(self, row: IncomingRow) -> tuple[str, Served | None]:
        """The endpoint that a request is about, and what is served there."""
        endpoint = requested_endpoint(self._journal, row)
        if endpoint == topics.INSTANCES:
            found = self._journal.instances.get(row.instance or "")
            endpoint = endpoint if found is None else found.endpoint
        return endpoint, self._catalog.get(endpoint)

    def _end(self, row: IncomingRow, endpoint: str) -> None:
        """End a request in whatever state it is, with `not_allowed` for its sender."""
        self._leases.drop(row.row_id)
        self._inbox.withdraw(row.row_id, PromptState.CANCELLED)
        if row.state == IncomingState.BLOCKED:
            self._journal.incoming.move(row.row_id, IncomingState.READY)
            self._blocked.remove(row.peer, row.endpoint)
        self._settlement.fail(row, gate.refusal(endpoint))
