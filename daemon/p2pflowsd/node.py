"""The heart of the daemon: a deterministic step from what has arrived to what is kept and sent.

`turn` takes a batch of deliveries and requests, records all of it in one transaction, and only then lets anything leave
(group commit). Time, randomness, the broker link and crash points are passed in, so the simulator runs this same code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from p2pflows import topics
from p2pflows.contacts import Contacts
from p2pflows.envelope import Envelope
from p2pflows.errors import (
    BadInput,
    Cancelled,
    DeadlinePassed,
    NotAllowed,
    NotServed,
    NoWorker,
    P2pflowsError,
    TooLarge,
    Unreachable,
    UnknownUser,
)
from p2pflows.identity import Identity
from p2pflows.message import Message, Type
from p2pflowsd import gate
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.dispatch import Dispatch
from p2pflowsd.faults import Faults
from p2pflowsd.inbox import Inbox, prompt_text
from p2pflowsd.intake import Intake
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, OutgoingRow, PromptRow
from p2pflowsd.lifecycle import Incoming, Outgoing, Prompt
from p2pflowsd.notices import Notices
from p2pflowsd.outbox import Outbox
from p2pflowsd.presence import Presence
from p2pflowsd.served import ANYONE, Catalog, Served
from p2pflowsd.wire import Delivery, Link

TICK = 0.5
PRUNE_EVERY = 60.0
ERROR_LIFE_MS = 24 * 3_600_000

Ended = Callable[[OutgoingRow, Outgoing, bytes | None], None]


class History(Protocol):
    """Told what happened, for a checker; a running daemon has none."""

    def note(self, what: str, message_id: str, **facts: object) -> None:
        """One fact about one message."""


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
        history: History | None = None,
    ) -> None:
        self.user = identity.user_id
        self.identity = identity
        self.journal = journal
        self.contacts = contacts
        self.clock = clock
        self._link = link
        self._faults = faults
        self._history = history
        self._on_prompt = on_prompt
        self.boot = max(clock.now(), int(journal.meta("boot") or 0) + 1)
        with journal.transaction():
            journal.set_meta("boot", str(self.boot))
        envelope = Envelope(identity)
        self.presence_of = Presence(identity, self.boot)
        self.catalog = Catalog(journal)
        self.notices = Notices(journal, clock)
        self.outbox = Outbox(
            user=self.user, envelope=envelope, journal=journal, link=link, clock=clock, entropy=entropy, faults=faults, ended=self._sent_ended
        )
        self.inbox = Inbox(
            user=self.user, journal=journal, contacts=contacts, clock=clock, finish=self.finished, fail=self.failed, changed=self._prompt_changed
        )
        self.dispatch = Dispatch(
            identity=identity, journal=journal, link=link, clock=clock, faults=faults, boot=self.boot, owner=self, name_of=self.name_of
        )
        self.intake = Intake(
            user=self.user, envelope=envelope, journal=journal, contacts=contacts, clock=clock,
            outbox=self.outbox, notices=self.notices, owner=self,
        )
        self._waiters: dict[str, list[Ended]] = {}
        self._after: list[Callable[[], None]] = []
        self._watched: set[str] = set()
        self._next_tick = 0.0
        self._next_prune = clock.elapsed() + PRUNE_EVERY
        self._restore()

    # The step.

    def turn(self, deliveries: Sequence[Delivery], requests: Sequence[Request] = ()) -> None:
        """Record everything that has arrived, commit once, then speak.

        Raises:
            JournalError: nothing of this turn was kept, and this object must not be used any more.
        """
        ticks = self.clock.elapsed() >= self._next_tick
        with self.journal.transaction(count_now=ticks):
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
        self.dispatch.flush(acknowledge=ticks)
        self.outbox.flush()
        for peer, notice in self.notices.take():
            self.outbox.notify(peer, notice)
        self._faults.reach("node.spoken")
        after, self._after = self._after, []
        for step in after:
            step()
        for request in requests:
            request.done(request.result)

    def next_wake(self) -> float:
        """When a turn is needed even if nothing arrives, in the clock's elapsed seconds."""
        due = self.notices.next_due()
        return self._next_tick if due is None else min(due, self._next_tick)

    def link_up(self) -> None:
        """The broker answers again; it may have forgotten everything."""
        self._link.publish(topics.status(self.user), self.presence_of.mine(online=True), retain=True)
        self.publish_card()
        self.outbox.link_up()

    def subscriptions(self) -> list[str]:
        """All topics this user's daemon reads."""
        self._watched = set(self.contacts.book().by_user) | self.outbox.peers()
        return topics.daemon_filters(self.user) + [topics.status(user) for user in sorted(self._watched)]

    def publish_card(self) -> None:
        """Publish what anyone may call."""
        from p2pflowsd.presence import seal

        topic = topics.card(self.user)
        flows = [flow.as_shown() for flow in self.catalog.all() if flow.allow == ANYONE]
        card = seal(self.identity, topic, {"boot": self.boot, "user": self.user, "flows": flows})
        self._link.publish(topic, card, retain=True)

    def after_commit(self, step: Callable[[], None]) -> None:
        """Do something once this turn is committed."""
        self._after.append(step)

    def name_of(self, user: str) -> str | None:
        """A user's petname."""
        return "me" if user == self.user else self.contacts.book().by_user.get(user)

    # What the user asks for; inside a turn.

    def send(self, kind: Type, peer: str, endpoint: str, data: dict[str, Any], *, life_ms: int, conversation: str | None = None, source: str = "") -> str:
        """Accept a call or a post; gives its id."""
        message = self.outbox.accept(
            kind, peer, endpoint, data, expires=self.clock.now() + life_ms, conversation=conversation, source=source
        )
        self.journal.count("accepted")
        self._watch(peer)
        self._note("accept", message.id, seq=message.seq, endpoint=endpoint)
        return message.id

    def when_ended(self, message_id: str, ended: Ended) -> None:
        """Tell when a message of ours has its end; at once if it has.

        Raises:
            BadInput: no message has that id.
        """
        row = self.journal.outgoing.find(message_id)
        if row is None:
            raise BadInput(f"No message of yours has the id {message_id!r}.", "Ended messages are remembered for a day. See: p2pflows outbox")
        state = Outgoing(row.state)
        if state in (Outgoing.PENDING, Outgoing.STORED):
            self._waiters.setdefault(message_id, []).append(ended)
        else:
            self._after.append(lambda: ended(row, state, row.answer))

    def stop_waiting(self, message_id: str, ended: Ended) -> None:
        """The one who waited has left."""
        waiting = self._waiters.get(message_id, [])
        if ended in waiting:
            waiting.remove(ended)
        if not waiting:
            self._waiters.pop(message_id, None)

    def cancel(self, message_id: str) -> None:
        """Withdraw a call or post.

        Raises:
            BadInput: it has its end already, or is unknown.
        """
        row = self.journal.outgoing.find(message_id)
        if row is None or row.type not in (Type.CALL, Type.POST):
            raise BadInput(f"No message of yours has the id {message_id!r}.", "See: p2pflows outbox")
        error = Cancelled("You withdrew it.")
        if not self.outbox.end(row, Outgoing.CANCELLED, _error_bytes(error)):
            raise BadInput(f"Message {row.id[-8:]} is already {row.state}.", "There is nothing left to cancel.")
        self.outbox.accept(
            Type.CANCEL, row.peer, row.endpoint, {"id": row.id}, expires=max(row.expires, self.clock.now() + 60_000), cause=row.id
        )

    def allow(self, user: str, name: str) -> int:
        """Make an unknown sender a contact; gives how many held messages go on."""
        self.contacts.add(name, user)
        self._watch(user)
        return self._release_held(user)

    def deny(self, user: str) -> int:
        """Refuse an unknown sender from now on; gives how many held messages were dropped."""
        rows = self.journal.incoming.held_by(user)
        for row in rows:
            self.intake.released()
            self.failed(row.n, NotAllowed("They do not let you call them."))
        self.contacts.block(user)
        return len(rows)

    def retry(self, part: str) -> str:
        """Run a dead letter again, or send again what failed; gives the id under which it goes on.

        Raises:
            BadInput: no such message.
        """
        dead = [row for row in self.journal.incoming.in_state(Incoming.DEAD) if _like(row.id, part)]
        unsent = [row for row in self.journal.outgoing.unsent() if _like(row.id, part)]
        if len(dead) + len(unsent) != 1:
            many = dead or unsent
            raise BadInput(
                f"{'Several messages have' if many else 'No message that can be retried has'} an id like {part!r}.", "See: p2pflows outbox"
            )
        if unsent:
            row = unsent[0]
            body = self.journal.outgoing.body(row.id) or b"{}"
            old = Message.model_validate_json(body)
            return self.send(
                Type(row.type), row.peer, row.endpoint, old.data, life_ms=max(60_000, row.expires - row.created),
                conversation=old.conversation, source=old.source,
            )
        request = dead[0]
        flow = self.catalog.get(request.endpoint)
        if flow is None or flow.kind == "human":
            raise BadInput(f"You do not serve {request.endpoint!r} any more.", "Serve it again, then retry.")
        self.journal.incoming.revive(request.n, self.clock.now() + ERROR_LIFE_MS)
        self.dispatch.add(request._replace(state=Incoming.READY, attempts=0, expires=self.clock.now() + ERROR_LIFE_MS), flow)
        return request.id

    # What intake, the inbox and the dispatch points report; inside a turn.

    def admit(self, row: IncomingRow, message: Message) -> None:
        """A request has its turn: decide what becomes of it."""
        if row.expires <= self.clock.now():
            self.journal.incoming.move(row.n, Incoming.EXPIRED)
            return
        if row.type == Type.CANCEL:
            self.journal.incoming.move(row.n, Incoming.DONE)
            self._withdrawn(row.peer, message.cause or "")
            return
        flow = self.catalog.get(row.endpoint)
        match gate.decide(row.peer, row.endpoint, me=self.user, book=self.contacts.book(), served=flow):
            case gate.Verdict.PASS if row.endpoint == topics.FLOWS:
                self.finished(row.n, self._shown_to(row.peer, message.data))
            case gate.Verdict.PASS if flow is not None:
                self._begin(row, flow, message)
            case gate.Verdict.HOLD:
                self.intake.held()
                self.journal.incoming.move(row.n, Incoming.HELD)
                self.notices.received(row.peer, row.id, held=True)
            case gate.Verdict.NOT_ALLOWED:
                self.failed(row.n, NotAllowed(f"They do not let you call {row.endpoint!r}.", "Ask them to allow you."))
            case _:
                self.failed(row.n, NotServed(f"They do not serve {row.endpoint!r}.", "See what they serve with: p2pflows ls CONTACT"))

    def is_waiting(self, n: int) -> bool:
        """Whether a request waits for a worker."""
        return self.dispatch.is_waiting(n)

    def answer(self, message: Message) -> bool:
        """An answer to a message of ours came."""
        state = Outgoing.FAILED if message.type == Type.ERROR else Outgoing.DONE
        answer = json.dumps(message.data, ensure_ascii=False, separators=(",", ":")).encode()
        return self.outbox.answered(message.sender, message.cause or "", state, answer)

    def worker_frame(self, point: str, payload: bytes) -> None:
        """A worker sent a frame."""
        self.dispatch.receive(point, payload)

    def presence(self, user: str, payload: bytes) -> None:
        """A user's status came."""
        if user != self.user and self.presence_of.learn(user, payload):
            self.outbox.peer_up(user)

    def finished(self, n: int, data: dict[str, Any]) -> None:
        """A request has its result: keep it, and answer a call."""
        row = self.journal.incoming.get(n)
        if row is None:
            return
        if row.type == Type.CALL:
            try:
                self._reply(row, Type.REPLY, data, row.expires)
            except TooLarge as error:
                self.failed(n, TooLarge(f"The answer is too large. {error.message}", "Ask its owner to answer with less."))
                return
        if self.journal.incoming.move(n, Incoming.DONE):
            self._note("effect", row.id, peer=row.peer, endpoint=row.endpoint, epoch=row.epoch, seq=row.seq)

    def failed(self, n: int, error: P2pflowsError) -> None:
        """A request has ended in an error: tell its sender."""
        self._fail(n, Incoming.FAILED, error)

    def died(self, n: int, error: P2pflowsError) -> None:
        """A request has killed its worker too often: tell its sender, and keep it for its owner."""
        self._fail(n, Incoming.DEAD, error)

    def started(self, n: int) -> None:
        """A request that waited for a worker was leased to one."""
        row = self.journal.incoming.get(n)
        if row is not None:
            self.notices.received(row.peer, row.id)

    # The rest is nobody else's business.

    def _restore(self) -> None:
        """Take up what the journal says was under way."""
        ready = []
        for row in self.journal.incoming.in_state(Incoming.READY):
            flow = self.catalog.get(row.endpoint)
            if flow is not None:
                ready.append((row, flow))
            else:
                with self.journal.transaction():
                    self.failed(row.n, NotServed(f"They do not serve {row.endpoint!r} any more."))
        self.dispatch.restore(ready)

    def _begin(self, row: IncomingRow, flow: Served, message: Message) -> None:
        if flow.kind == "human":
            try:
                prompt_text(message.data)
            except BadInput as error:
                self.failed(row.n, error)
                return
            self.journal.incoming.move(row.n, Incoming.ASKED)
            self.inbox.ask(row, message.data)
            self._note("ask", row.id, peer=row.peer, endpoint=row.endpoint, epoch=row.epoch, seq=row.seq)
            return
        self.journal.incoming.move(row.n, Incoming.READY)
        if not self.dispatch.add(row, flow):
            self.notices.received(row.peer, row.id, waiting=True)

    def _fail(self, n: int, state: Incoming, error: P2pflowsError) -> None:
        row = self.journal.incoming.get(n)
        if row is None or not self.journal.incoming.move(n, state, error.kind):
            return
        self._note("effect", row.id, peer=row.peer, endpoint=row.endpoint, epoch=row.epoch, seq=row.seq, error=error.kind)
        self._reply(row, Type.ERROR, {"kind": error.kind, "message": error.message, "hint": error.hint}, self._error_deadline(row))

    def _error_deadline(self, row: IncomingRow) -> int:
        """Errors of posts have nobody waiting at a deadline, so they live long enough to be heard."""
        return row.expires if row.type == Type.CALL else self.clock.now() + ERROR_LIFE_MS

    def _reply(self, row: IncomingRow, kind: Type, data: dict[str, Any], expires: int) -> None:
        self.outbox.accept(kind, row.peer, topics.REPLY, data, expires=expires, conversation=row.conversation, cause=row.id)
        self.notices.answered(row.peer, row.id)

    def _withdrawn(self, peer: str, message_id: str) -> None:
        """A sender withdrew a request; what has its end already keeps it."""
        row = self.journal.incoming.find(peer, message_id)
        if row is None or not self.journal.incoming.move(row.n, Incoming.FAILED, Cancelled.kind):
            return
        self.dispatch.drop(row.n)
        self.inbox.withdraw(row.n, Prompt.CANCELLED)
        if row.state == Incoming.HELD:
            self.intake.released()

    def _release_held(self, user: str) -> int:
        rows = self.journal.incoming.held_by(user)
        for row in rows:
            self.intake.released()
            self.notices.received(row.peer, row.id)
            self.admit(row, Message.model_validate_json(self.journal.incoming.body(row.n)))
        return len(rows)

    def _shown_to(self, peer: str, data: dict[str, Any]) -> dict[str, Any]:
        """What a peer may know of the served flows: those it may call, or whether it may call one."""
        book = self.contacts.book()
        may = {flow.endpoint: flow for flow in self.catalog.all() if gate.may_call(peer, flow, me=self.user, book=book)}
        endpoint = data.get("endpoint")
        if not isinstance(endpoint, str):
            return {"flows": [flow.as_shown() for flow in may.values()]}
        trusted = peer == self.user or peer in book.by_user
        served = endpoint in may or (trusted and self.catalog.get(endpoint) is not None)
        shown = may[endpoint].as_shown() if endpoint in may else {}
        return {"served": served, "allowed": endpoint in may, "workers": self._has_workers(may.get(endpoint)), **shown}

    def _has_workers(self, flow: Served | None) -> bool:
        return flow is not None and (flow.kind == "human" or self.dispatch.has_workers(flow.dispatch_point))

    def _watch(self, peer: str) -> None:
        if peer not in self._watched and peer != self.user:
            self._watched.add(peer)
            self._after.append(lambda: self._link.subscribe([topics.status(peer)]))

    def _tick(self) -> None:
        elapsed = self.clock.elapsed()
        self._next_tick = elapsed + TICK
        self.outbox.tick()
        self.dispatch.tick()
        if self.intake.holding:
            book = self.contacts.book()
            for user in {row.peer for row in self.journal.incoming.in_state(Incoming.HELD)} & set(book.by_user):
                self._release_held(user)
        if elapsed >= self._next_prune:
            self._next_prune = elapsed + PRUNE_EVERY
            self.journal.prune(self.clock.now())

    def _expire(self) -> None:
        now = self.clock.now()
        if self.outbox.next_expiry is not None and self.outbox.next_expiry <= now:
            for sent in self.journal.outgoing.expired(now):
                self.outbox.end(sent, Outgoing.EXPIRED, _error_bytes(self._why_expired(sent)))
            self.outbox.next_expiry = self.journal.outgoing.next_expiry()
        if self.intake.next_expiry is not None and self.intake.next_expiry <= now:
            for row in self.journal.incoming.expired(now):
                self._expire_request(row)
            self.intake.next_expiry = self.journal.incoming.next_expiry()

    def _expire_request(self, row: IncomingRow) -> None:
        waited = self.dispatch.is_waiting(row.n)
        self.dispatch.drop(row.n)
        self.inbox.withdraw(row.n, Prompt.EXPIRED)
        if row.state == Incoming.HELD:
            self.intake.released()
        self.journal.incoming.move(row.n, Incoming.EXPIRED)
        if row.type == Type.POST and row.state == Incoming.READY:
            error: P2pflowsError = NoWorker(f"No worker served {row.endpoint!r} in time.") if waited else DeadlinePassed(f"{row.endpoint!r} did not run in time.")
            self._reply(row, Type.ERROR, {"kind": error.kind, "message": error.message, "hint": error.hint}, self._error_deadline(row))

    def _why_expired(self, row: OutgoingRow) -> P2pflowsError:
        """The most telling error for a message whose deadline has passed."""
        who = self.name_of(row.peer) or f"User {row.peer[:8]}…"
        if row.state == Outgoing.PENDING:
            online = self.presence_of.online(row.peer)
            if online is None and self.name_of(row.peer) is None:
                return UnknownUser(f"Nobody with the user id {row.peer} was ever seen on this broker.", "Check the id with its owner: p2pflows id")
            state = "is online, but did not confirm the message" if online else "is offline"
            return Unreachable(f"{who} {state}.", "Try again when they are online, or with a longer --timeout.")
        if row.note == "held":
            return NotAllowed(f"{who} has not allowed you yet; your request waits there.", "Ask them to run: p2pflows allow " + self.user)
        if row.note == "waiting":
            return NoWorker(f"{who} has no worker for {row.endpoint!r}.", "Ask them to start one: p2pflows worker --dispatch-point POINT")
        return DeadlinePassed(f"{who} has the message, but no answer came in time.", "Give it longer: --timeout 10m")

    def _sent_ended(self, row: OutgoingRow, state: Outgoing, answer: bytes | None) -> None:
        self._note("ended", row.id, state=str(state), answer=answer)
        waiting = self._waiters.pop(row.id, [])
        if waiting:
            self._after.append(lambda: [ended(row, state, answer) for ended in waiting] and None)

    def _prompt_changed(self, prompt: PromptRow) -> None:
        shown = self.inbox.show(prompt)
        self._after.append(lambda: self._on_prompt(shown))

    def _note(self, what: str, message_id: str, **facts: object) -> None:
        if self._history is not None:
            self._after.append(lambda: self._history and self._history.note(what, message_id, **facts))


def _error_bytes(error: P2pflowsError) -> bytes:
    return json.dumps({"kind": error.kind, "message": error.message, "hint": error.hint}, ensure_ascii=False).encode()


def _like(message_id: str, part: str) -> bool:
    return len(part) >= 4 and (message_id.startswith(part) or message_id.endswith(part))  # noqa: PLR2004 - shortest useful part
