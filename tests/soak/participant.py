"""One user of a soak: a real daemon behind a frame proxy, with its own clock and a journal that keeps a history."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import sqlite3
import subprocess
from collections.abc import Iterable
from pathlib import Path
from random import Random

from simulation import history
from simulation.history import Fact
from soak import served_flows
from soak.brokers import Broker
from soak.clocks import ShiftedClock
from soak.frame_proxy import FrameProxy
from soak.partitions import Namespace
from support.people import Person
from support.processes import kill_process

from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal

_LOAD_TIMEOUT_S = 60.0
_WORKER_ABSENCE_S = 1.0
"""After how long a killed worker with a token is started again."""


class Participant:
    """A user of a soak.

    Args:
        name: the petname.
        folder: where homes, files and logs are; its path must be short.
        broker: the broker that the daemon uses.
        random: decides which frames are disturbed.
        namespace: the network namespace of the daemon, if it has one.
        has_remote_worker: whether its worker has a token and reaches the daemon through the broker, as from another
            machine.
    """

    def __init__(
        self, name: str, folder: Path, broker: Broker, random: Random, *, namespace: Namespace | None,
        has_remote_worker: bool,
    ) -> None:  # fmt: skip
        self.name = name
        self.proxy = FrameProxy(broker.address, random)
        self.clock = ShiftedClock(folder / f"{name}.clock")
        self.busy = asyncio.Lock()
        """Held while the process of the daemon is killed and started."""
        self.facts: list[Fact] = []
        """What the journal has committed, as far as it is read."""
        self.history_bytes = 0
        """How much of the journal's file the history takes, about."""
        self._folder = folder
        self._broker = broker
        self._namespace = namespace
        self._has_remote_worker = has_remote_worker
        self._remote_worker: subprocess.Popen[bytes] | None = None
        self._token = ""
        self._worker_busy = asyncio.Lock()
        self._read_to = 0
        self._db: sqlite3.Connection | None = None
        self.person: Person

    async def prepare(self) -> None:
        """Make the home, the journal and the files, and open the way to the broker."""
        host = self._namespace.host if self._namespace else "127.0.0.1"
        port = await self.proxy.start(host)
        environment = {**self.clock.environment, "PYTHONFAULTHANDLER": "1"}
        self.person = Person(self.name, self._folder / self.name, self._broker.url(host, port), environment)
        if self._has_remote_worker:
            self.person.without_workers()
        if self._namespace is not None:
            self.person.daemon_command = [*self._namespace.prefix, *self.person.daemon_command]
        shutil.copy(served_flows.__file__, self.person.folder / "flows.py")
        Journal(self._journal, self.person.user_id, NoFaults()).close()
        history.install(self._journal)
        self._db = sqlite3.connect(f"file:{self._journal}?mode=ro", uri=True, timeout=5)

    def begin(self, neighbour: str) -> None:
        """Wait until the daemon is connected and has a worker, and serve all flows.

        Args:
            neighbour: the contact whom the composites ask, and who alone may call what is private.
        """
        self.person.ready()
        if self._has_remote_worker:
            self._token = self.person.request("worker_token", dispatch_point="default")["token"]
            self._start_remote_worker()
            self.person.wait_for_status(lambda now: bool(now["workers"]), _LOAD_TIMEOUT_S)
        flows = self.person.folder / "flows.py"
        for endpoint in ("record", "private", "weigh"):
            allow = neighbour if endpoint == "private" else "contacts"
            self._serve(endpoint=endpoint, kind="python", target=f"{flows}:{endpoint}", allow=allow)
        config = {"subflows_config": {"neighbour": {"flow_endpoint": "record", "user_id": neighbour}}}
        for name in ("Clerk", "Relay"):
            self._serve(endpoint=name.lower(), kind="class", target=f"{flows}:{name}", singleton=True, config=config)

    def _start_remote_worker(self) -> None:
        self._remote_worker = self.person.start_worker("--token", self._token)

    def _serve(self, **about: object) -> None:
        self.person.request("serve", cwd=str(self.person.folder), **about)

    # Faults.

    async def kill_daemon(self, seconds: float) -> None:
        """Kill -9 the daemon, and start it again after some seconds."""
        async with self.busy:
            if self.person.is_running:
                self.person.kill_daemon()
            await asyncio.sleep(seconds)
            self.person.start(wait=False)

    async def kill_worker(self) -> bool:
        """Kill -9 a worker; return whether there was one. A daemon starts its own workers again."""
        if self._has_remote_worker:
            async with self._worker_busy:
                assert self._remote_worker is not None
                self._remote_worker.kill()
                self._remote_worker.wait()
                await asyncio.sleep(_WORKER_ABSENCE_S)
                self._start_remote_worker()
            return True
        workers = self.person.workers()
        for pid in workers[:1]:
            kill_process(pid)
        return bool(workers)

    async def pause(self, seconds: float, *, worker: bool) -> None:
        """Stop the daemon or its worker with SIGSTOP for some seconds."""
        daemon = self.person.daemon
        pids = self._workers() if worker else [daemon.pid] if daemon is not None else []
        self._signal(pids, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            self._signal(pids, signal.SIGCONT)

    async def partition(self, seconds: float) -> None:
        """Cut the daemon off from its broker for some seconds, without closing a connection."""
        if self._namespace is None:
            return await self.half_open(seconds)
        self._namespace.cut()
        try:
            await asyncio.sleep(seconds)
        finally:
            self._namespace.heal()

    async def half_open(self, seconds: float) -> None:
        """Forward nothing for some seconds, although all connections stay open."""
        self.proxy.stop_forwarding()
        try:
            await asyncio.sleep(seconds)
        finally:
            self.proxy.go_on()

    def _workers(self) -> list[int]:
        return [self._remote_worker.pid] if self._remote_worker is not None else self.person.workers()

    @staticmethod
    def _signal(pids: Iterable[int], number: signal.Signals) -> None:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    # What is seen from outside.

    @property
    def _journal(self) -> Path:
        return self.person.home / "journal.sqlite3"

    @property
    def journal_bytes(self) -> int:
        """The size of the journal on disk, without its history."""
        files = (self._journal, self._journal.with_name(f"{self._journal.name}-wal"))
        return max(0, sum(file.stat().st_size for file in files if file.exists()) - self.history_bytes)

    def read_history(self) -> None:
        """Add to `facts` what the journal has committed since the last time, with the times of its own clock."""
        assert self._db is not None
        new, self._read_to = history.read(self._db, self.person.user_id, self._read_to)
        for fact in new:
            self.history_bytes += len(fact.to_json()) + 16
            self.facts.append(Fact(self.clock.latest_reading(fact.t), fact.node, fact.kind, fact.id, fact.about))

    def open_messages(self) -> int:
        """Return how many messages and requests have not ended."""
        assert self._db is not None
        (sent,) = self._db.execute("SELECT count(*) FROM outgoing WHERE state IN ('pending', 'stored')").fetchone()
        (come,) = self._db.execute(
            "SELECT count(*) FROM incoming WHERE state IN ('blocked', 'held', 'ready', 'asked', 'kept')"
        ).fetchone()
        return int(sent) + int(come)

    def faults_reported(self) -> list[str]:
        """Return what the daemon itself reports as a bug."""
        found = []
        report = self.person.home / "crash.log"
        if report.exists():
            found.append(f"the daemon of {self.name} stopped because of a bug: {report.read_text().splitlines()[-1]}")
        if "Traceback" in self.person.log_text():
            found.append(f"the log of {self.name} has a traceback")
        return found

    async def close(self) -> None:
        """End everything of this user."""
        if self._db is not None:
            self._db.close()
        if hasattr(self, "person"):
            self._signal(self._workers(), signal.SIGCONT)
            await asyncio.to_thread(self.person.close)
        await self.proxy.close()
        if self._namespace is not None:
            self._namespace.close()


async def start_all(participants: list[Participant]) -> None:
    """Start all daemons, and let everybody know and serve everybody."""
    for one in participants:
        for other in participants:
            if other is not one:
                one.person.add_contact(other.person)
        one.person.start(wait=False)
    neighbours = [*participants[1:], participants[0]]
    async with asyncio.TaskGroup() as group:
        for one, neighbour in zip(participants, neighbours, strict=True):
            group.create_task(asyncio.to_thread(one.begin, neighbour.name))
