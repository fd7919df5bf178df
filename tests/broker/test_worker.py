"""A real worker process on a real mosquitto, and a scripted daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import processes

from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.delivery import Delivery
from p2pflows.links.mqtt import MqttLink
from p2pflows.protocol import topics
from p2pflows.protocol.channel import Channel, Enrolment

POINT = "default"
TIMEOUT_S = 20.0
WITHOUT_HEARTBEATS = """
import sys
from p2pflows.worker import process
from p2pflows.worker.__main__ import main
process._TICK_S = 600.0
sys.exit(main())
"""
"""A worker that sends frames only when something happens, and so no result a second time after a while."""
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
FLOWS = """
import asyncio, os, sys, time
from p2pflows.errors import Declined

def add(a: int, b: int = 1) -> int:
    '''Add two numbers.'''
    return a + b

async def aadd(a: int, b: int = 1) -> dict:
    await asyncio.sleep(0)
    return {"sum": a + b}

def note(file: str, text: str, seconds: float = 0) -> None:
    with open(file, "a") as out:
        out.write(f"{text} starts\\n")
    time.sleep(seconds)
    with open(file, "a") as out:
        out.write(f"{text} ends\\n")

def hold(file: str, text: str) -> None:
    with open(file, "a") as out:
        out.write(f"{text} starts\\n")
    while not os.path.exists(os.path.join(os.path.dirname(file), "go")):
        time.sleep(0.01)

async def anote(file: str, text: str, seconds: float = 0) -> None:
    with open(file, "a") as out:
        out.write(f"{text} starts\\n")
    try:
        await asyncio.sleep(seconds)
    finally:
        with open(file, "a") as out:
            out.write(f"{text} ends\\n")

def block(seconds: float) -> None:
    time.sleep(seconds)

async def ablock(seconds: float) -> None:
    time.sleep(seconds)

def spin(seconds: float) -> None:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass

def fail(how: str):
    if how == "raise":
        raise ValueError("no such thing")
    if how == "decline":
        raise Declined("Not today.")
    if how == "exit":
        sys.exit("gone")
    if how == "nan":
        return float("nan")
    if how == "huge":
        return "x" * 800_000

async def afail(how: str):
    await asyncio.sleep(0)
    if how == "timeout":
        raise TimeoutError("mine")
    if how == "cancelled":
        raise asyncio.CancelledError
    return fail(how)

def talk(text: str) -> str:
    print(text)
    print(text, file=sys.__stdout__)
    os.system(f"echo {text}")
    return sys.stdin.read()

def big(size: int) -> str:
    return "x" * size
"""


def start_mosquitto(port: int, folder: Path) -> subprocess.Popen[bytes]:
    """Start a mosquitto that is open to this machine."""
    if not MOSQUITTO:
        pytest.skip("mosquitto is not installed")
    config = folder / "mosquitto.conf"
    config.write_text(f"listener {port} 127.0.0.1\nallow_anonymous true\nset_tcp_nodelay true\n")
    return subprocess.Popen([MOSQUITTO, "-c", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, if it still runs."""
    process.kill()
    process.wait()
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerUrl]:
    """One mosquitto for all tests; each test is a user of its own."""
    port = processes.free_port()
    broker = start_mosquitto(port, tmp_path_factory.mktemp("mosquitto"))
    yield BrokerUrl("127.0.0.1", port)
    kill(broker)


class Frame:
    """A frame from a worker."""

    def __init__(self, header: dict[str, Any], blobs: Sequence[bytes]) -> None:
        self.header = header
        self.results = {
            result["task"]: result["error"] or json.loads(blob)
            for result, blob in zip(header["results"], blobs, strict=True)
        }


class Daemon:
    """The daemon's side of a dispatch point, and the worker processes of a test."""

    def __init__(self, url: BrokerUrl, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self.user, key = secrets.token_hex(32), secrets.token_bytes(32)
        self.token = Enrolment(url.with_secret(), self.user, POINT, key).token()
        self.frames: list[Frame] = []
        self.workers: list[subprocess.Popen[bytes]] = []
        self.boot, self.n, self.tasks = 1000, 0, 0
        self._channel = Channel(key)
        self._topic = topics.results(self.user, POINT)
        self._news = asyncio.Event()
        self._up = asyncio.Event()
        self._link = MqttLink(
            broker=self._broker,
            client_id=f"d-{secrets.token_hex(8)}",
            persistent=False,
            subscriptions=lambda: [self._topic],
            will=lambda: None,
            on_deliveries=self._take_in,
            on_up=lambda _present: self._up.set(),
            on_down=lambda _reason: None,
            on_problem=lambda _sentence: None,
        )
        self._running = asyncio.create_task(self._link.run())

    async def wait_until_up(self) -> None:
        """Wait for the broker."""
        async with asyncio.timeout(TIMEOUT_S):
            await self._up.wait()

    async def close(self) -> None:
        """End the workers, and leave the broker."""
        for worker in self.workers:
            kill(worker)
        await self._link.close()
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running

    def start(
        self, *arguments: str, token: str | None = None, program: Sequence[str] = ("-m", "p2pflows.worker")
    ) -> subprocess.Popen[bytes]:
        """Start a worker process."""
        with (self.folder / "stderr").open("ab") as log, (self.folder / "stdout").open("ab") as out:
            worker = subprocess.Popen(
                [sys.executable, *program, *arguments],
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=log,
            )
        self.workers.append(worker)
        assert worker.stdin is not None
        worker.stdin.write(f"{token or self.token}\n".encode())
        worker.stdin.flush()
        return worker

    async def start_and_wait(self, *arguments: str, heartbeats: bool = True) -> str:
        """Start a worker, wait for its first frame, and return its name."""
        if heartbeats:
            self.start(*arguments)
        else:
            self.start(*arguments, program=("-c", WITHOUT_HEARTBEATS))
        return str((await self.wait_for_frame()).header["worker"])

    async def wait_for_frame(
        self, wanted: Callable[[Frame], object] | None = None, *, since: int = 0, seconds: float = TIMEOUT_S
    ) -> Frame:
        """Wait for a frame, from number `since` on, that fulfils a condition; by default for any."""
        async with asyncio.timeout(seconds):
            while True:
                for frame in self.frames[since:]:
                    if wanted is None or wanted(frame):
                        return frame
                self._news.clear()
                await self._news.wait()

    async def result(self, task: str) -> dict[str, Any]:
        """Wait for the end of a task; returns its data or its error."""
        result: dict[str, Any] = (await self.wait_for_frame(lambda frame: task in frame.results)).results[task]
        return result

    def task(self, target: str, data: Any = None, *, lane: str = "", **changes: Any) -> tuple[dict[str, Any], bytes]:
        """A task for a function of FLOWS, or for a command if the target starts with `$ `."""
        self.tasks += 1
        folder = str(self.folder)
        command = target.removeprefix("$ ")
        python = {"kind": "python", "target": f"{folder}/flows.py:{target}", "cwd": folder}
        return {
            "task": f"task-{self.tasks}",
            "op": "run",
            "lane": lane or f"lane-{self.tasks}",
            "endpoint": target,
            "revision": 1,
            "target": python if command == target else {"kind": "exec", "command": command, "cwd": folder},
            "from": "b" * 64,
            "name": "bob",
            "conversation": "talk-1",
            "message": f"message-{self.tasks}",
            "expires": int((time.time() + 60) * 1000),
            "attempt": 1,
            **changes,
        }, json.dumps({} if data is None else data).encode()

    def send(self, worker: str, *tasks: tuple[dict[str, Any], bytes], **changes: Any) -> list[str]:
        """Publish a frame, and return the ids of its tasks."""
        self.n += 1
        header = {
            "worker": worker,
            "boot": self.boot,
            "n": self.n,
            "tasks": [entry for entry, _ in tasks],
            "done": [],
            "cancel": [],
            "stop": False,
            **changes,
        }
        topic = topics.dispatch(self.user, POINT, worker)
        assert self._link.publish(topic, self._channel.seal(topic, header, [data for _, data in tasks]))
        return [entry["task"] for entry, _ in tasks]

    async def run(self, worker: str, target: str, data: Any = None, **changes: Any) -> dict[str, Any]:
        """Run one task, acknowledge its result, and return how it ended."""
        (id_,) = self.send(worker, self.task(target, data, **changes))
        result = await self.result(id_)
        self.send(worker, done=[id_])
        return result

    def announce(self, presence: bytes) -> None:
        """Publish the retained presence of this daemon."""
        assert self._link.publish(topics.status(self.user), presence, retain=True)

    async def _broker(self) -> BrokerUrl:
        return self.url

    def _take_in(self, deliveries: list[Delivery]) -> None:
        for delivery in deliveries:
            self.frames.append(Frame(*self._channel.open(delivery.topic, delivery.payload)))
            self._link.ack(delivery)
        self._news.set()


@pytest.fixture
async def daemon(url: BrokerUrl, tmp_path: Path) -> AsyncIterator[Daemon]:
    """A daemon of a new user, with FLOWS in its folder."""
    (tmp_path / "flows.py").write_text(FLOWS)
    daemon = Daemon(url, tmp_path)
    await daemon.wait_until_up()
    yield daemon
    await daemon.close()


async def exit_code(worker: subprocess.Popen[bytes], seconds: float = TIMEOUT_S) -> int:
    """Wait for the end of a worker; returns its exit code."""
    return await asyncio.to_thread(worker.wait, seconds)


async def wait_for_lines(file: Path, count: int = 1) -> list[str]:
    """Wait until a file has so many lines; returns them."""
    async with asyncio.timeout(TIMEOUT_S):
        while len(content := lines_of(file)) < count:  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.01)
    return content


def lines_of(file: Path) -> list[str]:
    """The lines of a file; none if there is no file."""
    return file.read_text().splitlines() if file.exists() else []


def is_gone(pid: str) -> bool:
    """Whether a process has ended; a zombie has."""
    stat = lines_of(Path(f"/proc/{pid}/stat"))
    return not stat or stat[0].rpartition(")")[2].split()[0] == "Z"


async def test_hello(daemon: Daemon) -> None:
    """The first frame of a worker says who it is and how much it can take, and that it knows no daemon yet."""
    worker = daemon.start("--concurrency", "3")
    header = (await daemon.wait_for_frame()).header
    assert header["worker"].startswith("w-")
    assert (header["slots"], header["pid"], header["host"]) == (3, worker.pid, socket.gethostname())
    assert (header["boot"], header["seen"], header["n"]) == (0, 0, 1)
    assert (header["held"], header["results"], header["draining"], header["bye"]) == ([], [], False, False)


async def test_load(daemon: Daemon) -> None:
    """A load returns what the endpoint takes and returns, or why it cannot be loaded."""
    worker = await daemon.start_and_wait()
    described = await daemon.run(worker, "add", op="load")
    assert described["description"] == "Add two numbers."
    assert described["schema"]["required"] == ["a"]
    assert described["output"]["properties"] == {"result": {"type": "integer"}}
    assert described["async"] is False
    missing = await daemon.run(worker, "nothing", op="load")
    assert missing["kind"] == "usage"
    assert "has no 'nothing'. It has: aadd, ablock, add" in missing["message"]
    assert (await daemon.run(worker, "$ ./no.sh", op="load"))["kind"] == "usage"


async def test_run(daemon: Daemon) -> None:
    """Functions, async functions and commands return their data."""
    worker = await daemon.start_and_wait()
    assert await daemon.run(worker, "add", {"a": 2}) == {"result": 3}
    assert await daemon.run(worker, "aadd", {"a": 2, "b": 2}) == {"sum": 4}
    assert await daemon.run(worker, "$ cat", {"a": 1}) == {"a": 1}
    echo = "$ echo $P2PFLOWS_MESSAGE_ID $P2PFLOWS_FROM_NAME $P2PFLOWS_ENDPOINT $P2PFLOWS_CONVERSATION"
    text = await daemon.run(worker, echo, endpoint="echo")
    assert text == {"text": f"message-{daemon.tasks} bob echo talk-1"}


@pytest.mark.parametrize("target", ["fail", "afail"])
async def test_failures(daemon: Daemon, target: str) -> None:
    """Whatever a flow does, the worker lives on, and the daemon gets the kind of failure."""
    worker = await daemon.start_and_wait()
    raised = await daemon.run(worker, target, {"how": "raise"})
    assert raised == {"kind": "flow_failed", "message": "ValueError: no such thing", "type": "ValueError"}
    assert await daemon.run(worker, target, {"how": "decline"}) == {"kind": "declined", "message": "Not today."}
    assert (await daemon.run(worker, target, {"how": "exit"}))["message"] == "SystemExit: gone"
    assert "NaN" in (await daemon.run(worker, target, {"how": "nan"}))["message"]
    assert (await daemon.run(worker, target, {"how": "huge"}))["kind"] == "flow_failed"
    assert await daemon.run(worker, target, {"how": 5}) == {
        "kind": "bad_input",
        "message": "'how' should be a valid string.",
    }
    log = (daemon.folder / "stderr").read_text()
    assert 'raise ValueError("no such thing")' in log
    assert "Not today" not in log


async def test_exceptions_that_asyncio_uses_itself(daemon: Daemon) -> None:
    """A TimeoutError or CancelledError of the flow is a failure like any other."""
    worker = await daemon.start_and_wait()
    assert (await daemon.run(worker, "afail", {"how": "timeout"}))["message"] == "TimeoutError: mine"
    assert (await daemon.run(worker, "afail", {"how": "cancelled"}))["message"] == "CancelledError"


async def test_what_cannot_be_loaded_when_called(daemon: Daemon) -> None:
    """A call to a flow that cannot be loaded fails as `flow_failed`, and not as a usage error of the caller."""
    worker = await daemon.start_and_wait()
    error = await daemon.run(worker, "nothing")
    assert error["kind"] == "flow_failed"
    assert "cannot load it" in error["message"]


async def test_prints_go_to_stderr(daemon: Daemon) -> None:
    """All output of a flow is in the worker's stderr; its stdin is empty, and its stdout silent."""
    worker = await daemon.start_and_wait()
    assert await daemon.run(worker, "talk", {"text": "hello-there"}) == {"result": ""}
    daemon.workers[0].terminate()
    assert await exit_code(daemon.workers[0]) == 0
    assert lines_of(daemon.folder / "stdout") == []
    assert (daemon.folder / "stderr").read_text().count("hello-there") == 3


@pytest.mark.parametrize("target", ["note", "anote"])
async def test_order_in_a_lane(daemon: Daemon, target: str) -> None:
    """Tasks of one lane run one after the other in the order sent, over several frames, however long each takes."""
    worker = await daemon.start_and_wait()
    file = daemon.folder / "notes"
    tasks = [
        daemon.task(target, {"file": str(file), "text": str(n), "seconds": 0.05 if n % 3 == 0 else 0}, lane="one")
        for n in range(8)
    ]
    daemon.send(worker, *tasks[:5])
    *_, last = daemon.send(worker, *tasks[5:])
    await daemon.result(last)
    assert file.read_text().split() == [word for n in range(8) for word in (str(n), "starts", str(n), "ends")]


async def test_lanes_beside_each_other(daemon: Daemon) -> None:
    """As many lanes run at once as there are slots."""
    worker = await daemon.start_and_wait("--concurrency", "3")
    file = daemon.folder / "notes"
    ids = daemon.send(worker, *(daemon.task("hold", {"file": str(file), "text": "it"}) for _ in range(6)))
    await wait_for_lines(file, 3)
    await asyncio.sleep(0.3)
    assert lines_of(file) == ["it starts"] * 3
    (daemon.folder / "go").touch()
    assert [await daemon.result(id_) for id_ in ids] == [{"result": None}] * 6
    assert lines_of(file) == ["it starts"] * 6
    assert await daemon.run(worker, "add", {"a": 1}) == {"result": 2}


async def test_a_result_leaves_before_the_next_task_ends(daemon: Daemon) -> None:
    """The result of a quick task does not wait for the slow one behind it."""
    worker = await daemon.start_and_wait()
    quick, _slow = daemon.send(
        worker,
        daemon.task("add", {"a": 1}, lane="one"),
        daemon.task("block", {"seconds": 30}, lane="one"),
    )
    assert await daemon.result(quick) == {"result": 2}


async def test_blocking_flows_keep_the_heartbeats(daemon: Daemon) -> None:
    """While flows block a thread, the async loop or the interpreter, frames come and other lanes run."""
    worker = await daemon.start_and_wait()
    busy = daemon.send(worker, *(daemon.task(how, {"seconds": 30}) for how in ("block", "ablock", "spin")))
    await daemon.wait_for_frame(lambda frame: frame.header["held"] == busy)
    since = len(daemon.frames)
    await daemon.wait_for_frame(lambda frame: frame.header["held"] == busy, since=since)
    assert await daemon.run(worker, "add", {"a": 1}) == {"result": 2}


async def test_results_are_sent_until_done(daemon: Daemon) -> None:
    """A result comes again after about two seconds, until the daemon confirms it."""
    worker = await daemon.start_and_wait()
    (id_,) = daemon.send(worker, daemon.task("add", {"a": 1}))
    await daemon.result(id_)
    since = len(daemon.frames)
    started = time.monotonic()
    again = await daemon.wait_for_frame(lambda frame: id_ in frame.results, since=since)
    assert time.monotonic() - started > 1
    assert id_ in again.header["held"]
    daemon.send(worker, done=[id_])
    done = daemon.n
    assert await daemon.run(worker, "add", {"a": 2}) == {"result": 3}
    later = [frame for frame in daemon.frames if frame.header["seen"] >= done]
    assert later
    assert all(id_ not in frame.header["held"] for frame in later)


async def test_a_new_boot_gets_everything(daemon: Daemon) -> None:
    """The first frame of a restarted daemon is answered at once with all held tasks and unconfirmed results."""
    worker = await daemon.start_and_wait(heartbeats=False)
    (id_,) = daemon.send(worker, daemon.task("add", {"a": 1}))
    (runs,) = daemon.send(worker, daemon.task("block", {"seconds": 30}))
    await daemon.result(id_)
    since = len(daemon.frames)
    daemon.boot, daemon.n = 2000, 0
    daemon.send(worker)
    hello = await daemon.wait_for_frame(lambda frame: frame.header["boot"] == 2000, since=since)
    assert hello.results == {id_: {"result": 2}}
    assert sorted(hello.header["held"]) == sorted([id_, runs])


async def test_presence_is_answered(daemon: Daemon) -> None:
    """A change of the daemon's presence is answered at once with all unconfirmed results."""
    worker = await daemon.start_and_wait(heartbeats=False)
    (id_,) = daemon.send(worker, daemon.task("add", {"a": 1}))
    await daemon.result(id_)
    since = len(daemon.frames)
    daemon.announce(b"online 1")
    await daemon.wait_for_frame(lambda frame: id_ in frame.results, since=since)


async def test_repeats_are_ignored(daemon: Daemon) -> None:
    """An old frame, a frame of an earlier boot and a held task run nothing a second time."""
    worker = await daemon.start_and_wait()
    file = daemon.folder / "notes"
    task = daemon.task("note", {"file": str(file), "text": "x"})
    (id_,) = daemon.send(worker, task)
    await daemon.result(id_)
    daemon.send(worker, task)
    daemon.send(worker, daemon.task("note", {"file": str(file), "text": "old"}), n=1)
    daemon.send(worker, daemon.task("note", {"file": str(file), "text": "older"}), boot=999)
    daemon.n += 1
    assert await daemon.run(worker, "add", {"a": 1}) == {"result": 2}
    assert file.read_text().splitlines() == ["x starts", "x ends"]


async def test_forged_frames_are_ignored(daemon: Daemon) -> None:
    """A frame under another key, and a real frame of another worker, have no effect."""
    worker = await daemon.start_and_wait()
    topic = topics.dispatch(daemon.user, POINT, worker)
    genuine = daemon._channel
    for channel, sealed_for in ((Channel(secrets.token_bytes(32)), topic), (genuine, topic + "x")):
        header = {"boot": 9999, "n": 1, "tasks": [], "done": [], "cancel": [], "stop": True}
        daemon._link.publish(topic, channel.seal(sealed_for, header))
    assert await daemon.run(worker, "add", {"a": 1}) == {"result": 2}


async def test_cancel(daemon: Daemon) -> None:
    """A cancelled task does not start; a running one is stopped if possible, and its result is not sent."""
    worker = await daemon.start_and_wait()
    file = str(daemon.folder / "notes")
    ids = daemon.send(
        worker,
        daemon.task("anote", {"file": file, "text": "async", "seconds": 30}, lane="async"),
        daemon.task("$ echo command starts >> notes; sleep 30", lane="command"),
        daemon.task("note", {"file": file, "text": "plain", "seconds": 0.5}, lane="plain"),
        daemon.task("note", {"file": file, "text": "waits"}, lane="plain"),
    )
    after = daemon.send(worker, *(daemon.task("add", {"a": 1}, lane=lane) for lane in ("async", "command", "plain")))
    await wait_for_lines(daemon.folder / "notes", 3)
    daemon.send(worker, cancel=ids)
    for id_ in after:
        assert await daemon.result(id_) == {"result": 2}
    assert not any(set(ids) & set(frame.results) for frame in daemon.frames)
    notes = (daemon.folder / "notes").read_text().splitlines()
    assert "async ends" in notes
    assert "plain ends" in notes
    assert "waits starts" not in notes


async def test_deadlines(daemon: Daemon) -> None:
    """A task past its deadline does not start; running async functions and commands are stopped at theirs."""
    worker = await daemon.start_and_wait()
    past, soon = int(time.time() * 1000) - 1, int(time.time() * 1000) + 500
    ids = daemon.send(
        worker,
        daemon.task("add", {"a": 1}, expires=past),
        daemon.task("anote", {"file": "/dev/null", "text": "", "seconds": 30}, expires=soon),
        daemon.task("$ sleep 30", expires=soon),
    )
    for id_ in ids:
        assert (await daemon.result(id_))["kind"] == "deadline"
    assert time.time() * 1000 < soon + 10_000


async def test_a_new_revision(daemon: Daemon) -> None:
    """A new revision runs the file as it is now."""
    worker = await daemon.start_and_wait()
    assert await daemon.run(worker, "add", {"a": 1}) == {"result": 2}
    (daemon.folder / "flows.py").write_text("def add(a: int, b: int = 1) -> int: return a - b")
    assert await daemon.run(worker, "add", {"a": 1}) == {"result": 2}
    assert await daemon.run(worker, "add", {"a": 1}, revision=2) == {"result": 0}


async def test_many_big_results(daemon: Daemon) -> None:
    """Results that do not fit into one frame come in several."""
    worker = await daemon.start_and_wait()
    ids = daemon.send(worker, *(daemon.task("big", {"size": 600_000}, lane="one") for _ in range(4)))
    for id_ in ids:
        assert len((await daemon.result(id_))["result"]) == 600_000


@pytest.mark.parametrize("how", ["stdin", "terminate", "interrupt", "frame"])
async def test_drain(daemon: Daemon, how: str) -> None:
    """A worker that must end takes nothing new, finishes what runs, waits for its confirmation, and exits with 0."""
    name = await daemon.start_and_wait()
    (worker,) = daemon.workers
    runs, waits = daemon.send(
        name,
        daemon.task("block", {"seconds": 0.5}, lane="one"),
        daemon.task("add", {"a": 1}, lane="one"),
    )
    await daemon.wait_for_frame(lambda frame: runs in frame.header["held"])
    match how:
        case "stdin":
            assert worker.stdin is not None
            worker.stdin.close()
        case "terminate":
            worker.terminate()
        case "interrupt":
            worker.send_signal(signal.SIGINT)
        case _:
            daemon.send(name, stop=True)
    draining = await daemon.wait_for_frame(lambda frame: frame.header["draining"])
    assert draining.header["held"] == [runs]
    (late,) = daemon.send(name, daemon.task("add", {"a": 1}))
    assert await daemon.result(runs) == {"result": None}
    await asyncio.sleep(0.2)
    assert worker.poll() is None
    daemon.send(name, done=[runs])
    assert await exit_code(worker) == 0
    bye = await daemon.wait_for_frame(lambda frame: frame.header["bye"])
    assert bye.header["n"] < 2**52
    assert not any({waits, late} & set(frame.results) for frame in daemon.frames)


async def test_no_parent(daemon: Daemon) -> None:
    """A worker that a user started by hand does not end when its stdin does."""
    name = await daemon.start_and_wait("--no-parent")
    (worker,) = daemon.workers
    assert worker.stdin is not None
    worker.stdin.close()
    await asyncio.sleep(0.3)
    assert await daemon.run(name, "add", {"a": 1}) == {"result": 2}
    worker.terminate()
    assert await exit_code(worker) == 0


async def test_asked_to_end_twice(daemon: Daemon) -> None:
    """A worker that is asked to end a second time exits at once, and stops its commands."""
    name = await daemon.start_and_wait()
    (worker,) = daemon.workers
    ids = daemon.send(
        name, daemon.task("block", {"seconds": 30}), daemon.task("$ echo $$ > shell; sleep 30; echo more")
    )
    (shell,) = await wait_for_lines(daemon.folder / "shell")
    worker.terminate()
    await daemon.wait_for_frame(lambda frame: frame.header["draining"])
    worker.terminate()
    assert await exit_code(worker) == 0
    await daemon.wait_for_frame(lambda frame: frame.header["bye"])
    assert not any(set(ids) & set(frame.results) for frame in daemon.frames)
    async with asyncio.timeout(TIMEOUT_S):
        while not is_gone(shell):  # noqa: ASYNC110 - it is another process
            await asyncio.sleep(0.01)


async def test_killed(daemon: Daemon) -> None:
    """The last will of a dead worker is its goodbye, numbered above all its frames."""
    name = await daemon.start_and_wait()
    daemon.workers[0].kill()
    bye = await daemon.wait_for_frame(lambda frame: frame.header["bye"])
    assert (bye.header["worker"], bye.header["n"], bye.header["held"]) == (name, 2**52, [])
    assert bye.header["draining"] is False


@pytest.mark.parametrize("token", ["", "nonsense", "p2pflows-worker-1.abcd"])
async def test_bad_token(token: str, tmp_path: Path) -> None:
    """A malformed token is reported in one line, and the worker exits as for wrong usage."""
    ended = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "p2pflows.worker"],
        input=f"{token}\n".encode(),
        capture_output=True,
        cwd=tmp_path,
        timeout=10,
        check=False,
    )
    assert ended.returncode == os.EX_CONFIG
    assert ended.stderr.decode().splitlines() == [
        "That is not a complete worker token. Make one with: p2pflows worker-token DISPATCH_POINT"
    ]


async def test_no_broker_yet(free_port: int, tmp_path: Path) -> None:
    """A worker whose broker is away keeps trying, and connects soon after the broker has started."""
    daemon = Daemon(BrokerUrl("127.0.0.1", free_port), tmp_path)
    worker = daemon.start()
    await asyncio.sleep(1)
    assert worker.poll() is None
    broker = start_mosquitto(free_port, tmp_path)
    try:
        await daemon.wait_until_up()
        assert await daemon.wait_for_frame()
    finally:
        await daemon.close()
        kill(broker)


async def test_the_broker_restarts(free_port: int, tmp_path: Path) -> None:
    """The result of a task that ends while the broker is away is sent after the reconnect, numbered above the will."""
    (tmp_path / "flows.py").write_text(FLOWS)
    daemon = Daemon(BrokerUrl("127.0.0.1", free_port), tmp_path)
    broker = start_mosquitto(free_port, tmp_path)
    try:
        await daemon.wait_until_up()
        name = await daemon.start_and_wait()
        (id_,) = daemon.send(name, daemon.task("note", {"file": str(tmp_path / "notes"), "text": "x", "seconds": 0.5}))
        await wait_for_lines(tmp_path / "notes")
        kill(broker)
        daemon._up.clear()
        await wait_for_lines(tmp_path / "notes", 2)
        broker = start_mosquitto(free_port, tmp_path)
        await daemon.wait_until_up()
        frame = await daemon.wait_for_frame(lambda frame: id_ in frame.results)
        assert frame.header["worker"] == name
        assert frame.header["n"] > 2**52
    finally:
        await daemon.close()
        kill(broker)
