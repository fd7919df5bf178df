"""One user's daemon without its sockets: a deterministic step from a batch of input to what is committed and sent.

`process_batch` takes deliveries and requests, records all of them in one transaction, and only then publishes (group
commit). Time, randomness, the broker link and crash points are passed in, so the simulator runs this same code.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from types import TracebackType
from typing import Any

from p2pflows.contacts import Contacts, naming
from p2pflows.errors import NotServed, P2pflowsError
from p2pflows.protocol import topics
from p2pflows.protocol.channel import BadFrame
from p2pflows.protocol.envelope import Envelope, Refused
from p2pflows.protocol.identity import Identity
from p2pflows.settings.file_limits import DEFAULT_FILE_LIMITS, FileLimits
from p2pflows.settings.limits import Limits
from p2pflows.settings.prices import Price
from p2pflows.settings.retention import DEFAULT_RETENTION, Retention
from p2pflowsd.asking.claims import Hops
from p2pflowsd.asking.questions import Questions
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.faults import Faults
from p2pflowsd.human.delegations import Delegations
from p2pflowsd.human.inbox import Inbox
from p2pflowsd.human.transcript import Transcript
from p2pflowsd.journal import Journal, JournalError
from p2pflowsd.journal.rows import IncomingRow, LineRow, MeetingRow, OutgoingRow, PromptRow
from p2pflowsd.lifecycle import OutgoingState
from p2pflowsd.link import Delivery, Link
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.receiving.admission import Admission
from p2pflowsd.receiving.allowance import LINES_OF_A_STATUS
from p2pflowsd.receiving.awaited_files import AwaitedFiles
from p2pflowsd.receiving.blocked import BlockedRequests
from p2pflowsd.receiving.claims import ClaimDesk
from p2pflowsd.receiving.deadlines import Deadlines
from p2pflowsd.receiving.held import HeldRequests
from p2pflowsd.receiving.intake import Intake
from p2pflowsd.receiving.limiter import Limiter
from p2pflowsd.receiving.people import People
from p2pflowsd.receiving.quotas import Quotas
from p2pflowsd.receiving.retries import Retries
from p2pflowsd.receiving.rights import Rights
from p2pflowsd.running.authority import Authority
from p2pflowsd.running.catalog import ANYONE, Catalog
from p2pflowsd.running.declarations import Declarations
from p2pflowsd.running.dispatch import Dispatch
from p2pflowsd.running.effects import Effects
from p2pflowsd.running.instance_changes import InstanceChanges
from p2pflowsd.running.instances import Instances
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.loads import Loads
from p2pflowsd.running.points import Points
from p2pflowsd.running.reports import Reports
from p2pflowsd.running.runs import Runs
from p2pflowsd.running.serving import Serving
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.running.spending import Spending
from p2pflowsd.running.task_queue import TaskQueue
from p2pflowsd.running.task_specs import TaskSpecs
from p2pflowsd.running.turns import Turns
from p2pflowsd.running.worker_tokens import WorkerTokens
from p2pflowsd.sending.files import Files
from p2pflowsd.sending.notices import Notices
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.own_messages import OwnMessages
from p2pflowsd.sending.presence import Followed, Presence
from p2pflowsd.sending.resends import Resends
from p2pflowsd.sending.restored_journals import RestoredJournals
from p2pflowsd.sending.send_queue import SendQueue
from p2pflowsd.sending.stream_repairs import StreamRepairs
from p2pflowsd.sending.waiters import Waiters

TICK_S = 0.5
PRUNE_INTERVAL_S = 10.0
PRUNE_AFTER_ROWS = 200
"""After so many new messages the journal is pruned, which removes up to twice as many."""
COMMIT_DELAY_S = 0.02
"""How long a commit may be delayed to batch more deliveries when no client waits for it."""
MAX_PAUSE_S = 3.0
"""How late a tick may be before it counts as a pause of the whole process."""
MAX_CLOCK_STEP_MS = 1_000
"""How far the clock may be set back without a correction of deadlines."""
DEFAULT_LIMITS = Limits()
DEFAULT_PRICES: Mapping[str, Price] = {}
NOTICE_OVERHEAD_BYTES = 1_000
"""Bytes of a packet with notices besides their lines, rounded up."""
MAX_UNACKNOWLEDGED = 50
"""Deliveries that may wait for a commit; brokers send only so many ahead of our PUBACK."""


@dataclass(slots=True)
class Request:
    """Something that the control API does inside a batch.

    Attributes:
        run: does it, inside the transaction.
        done: takes its result, or its error, after the commit.
        reads_only: whether it needs no commit, so that it can be run again if the commit fails.
    """

    run: Callable[[], Any]
    done: Callable[[Any], None]
    result: Any = None
    reads_only: bool = False


class _Alive(AbstractContextManager[None]):
    """Lets nothing into a dead node, and lets any exception kill it."""

    def __init__(self, journal: Journal) -> None:
        self._reading = journal.reading()  # also after the commit, as what is published is read then
        self._is_dead = False

    def __enter__(self) -> None:
        if self._is_dead:
            raise JournalError("an earlier failure has not been repaired yet")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._is_dead = True
        self._reading.__exit__(kind, error, traceback)


class Node:
    """The core of a daemon: builds its parts, and runs one batch after the other through them.

    A node that has raised an exception is dead: its memory may hold receipts, positions and messages that no commit has
    kept. It refuses every further call with a JournalError, and publishes nothing.
    """

    on_peer_online: Callable[[str], None] = staticmethod(lambda _user: None)
    """Called when the daemon of another user has come online."""
    has_twin = False
    """Whether another daemon with this identity was seen."""
    _commit_by: float | None = None
    _next_tick = 0.0
    _next_prune: float
    _next_tidying: float
    _prune_at_rows: int
    _unacknowledged: list[Delivery]
    _clock_offset: float

    def __init__(  # noqa: PLR0915 - the one place where the core is wired
        self,
        *,
        identity: Identity,
        journal: Journal,
        contacts: Contacts,
        link: Link,
        clock: Clock,
        entropy: Entropy,
        faults: Faults,
        on_prompt: Callable[[PromptRow], None] = lambda _prompt: None,
        on_met: Callable[[MeetingRow], None] = lambda _meeting: None,
        on_line: Callable[[LineRow], None] = lambda _line: None,
        replace_process: Callable[[int], bool] = lambda _pid: False,
        limits: Limits = DEFAULT_LIMITS,
        retention: Retention = DEFAULT_RETENTION,
        prices: Mapping[str, Price] = DEFAULT_PRICES,
        file_limits: FileLimits = DEFAULT_FILE_LIMITS,
    ) -> None:
        contacts.reload_if_changed()
        user = self.user = identity.user_id
        self.journal, self.contacts = journal, contacts
        self.clock, self.limits, self.retention = clock, limits, retention
        self._link, self._faults, self._alive, self.identity = link, faults, _Alive(journal), identity
        self.boot = _next_boot(journal, clock)
        envelope = Envelope(identity)
        callbacks = self.callbacks = Callbacks()
        name_of = self.name_of = naming(contacts, user)
        log = self._log = OwnersLog(journal, clock, name_of)

        presence = self.presence = Presence(identity, self.boot)
        followed = self._followed = Followed(user, link, callbacks)
        restored = self.restored = RestoredJournals(user, journal, clock, log)
        notices = self.notices = Notices(journal, clock)
        waiters = self.waiters = Waiters(journal, callbacks)
        files = self.files = Files(
            user=user,
            journal=journal,
            clock=clock,
            limits=file_limits,
            callbacks=callbacks,
            presence=presence,
            log=log,
            name_of=name_of,
        )
        open_messages = SendQueue()
        repairs = StreamRepairs(
            journal=journal,
            queue=open_messages,
            clock=clock,
            notices=notices,
            restored=restored,
            presence=presence,
        )
        resends = self.resends = Resends(open_messages, clock, repairs)
        outbox = self.outbox = Outbox(
            user=user,
            envelope=envelope,
            journal=journal,
            link=link,
            clock=clock,
            entropy=entropy,
            faults=faults,
            waiters=waiters,
            queue=open_messages,
            repairs=repairs,
            followed=followed,
            presence=presence,
            files=files,
        )
        self.messages = OwnMessages(journal=journal, clock=clock, outbox=outbox, waiters=waiters)

        catalog = self.catalog = Catalog(journal)
        instances = self.instances = Instances(user=user, journal=journal, clock=clock)
        authority = Authority(user=user, journal=journal, catalog=catalog, instances=instances)
        points = self.points = Points()
        tokens = self.worker_tokens = WorkerTokens(identity=identity, journal=journal, clock=clock, entropy=entropy)
        leases = self._leases = Leases(user=user, points=points, journal=journal, clock=clock)
        effects = Effects(journal=journal, clock=clock, outbox=outbox, leases=leases)
        turns, reports = Turns(journal), Reports(journal=journal, notices=notices)
        settlement = self._settlement = Settlement(
            user=user,
            journal=journal,
            clock=clock,
            outbox=outbox,
            notices=notices,
            effects=effects,
            turns=turns,
            log=log,
            answer_lifetime_ms=self._answer_lifetime_ms,
        )
        queue = self._queue = TaskQueue(
            user=user, journal=journal, catalog=catalog, leases=leases, effects=effects, notices=notices, turns=turns
        )
        changes = self.changes = InstanceChanges(
            journal=journal,
            clock=clock,
            contacts=contacts,
            outbox=outbox,
            leases=leases,
            effects=effects,
            settlement=settlement,
            turns=turns,
            instances=instances,
        )
        self.serving = Serving(
            journal=journal, catalog=catalog, leases=leases, turns=turns, settlement=settlement, changes=changes
        )
        spending = self.spending = Spending(user=user, journal=journal, clock=clock, prices=prices)
        runs = self._runs = Runs(
            user=user,
            journal=journal,
            clock=clock,
            faults=faults,
            outbox=outbox,
            catalog=catalog,
            instances=instances,
            authority=authority,
            changes=changes,
            leases=leases,
            queue=queue,
            effects=effects,
            settlement=settlement,
            turns=turns,
            reports=reports,
            spending=spending,
        )
        outbox.on_call_settled = self._on_call_settled
        self.transcript = Transcript(
            journal=journal, clock=clock, callbacks=callbacks, messages=self.messages, outbox=outbox, on_line=on_line
        )
        self.delegations = Delegations(
            user=user,
            journal=journal,
            clock=clock,
            contacts=contacts,
            outbox=outbox,
            messages=self.messages,
            transcript=self.transcript,
        )
        questions = self.questions = Questions(
            journal=journal,
            clock=clock,
            entropy=entropy,
            faults=faults,
            outbox=outbox,
            messages=self.messages,
            callbacks=callbacks,
            hops=Hops(first=self.delegations.first, last=self.delegations.last),
        )
        loads = self.loads = Loads(user=user, boot=self.boot, points=points, clock=clock)
        self.dispatch = Dispatch(
            user=user,
            boot=self.boot,
            journal=journal,
            link=link,
            clock=clock,
            faults=faults,
            points=points,
            tokens=tokens,
            leases=leases,
            loads=loads,
            declarations=Declarations(
                user=user, clock=clock, contacts=contacts, catalog=catalog, points=points, loads=loads, log=log
            ),
            specs=TaskSpecs(
                effects=effects, instances=instances, authority=authority, reports=reports, name_of=name_of
            ),
            runs=runs,
            spending=spending,
            settlement=settlement,
            notices=notices,
            reports=reports,
            log=log,
            replace_process=replace_process,
        )

        inbox = self.inbox = Inbox(
            journal=journal,
            clock=clock,
            name_of=name_of,
            settlement=settlement,
            notices=notices,
            callbacks=callbacks,
            transcript=self.transcript,
            on_prompt=on_prompt,
            user=user,
            outbox=outbox,
            max_open_of_peer=limits.questions_per_contact,
        )
        blocked = self.blocked = BlockedRequests(journal, notices)
        deadlines = self._deadlines = Deadlines(
            user=user,
            journal=journal,
            clock=clock,
            link=link,
            outbox=outbox,
            presence=presence,
            leases=leases,
            effects=effects,
            settlement=settlement,
            turns=turns,
            inbox=inbox,
            blocked=blocked,
            waiters=waiters,
            name_of=name_of,
            point_of=lambda endpoint: flow.dispatch_point if (flow := catalog.get(endpoint)) is not None else "",
        )
        people = self.people = People(
            user=user,
            journal=journal,
            clock=clock,
            entropy=entropy,
            contacts=contacts,
            catalog=catalog,
            followed=followed,
            outbox=outbox,
            messages=self.messages,
            settlement=settlement,
            callbacks=callbacks,
            log=log,
            on_met=on_met,
        )
        admission = self.admission = Admission(
            user=user,
            journal=journal,
            clock=clock,
            contacts=contacts,
            catalog=catalog,
            notices=notices,
            followed=followed,
            instances=instances,
            changes=changes,
            points=points,
            leases=leases,
            queue=queue,
            effects=effects,
            settlement=settlement,
            turns=turns,
            log=log,
            inbox=inbox,
            people=people,
            claims=ClaimDesk(own=questions.claims, of_prompts=inbox.claims, settlement=settlement),
            limiter=Limiter(user=user, journal=journal, clock=clock, spending=spending),
            awaited=AwaitedFiles(journal=journal, files=files, settlement=settlement, is_contact=self._is_contact),
        )
        rights = self.rights = Rights(
            user=user,
            journal=journal,
            contacts=contacts,
            catalog=catalog,
            leases=leases,
            settlement=settlement,
            blocked=blocked,
            inbox=inbox,
            end_unserved=self.serving.end,
        )
        self.dispatch.may_run = rights.may_run
        quotas = self.quotas = Quotas(user=user, limits=limits, journal=journal, contacts=contacts, clock=clock)
        self.intake = Intake(
            user=user,
            envelope=envelope,
            journal=journal,
            contacts=contacts,
            clock=clock,
            outbox=outbox,
            repairs=repairs,
            resends=resends,
            waiters=waiters,
            questions=questions,
            notices=notices,
            reports=reports,
            leases=leases,
            admission=admission,
            delegations=self.delegations,
            deadlines=deadlines,
            blocked=blocked,
            held=HeldRequests(journal=journal, clock=clock, settlement=settlement, limits=limits),
            limits=limits,
            quotas=quotas,
            files=files,
            restored=restored,
            log=log,
        )
        self.retries = Retries(
            journal=journal,
            clock=clock,
            outbox=outbox,
            messages=self.messages,
            leases=leases,
            queue=queue,
            deadlines=deadlines,
        )

        self._unacknowledged, self._clock_offset = [], clock.now() - clock.elapsed() * 1000
        self._restore()

    def process_batch(self, deliveries: Sequence[Delivery], requests: Sequence[Request] = ()) -> None:
        """Record what has arrived, commit once, then publish.

        The commit may wait a moment for more when no client waits for it. Two kinds of output do not wait for it:
        frames for our own workers, as code may run again anyway and its effects are kept once; and answers for our own
        clients, as a peer sends an answer again until we confirm it.

        Raises:
            JournalError: nothing since the last commit was kept, and the node is dead.
        """
        with self._alive:
            self._process_batch(deliveries, requests)

    def close(self) -> None:
        """Commit what is not committed yet.

        Raises:
            JournalError: it cannot be kept; its senders send it again.
        """
        with self._alive:
            self._commit_and_publish((), ticks=True)

    def next_wake(self) -> float:
        """When a batch is needed even if nothing arrives, in the clock's elapsed seconds."""
        has_work = (
            self.blocked.may_go_on
            or self.admission.awaited.may_go_on
            or self._deadlines.has_expired
            or self.outbox.has_too_large
            or self.people.invitations.has_new_contacts
            or self.rights.is_reviewing
            or self.serving.is_ending
        )
        if has_work:
            return self.clock.elapsed()
        wake = self._next_tick if self._commit_by is None else min(self._next_tick, self._commit_by)
        notice = self.notices.next_due()
        return wake if notice is None else min(wake, notice)

    def link_up(self) -> None:
        """Publish again what a broker may have forgotten, as it answers again.

        Raises:
            JournalError: the node is dead.
        """
        with self._alive:
            self._link.publish(topics.status(self.user), self.presence.mine(online=True), retain=True)
            self.publish_card()
            self.resends.resend_all()
            self.notices.request_all_missing()

    def subscriptions(self) -> list[str]:
        """All topics that this user's daemon reads."""
        users = set(self.contacts.known.by_user) | self.outbox.peers()
        own = [*topics.daemon_filters(self.user), topics.status(self.user)]
        return own + self._followed.reset(users)

    def publish_card(self) -> None:
        """Publish what anyone may call.

        Raises:
            JournalError: the node is dead.
        """
        with self._alive:
            flows = [flow.as_shown() for flow in self.catalog.all() if flow.allow == ANYONE]
            self._link.publish(topics.card(self.user), self.presence.card(flows), retain=True)

    def note_outage(self, reason: str, seconds: float) -> None:
        """Tell the owner that the journal could not be written; run inside a batch.

        Args:
            reason: why, as the end of a sentence.
            seconds: for how long.
        """
        self._log.note("disk", "", "", f"The journal could not be written for {seconds:.0f} s: {reason}.")

    def _process_batch(self, deliveries: Sequence[Delivery], requests: Sequence[Request]) -> None:
        elapsed = self.clock.elapsed()
        ticks = elapsed >= self._next_tick
        self.contacts.reload_if_changed()
        self._unacknowledged += deliveries
        with self.journal.work():
            self._notice_clock_change(elapsed)
            for user in self.people.invitations.add_contacts():
                self.admission.let_in(user)
            self.rights.enforce()
            for delivery in deliveries:
                self._receive(delivery)
            self._faults.reach("node.received")
            for request in requests:
                try:
                    request.result = request.run()
                except P2pflowsError as error:
                    request.result = error
            self.rights.enforce()  # a request may have changed the contacts
            if ticks:
                self._tick()
            self._deadlines.expire()
            self.serving.end_unserved()
            self._prune(elapsed)
            self._end_too_large()
            self.admission.awaited.release()
            self.intake.release_blocked()
            self._fail_unserved(self._queue.add_next_turns())
            self.dispatch.prepare()
            self.dispatch.flush()
            self._link.flush()
        self.callbacks.run_before_commit()
        due = (
            self.next_wake() <= elapsed
            or self.outbox.has_unsent
            or self._leases.needs_commit
            or len(self._unacknowledged) >= MAX_UNACKNOWLEDGED
        )
        if requests or ticks or due or self.callbacks.need_commit:
            self._commit_and_publish(requests, ticks=ticks)
        elif self._commit_by is None and self._unacknowledged:
            self._commit_by = elapsed + COMMIT_DELAY_S

    def _receive(self, delivery: Delivery) -> None:
        """Hand a delivery to the part that its topic names; a refusal is counted under its reason."""
        try:
            match topics.parse(delivery.topic):
                case topics.InboxTopic(user, topics.DAEMON | topics.FILES) if user == self.user:
                    pass  # read before, by `Twins` and `Transfers`
                case topics.InboxTopic(user, endpoint) if user == self.user:
                    self.intake.receive(endpoint, delivery)
                case topics.ResultsTopic() as results if results.user == self.user:
                    if delivery.retain:
                        raise Refused("retained")  # noqa: TRY301 - one place counts refusals
                    self.dispatch.receive(results, delivery.payload, is_local=delivery.is_local)
                case topics.PresenceTopic(user, "status") if user == self.user:
                    self._notice_twin(delivery)
                case topics.PresenceTopic(user, "status"):
                    self._hear_status(user, delivery.payload)
                case _:
                    raise Refused("wrong_topic")  # noqa: TRY301 - one place counts refusals
        except Refused as refused:
            self.intake.refuse(refused.reason, delivery)
        except BadFrame:
            self.intake.refuse("bad_frame", delivery)

    def _commit_and_publish(self, requests: Sequence[Request], *, ticks: bool) -> None:
        self.journal.commit(count_now=ticks)
        self._commit_by = None
        self.dispatch.on_commit(acknowledge=ticks)
        for peer, notice in self.notices.take(self._link.max_packet - NOTICE_OVERHEAD_BYTES):
            self.outbox.send_notice(peer, notice)
        self.outbox.flush()
        unacknowledged, self._unacknowledged = self._unacknowledged, []
        for delivery in unacknowledged:
            self._link.ack(delivery)
        self._link.flush()
        self._faults.reach("node.published")
        self.callbacks.run_after_commit()
        for request in requests:
            request.done(request.result)

    def _tick(self) -> None:
        elapsed = self.clock.elapsed()
        self._notice_pause(elapsed)
        self._next_tick = elapsed + TICK_S
        self.journal.check_file()
        self.outbox.redate()
        self.resends.resend_due()
        self.dispatch.tick()
        self.admission.release_contacts()
        self.inbox.wake()
        self.questions.tick()
        self.admission.awaited.review()
        if elapsed >= self._next_tidying:
            self._next_tidying = elapsed + PRUNE_INTERVAL_S
            now = self.clock.now()
            self.journal.log.prune(now - self.retention.log * 1000)
            self.transcript.forget_before(now - self.retention.transcripts * 1000)
            self.journal.questions.prune()
            self.journal.usage.forget_idle()
            self.spending.tidy()
            self.changes.delete_idle()
            self.files.prune()
            self.journal.streams.forget_strangers(self._is_contact)

    def _prune(self, elapsed: float) -> None:
        """Remove rows that are not needed any more: as fast as new ones come, and at least once in a minute."""
        if elapsed < self._next_prune and self._rows_added() < self._prune_at_rows:
            return
        has_more = self.journal.prune(self.clock.now(), self.retention)
        self._next_prune = elapsed + (TICK_S if has_more else PRUNE_INTERVAL_S)
        self._prune_at_rows = self._rows_added() + PRUNE_AFTER_ROWS

    def _rows_added(self) -> int:
        counters = self.journal.counters
        return counters.get("accepted", 0) + counters.get("received", 0)

    def _on_call_settled(self, sent: OutgoingRow, state: OutgoingState, answer: bytes | None) -> None:
        """Pass the end of a message with an origin on to the part that sent it."""
        if not (
            (sent.endpoint == topics.INVITE and self.people.invitations.on_settled(sent, state, answer))
            or self.delegations.on_call_settled(sent, state, answer)
            or self.questions.on_call_settled(sent, state, answer)
        ):
            self._runs.on_call_settled(sent, state, answer)

    def _hear_status(self, user: str, payload: bytes) -> None:
        """Take in the status of another user.

        Raises:
            Refused: it does not matter here, is not theirs, or they send too many.
        """
        self.intake.useless.check(user)
        is_news = self.presence.learn(user, payload)
        if not self._followed.has(user):  # only a broker delivers what nobody has subscribed to
            self.presence.forget(user)
            raise Refused("unrelated")
        if is_news:
            self.intake.useless.charge(user, LINES_OF_A_STATUS)
            self.resends.resend_to(user)
            self.on_peer_online(user)

    def _notice_twin(self, delivery: Delivery) -> None:
        is_twin = self.presence.is_twin(delivery.payload, retained=delivery.retain)
        if self.presence.rise_above(delivery.payload):
            self.journal.meta.set("boot", str(self.presence.boot))
            self._link.publish(topics.status(self.user), self.presence.mine(online=True), retain=True)
        if is_twin:
            self.has_twin = True
            self._log.note("twin", "", "", "Another daemon runs with this identity; each takes messages of the other.")

    def _notice_pause(self, elapsed: float) -> None:
        """Do not count against workers that this process stood still, as in a laptop that was asleep."""
        pause = elapsed - self._next_tick
        if self._next_tick and pause > MAX_PAUSE_S:
            self._log.note("paused", "", "", f"This daemon stood still for {pause:.0f} s.")
            self.dispatch.forgive_silence()

    def _notice_clock_change(self, elapsed: float) -> None:
        """Let clients wait no longer because the clock was set back; before this batch accepts other messages."""
        offset = self.clock.now() - elapsed * 1000
        if abs(offset - self._clock_offset) > MAX_CLOCK_STEP_MS:
            self.outbox.peer_clocks.forget_all()
        if offset > self._clock_offset + MAX_CLOCK_STEP_MS:
            self.outbox.restore_times()
        if offset < self._clock_offset - MAX_CLOCK_STEP_MS:
            self._deadlines.clock_set_back(int(self._clock_offset - offset))
        self._clock_offset = offset

    def _restore(self) -> None:
        """Go on with what the journal says was under way."""
        with self.journal.transaction():
            if self.journal.older_copy is not None:
                self.restored.note_own(self.journal.older_copy)
            self.catalog.name_users_by_id(self.contacts.known)
            self.admission.restore()
            self._fail_unserved(self._queue.restore())
        self.rights.review_all()
        self._next_prune = self._next_tidying = self.clock.elapsed() + PRUNE_INTERVAL_S
        self._prune_at_rows = self._rows_added() + PRUNE_AFTER_ROWS

    def _end_too_large(self) -> None:
        for entry, error in self.outbox.end_too_large():
            self._log.note(error.kind, entry.peer, entry.endpoint, error.message)

    def _answer_lifetime_ms(self, peer: str) -> int | None:
        return None if self._is_contact(peer) else self.limits.answers_to_strangers * 1000

    def _is_contact(self, peer: str) -> bool:
        return peer == self.user or peer in self.contacts.known.by_user

    def _fail_unserved(self, rows: Sequence[IncomingRow]) -> None:
        for row in rows:
            self._settlement.fail(row, NotServed(f"{row.endpoint!r} is not served any more."))


def _next_boot(journal: Journal, clock: Clock) -> int:
    """Return a number that grows with each start, once it is committed."""
    boot = max(clock.now(), int(journal.meta.get("boot") or 0) + 1)
    with journal.transaction():
        journal.meta.set("boot", str(boot))
    return boot
