"""The worker as a process: the link to the broker, the lanes and the runner, put together."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import logging
import os
import secrets
import socket
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from p2pflows.errors import TooLarge, UsageError
from p2pflows.links import broker_url
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.delivery import Delivery, Will
from p2pflows.links.mqtt import MqttLink
from p2pflows.protocol import topics
from p2pflows.protocol.channel import BadFrame, Channel, Enrolment
from p2pflows.protocol.message import MAX_BODY_BYTES
from p2pflows.worker import frames
from p2pflows.worker.frames import Answer, Ask, Result
from p2pflows.worker.lanes import Lanes
from p2pflows.worker.runner import Runner
from p2pflows.worker.socket_link import SocketLink

if TYPE_CHECKING:
    from p2pflows.models.api_info import ApiInfo
    from p2pflows.models.keyring import Keyring

_TICK_S = 1.0
_TICKS_PER_HEARTBEAT = 2
_RESEND_AFTER_S = 2.0
_DRAIN_TIMEOUT_S = 30.0
_GATHER_S = 0.001
"""While tasks queue up, frames with results are at least this far apart; else a result leaves at once."""
_HEADER_BYTES = 4_000
_QUOTES = 3
_MAX_ASK_BYTES = MAX_BODY_BYTES + _HEADER_BYTES
_MIN_ROOM_BYTES = 10_000

_log = logging.getLogger(__name__)


class Worker:
    """One worker; make it inside a running event loop.

    Args:
        enrolment: where its daemon is, and the key of its dispatch point.
        slots: how many tasks may run at once.
        api_infos: keys for the flows that want some; they stay in this object.
        on_connected: told whenever it has reached its daemon, or the broker.
        daemon: the socket of a daemon on this machine; without, all goes over the broker.

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
    ) -> None:
        url = broker_url.parse(enrolment.broker)
        if not isinstance(url, BrokerUrl):
            raise UsageError("That token names no broker address.", "Make one with: p2pflows worker-token POINT")
        self._url = url
        self._on_connected = on_connected
        self._name = f"w-{secrets.token_hex(8)}"
        self._channel = Channel(enrolment.key)
        self._results = topics.results(enrolment.user, enrolment.point)
        self._dispatch = topics.dispatch(enrolment.user, enrolment.point, self._name)
        self._presence = topics.status(enrolment.user)
        self._last_presence: bytes | None = None
        about = {"worker": self._name, "slots": slots, "pid": os.getpid(), "host": socket.gethostname()}
        self._lanes = Lanes(about)
        self._lock = threading.Lock()
        self._runner = Runner(
            self._lanes, self._lock, slots, self._has_result, user=enrolment.user, keyring=_keyring(api_infos)
        )
        self._loop = asyncio.get_running_loop()
        self._gathering = False
        self._last_results = 0.0
        self._stopping = asyncio.Event()
        self._settled = asyncio.Event()
        self._where = str(url) if daemon is None else "the daemon"
        told: dict[str, Any] = {
            "will": self._will,
            "on_deliveries": self._take_in,
            "on_up": self._connected,
            "on_down": self._down,
            "on_problem": lambda sentence: _log.warning("%s", sentence),
        }
        self._link: MqttLink | SocketLink = (
            SocketLink(daemon, topic=self._dispatch, **told)
            if daemon is not None
            else MqttLink(
                broker=self._broker,
                client_id=self._name,
                persistent=False,
                subscriptions=lambda: [self._dispatch, self._presence],
                **told,
            )
        )

    async def run(self) -> bool:
        """Serve until `stop`, then let what runs end and be acknowledged; True if all of it ended."""
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
            await self._drained()
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
        return not left and not abandoned

    def stop(self) -> None:
        """Take no more tasks and end; asked twice, do not wait for what runs."""
        if self._stopping.is_set():
            self._settled.set()
        self._stopping.set()

    async def _drained(self) -> None:
        self._settle()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_DRAIN_TIMEOUT_S):
                await self._settled.wait()

    def _settle(self) -> None:
        with self._lock:
            if self._stopping.is_set() and self._lanes.idle:
                self._settled.set()

    async def _broker(self) -> BrokerUrl:
        return self._url

    def _will(self) -> Will:
        with self._lock:
            header = self._lanes.will()
        return Will(self._results, self._channel.seal(self._results, header), retain=False)

    def _connected(self, _session_present: bool) -> None:
        _log.info("Connected to %s as %s.", self._where, self._name)
        self._hello()
        self._on_connected()

    def _hello(self) -> None:
        with self._lock:
            results = self._lanes.unacknowledged(self._loop.time())
        self._send(results)

    def _down(self, reason: str) -> None:
        if not self._stopping.is_set():
            _log.warning("The connection to %s is gone: %s.", self._where, reason)

    async def _beat(self) -> None:
        for tick in itertools.count(1):
            await asyncio.sleep(_TICK_S)
            beat = tick % _TICKS_PER_HEARTBEAT == 0
            with self._lock:
                overdue = self._lanes.overdue(self._loop.time(), _RESEND_AFTER_S)
                asks = self._lanes.asks(self._loop.time(), _RESEND_AFTER_S)
                waits = self._lanes.waits if beat else []
            if overdue or asks or beat:
                self._send(overdue, asks=asks, waits=waits)

    def _take_in(self, deliveries: list[Delivery]) -> None:
        hello = False
        for delivery in deliveries:
            if delivery.topic == self._presence:
                hello |= delivery.payload != self._last_presence
                self._last_presence = delivery.payload
            else:
                hello |= self._take_in_frame(delivery)
        self._runner.start()
        for delivery in deliveries:
            self._link.ack(delivery)
        if hello:
            self._hello()
        self._settle()

    def _take_in_frame(self, delivery: Delivery) -> bool:
        """Whether the daemon wants to be told everything."""
        try:
            frame = frames.read(*self._channel.open(delivery.topic, delivery.payload))
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
        for answer in received.answers:
            self._runner.answered(answer)
        if frame.stop:
            self.stop()
        return received.new_boot

    def _has_result(self) -> None:
        """From any thread: have the loop send what is there, unless it is about to."""
        if not self._gathering:
            self._gathering = True
            # The loop is closed when a flow outlives the worker; then nobody wants its result.
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._gather)

    def _gather(self) -> None:
        wait = self._last_results + _GATHER_S - self._loop.time()
        with self._lock:
            backlog = self._lanes.backlog
        if wait > 0 and backlog:
            self._loop.call_later(wait, self._send_fresh)
        else:
            self._send_fresh()

    def _send_fresh(self) -> None:
        self._gathering = False  # first: what ends from here on asks for another frame
        self._last_results = self._loop.time()
        with self._lock:
            fresh = self._lanes.fresh(self._last_results)
            asks = self._lanes.asks(self._last_results)
            progress = self._runner.take_progress()
            parked = self._lanes.parked_changed()
        if fresh or asks or progress or parked:
            self._send(fresh, asks=asks, progress=progress)
        self._settle()

    def _send(
        self,
        results: Sequence[Result] = (),
        *,
        asks: Sequence[Ask] = (),
        waits: Sequence[tuple[str, int]] = (),
        progress: Sequence[tuple[str, dict[str, Any]]] = (),
        bye: bool = False,
    ) -> None:
        """Send a frame, or more if one is too small; what is lost with the connection is sent again."""
        with self._lock:
            held = sum(len(id_) + _QUOTES for id_ in self._lanes.held)
        room = max(_MIN_ROOM_BYTES, self._link.max_packet - _HEADER_BYTES - held)
        told = {
            "asks": [entry for ask in asks if (entry := self._entry(ask, room)) is not None],
            "waits": waits,
            "progress": [{"task": task, "data": data} for task, data in progress],
        }
        for part in frames.parts(told, room):
            self._publish([], part)
        for portion in list(frames.portions(results, room)) or ([] if asks or progress or waits else [[]]):
            self._publish(portion, {}, bye=bye)
        self._link.flush()

    def _entry(self, ask: Ask, room: int) -> dict[str, Any] | None:
        """What a frame says of an ask; None if none can carry it, of which its run is told at once."""
        entry = {"task": ask.task, "k": ask.k, **ask.content}
        if room >= _MAX_ASK_BYTES or len(json.dumps(entry, ensure_ascii=False).encode()) <= room:
            return entry
        with self._lock:
            self._lanes.take_back(ask)
        error = TooLarge(f"The broker takes no more than {room:,} bytes at a time.", "Send a reference to the data.")
        self._runner.answered(Answer(ask.task, ask.k, {"error": error.as_told()}))
        return None

    def _publish(self, results: Sequence[Result], more: dict[str, Any], *, bye: bool = False) -> None:
        with self._lock:
            header = {**self._lanes.header(results, bye=bye), **more}
        blobs = [result.data for result in results]
        self._link.publish(self._results, self._channel.seal(self._results, header, blobs), qos=0)


def _keyring(api_infos: Sequence[ApiInfo]) -> Keyring | None:
    """All keys of this worker, taking turns over all its flows."""
    if not api_infos:
        return None
    from p2pflows.models.keyring import Keyring

    return Keyring(api_infos)
