"""What becomes of a request that has its turn: whether it may reach what it is for, and where it waits then.

Requests are for humans, for flows without state, for instances of classes, or to make or change such an instance.
"""

from __future__ import annotations

from typing import Any, Protocol

from p2pflows.contacts import Contacts
from p2pflows.errors import BadInput, CallError, Cancelled, NotAllowed, NotServed, P2pflowsError
from p2pflows.protocol import topics
from p2pflows.protocol.message import Message, Type, derived_id
from p2pflowsd.clock import Clock
from p2pflowsd.human.inbox import Inbox
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, InstanceRow
from p2pflowsd.lifecycle import IncomingState, PromptState
from p2pflowsd.receiving import gate
from p2pflowsd.receiving.intake import Intake
from p2pflowsd.running.catalog import Catalog, Served
from p2pflowsd.running.dispatch import Dispatch
from p2pflowsd.running.instances import Change, Instances, Mount, check_stateless, is_request, read_change, read_mount
from p2pflowsd.running.runs import Runs
from p2pflowsd.sending.notices import Notices


class Owner(Protocol):
    """What a request ends in; called inside a transaction."""

    def finished(self, row: IncomingRow, data: dict[str, Any]) -> None:
        """A request has its answer."""

    def failed(self, row: IncomingRow, error: P2pflowsError) -> None:
        """A request has ended in an error."""

    def delete_instance(self, instance: str, *, recursive: bool) -> None:
        """Forget an instance; what waits for it fails."""


class Admission:
    """Lets requests in, each to where it belongs."""

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        contacts: Contacts,
        catalog: Catalog,
        notices: Notices,
        instances: Instances,
        runs: Runs,
        inbox: Inbox,
        dispatch: Dispatch,
        intake: Intake,
        owner: Owner,
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._contacts = contacts
        self._catalog = catalog
        self._notices = notices
        self._instances = instances
        self._runs = runs
        self._inbox = inbox
        self._dispatch = dispatch
        self._intake = intake
        self._owner = owner

    def admit(self, row: IncomingRow, message: Message) -> None:
        """A request has its turn: decide what becomes of it."""
        if row.expires <= self._clock.now():
            self._journal.incoming.move(row.row_id, IncomingState.EXPIRED)
            return
        if row.type == Type.CANCEL:
            self._journal.incoming.move(row.row_id, IncomingState.DONE)
            self._withdrawn(row.peer, message.in_reply_to or "")
            return
        if row.endpoint == topics.INSTANCES:
            self._admit_instance_request(row, message)
            return
        flow = self._catalog.get(row.endpoint)
        if not self._passes(row, row.endpoint, flow):
            return
        if row.endpoint == topics.FLOWS:
            self._owner.finished(row, self._shown_to(row.peer, message.data))
        elif flow is not None:
            self._hand_on(row, message, flow)

    def _hand_on(self, row: IncomingRow, message: Message, flow: Served) -> None:
        """A request may reach its flow: a human, an instance of a class, or a worker at once."""
        if flow.kind == "human":
            self._ask(row, message)
        elif flow.kind == "class":
            try:
                instance = self._instances.find(row, message, flow)
                if self._journal.instances.get(instance) is None:
                    self.ensure_quota(row, flow)
            except CallError as error:
                self._owner.failed(row, error)
            else:
                self._queue_for(instance, row, flow)
        elif message.instance is not None:
            self._owner.failed(row, NotAllowed(f"{row.endpoint!r} has no instances.", "Call it without one."))
        elif not self._dispatch.add(row, flow, message.data):
            self._notices.received(row.peer, row.id, waiting=True)

    def _passes(self, row: IncomingRow, endpoint: str, flow: Served | None) -> bool:
        """Whether a request may reach what it is for; if not, it has been dealt with."""
        match gate.decide(row.peer, endpoint, me=self._user, book=self._contacts.known, served=flow):
            case gate.Verdict.PASS:
                return True
            case gate.Verdict.HOLD:
                self._intake.held()
                self._journal.incoming.move(row.row_id, IncomingState.HELD)
                self._notices.received(row.peer, row.id, held=True)
            case gate.Verdict.NOT_ALLOWED:
                self._owner.failed(row, NotAllowed(f"They do not let you call {endpoint!r}.", "Ask them to allow you."))
            case _:
                self._owner.failed(
                    row, NotServed(f"They do not serve {endpoint!r}.", "See what they serve with: p2pflows ls CONTACT")
                )
        return False

    def _admit_instance_request(self, row: IncomingRow, message: Message) -> None:
        """Somebody wants an instance of a flow, or something done with one of theirs."""
        data = message.data
        try:
            if data.get("op") == "list":
                rows = self._journal.instances.of(client=row.peer)
                self._owner.finished(row, {"instances": [self._instances.show(each) for each in rows]})
            elif data.get("op") == "mount":
                self._mount(row, read_mount(data, self._user))
            else:
                change = read_change(data)
                found = self._instances.change(row.peer, change)
                if change.op == "reset":
                    self._reset(row, found, change)
                else:
                    self._owner.delete_instance(found.id, recursive=change.recursive)
                    self._owner.finished(row, {"instance": found.id})
        except CallError as error:
            self._owner.failed(row, error)

    def _reset(self, row: IncomingRow, found: InstanceRow, change: Change) -> None:
        """Reset an instance, behind the messages that came before."""
        flow = self._catalog.get(found.endpoint)
        before = any(each.state == IncomingState.READY for each in self._journal.incoming.open_of(found.id))
        if before and flow is not None and not flow.parallel:
            self._queue_for(found.id, row, flow)
        else:
            self._runs.reset(found, recursive=change.recursive)
            self._owner.finished(row, {"instance": found.id})

    def _mount(self, row: IncomingRow, mount: Mount) -> None:
        flow = self._catalog.get(mount.endpoint)
        if not self._passes(row, mount.endpoint, flow) or flow is None:
            return
        if flow.kind != "class":
            check_stateless(mount)
            self._owner.finished(row, self._runs.mounted(flow, None))
            return
        if flow.singleton and row.peer != self._user and (mount.config_overrides or mount.initial_state is not None):
            raise NotAllowed(
                f"All share one instance of {mount.endpoint!r}, so only its owner says how it begins.",
                "Ask for it without overrides and without a state.",
            )
        instance = self._instances.asked_for(row, flow)
        found = self._journal.instances.get(instance)
        if found is not None:
            self._instances.check_circle(found, mount.path)
            self._owner.finished(row, self._runs.mounted(flow, instance))
        elif flow.closed:
            raise NotServed(f"They do not serve {mount.endpoint!r} any more.")
        elif mount.dispatch_point is not None and row.peer != self._user:
            raise NotAllowed("Only its owner says where a flow runs.", "Ask for it without a dispatch point.")
        else:
            self.ensure_quota(row, flow)
            point = mount.dispatch_point or flow.dispatch_point
            self._queue_for(instance, row, flow.model_copy(update={"dispatch_point": point}))

    def _queue_for(self, instance: str, row: IncomingRow, flow: Served) -> None:
        self._journal.incoming.set_instance(row.row_id, instance)
        self.queue(row._replace(instance=instance), flow)

    def queue(self, row: IncomingRow, flow: Served) -> None:
        """Queue a run of an instance for a worker."""
        found = self._journal.instances.get(row.instance or "")
        if found is not None and found.point is not None:
            flow = flow.model_copy(update={"dispatch_point": found.point})
        flow = flow.model_copy(update={"first": found is None})
        if not self._dispatch.add(row, flow) and is_request(row):
            self._notices.received(row.peer, row.id, waiting=True)

    def ensure_quota(self, row: IncomingRow, flow: Served) -> None:
        """Let a request have a new instance; its sender's conversation that was idle for longest may go for it.

        Raises:
            NotAllowed: its sender has as many as one may have.
        """
        idle = self._instances.find_evictable(row.peer, flow, self._contacts.known)
        if idle is not None:
            self._owner.delete_instance(idle.id, recursive=True)

    def release_waiting(self, instance: str, flow: Served) -> None:
        """What waited for an instance to be mounted may run side by side now, if it is."""
        for row in self._journal.incoming.open_of(instance) if self._journal.instances.get(instance) else ():
            if self._dispatch.endpoint_of(row.row_id) is not None:
                self._dispatch.drop(row.row_id)
                self.queue(row, flow)

    def flow_of(self, row: IncomingRow) -> Served | None:
        """What is to run a request that waited before a restart."""
        instance = None if row.instance is None else self._journal.instances.get(row.instance)
        point = None if instance is None else instance.point
        if row.endpoint == topics.INSTANCES:
            data = self._journal.incoming.data(row.row_id)
            if data.get("op") == "mount":
                mount = read_mount(data, self._user)
                flow, point = self._catalog.get(mount.endpoint), mount.dispatch_point
            else:
                flow = None if instance is None else self._catalog.get(instance.endpoint)
        else:
            flow = self._catalog.get(row.endpoint)
        if flow is None:
            return None
        first = row.instance is not None and instance is None
        return flow.model_copy(update={"dispatch_point": point or flow.dispatch_point, "first": first})

    def wanted(self, row: IncomingRow) -> str:
        """The endpoint that a request is about, be it for an instance of it."""
        if row.endpoint != topics.INSTANCES:
            return row.endpoint
        data = self._journal.incoming.data(row.row_id)
        endpoint = data.get("endpoint")
        is_mount = data.get("op") == "mount" and isinstance(endpoint, str) and topics.is_name(endpoint)
        return str(endpoint) if is_mount else row.endpoint

    def release_held(self, user: str) -> int:
        """Let in what a sender's requests have waited for; gives how many those were."""
        rows = self._journal.incoming.held_by(user)
        for row in rows:
            self._intake.released()
            self._notices.received(row.peer, row.id)
            self._journal.incoming.move(row.row_id, IncomingState.READY)
            self.admit(row, Message.model_validate_json(self._journal.incoming.body(row.row_id)))
        return len(rows)

    def _ask(self, row: IncomingRow, message: Message) -> None:
        try:
            self._inbox.ask(row, message.data, message.source)
        except BadInput as error:
            self._owner.failed(row, error)
            return
        self._journal.incoming.move(row.row_id, IncomingState.ASKED)

    def _withdrawn(self, peer: str, message_id: str) -> None:
        """A sender withdrew a request; what has its end already keeps it."""
        row = self._journal.incoming.find(peer, message_id)
        if row is not None and row.endpoint == topics.INSTANCES and row.state == IncomingState.DONE:
            # What was mounted for a tree that did not come about; that of a singleton is not theirs alone, and stays.
            self._owner.delete_instance(derived_id("mount", peer, message_id), recursive=True)
        if row is None or not self._journal.incoming.move(row.row_id, IncomingState.FAILED, Cancelled.kind):
            return
        self._dispatch.drop(row.row_id)
        self._runs.undo(row.row_id)
        self._inbox.withdraw(row.row_id, PromptState.CANCELLED)
        if row.state == IncomingState.HELD:
            self._intake.released()

    def _shown_to(self, peer: str, data: dict[str, Any]) -> dict[str, Any]:
        """What a peer may know of the served flows: those it may call, or whether it may call one."""
        book = self._contacts.known
        may = {
            flow.endpoint: flow for flow in self._catalog.all() if gate.may_call(peer, flow, me=self._user, book=book)
        }
        endpoint = data.get("endpoint")
        if not isinstance(endpoint, str):
            return {"flows": [flow.as_shown() for flow in may.values()]}
        trusted = peer == self._user or peer in book.by_user
        served = endpoint in may or (trusted and self._catalog.get(endpoint) is not None)
        shown = may[endpoint].as_shown() if endpoint in may else {}
        return {"served": served, "allowed": endpoint in may, "workers": self._has_workers(may.get(endpoint)), **shown}

    def _has_workers(self, flow: Served | None) -> bool:
        return flow is not None and (flow.kind == "human" or self._dispatch.has_workers(flow.dispatch_point))
