"""Admission: decides whether a recorded request may reach its target, and hands it on.

The target is a human, a flow without state, an instance of a class, or the daemon itself.
"""

from __future__ import annotations

import json
from typing import Any

from p2pflows.contacts import Contacts
from p2pflows.errors import BadInput, CallError, Cancelled, NotAllowed, NotServed
from p2pflows.flows.config import merge
from p2pflows.protocol import topics
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.instance_tasks import InstanceMessage
from p2pflows.protocol.message import Message, Type
from p2pflowsd.clock import Clock
from p2pflowsd.human.inbox import Inbox
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, InstanceRow
from p2pflowsd.lifecycle import IncomingState, PromptState
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.receiving import gate
from p2pflowsd.receiving.awaited_files import AwaitedFiles
from p2pflowsd.receiving.claims import ClaimDesk
from p2pflowsd.receiving.limiter import Limiter
from p2pflowsd.receiving.people import People
from p2pflowsd.running.catalog import HUMAN_SCHEMA, Catalog, Served
from p2pflowsd.running.effects import Effects
from p2pflowsd.running.instance_changes import InstanceChanges
from p2pflowsd.running.instances import Change, Instances, Mount, check_stateless, mount_reply, read_change, read_mount
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.points import Points
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.running.task_queue import TaskQueue
from p2pflowsd.running.turns import Turns
from p2pflowsd.running.typed_texts import read_typed
from p2pflowsd.sending.notices import Notices
from p2pflowsd.sending.presence import Followed


class Admission:
    """Admits requests.

    Attributes:
        awaited: the requests that wait for files.
    """

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        contacts: Contacts,
        catalog: Catalog,
        notices: Notices,
        followed: Followed,
        instances: Instances,
        changes: InstanceChanges,
        points: Points,
        leases: Leases,
        queue: TaskQueue,
        effects: Effects,
        settlement: Settlement,
        turns: Turns,
        inbox: Inbox,
        people: People,
        claims: ClaimDesk,
        log: OwnersLog,
        limiter: Limiter,
        awaited: AwaitedFiles,
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._contacts = contacts
        self._catalog = catalog
        self._notices = notices
        self._followed = followed
        self._instances = instances
        self._changes = changes
        self._points = points
        self._leases = leases
        self._queue = queue
        self._effects = effects
        self._settlement = settlement
        self._turns = turns
        self._log = log
        self._inbox = inbox
        self._people = people
        self._claims = claims
        self._limiter = limiter
        self.awaited = awaited
        awaited.on_complete = self._on_complete

    def restore(self) -> None:
        """Count what the journal holds after a restart."""
        self._limiter.restore(self._catalog)

    def admit(self, row: IncomingRow, message: Message) -> None:
        """Admit, hold or refuse a request that is next in its stream."""
        if row.expires <= self._clock.now():
            self._journal.incoming.move(row.row_id, IncomingState.EXPIRED)
            return
        if row.type == Type.CANCEL:
            self._journal.incoming.move(row.row_id, IncomingState.DONE)
            self._withdrawn(row.peer, row.endpoint, message)
            return
        if row.endpoint == topics.INSTANCES:
            self._admit_instance_request(row, message)
            return
        if row.endpoint == topics.INVITE:
            self._people.receive(row, message)
            return
        if row.endpoint == topics.QUESTIONS:
            self._claims.receive(row, message)
            return
        flow = self._catalog.get(row.endpoint)
        if not self._passes(row, row.endpoint, flow):
            return
        if row.endpoint == topics.FLOWS:
            self._settlement.finish(row, self._shown_to(row.peer, message.data))
        elif flow is not None:
            self._hand_on(row, message, flow)

    def _hand_on(self, row: IncomingRow, message: Message, flow: Served) -> None:
        """Hand an admitted request to its human, to an instance, or to a worker, once its files are here."""
        if self.awaited.holds(row, message, flow):
            return
        if flow.kind == "human":
            self._ask(row, message)
            return
        try:
            self._limiter.admit(row, flow)
        except CallError as error:
            self._settlement.fail(row, error)
            return
        if flow.kind == "class":
            try:
                instance = self._instances.find(row, message, flow)
                if self._journal.instances.get(instance) is None:
                    self._changes.ensure_quota(row, flow)
            except CallError as error:
                self._settlement.fail(row, error)
            else:
                data = read_typed(message.data, message.typed, flow.input_schema)
                self._queue.add_first_run(instance, row, flow, message=InstanceMessage(data, message.source or None))
        elif message.instance is not None:
            self._settlement.fail(row, NotAllowed(f"{row.endpoint!r} has no instances.", "Call it without one."))
        else:
            self._queue.add(row, flow, read_typed(message.data, message.typed, flow.input_schema))

    def _on_complete(self, row: IncomingRow) -> None:
        """Admit a request that has waited for files; its sender may have lost the right to it meanwhile."""
        self.admit(row, Message.model_validate_json(self._journal.incoming.body(row.row_id)))

    def _passes(self, row: IncomingRow, endpoint: str, flow: Served | None) -> bool:
        """Return whether a request may reach its endpoint; if not, hold it or end it with an error."""
        match gate.decide(row.peer, endpoint, me=self._user, book=self._contacts.known, served=flow):
            case gate.Verdict.PASS:
                return True
            case gate.Verdict.HOLD:
                self._journal.incoming.move(row.row_id, IncomingState.HELD)
                self._notices.confirm(row.peer, row.id, held=True)
                self._people.wishes.note(row.peer, endpoint)
            case gate.Verdict.NOT_ALLOWED:
                self._settlement.fail(row, gate.refusal(endpoint))
            case _:
                self._settlement.fail(
                    row,
                    NotServed(
                        f"{endpoint!r} is not served.",
                        "See: p2pflows ls" if row.peer == self._user else "See what is: p2pflows ls CONTACT",
                    ),
                )
        return False

    def _admit_instance_request(self, row: IncomingRow, message: Message) -> None:
        """Carry out a request to list, mount, reset or delete instances."""
        data = message.data
        try:
            if data.get("op") == "list":
                rows = self._journal.instances.of(client=row.peer)
                self._settlement.finish(row, {"instances": [self._instances.show(each) for each in rows]})
            elif data.get("op") == "mount":
                self._mount(row, read_mount(data, self._user))
            else:
                change = read_change(data)
                found = self._instances.change(row.peer, change)
                if change.op == "reset":
                    self._reset(row, found, change)
                else:
                    self._changes.delete(found.id, recursive=change.recursive)
                    self._settlement.finish(row, {"instance": found.id})
        except CallError as error:
            self._settlement.fail(row, error)

    def _reset(self, row: IncomingRow, found: InstanceRow, change: Change) -> None:
        """Reset an instance, after the messages that came before."""
        flow = self._catalog.get(found.endpoint)
        before = any(each.state == IncomingState.READY for each in self._journal.incoming.open_of(found.id))
        if before and flow is not None and not flow.parallel:
            self._queue.add_first_run(found.id, row, flow)
        else:
            self._changes.reset(found, recursive=change.recursive)
            self._settlement.finish(row, {"instance": found.id})

    def _mount(self, row: IncomingRow, mount: Mount) -> None:
        flow = self._catalog.get(mount.endpoint)
        if not self._passes(row, mount.endpoint, flow):
            return
        if flow is None:
            raise NotServed(f"{mount.endpoint!r} has no instances.", "See what is served: p2pflows ls CONTACT")
        if flow.kind != "class":
            check_stateless(mount)
            self._settlement.finish(row, mount_reply(flow, None))
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
            if flow.singleton:
                self._check_without_effect(row, mount, found)
            self._settlement.finish(row, mount_reply(flow, instance))
        elif flow.closed:
            raise NotServed(f"{mount.endpoint!r} is not served any more.")
        elif mount.dispatch_point is not None and row.peer != self._user:
            raise NotAllowed("Only its owner says where a flow runs.", "Ask for it without a dispatch point.")
        else:
            self._changes.ensure_quota(row, flow)
            self._queue.add_first_run(instance, row, flow, mount.dispatch_point)

    def _check_without_effect(self, row: IncomingRow, mount: Mount, found: InstanceRow) -> None:
        """Refuse settings for the instance of a singleton that exists; log those that a run asks for.

        Raises:
            BadInput: the instance has other settings, which it keeps.
        """
        kept = json.loads(found.config)
        differs = merge(kept, mount.config_overrides) != kept
        moves = mount.dispatch_point is not None and mount.dispatch_point != found.point
        begins = mount.initial_state is not None and mount.initial_state != json.loads(found.initial or "{}")
        if not (differs or moves or begins):
            return
        text = f"All share one instance of {mount.endpoint!r}. It exists, and keeps its config, state and point."
        sent = self._journal.outgoing.find(row.id)
        if sent is not None and sent.origin is not None:
            self._log.note("ignored", row.peer, mount.endpoint, f"{text} A flow asked for others.")
            return
        raise BadInput(text, f"Ask for it as it is, or delete it first: p2pflows unmount {found.id}")

    def would_hold(self, message: Message) -> bool:
        """Return whether a request would wait for the owner's decision on its sender."""
        endpoint = message.endpoint
        if message.type == Type.CANCEL:
            return False
        if endpoint == topics.INSTANCES:
            named = message.data.get("endpoint")
            if message.data.get("op") != "mount" or not isinstance(named, str):
                return False
            endpoint = named
        verdict = gate.decide(
            message.sender, endpoint, me=self._user, book=self._contacts.known, served=self._catalog.get(endpoint)
        )
        return verdict is gate.Verdict.HOLD

    def release_held(self, user: str) -> int:
        """Admit the held requests of a sender, and return how many there were."""
        rows = self._journal.incoming.held_by(user)
        for row in rows:
            self._notices.confirm(row.peer, row.id)
            self._journal.incoming.move(row.row_id, IncomingState.READY)
            self.admit(row, Message.model_validate_json(self._journal.incoming.body(row.row_id)))
        return len(rows)

    def allow(self, user: str, name: str) -> int:
        """Make an unknown sender a contact, and return how many of their requests go on."""
        self._contacts.add(name, user, introduced_by=self._people.introductions.introducer_of(user))
        self._contacts.reload_if_changed()
        self._followed.add(user)
        return self.let_in(user)

    def deny(self, user: str) -> int:
        """Refuse a sender from now on, and return how many of their requests were refused."""
        self._contacts.block(user)  # first, so that it holds even if the journal fails now
        self._contacts.reload_if_changed()
        self._people.wishes.forget(user)
        self._people.introductions.forget(user)
        rows = self._journal.incoming.held_by(user)
        for row in rows:
            self._settlement.fail(row, NotAllowed("You are not allowed to call this user."))
        return len(rows)

    def release_contacts(self) -> None:
        """Admit the held requests of senders who have become contacts in the meantime, and grant their wishes."""
        for user in self._people.wishes.granted() | (
            self._journal.incoming.held_peers() & self._contacts.known.by_user.keys()
        ):
            self.let_in(user)

    def let_in(self, user: str) -> int:
        """Admit the held requests of a new contact, and return how many there were; without any, tell them."""
        released = self.release_held(user)
        self._people.wishes.grant(user, released)
        self._people.introductions.forget(user)
        return released

    def _ask(self, row: IncomingRow, message: Message) -> None:
        try:
            self._inbox.ask(row, read_typed(message.data, message.typed, HUMAN_SCHEMA), message.source, message.flow)
        except CallError as error:
            self._settlement.fail(row, error)
            return
        self._journal.incoming.move(row.row_id, IncomingState.ASKED)

    def _withdrawn(self, peer: str, endpoint: str, message: Message) -> None:
        """End a request that its sender withdrew in the same stream, unless it has ended already."""
        message_id = message.in_reply_to or ""
        row = self._journal.incoming.find(peer, message_id)
        if row is None or row.endpoint != endpoint:
            return
        if row.endpoint == topics.INSTANCES and row.state == IncomingState.DONE:
            # The instance was mounted for a tree that was abandoned. A singleton is not theirs alone, and stays.
            self._changes.delete(derived_id("mount", peer, message_id), recursive=True)
        if not self._journal.incoming.move(row.row_id, IncomingState.FAILED, Cancelled.kind):
            return
        self._leases.drop(row.row_id)
        self._effects.undo(row.row_id)
        self._turns.touch(row.instance)
        reason = message.data.get("reason")
        self._inbox.withdraw(row.row_id, PromptState.CANCELLED, reason if isinstance(reason, str) else "")

    def _shown_to(self, peer: str, data: dict[str, Any]) -> dict[str, Any]:
        """The answer to a `_flows` request: the flows that a peer may call, or whether it may call one of them."""
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
        return flow is not None and (flow.kind == "human" or self._points.has_workers(flow.dispatch_point))
