"""The composition root: builds the parts of the daemon, connects them, and runs them as one task group."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
import socket
from collections.abc import Callable, Sequence
from importlib.metadata import version
from typing import Any

from p2pflows import contacts
from p2pflows.config import Settings, WorkerConfig
from p2pflows.errors import JournalFailed, P2pflowsError, UsageError
from p2pflows.home import Home
from p2pflows.links import broker_url
from p2pflows.links.broker_url import BrokerUrl, Embedded
from p2pflows.links.delivery import Delivery, Will
from p2pflows.links.mqtt import MqttLink
from p2pflows.protocol import identity, topics
from p2pflows.protocol.channel import Enrolment
from p2pflows.protocol.words import words_of
from p2pflowsd import faults
from p2pflowsd.api import views
from p2pflowsd.api.control import Control
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.methods import Methods
from p2pflowsd.batch_times import BatchTimes
from p2pflowsd.checkpoints import Checkpoints
from p2pflowsd.clock import SystemClock, system_entropy
from p2pflowsd.journal import Journal, JournalError, from_opening
from p2pflowsd.journal.rows import LineRow, MeetingRow, PromptRow
from p2pflowsd.node import Node, Request
from p2pflowsd.processes.embedded_broker import EmbeddedBroker
from p2pflowsd.processes.notifying_process import NotifyingProcess
from p2pflowsd.processes.web_process import WebProcess
from p2pflowsd.processes.worker_processes import WorkerProcess
from p2pflowsd.receiving.invitations import story
from p2pflowsd.running.catalog import HUMAN_SCHEMA, Served
from p2pflowsd.sending.twins import Standing, Twins
from p2pflowsd.transfers.transfers import Transfers
from p2pflowsd.worker_socket import WorkerSocket

DISK_RETRY_S = 2.0
"""Seconds between attempts to go on after the disk has failed."""
TWIN_TIMEOUT_S = 1.0
"""How long another daemon with this identity has to answer, if it was seen."""
ECHO_TIMEOUT_S = 2.0
"""How long the broker has to pass on our question to others with this identity."""
MAX_BATCH_REQUESTS = 128
"""How many requests of clients one batch runs, so that nobody waits for long until it ends."""
MAX_BATCH_DELIVERIES = 64
MAX_BATCH_BYTES = 32_000
"""How many bytes of deliveries one batch receives; a larger one has a batch of its own."""
MAX_UNACKNOWLEDGED = 100
"""How many deliveries wait for their acknowledgement while this daemon does not know whether it has a twin.

Once so many wait, iotcore sends nothing more: no SUBACK, without which we are not connected, and no answer of a twin.
So these are acknowledged before they are stored. If this process dies, their senders, without a receipt, send again.
"""
MAX_ACKNOWLEDGED_EARLY = 500
"""How many deliveries are acknowledged before they are stored."""
ANNOUNCE_TIMEOUT_S = 5.0
"""How long start-up waits for the broker before it reports to the user."""


class App:
    """One running daemon.

    Args:
        home: its folder.
        settings: what `config.yaml` says.
        log: where it tells what happens.
        take_over: whether another daemon with this identity has to end.

    Raises:
        UsageError: the key, contacts, journal or broker setting cannot be used.
    """

    def __init__(self, home: Home, settings: Settings, log: logging.Logger, *, take_over: bool = False) -> None:
        self._home = home
        self._settings = settings
        self._log = log
        self._me = identity.load(home.key)
        self._status_topic = topics.status(self._me.user_id)
        self._contacts = contacts.Contacts(home.contacts)
        self._contacts.book()
        self._faults = faults.from_environment(os.environ)
        self._clock = SystemClock()
        self._since = self._clock.now()
        self._version = version("p2pflows")
        self._setting = broker_url.parse(settings.broker)
        self._embedded = EmbeddedBroker(self._setting.port, log=log) if isinstance(self._setting, Embedded) else None
        self._journal = Journal(home.journal, self._me.user_id, self._faults, has_thread=True)
        self._checkpoints = Checkpoints()
        if not self._journal.shrinks:
            log.warning(
                "An earlier release began the journal, so its file does not shrink. Once: p2pflows up --compact"
            )
        self._link = MqttLink(
            broker=self._broker,
            client_id=self._client_id(),
            persistent=True,
            subscriptions=self._subscriptions,
            will=lambda: Will(topics.status(self._me.user_id), self._node.presence.will(), retain=True),
            on_deliveries=self._arrived,
            on_up=self._up,
            on_down=self._down,
            on_problem=self._problem,
        )
        self._telling: set[asyncio.Task[None]] = set()
        self._computing = asyncio.Lock()
        self._processes: list[WorkerProcess] = []
        self._workers = WorkerSocket(
            home.worker_socket, user=self._me.user_id, link=self._link, on_deliveries=self._arrived, log=log
        )
        self._transfers = Transfers(
            identity=self._me,
            folder=home.files,
            node=lambda: self._node,
            submit=self._submit,
            link=self._workers,
            is_writable=lambda: self._link.is_writable,
            clock=self._clock,
            entropy=system_entropy,
            log=log,
        )
        self._node = self._new_node(self._journal)
        self._twins = Twins(self._me, boot=self._node.boot, take_over=take_over, entropy=system_entropy)
        self._workers.is_held = True
        self._gave_way: asyncio.Future[P2pflowsError] = asyncio.get_running_loop().create_future()
        self._deliveries: list[Delivery] = []
        self._requests: list[Request] = []
        self._closed = False
        self._told: UsageError | None = None
        self._pump_due: asyncio.Handle | None = None
        self._batch_times = BatchTimes()
        self._timer: asyncio.TimerHandle | None = None
        self._journal_failed = asyncio.Event()
        self._journal_error: JournalError | None = None
        self._told_failures: set[str] = set()
        self._failed_at = 0.0
        self._key_variables = _key_names(settings.workers)
        self._page = (
            WebProcess(home, hidden_variables=self._key_variables, log=log) if settings.web is not None else None
        )
        self._connected = asyncio.Event()
        self._crashed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        daemon = Daemon(
            node=lambda: self._node, submit=self._submit, about=self._about, broker_url=self._broker_for_workers
        )
        daemon.transfers = self._transfers
        self._control = Control(home.socket, Methods.of(daemon))

    async def run(self, stopping: asyncio.Event, ready: Callable[[dict[str, Any]], None]) -> None:
        """Serve until `stopping` is set, then end cleanly.

        Args:
            stopping: set by a signal.
            ready: told what to show the user, once the daemon can be used.

        Raises:
            UsageError: the socket or the embedded broker cannot be had.
            JournalError: at the end the journal could not be written.
        """
        if (warning := self._broker_warning()) is not None:
            self._log.warning("WARNING: %s", warning)
        self._transfers.start()
        await self._workers.start()
        await self._control.start()
        self._processes = [
            WorkerProcess(
                worker,
                token=self._token,
                worker_socket=self._home.worker_socket,
                on_ended=self._worker_ended,
                log=self._log,
                hidden_variables=self._key_variables,
            )
            for worker in self._settings.workers
        ]
        beside: list[NotifyingProcess | WebProcess] = [
            NotifyingProcess(self._home, self._settings.notify, hidden_variables=self._key_variables, log=self._log)
        ]
        beside += [] if self._page is None else [self._page]
        try:
            async with asyncio.TaskGroup() as group:
                link = group.create_task(self._keep_link())
                crew = [group.create_task(self._announce(ready))]
                if self._embedded is not None:
                    crew.append(group.create_task(self._embedded.watch()))
                crew += [group.create_task(child.run()) for child in (*self._processes, *beside)]
                self._schedule()
                stop: asyncio.Future[Any] = group.create_task(stopping.wait())
                ends: set[asyncio.Future[Any]] = {stop, self._crashed, self._gave_way}
                await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
                stop.cancel()
                if self._crashed.done():
                    self._crashed.result()
                for task in crew:
                    task.cancel()
                await asyncio.gather(*crew, return_exceptions=True)
                if not self._gave_way.done():
                    self._workers.publish(
                        topics.status(self._me.user_id), self._node.presence.mine(online=False), retain=True
                    )
                self._closed = True
                try:
                    self._node.close()
                except JournalError as error:  # senders send again what is not kept
                    self._journal_error = self._journal_error or error
                await self._link.close()
                link.cancel()
            if self._journal_error is not None:
                raise self._journal_error
            if self._gave_way.done():
                raise self._gave_way.result()
        finally:
            self._closed = True
            await self._transfers.close()
            await self._control.close()
            await self._workers.close()
            if self._embedded is not None:
                await self._embedded.close()
            self._checkpoints.close()
            self._journal.close()

    # The pump: deliveries and requests that arrive during a commit form the next batch.

    def _schedule(self) -> None:
        if self._pump_due is None and not self._closed:
            self._pump_due = asyncio.get_running_loop().call_soon(self._pump)

    def _pump(self) -> None:
        self._pump_due = None
        if self._closed:
            return
        if self._timer is not None:
            self._timer.cancel()
        deliveries, requests = self._take_batch()
        if self._journal_error is not None:  # the node is dead: deliveries come again, and clients get an error
            self._refuse(requests, self._journal_error)
            return
        began = self._clock.elapsed()
        try:
            self._node.process_batch(deliveries, requests)
        except JournalError as error:
            self._on_journal_error(error, requests)
            return
        except Exception as error:  # noqa: BLE001 - handed to run(), which ends the daemon loudly
            if not self._crashed.done():
                self._crashed.set_exception(error)
            return
        self._batch_times.add(began, self._clock.elapsed())
        self._checkpoints.after_batch(self._journal)
        if self._contacts.problem is not self._told:
            self._told = self._contacts.problem
            if self._told is not None:
                self._log.warning(
                    "%s %s Until then the contacts stay as they were.", self._told.message, self._told.hint
                )
        wait = max(0.0, self._node.next_wake() - self._clock.elapsed())
        self._timer = asyncio.get_running_loop().call_later(wait, self._schedule)

    def _take_batch(self) -> tuple[list[Delivery], list[Request]]:
        """Take what the next batch has time for; the one after it goes on with the others."""
        deliveries: list[Delivery] = []
        has_more = False
        if not self._workers.is_held:
            count = batch_length(self._deliveries)
            deliveries, self._deliveries = self._deliveries[:count], self._deliveries[count:]
            has_more = bool(self._deliveries)
        requests, self._requests = self._requests[:MAX_BATCH_REQUESTS], self._requests[MAX_BATCH_REQUESTS:]
        if has_more or self._requests:
            self._schedule()
        return deliveries, requests

    def _submit(self, step: Callable[[], Any], on_outcome: Callable[[Any], None], *, reads_only: bool = False) -> None:
        """Run a step inside the node's next batch; after the commit, call back with its result or P2pflowsError.

        A step that only reads is run even while the journal cannot be written.
        """
        if self._journal_error is None:
            self._requests.append(Request(step, on_outcome, reads_only=reads_only))
            self._schedule()
        elif reads_only:
            on_outcome(self._read(step))
        else:
            on_outcome(_disk_error(self._journal_error))

    def _read(self, step: Callable[[], Any]) -> Any:
        try:
            with self._journal.reading():
                return step()
        except P2pflowsError as error:
            return error
        except JournalError as error:
            return _disk_error(self._journal_error or error)

    def _on_journal_error(self, error: JournalError, requests: list[Request]) -> None:
        """Stop using a node whose journal failed; `_reopen_journal` goes on from what was committed."""
        self._log.error("the journal cannot be written: %s. %s Nothing new is accepted.", error, error.advice)
        self._journal_error = error
        self._told_failures = {str(error)}
        self._failed_at = self._clock.elapsed()
        self._journal_failed.set()
        self._connected.clear()
        self._refuse(requests, error)

    def _refuse(self, requests: Sequence[Request], error: JournalError) -> None:
        for request in requests:
            request.done(self._read(request.run) if request.reads_only else _disk_error(error))

    async def _keep_link(self) -> None:
        """Keep the broker link up; after a disk failure reopen the journal and reconnect."""
        while True:
            link = asyncio.create_task(self._link.run())
            failed = asyncio.create_task(self._journal_failed.wait())
            try:
                await asyncio.wait([link, failed], return_when=asyncio.FIRST_COMPLETED)
            finally:
                failed.cancel()
                link.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await link
            while self._journal_failed.is_set():
                await asyncio.sleep(DISK_RETRY_S)
                self._reopen_journal()

    def _reopen_journal(self) -> None:
        """Go on with a new node, if the journal can be written; until then the old one can still be read."""
        self._deliveries.clear()
        self._checkpoints.wait()
        journal: Journal | None = None
        try:
            journal = self._journal.reopened()
            node = self._new_node(journal)
            with journal.reading():
                node.waiters.take_over(self._node.waiters)
                node.questions.take_over(self._node.questions)
        except (UsageError, JournalError) as error:
            if journal is not None:
                journal.close()
            failure = error if isinstance(error, JournalError) else from_opening(error)
            if str(failure) not in self._told_failures:
                self._log.error("the journal still cannot be written: %s. %s", failure, failure.advice)
            self._told_failures.add(str(failure))
            self._journal_error = failure
            return
        self._journal.close()
        reason, seconds = str(self._journal_error), self._clock.elapsed() - self._failed_at
        self._journal, self._node, self._journal_error = journal, node, None
        self._journal_failed.clear()
        self._log.info("the journal can be written again")
        self._submit(lambda: node.note_outage(reason, seconds), lambda _result: None)

    # Building.

    def _client_id(self) -> str:
        """The MQTT client id: random, since an id suffices to take over a session; stored, to find ours again.

        A copied home gets another one, or the broker would end the connection of one daemon for that of the other.
        """
        meta, place = self._journal.meta, _place_of(self._home)
        with self._journal.transaction():
            known = meta.get("client_id")
            if known is None or meta.get("client_id_of") not in (None, place):
                known = f"p2p-{secrets.token_hex(16)}"
            if meta.get("client_id_of") != place:
                meta.set("client_id", known)
                meta.set("client_id_of", place)
        return known

    def _new_node(self, journal: Journal) -> Node:
        with journal.reading():
            node = Node(
                identity=self._me,
                journal=journal,
                contacts=self._contacts,
                link=self._workers,
                clock=self._clock,
                entropy=system_entropy,
                faults=self._faults,
                on_prompt=self._on_prompt,
                on_met=self._on_met,
                on_line=self._on_line,
                replace_process=lambda pid: any(process.replace(pid) for process in self._processes),
                limits=self._settings.limits,
                retention=self._settings.retention,
                prices=self._settings.prices,
                file_limits=self._settings.files,
            )
            self._transfers.attach(node)
            self._serve_human(node)
        return node

    def _on_line(self, line: LineRow) -> None:
        if self._control.has_watchers("line") or self._control.has_watchers("news_item"):
            shown = views.line(self._node, line)
            self._control.send_event("line", shown)
            self._control.send_event("news_item", {"line": shown})

    def _on_prompt(self, prompt: PromptRow) -> None:
        if not (self._control.has_watchers("prompt") or self._control.has_watchers("news_item")):
            return
        shown = views.prompt(self._node, prompt)
        self._control.send_event("news_item", {"prompt": shown})
        if self._control.has_watchers("prompt"):
            self._control.send_event("prompt", shown)
            self._node.inbox.note_shown([prompt])

    def _serve_human(self, node: Node) -> None:
        """Serve the human at the first start only, so that unserving it lasts; under a new name, no longer the old."""
        endpoint, old = self._settings.human_endpoint, node.journal.meta.get("human")
        if old == endpoint:
            return
        with node.journal.transaction():
            before = node.catalog.get(old) if old else None
            if before is not None and before.kind == "human":
                node.serving.unserve(before.endpoint)
                self._log.warning("the human is served as %s, and no longer as %s", endpoint, before.endpoint)
            node.journal.meta.set("human", endpoint)
            there = node.catalog.get(endpoint)
            if there is not None and there.kind != "human":
                self._log.warning("the human is not served: %s serves %s", endpoint, there.target or there.kind)
            elif there is None:
                node.catalog.put(
                    Served(
                        endpoint=endpoint,
                        kind="human",
                        description="A human answers.",
                        schema=HUMAN_SCHEMA,
                        strangers=[],
                    )
                )

    # People who have become contacts.

    def _on_met(self, meeting: MeetingRow) -> None:
        telling = asyncio.get_running_loop().create_task(self._tell_of(meeting))
        self._telling.add(telling)
        telling.add_done_callback(self._telling.discard)

    async def _tell_of(self, meeting: MeetingRow) -> None:
        """Compute the words of a new contact, one after the other as they take much memory, and tell the owner."""
        async with self._computing:
            try:
                words = await asyncio.to_thread(words_of, self._me.user_id, meeting.peer)
            except P2pflowsError as error:
                self._log.warning("%s", error)
                words = ""
        self._log.info("%s: %s", meeting.name, story(meeting, words))
        self._submit(lambda: self._node.people.invitations.tell(meeting.row_id, words), lambda _result: None)

    # Events of the broker link.

    def _subscriptions(self) -> list[str]:
        return self._node.subscriptions()

    async def _broker(self) -> BrokerUrl:
        if self._embedded is not None:
            return await self._embedded.ensure()
        assert isinstance(self._setting, BrokerUrl)  # noqa: S101 - the setting is one or the other
        return self._setting

    def _arrived(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            if delivery.topic == self._transfers.topic:
                self._transfers.receive(delivery)
                if not delivery.needs_ack:  # as all that honest peers send about files
                    continue
            self._deliveries.append(delivery)
            if delivery.topic == self._twins.topic:
                self._hear_twin(delivery)
            elif delivery.topic == self._status_topic:
                self._twins.note_status(delivery.payload)
        if self._workers.is_held and MAX_UNACKNOWLEDGED <= len(self._deliveries) <= MAX_ACKNOWLEDGED_EARLY:
            for delivery in self._deliveries:
                self._link.ack(delivery)
        if self._deliveries:
            self._schedule()

    def _hear_twin(self, delivery: Delivery) -> None:
        """Take in what another daemon of this user says, or the echo of our own question."""
        was_heard = self._twins.is_heard
        answer = None if delivery.retain else self._twins.receive(delivery.payload)
        if answer is not None:
            self._link.publish(self._twins.topic, answer, qos=0)
            self._link.flush()
        if self._twins.standing is Standing.BACK:
            self._give_way()
        elif self._twins.is_heard and not was_heard:
            asyncio.get_running_loop().call_later(TWIN_TIMEOUT_S if self._twins.is_seen else 0.0, self._go_on)

    def _give_way(self) -> None:
        """End, as another daemon runs with this identity; nothing is sent any more."""
        if self._gave_way.done():
            return
        self._workers.is_held = True
        mine, theirs = (views.rfc3339(moment) for moment in (self._node.boot, self._twins.other))
        if self._twins.other > self._node.boot:
            error = UsageError(
                f"Another daemon with this identity has taken over: it started at {theirs}, this one at {mine}.",
                "Nothing is lost: what this one has accepted is in its journal. Run only one of them.",
            )
        else:
            error = UsageError(
                f"Another daemon runs with this identity: it started at {theirs}, this one at {mine}.",
                "Stop that one first, or end it from here: p2pflows up --take-over",
            )
        self._gave_way.set_result(error)

    def _go_on(self) -> None:
        """Begin to send and receive, as no other daemon has answered."""
        self._twins.settle()
        if self._twins.standing is not Standing.ALONE or not self._workers.is_held or not self._link.connected:
            return
        self._workers.is_held = False
        self._begin()

    def _up(self, session_present: bool) -> None:
        if self._journal_failed.is_set():
            return
        self._log.info(
            "connected to the broker %s (session %s)", self._broker_name(), "kept" if session_present else "new"
        )
        self._link.publish(self._twins.topic, self._twins.question(), qos=0)
        self._link.flush()
        if self._twins.standing is Standing.ALONE:
            self._workers.is_held = False
            self._begin()
        elif self._twins.standing is Standing.UNKNOWN:
            asyncio.get_running_loop().call_later(ECHO_TIMEOUT_S, self._go_on)

    def _begin(self) -> None:
        self._connected.set()
        try:
            self._node.link_up()
        except JournalError as error:
            self._on_journal_error(error, [])
            return
        self._transfers.link_up()
        self._schedule()

    def _down(self, reason: str) -> None:
        self._connected.clear()
        self._transfers.link_down()
        if not self._closed:
            self._log.warning("the broker link is down: %s", reason)

    def _problem(self, problem: str) -> None:
        self._log.warning("%s", problem)

    # What others ask.

    def _trouble(self) -> str | None:
        """What is wrong with this daemon, in a sentence."""
        if self._journal_error is not None:
            return _disk_error(self._journal_error).message
        if self._node.has_twin:
            return "Another daemon runs with this identity. Stop one of them: they take messages from each other."
        return None

    def _about(self) -> dict[str, Any]:
        round_trip = self._link.round_trip
        return {
            "user_id": self._me.user_id,
            "pid": os.getpid(),
            "since": views.rfc3339(self._since),
            "version": self._version,
            "home": str(self._home.path),
            "problem": self._trouble(),
            "page": None if self._page is None else self._page.about(),
            "longest_batch_ms": self._batch_times.longest_ms,
            "broker": {
                "url": str(self._setting),
                "name": self._broker_name(),
                "connected": self._link.connected,
                "reason": None if self._link.connected else self._link.why_not("") or None,
                "round_trip_ms": None if round_trip is None else round(round_trip * 1000, 2),
                "warning": self._broker_warning(),
                "max_packet": self._link.max_packet,
                "hangs_up": self._link.found_limit,
            },
        }

    def _broker_warning(self) -> str | None:
        if isinstance(self._setting, BrokerUrl) and self._setting.is_exposed:
            return (
                f"the password for {self._setting.host} travels without encryption: anyone on the way can read it, and "
                "publish in your name; use mqtts://"
            )
        return None

    def _broker_name(self) -> str:
        return self._embedded.name if self._embedded is not None else str(self._setting)

    async def _broker_for_workers(self) -> str:
        url = await (self._broker() if self._embedded is None else self._embedded.ensure_for_workers())
        return url.with_secret()

    async def _token(self, point: str) -> str:
        key = self._node.worker_tokens.key(point, "")
        return Enrolment(await self._broker_for_workers(), self._me.user_id, point, key).token()

    def _worker_ended(self, point: str, pid: int) -> None:
        self._submit(lambda: self._node.dispatch.on_process_ended(point, pid), lambda _result: None)

    async def _announce(self, ready: Callable[[dict[str, Any]], None]) -> None:
        """Tell the user how things stand once the broker answers, or when it takes long."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._connected.wait(), ANNOUNCE_TIMEOUT_S)
        ready(self._about())


def batch_length(deliveries: Sequence[Delivery]) -> int:
    """Return how many deliveries a batch takes: at least one of them, and else no more than it has time for."""
    size = 0
    for count, delivery in enumerate(deliveries[:MAX_BATCH_DELIVERIES]):
        size += len(delivery.payload)
        if count and size > MAX_BATCH_BYTES:
            return count
    return min(len(deliveries), MAX_BATCH_DELIVERIES)


def _place_of(home: Home) -> str:
    """What tells a home folder from a copy of it, on this machine or another."""
    info = home.path.stat()
    return f"{socket.gethostname()} {info.st_dev} {info.st_ino}"


def _key_names(workers: Sequence[WorkerConfig]) -> set[str]:
    """The environment variables that hold the keys of some workers."""
    return {key.api_key_env for worker in workers for key in worker.api_infos if key.api_key_env is not None}


def _disk_error(error: JournalError) -> P2pflowsError:
    return JournalFailed(f"The journal cannot be written: {error}.", f"{error.advice} Nothing was accepted.")
