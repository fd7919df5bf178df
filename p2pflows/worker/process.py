"""The worker: its link to the daemon, its lanes and its runner, put together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from p2pflows.errors import FlowFailed, UsageError
from p2pflows.foreign_text import escape
from p2pflows.links import broker_url
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.delivery import Delivery, Will
from p2pflows.protocol import topics
from p2pflows.protocol.asks import Ask, CallFailed
from p2pflows.protocol.channel import BadFrame, Channel, Enrolment
from p2pflows.protocol.message import MAX_BODY_BYTES
from p2pflows.protocol.worker_frames import DaemonFrame, TaskResult, WorkerInfo, json_size
from p2pflows.worker.lanes import MAX_WAITING, Lanes, SettledAsk
from p2pflows.worker.packing import Updates, split_results, split_updates
from p2pflows.worker.runner import Runner
from p2pflows.worker.socket_link import SocketLink

if TYPE_CHECKING:
    from p2pflows.links.mqtt import MqttLink
    from p2pflows.models.api_info import ApiInfo
    from p2pflows.models.keyring import Keyring

_TICK_S = 1.0
_TICKS_PER_HEARTBEAT = 2
_RESEND_AFTER_S = 2.0
_DRAIN_TIMEOUT_S = 30.0
_MIN_FRAME_INTERVAL_S = 0.001
"""The least time between two frames with results while tasks queue up; without a backlog, a result leaves at once."""
_MIN_REPORT_INTERVAL_S = 0.05
"""The least time between two frames that carry nothing but progress, whatever runs report."""
_HEADER_BYTES = 4_000
_QUOTES_BYTES = 3
"""Bytes that JSON adds to each id in a list."""
_MAX_ASK_BYTES = MAX_BODY_BYTES + _HEADER_BYTES
_MIN_FRAME_BYTES = 10_000

_log = logging.getLogger(__name__)


class Worker:
    """One worker. Create it inside a running event loop.

    Args:
        enrolment: the address of its daemon, and the key of its dispatch point.
        slots: how many tasks may run at once.
        api_infos: API keys for its flows; they stay in this object.
        on_connected: called whenever the worker has reached its daemon, or the broker.
        daemon: the socket of a daemon on this machine; None connects through the broker.
        max_waiting: how many runs may wait here before the oldest of them are suspended.

    Attributes:
        refusal: why the daemon refused this worker, which has ended it; None if it did not.

    Raises:
        UsageError: the enrolment names no broker address.
    """

    def __init__(
        self,
        enrolment: Enrolment,
        slots: int,
        api_infos: Sequence[ApiInfo] = (),
        on_connected: Callable[[], None] = lambda: None,
        *,
        daemon: Path | None = None,
        max_waiting: int = MAX_WAITING,
    ) -> None:
        url = broker_url.parse(enrolment.broker)
        if not isinstance(url, BrokerUrl):
            raise UsageError("That token names no broker address.", "Make one with: p2pflows worker-token POINT")
        self._url = url
        self.refusal: str | None = None
        self._on_connected = on_connected
        self._name = f"w-{secrets.token_hex(8)}"
        self._channel = Channel(enrolment.key)
        self._results = topics.results(enrolment.user, enrolment.queue)
        self._dispatch = topics.dispatch(enrolment.user, enrolment.queue, self._name)
        self._presence = topics.status(enrolment.user)
        self._last_presence: bytes | None = None
        info = WorkerInfo(self._name, slots, os.getpid(), socket.gethostname(), len(api_infos))
        self._lanes = Lanes(info, max_waiting)
        self._lock = threading.Lock()
        self._keyring = _keyring(api_infos)
        self._runner = Runner(
            self._lanes,
            self._lock,
            slots,
            self._request_send,
            self._request_report,
            user=enrolment.user,
            keyring=self._keyring,
            home=None if daemon is None else daemon.parent,
        )
        self._loop = asyncio.get_running_loop()
        self._send_requested = False
        self._last_send = 0.0
        self._report_requested = False
        self._last_report = 0.0
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()
        self._address = str(url) if daemon is None else "the daemon"
        self._link: MqttLink | SocketLink = self._link_to_broker() if daemon is None else self._link_to_daemon(daemon)

    async def run(self) -> bool:
        """Serve until `stop`, then wait until running tasks have ended and their results are acknowledged.

        Returns:
            Whether all of them ended.
        """
        async with asyncio.TaskGroup() as group:
            serving = group.create_task(self._link.run())
            beating = group.create_task(self._beat())
            await self._stopping.wait()
            with self._lock:
                self._lanes.drain()
                abandoned = list(self._lanes.abandoned)
            for task in abandoned:
                if task.stop is not None:
                    task.stop()
            self._send()
            await self._wait_until_settled()
            self._send(bye=True)
            await self._link.close()
            serving.cancel()
            beating.cancel()
        with self._lock:
            left = self._lanes.running
        for task in left:
            if task.stop is not None:
                task.stop()
        self._runner.close()
        if self._keyring is not None:
            self._keyring.close()
        return not left and not abandoned

    def stop(self) -> None:
        """Take no more tasks, and end; a second call ends without waiting for running tasks."""
        if self._stopping.is_set():
            self._settled.set()
        self._stopping.set()

    async def _wait_until_settled(self) -> None:
        self._note_if_settled()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                await self._settled.wait()

    def _note_if_settled(self) -> None:
        with self._lock:
            if self._stopping.is_set() and self._lanes.is_idle:
                self._settled.set()

    def _link_to_daemon(self, daemon: Path) -> SocketLink:
        return SocketLink(
            daemon,
            topic=self._dispatch,
            will=self._will,
            on_deliveries=self._take_in,
            on_up=self._on_up,
            on_down=self._on_down,
            on_problem=_warn,
        )

    def _link_to_broker(self) -> MqttLink:
        from p2pflows.links.mqtt import MqttLink  # 4 MB, which a worker on the same machine does not need

        return MqttLink(
            broker=self._broker,
            client_id=self._name,
            persistent=False,
            subscriptions=lambda: [self._dispatch, self._presence],
            will=self._will,
            on_deliveries=self._take_in,
            on_up=self._on_up,
            on_down=self._on_down,
            on_problem=_warn,
        )

    async def _broker(self) -> BrokerUrl:
        return self._url

    def _will(self) -> Will:
        with self._lock:
            frame = self._lanes.next_will()
        return Will(self._results, self._channel.seal(self._results, *frame.to_wire()), retain=False)

    def _on_up(self, _session_present: bool) -> None:
        _log.info("Connected to %s as %s.", self._address, self._name)
        self._say_hello()
        self._on_connected()

    def _say_hello(self) -> None:
        with self._lock:
            results = self._lanes.unacknowledged_results(self._loop.time())
        self._send(results)

    def _on_down(self, reason: str) -> None:
        if not self._stopping.is_set():
            _log.warning("The connection to %s is gone: %s.", self._address, reason)

    async def _beat(self) -> None:
        for tick in itertools.count(1):
            await asyncio.sleep(_TICK_S)
            is_heartbeat = tick % _TICKS_PER_HEARTBEAT == 0
            now = self._loop.time()
            with self._lock:
                overdue = self._lanes.overdue_results(now, _RESEND_AFTER_S)
                asks = self._lanes.due_asks(now, _RESEND_AFTER_S)
                waits = self._lanes.waits if is_heartbeat else []
            if overdue or asks or is_heartbeat:
                self._send(overdue, Updates(asks, waits))

    def _take_in(self, deliveries: list[Delivery]) -> None:
        needs_hello = False
        for delivery in deliveries:
            if delivery.topic == self._presence:
                needs_hello |= delivery.payload != self._last_presence
                self._last_presence = delivery.payload
            else:
                needs_hello |= self._take_in_frame(delivery)
        self._runner.start()
        for delivery in deliveries:
            self._link.ack(delivery)
        if needs_hello:
            self._say_hello()
        self._note_if_settled()

    def _take_in_frame(self, delivery: Delivery) -> bool:
        """Take in a frame from the daemon.

        Returns:
            Whether the daemon has restarted, and needs a hello.
        """
        try:
            frame = DaemonFrame.read(*self._channel.open(delivery.topic, delivery.payload))
        except BadFrame as error:
            _log.warning("A message on the dispatch topic is ignored: %s.", error)
            return False
        with self._lock:
            received = self._lanes.receive(frame)
        if received is None:
            return False
        for task in received.to_stop:
            if task.stop is not None:
                task.stop()
        for settled in received.settled:
            self._runner.deliver(settled)
        if frame.refused:
            self._end_refused(frame.refused)
        elif frame.stop:
            self.stop()
        return received.is_new_boot

    def _end_refused(self, reason: str) -> None:
        """End at once: the daemon takes no results, and has given the tasks to others."""
        if self.refusal is None:
            self.refusal = escape(reason)
            _log.error("%s", self.refusal)
        self._settled.set()
        self._stopping.set()

    def _request_send(self) -> None:
        """Have the loop send what there is to send, unless it is about to; callable from any thread."""
        if not self._send_requested:
            self._send_requested = True
            # The loop is closed when a flow outlives the worker; nobody needs its result then.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._send_soon)

    def _request_report(self) -> None:
        """Have the loop send progress, at once or as soon as it may; callable from any thread."""
        if not self._report_requested:
            self._report_requested = True
            with contextlib.suppress(RuntimeError):  # as above
                self._loop.call_soon_threadsafe(self._report_soon)

    def _report_soon(self) -> None:
        self._loop.call_at(self._last_report + _MIN_REPORT_INTERVAL_S, self._report)

    def _report(self) -> None:
        self._report_requested = False  # first, as above
        self._last_report = self._loop.time()
        with self._lock:
            updates = Updates(progress=self._runner.take_progress())
        if updates:
            self._send((), updates, is_full=False)

    def _send_soon(self) -> None:
        delay = self._last_send + _MIN_FRAME_INTERVAL_S - self._loop.time()
        with self._lock:
            has_backlog = self._lanes.has_backlog
        if delay > 0 and has_backlog:
            self._loop.call_later(delay, self._send_fresh)
        else:
            self._send_fresh()

    def _send_fresh(self) -> None:
        self._send_requested = False  # first: what ends from here on requests another frame
        self._last_send = self._loop.time()
        with self._lock:
            results = self._lanes.fresh_results(self._last_send)
            progress = self._runner.take_progress([result.task for result in results])
            updates = Updates(self._lanes.fresh_asks(self._last_send), progress=progress)
            slots_changed = self._lanes.take_slots_changed()
        if results or updates or slots_changed:
            self._send(results, updates, is_full=False)
        self._note_if_settled()

    def _send(
        self,
        results: Sequence[TaskResult] = (),
        updates: Updates | None = None,
        *,
        bye: bool = False,
        is_full: bool = True,
    ) -> None:
        """Send one frame, or as many as are needed; what is lost with the connection is sent again.

        Args:
            results: results that have to leave.
            updates: what running tasks say.
            bye: the worker is gone.
            is_full: list all that the worker holds; otherwise say what has changed.
        """
        with self._lock:
            held = sum(len(task_id) + _QUOTES_BYTES for task_id in self._lanes.named(is_full=is_full))
        max_bytes = max(_MIN_FRAME_BYTES, self._link.max_packet - _HEADER_BYTES - held)
        portions = list(split_results(results, max_bytes))
        if updates:
            asks = [ask for ask in updates.asks if self._fits(ask, max_bytes)]
            for part in split_updates(Updates(asks, updates.waits, updates.progress), max_bytes):
                self._publish(updates=part, is_full=is_full)
        elif not portions:
            portions = [[]]
        for portion in portions:
            self._publish(portion, bye=bye, is_full=is_full)
        self._link.flush()

    def _fits(self, ask: Ask, max_bytes: int) -> bool:
        """Whether a frame can carry an ask; if not, its run gets an error."""
        if max_bytes >= _MAX_ASK_BYTES or json_size(ask.as_json()) <= max_bytes:
            return True
        with self._lock:
            self._lanes.drop_ask(ask)
        error = FlowFailed(
            f"What it sends is too large: the broker takes no more than {max_bytes:,} bytes at a time.",
            "Its author can let it do with less, or with a reference.",
        )
        self._runner.deliver(SettledAsk(ask.task, ask.call_index, CallFailed(error.as_wire())))
        return False

    def _publish(
        self, results: Sequence[TaskResult] = (), updates: Updates | None = None, *, bye: bool = False, is_full: bool
    ) -> None:
        with self._lock:
            frame = self._lanes.next_frame(results, updates, bye=bye, is_full=is_full)
        self._link.publish(self._results, self._channel.seal(self._results, *frame.to_wire()), qos=0)


def _warn(problem: str) -> None:
    _log.warning("%s", problem)


def _keyring(api_infos: Sequence[ApiInfo]) -> Keyring | None:
    """The API keys of this worker, which all its flows use in turn."""
    if not api_infos:
        return None
    from p2pflows.models.keyring import Keyring

    return Keyring(api_infos)
