"""The heart of the daemon: a deterministic step from what has arrived to what is kept and sent.

`turn` takes a batch of deliveries and requests, records all of it in one transaction, and only then lets anything leave
(group commit). Time, randomness, the broker link and crash points are passed in, so the simulator runs this same code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from p2pflows.contacts import Contacts
from p2pflows.errors import (
    BadInput,
    CallError,
    Cancelled,
    DeadlinePassed,
    FlowFailed,
    NotAllowed,
    NotServed,
    NoWorker,
    P2pflowsError,
    TooLarge,
    UnknownUser,
    Unreachable,
)
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.envelope import Envelope
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.message import MAX_PROGRESS_BYTES, Message, Type
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.faults import Faults
from p2pflowsd.human.inbox import MIN_ID_CHARS, Inbox
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, OutgoingRow, PromptRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, IncomingState, OutgoingState, PromptState
from p2pflowsd.link import Delivery, Link
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.receiving.admission import Admission
from p2pflowsd.receiving.intake import Intake
from p2pflowsd.running.catalog import ANYONE, Catalog, Served
from p2pflowsd.running.dispatch import Dispatch
from p2pflowsd.running.instances import Instances, is_request
from p2pflowsd.running.runs import Runs
from p2pflowsd.sending import presence
from p2pflowsd.sending.notices import Notices
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.presence import Presence

TICK_S = 0.5
PRUNE_INTERVAL_S = 60.0
MAX_FLOWS_ON_CARD = 500
ERROR_LIFETIME_MS = 24 * 3_600_000
COMMIT_DELAY_S = 0.02
"""Seconds that a commit waits for company when nobody is to be told anything."""
MAX_UNACKNOWLEDGED = 50
"""Deliveries that may wait for a commit; brokers send only so many ahead of our PUBACK."""

MAX_ERROR_CHARS = 4_000
MAX_FORGOTTEN = 100
"""Instances of ended conversations that one pruning forgets."""

Ended = Callable[[OutgoingState, bytes | None], None]


@dataclass(slots=True)
class Request:
    """Something asked over the control socket, to be done inside a turn.

    Attributes:
        run: does it, inside the transaction.
        done: told the result, or the error, after the commit.
    """

    run: Callable[[], Any]
    done: Callable[[Any], None]
    result: Any = None


class Node:
    """One user's daemon, without its sockets."""

    def __init__(
        self,
        *,
        identity: Identity,
        journal: Journal,
        contacts: Contacts,
        link: Link,
        clock: Clock,
        entropy: Entropy,
        faults: Faults,
        on_prompt: Callable[[dict[str, Any]], None] = lambda _prompt: None,
    ) -> None:
        self.user = identity.user_id
        self.identity = identity
        self.journal = journal
        self.contacts = contacts
        self.clock = clock
        self._link = link
        self._faults = faults
        self._on_prompt = on_prompt
        self.boot = max(clock.now(), int(journal.meta.get("boot") or 0) + 1)
        with journal.transaction():
            journal.meta.set("boot", str(self.boot))
        envelope = Envelope(identity)
        self.presence_of = Presence(identity, self.boot)
        self.catalog = Catalog(journal)
        self.notices = Notices(journal, clock)
        self.outbox = Outbox(
            user=self.user,
            envelope=envelope,
            journal=journal,
            link=link,
            clock=clock,
            entropy=entropy,
            faults=faults,
            ended=self._sent_ended,
            concluded=self._sent_concluded,
        )
        self.instances = Instances(user=self.user, journal=journal, clock=clock)
        self.runs = Runs(
            user=self.user,
            journal=journal,
            clock=clock,
            faults=faults,
            outbox=self.outbox,
            instances=self.instances,
            owner=self,
        )
        self.inbox = Inbox(
            user=self.user,
            journal=journal,
            contacts=contacts,
            clock=clock,
            finish=self.finished,
            fail=self.failed,
            changed=self._prompt_changed,
        )
        self.dispatch = Dispatch(
            identity=identity,
            journal=journal,
            link=link,
            clock=clock,
            faults=faults,
            boot=self.boot,
            owner=self,
            name_of=self.name_of,
        )
        self.intake = Intake(
            user=self.user,
            envelope=envelope,
            journal=journal,
            contacts=contacts,
            clock=clock,
            outbox=self.outbox,
            notices=self.notices,
            owner=self,
        )
        self.admission = Admission(
            user=self.user,
            journal=journal,
            clock=clock,
            contacts=contacts,
            catalog=self.catalog,
            notices=self.notices,
            instances=self.instances,
            runs=self.runs,
            inbox=self.inbox,
            dispatch=self.dispatch,
            intake=self.intake,
            owner=self,
        )
        contacts.reload_if_changed()
        self._log = OwnersLog(journal, clock, self.name_of)
        self._waiters: dict[str, list[Ended]] = {}
        self._listeners: dict[str, Callable[[dict[str, Any]], None]] = {}
        self._after: list[Callable[[], None]] = []
        self._answered: list[Callable[[], None]] = []
        self._unacknowledged: list[Delivery] = []
        self._commit_by: float | None = None
        self._watched: set[str] = set()
        self._next_tick = 0.0
        self._next_prune = clock.elapsed() + PRUNE_INTERVAL_S
        self._restore()

    # The step.

    def process_batch(self, deliveries: Sequence[Delivery], requests: Sequence[Request] = ()) -> None:
        """Record everything that has arrived, commit once, then speak.

        With nothing to say to anybody yet, the commit waits a moment for company. Two may hear before it: our own
        workers, as code may run again anyway and its effects are kept once; and our own callers, as an answer comes
        again until we confirm it.

        Raises:
            JournalError: nothing since the last commit was kept, and this object must not be used any more.
        """
        elapsed = self.clock.elapsed()
        ticks = elapsed >= self._next_tick
        self.contacts.reload_if_changed()
        self._unacknowledged += deliveries
        with self.journal.work():
            for delivery in deliveries:
                self.intake.receive(delivery)
            self._faults.reach("node.received")
            for request in requests:
                try:
                    request.result = request.run()
                except P2pflowsError as error:
                    request.result = error
            if ticks:
                self._tick()
            self._expire()
            self.dispatch.prepare()
            self.dispatch.flush()
            self._link.flush()
        answered, self._answered = self._answered, []
        for tell in answered:
            tell()
        due = (
            self.next_wake() <= elapsed
            or self.outbox.has_fresh
            or self.dispatch.has_recorded
            or len(self._unacknowledged) >= MAX_UNACKNOWLEDGED
        )
        if requests or ticks or due or self._after:
            self._commit_and_publish(requests, ticks=ticks)
        elif self._commit_by is None and self._unacknowledged:
            self._commit_by = elapsed + COMMIT_DELAY_S

    def close(self) -> None:
        """Keep what is not yet committed.

        Raises:
            JournalError: it cannot be kept; those who sent it will send it again.
        """
        self._commit_and_publish((), ticks=True)

    def _commit_and_publish(self, requests: Sequence[Request], *, ticks: bool) -> None:
        self.journal.commit(count_now=ticks)
        self._commit_by = None
        self.dispatch.committed(flush=ticks)
        for peer, notice in self.notices.take():
            self.outbox.notify(peer, notice)
        self.outbox.flush()
        unacknowledged, self._unacknowledged = self._unacknowledged, []
        for delivery in unacknowledged:
            self._link.ack(delivery)
        self._link.flush()
        self._faults.reach("node.published")
        after, self._after = self._after, []
        for step in after:
            step()
        for request in requests:
            request.done(request.result)

    def next_wake(self) -> float:
        """When a turn is needed even if nothing arrives, in the clock's elapsed seconds."""
        wakes = (self._next_tick, self._commit_by, self.notices.next_due())
        return min(wake for wake in wakes if wake is not None)

    def link_up(self) -> None:
        """The broker answers again; it may have forgotten everything."""
        self._link.publish(topics.status(self.user), self.presence_of.mine(online=True), retain=True)
        self.publish_card()
        self.outbox.link_up()
        self.notices.link_up()

    def subscriptions(self) -> list[str]:
        """All topics this user's daemon reads."""
        self._watched = set(self.contacts.known.by_user) | self.outbox.peers()
        return topics.daemon_filters(self.user) + [topics.status(user) for user in sorted(self._watched)]

    def publish_card(self) -> None:
        """Publish what anyone may call."""
        topic = topics.card(self.user)
        flows = [flow.as_shown() for flow in self.catalog.all() if flow.allow == ANYONE]
        about = {"boot": self.boot, "user": self.user}
        card = presence.seal(self.identity, topic, {**about, "flows": flows})
        if len(card) > presence.MAX_CARD_BYTES:
            names = [{"endpoint": flow["endpoint"]} for flow in flows]
            card = presence.seal(self.identity, topic, {**about, "flows": names[:MAX_FLOWS_ON_CARD]})
        self._link.publish(topic, card, retain=True)

    def after_commit(self, step: Callable[[], None]) -> None:
        """Do something once this turn is committed."""
        self._after.append(step)

    def name_of(self, user: str) -> str | None:
        """A user's petname."""
        return "me" if user == self.user else self.contacts.known.by_user.get(user)

    # What the user asks for; inside a turn.

    def send(
        self,
        kind: Type,
        peer: str,
        endpoint: str,
        data: dict[str, Any],
        *,
        life_ms: int,
        conversation: str | None = None,
        source: str = "",
        instance: str | None = None,
    ) -> str:
        """Accept a call or a post; gives its id."""
        message = self.outbox.accept(
            kind,
            peer,
            endpoint,
            data,
            expires=self.clock.now() + life_ms,
            conversation=conversation,
            source=source,
            instance=instance,
        )
        self.journal.count("accepted")
        self.watch(peer)
        return message.id

    def when_ended(self, part: str, ended: Ended) -> OutgoingRow:
        """Tell when a message of ours has its end; at once if it has.

        Raises:
            BadInput: no message, or more than one, has an id like that.
        """
        row = self._own_message(part)
        state = OutgoingState(row.state)
        if state in OPEN_OUTGOING:
            self._waiters.setdefault(row.id, []).append(ended)
        else:
            self._after.append(lambda: ended(state, row.answer))
        return row

    def expect(self, message_id: str, ended: Ended, progress: Callable[[dict[str, Any]], None] | None = None) -> None:
        """Tell when a message that was accepted just now has its end, and what is told before it."""
        self._waiters[message_id] = [ended]
        if progress is not None:
            self._listeners[message_id] = progress

    def stop_waiting(self, message_id: str, ended: Ended) -> None:
        """The one who waited has left."""
        waiting = self._waiters.get(message_id, [])
        if ended in waiting:
            waiting.remove(ended)
        if not waiting:
            self._waiters.pop(message_id, None)
            self._listeners.pop(message_id, None)

    def cancel(self, part: str) -> str:
        """Withdraw a call or post; gives its id.

        Raises:
            BadInput: it has its end already, or is unknown.
        """
        row = self._own_message(part)
        error = Cancelled("You withdrew it.")
        if not self.outbox.end(row, OutgoingState.CANCELLED, _error_bytes(error)):
            raise BadInput(f"Message {row.id[-8:]} is already {row.state}.", "There is nothing left to cancel.")
        self.outbox.accept(
            Type.CANCEL,
            row.peer,
            row.endpoint,
            {},
            expires=max(row.expires, self.clock.now() + 60_000),
            in_reply_to=row.id,
        )
        return row.id

    def allow(self, user: str, name: str) -> int:
        """Make an unknown sender a contact; gives how many held messages go on."""
        self.contacts.add(name, user)
        self.contacts.reload_if_changed()
        self.watch(user)
        return self.admission.release_held(user)

    def deny(self, user: str) -> int:
        """Refuse an unknown sender from now on; gives how many held messages were dropped."""
        rows = self.journal.incoming.held_by(user)
        for row in rows:
            self.intake.released()
            self.failed(row, NotAllowed("They do not let you call them."))
        self.contacts.block(user)
        self.contacts.reload_if_changed()
        return len(rows)

    def unserve(self, endpoint: str) -> None:
        """Serve nothing under an endpoint any more; what waits for a worker, or runs, ends as it would after a restart.

        Instances that are there go on, until they are deleted.

        Raises:
            NotServed: nothing is.
        """
        flow = self.catalog.get(endpoint)
        if flow is not None and flow.kind == "class" and not flow.closed and self.journal.instances.of(endpoint):
            self.catalog.put(flow.model_copy(update={"closed": True}))
            return
        self.catalog.remove(endpoint)
        for row in self.journal.incoming.in_state(IncomingState.READY):
            if self.dispatch.endpoint_of(row.row_id) == endpoint:
                self.dispatch.drop(row.row_id)
                self.failed(row, NotServed(f"They do not serve {endpoint!r} any more."))

    def delete_endpoint(self, endpoint: str) -> int:
        """Serve nothing under an endpoint any more, and forget all its instances; gives how many those were.

        Raises:
            NotServed: nothing is, and there are none.
        """
        rows = self.journal.instances.of(endpoint)
        for row in rows:
            self.delete_instance(row.id, recursive=True)
        if self.catalog.get(endpoint) is not None or not rows:
            self.unserve(endpoint)
        return len(rows)

    def delete_instance(self, instance: str, *, recursive: bool) -> None:
        """Forget an instance; what waits for it fails."""
        for row in self.journal.incoming.open_of(instance):
            self.dispatch.drop(row.row_id)
        self.runs.delete(instance, recursive=recursive)

    def retry(self, part: str) -> str:
        """Run a dead letter again, or send again what failed; gives the id under which it goes on.

        Raises:
            BadInput: no such message.
        """
        dead = [row for row in self.journal.incoming.in_state(IncomingState.DEAD) if _like(row.id, part)]
        unsent = [row for row in self.journal.outgoing.unsent() if _like(row.id, part)]
        if len(dead) + len(unsent) != 1:
            many = dead or unsent
            raise BadInput(
                f"{'Several messages have' if many else 'No message that can be retried has'} an id like {part!r}.",
                "See: p2pflows outbox",
            )
        if unsent:
            row = unsent[0]
            body = self.journal.outgoing.body(row.id) or b"{}"
            old = Message.model_validate_json(body)
            return self.send(
                Type(row.type),
                row.peer,
                row.endpoint,
                old.data,
                life_ms=max(60_000, row.expires - row.created),
                conversation=old.conversation,
                source=old.source,
            )
        request = dead[0]
        flow = self.admission.flow_of(request)
        if flow is None or flow.kind == "human":
            raise BadInput(f"You do not serve {request.endpoint!r} any more.", "Serve it again, then retry.")
        expires = self.clock.now() + ERROR_LIFETIME_MS
        self.journal.incoming.requeue_dead(request.row_id, expires)
        self.intake.expects(expires)
        self.dispatch.add(request._replace(state=IncomingState.READY, attempts=0, expires=expires), flow)
        return request.id

    # What intake, the inbox and the dispatch points report; inside a turn.

    def admit(self, row: IncomingRow, message: Message) -> None:
        """A request has its turn: decide what becomes of it."""
        self.admission.admit(row, message)

    def queue(self, row: IncomingRow, flow: Served) -> None:
        """Queue a run of an instance for a worker."""
        self.admission.queue(row, flow)

    def drop(self, row: IncomingRow) -> None:
        """An answer is not to run its flow again any more."""
        self.dispatch.drop(row.row_id)
        if self.journal.incoming.move(row.row_id, IncomingState.FAILED, Cancelled.kind):
            self.runs.undo(row.row_id)

    def ensure_quota(self, row: IncomingRow, flow: Served) -> None:
        """Let a request have a new instance.

        Raises:
            NotAllowed: its sender has as many as one may have.
        """
        self.admission.ensure_quota(row, flow)

    def note(self, what: str, peer: str, endpoint: str, detail: str) -> None:
        """Write something into the owner's log."""
        self._log.note(what, peer, endpoint, detail)

    def ran(self, row: IncomingRow, flow: Served, content: dict[str, Any]) -> None:
        """A run of an instance has ended well: keep what it leaves behind, or nothing of it."""
        try:
            self.runs.ended(row, flow, content)
        except CallError as error:
            self.failed(row, error)
        except ValueError:
            self.failed(row, FlowFailed(f"The worker of {flow.endpoint!r} sent a result of a wrong form."))
        if flow.parallel and flow.first:
            self.admission.release_waiting(row.instance or "", flow)

    def brief(self, row: IncomingRow, flow: Served, body: bytes) -> bytes:
        """What a worker has to know to run an instance."""
        return self.instances.brief(row, flow, body)

    def records(self, row_id: int) -> list[list[Any]]:
        """What earlier attempts to run a task have kept."""
        return self.runs.records(row_id)

    def asked(self, row: IncomingRow, content: Any) -> None:
        """A running task wants something kept.

        Raises:
            ValueError: it is nothing that a task can ask.
        """
        self.runs.asked(row, content)

    def awaited(self, row: IncomingRow, k: int) -> None:
        """A running task still waits for an answer."""
        self.runs.awaited(row, k)

    def recorded(self, row_id: int, k: int, value: dict[str, Any]) -> None:
        """Something of a run is kept: tell its worker after the commit."""
        self.dispatch.recorded(row_id, k, value)

    def answered(self, row_id: int, k: int, value: dict[str, Any]) -> None:
        """A call of a run has its answer: tell its worker."""
        self.dispatch.answered(row_id, k, value)

    def flow_at(self, endpoint: str) -> Served | None:
        """What is served under an endpoint."""
        return self.catalog.get(endpoint)

    def progressed(self, row: IncomingRow, data: dict[str, Any]) -> None:
        """A running task has something to tell its caller before its end."""
        if _may_be_told(data):
            self.notices.progress(row.peer, row.id, data)

    def is_waiting(self, row_id: int) -> bool:
        """Whether a request waits for a worker."""
        return self.dispatch.is_waiting(row_id)

    def answer(self, message: Message) -> bool:
        """An answer to a message of ours came."""
        state = OutgoingState.FAILED if message.type == Type.ERROR else OutgoingState.DONE
        answer = strict_json.dumps(message.data)
        return self.outbox.answered(message.sender, message.in_reply_to or "", state, answer)

    def worker_frame(self, point: str, payload: bytes) -> None:
        """A worker sent a frame."""
        self.dispatch.receive(point, payload)

    def progress(self, sender: str, message_id: str, data: dict[str, Any]) -> None:
        """A call of ours gets on, says who runs it."""
        told = self._listeners.get(message_id)
        sent = self.journal.outgoing.find(message_id) if told is not None else None
        if told is not None and sent is not None and sent.peer == sender and _may_be_told(data):
            self._answered.append(lambda: told(data))

    def presence(self, user: str, payload: bytes) -> None:
        """A user's status came."""
        if user != self.user and self.presence_of.learn(user, payload):
            self.outbox.peer_up(user)

    def finished(self, row: IncomingRow, data: dict[str, Any]) -> None:
        """A request has its result: keep it, and answer a call."""
        if row.type == Type.CALL:
            try:
                self._reply(row, Type.REPLY, data, row.expires)
            except TooLarge as error:
                self.failed(
                    row, TooLarge(f"The answer is too large. {error.message}", "Ask its owner to answer with less.")
                )
                return
            except BadInput:
                self.failed(row, FlowFailed("The answer cannot be sent as JSON.", "Ask its owner to mend it."))
                return
        self.journal.incoming.move(row.row_id, IncomingState.DONE)

    def failed(self, row: IncomingRow, error: P2pflowsError) -> None:
        """A request has ended in an error: tell its sender."""
        self._fail(row, IncomingState.FAILED, error)

    def died(self, row: IncomingRow, error: P2pflowsError) -> None:
        """A request has killed its worker too often: tell its sender, and keep it for its owner."""
        again = is_request(row) and row.endpoint != topics.INSTANCES
        self._fail(row, IncomingState.DEAD if again else IncomingState.FAILED, error)

    def started(self, row: IncomingRow) -> None:
        """A request that waited for a worker was leased to one."""
        if is_request(row):
            self.notices.received(row.peer, row.id)

    # The rest is nobody else's business.

    def _restore(self) -> None:
        """Take up what the journal says was under way; a stream's order may not be that of its arrival.

        Whatever runs an instance already goes on before what others have asked of it.
        """
        ready = []
        rows = self.journal.incoming.in_state(IncomingState.READY)
        for row in sorted(rows, key=lambda row: (not self.runs.has_begun(row.row_id), row.epoch, row.seq)):
            flow = self.admission.flow_of(row)
            if flow is not None and flow.kind != "human":
                ready.append((row, flow))
            else:
                with self.journal.transaction():
                    self.failed(row, NotServed(f"They do not serve {row.endpoint!r} any more."))
        self.dispatch.restore(ready)

    def _own_message(self, part: str) -> OutgoingRow:
        """The call or post of ours with an id, or with the beginning or end of one."""
        rows = self.journal.outgoing.matching(part) if part.isalnum() and len(part) >= MIN_ID_CHARS else []
        if len(rows) != 1:
            found = "Several messages of yours have" if rows else "No message of yours has"
            raise BadInput(
                f"{found} an id like {part!r}.", "Ended messages are remembered for a day. See: p2pflows outbox"
            )
        return rows[0]

    def _fail(self, row: IncomingRow, state: IncomingState, error: P2pflowsError) -> None:
        wanted = self.admission.wanted(row)
        if not self.journal.incoming.move(row.row_id, state, error.kind):
            return
        if state is not IncomingState.DEAD:  # what a dead letter has kept serves when it is run again
            self.runs.undo(row.row_id)
        self.note(error.kind, row.peer, wanted, error.message)
        if is_request(row):
            self._tell_error(row, error)
            return
        root = None if row.root_request is None else self.journal.incoming.get(row.root_request)
        if root is not None and root.state in (IncomingState.READY, IncomingState.AWAITING_REPLY):
            self.failed(root, error)
        elif (
            root is not None
            and root.type == Type.POST
            and self.journal.incoming.record_failure(root.row_id, error.kind)
        ):
            self._tell_error(root, error)

    def _tell_error(self, row: IncomingRow, error: P2pflowsError) -> None:
        self._reply(row, Type.ERROR, error.as_told(MAX_ERROR_CHARS), self._error_deadline(row))

    def _error_deadline(self, row: IncomingRow) -> int:
        """Errors of posts have nobody waiting at a deadline, so they live long enough to be heard."""
        return row.expires if row.type == Type.CALL else self.clock.now() + ERROR_LIFETIME_MS

    def _reply(self, row: IncomingRow, kind: Type, data: dict[str, Any], expires: int) -> None:
        self.outbox.accept(
            kind, row.peer, topics.REPLY, data, expires=expires, conversation=row.conversation, in_reply_to=row.id
        )
        self.notices.answered(row.peer, row.id)

    def watch(self, peer: str) -> None:
        """A user will send us something, so their presence matters."""
        if peer not in self._watched and peer != self.user:
            self._watched.add(peer)
            self._after.append(lambda: self._link.subscribe([topics.status(peer)]))

    def _tick(self) -> None:
        elapsed = self.clock.elapsed()
        self._next_tick = elapsed + TICK_S
        self.outbox.tick()
        self.dispatch.tick()
        if self.intake.holding:
            book = self.contacts.known
            for user in {row.peer for row in self.journal.incoming.in_state(IncomingState.HELD)} & set(book.by_user):
                self.admission.release_held(user)
        if elapsed >= self._next_prune:
            self._next_prune = elapsed + PRUNE_INTERVAL_S
            self.journal.prune(self.clock.now())
            self.journal.log.prune()
            for idle in self.instances.idle(MAX_FORGOTTEN):
                self.delete_instance(idle.id, recursive=True)
            self.journal.streams.forget_strangers(set(self.contacts.known.by_user) | {self.user})

    def _expire(self) -> None:
        now = self.clock.now()
        if self.outbox.next_expiry is not None and self.outbox.next_expiry <= now:
            for sent in self.journal.outgoing.expired(now):
                self.outbox.end(sent, OutgoingState.EXPIRED, _error_bytes(self._why_expired(sent)))
            self.outbox.next_expiry = self.journal.outgoing.next_expiry()
        if self.intake.next_expiry is not None and self.intake.next_expiry <= now:
            for row in self.journal.incoming.expired(now):
                self._expire_request(row)
            self.intake.next_expiry = self.journal.incoming.next_expiry()

    def _expire_request(self, row: IncomingRow) -> None:
        waited = self.dispatch.is_waiting(row.row_id)
        self.dispatch.drop(row.row_id)
        self.inbox.withdraw(row.row_id, PromptState.EXPIRED)
        if row.state == IncomingState.HELD:
            self.intake.released()
        self.journal.incoming.move(row.row_id, IncomingState.EXPIRED)
        self.runs.undo(row.row_id)
        if row.type == Type.POST and row.state == IncomingState.READY:
            self._tell_error(
                row,
                NoWorker(f"No worker served {row.endpoint!r} in time.")
                if waited
                else DeadlinePassed(f"{row.endpoint!r} did not run in time."),
            )

    def _why_expired(self, row: OutgoingRow) -> P2pflowsError:
        """The most telling error for a message whose deadline has passed."""
        mine = row.peer == self.user
        who = "Your daemon" if mine else self.name_of(row.peer) or f"User {row.peer[:8]}…"
        if row.state == OutgoingState.PENDING:
            if not self._link.connected:
                return Unreachable("Your own daemon has no connection to its broker.", "See why: p2pflows status")
            online = self.presence_of.online(row.peer)
            if online is None and self.name_of(row.peer) is None:
                return UnknownUser(
                    f"Nobody with the user id {row.peer} was ever seen on this broker.",
                    "Check the id with its owner: p2pflows id",
                )
            state = "is online, but did not confirm the message" if online else "is offline"
            return Unreachable(f"{who} {state}.", "Try again when they are online, or with a longer --timeout.")
        if row.note == "held":
            return NotAllowed(
                f"{who} has not allowed you yet; your request waits there.",
                "Ask them to run: p2pflows allow " + self.user,
            )
        if row.note == "waiting":
            what = "a new instance" if row.endpoint == topics.INSTANCES else repr(row.endpoint)
            how = "p2pflows worker --dispatch-point POINT"
            return NoWorker(f"{who} has no worker for {what}.", f"Start one: {how}" if mine else f"Ask for one: {how}")
        return DeadlinePassed(f"{who} has the message, but no answer came in time.", "Give it longer: --timeout 10m")

    def _sent_ended(self, message_id: str, state: OutgoingState, answer: bytes | None) -> None:
        # A peer's answer comes again if a crash forgets it; an end of our own making must be kept before it is heard.
        told = self._answered if state in (OutgoingState.DONE, OutgoingState.FAILED) else self._after
        self._listeners.pop(message_id, None)
        for ended in self._waiters.pop(message_id, ()):
            told.append(lambda ended=ended: ended(state, answer))  # type: ignore[misc]

    def _sent_concluded(self, row: OutgoingRow, state: OutgoingState, answer: bytes | None) -> None:
        self.runs.concluded(row, state, answer)

    def _prompt_changed(self, prompt: PromptRow) -> None:
        shown = self.inbox.show(prompt)
        self._after.append(lambda: self._on_prompt(shown))


def _may_be_told(data: dict[str, Any]) -> bool:
    """Whether something that is told before an answer is JSON, and not too much; it may be lost anyway."""
    try:
        strict_json.check_numbers(data)
        return len(json.dumps(data, ensure_ascii=False).encode()) <= MAX_PROGRESS_BYTES
    except ValueError:
        return False


def _error_bytes(error: P2pflowsError) -> bytes:
    return strict_json.dumps(error.as_told())


def _like(message_id: str, part: str) -> bool:
    return len(part) >= MIN_ID_CHARS and (message_id.startswith(part) or message_id.endswith(part))
