"""The embedded broker with real programs: sharing, take-over, the watchdog, and other users."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import socket
import stat
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
from support.mqtt_peer import Peer

from p2pflows.errors import UsageError
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.mqtt_connection import BrokerRefused, NoAnswer
from p2pflows.links.mqtt_probe import probe
from p2pflowsd.processes import broker_home, broker_programs, embedded_broker
from p2pflowsd.processes.broker_programs import Program
from p2pflowsd.processes.embedded_broker import EmbeddedBroker

LOG = logging.getLogger("test.embedded")

DAEMON = """
import asyncio, json, logging, sys
from pathlib import Path
from p2pflowsd.processes.embedded_broker import EmbeddedBroker

async def main():
    port, directory, program = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    broker = EmbeddedBroker(port, directory=directory, program=program, log=logging.getLogger())
    await broker.ensure()
    watch = asyncio.create_task(broker.watch())
    reported = None
    while True:
        if reported != broker.owned:
            reported = broker.owned
            pid = int((directory / "broker.pid").read_text())
            print(json.dumps({"owned": reported, "name": broker.name, "broker": pid}), flush=True)
        await asyncio.sleep(0.05)

asyncio.run(main())
"""
"""A program with only the embedded broker of a daemon; it prints a line when it becomes owner or user of the broker."""


@asynccontextmanager
async def daemons(count: int, port: int, directory: Path, program: Program) -> AsyncIterator[list[Process]]:
    """Start daemons at the same moment; kill those that still run afterwards."""
    words = (sys.executable, "-c", DAEMON, str(port), str(directory), program)
    started = [await asyncio.create_subprocess_exec(*words, stdout=PIPE) for _ in range(count)]
    try:
        yield started
    finally:
        for process in started:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()


async def line(process: Process) -> dict[str, object]:
    """Return the next line that a daemon prints."""
    assert process.stdout
    async with asyncio.timeout(20):
        said: dict[str, object] = json.loads(await process.stdout.readline())
    return said


async def address(port: int, directory: Path) -> BrokerUrl:
    """Return the address that daemons with this folder use."""
    return BrokerUrl("127.0.0.1", port, username="local", password=(directory / "password").read_text())


async def answers(url: BrokerUrl) -> None:
    """Wait until a broker answers."""
    async with asyncio.timeout(15):
        while True:
            with suppress(OSError):
                await probe(url, 1.0)
                return
            await asyncio.sleep(0.05)


def runs(pid: int) -> bool:
    """Return whether a process exists and is not a zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def open_files(pid: int) -> set[str]:
    """Return the names of the files that a process has open."""
    return {handle.readlink().name for handle in Path(f"/proc/{pid}/fd").iterdir()}


async def gone(pid: int) -> None:
    """Wait until a process has ended."""
    async with asyncio.timeout(10):
        while runs(pid):  # noqa: ASYNC110 - another program's process
            await asyncio.sleep(0.02)


async def test_daemons_share_one_broker_and_take_over(program: Program, free_port: int, tmp_path: Path) -> None:
    """One of several daemons starts the broker; when it is killed, its broker ends and another daemon takes over."""
    async with daemons(3, free_port, tmp_path / "b", program) as started:
        said = [await line(process) for process in started]
        (owner,) = [process for process, words in zip(started, said, strict=True) if words["owned"]]
        assert sorted(str(words["name"]).split()[0] for words in said) == sorted([program, "shared", "shared"])
        (pid,) = {int(str(words["broker"])) for words in said}
        assert "owner.lock" not in open_files(pid)
        url = await address(free_port, tmp_path / "b")
        await probe(url, 3.0)
        owner.kill()
        await gone(pid)
        heirs = [asyncio.create_task(line(process)) for process in started if process is not owner]
        done, waiting = await asyncio.wait(heirs, timeout=15, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        (heir,) = [task.result() for task in done]
        assert heir["owned"]
        assert heir["broker"] != pid
        await probe(url, 3.0)


async def test_ensure_takes_over_at_once(broker: EmbeddedBroker, free_port: int, tmp_path: Path) -> None:
    """As soon as the owner has closed its broker, another daemon that asks for a broker starts one."""
    second = EmbeddedBroker(free_port, directory=tmp_path / "broker", log=LOG)
    url = await second.ensure()
    assert (second.owned, second.name) == (False, "shared")
    assert url == await broker.ensure()
    await broker.close()
    assert not broker.owned
    later = await second.ensure()
    assert (later.port, later.username) == (url.port, url.username)
    assert second.owned
    await probe(later, 3.0)
    await second.close()


async def test_the_watchdog_replaces_a_broker_that_hangs(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that accepts connections but does not answer is killed and started again."""
    monkeypatch.setattr(embedded_broker, "_LOOK_INTERVAL_S", 0.1)
    monkeypatch.setattr(embedded_broker, "_PROBE_INTERVAL_S", 0.3)
    monkeypatch.setattr(broker_home, "_PROBE_TIMEOUT_S", 0.5)
    stopped = broker._child.pid
    assert stopped
    os.kill(stopped, signal.SIGSTOP)
    watch = asyncio.create_task(broker.watch())
    await gone(stopped)
    await answers(await broker.ensure())
    assert broker._child.pid != stopped
    watch.cancel()


async def test_the_watchdog_restarts_a_broker_that_ended(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker that was killed is started again, although nobody asks for it."""
    monkeypatch.setattr(embedded_broker, "_LOOK_INTERVAL_S", 0.1)
    url = await broker.ensure_for_workers()
    watch = asyncio.create_task(broker.watch())
    pid = broker._child.pid
    assert pid
    os.kill(pid, signal.SIGKILL)
    await asyncio.sleep(0.05)
    await answers(url)
    assert broker.owned
    watch.cancel()


async def test_a_broker_that_outlived_its_owner_is_ended(program: Program, free_port: int, tmp_path: Path) -> None:
    """A broker that outlived its owner is found by its pid file and ended; another program with that pid is not."""
    directory = tmp_path / "b"
    directory.mkdir(mode=0o700)
    sleep = (sys.executable, "-c", "import time; time.sleep(60)")
    left = await asyncio.create_subprocess_exec(*sleep, str(directory / "x.conf"))
    stranger = await asyncio.create_subprocess_exec(*sleep)
    for process in (left, stranger):
        (directory / "broker.pid").write_text(str(process.pid))
        broker = EmbeddedBroker(free_port, directory=directory, program=program, log=LOG)
        await broker.ensure()
        await broker.close()
    assert await left.wait() == -signal.SIGTERM
    assert stranger.returncode is None
    stranger.kill()
    await stranger.wait()


async def test_a_second_start_changes_the_password_of_daemons(mosquitto: str, free_port: int, tmp_path: Path) -> None:
    """Daemons get a new password each time, tokens keep theirs; the files are private, and messages stay."""
    assert mosquitto
    urls, for_workers = [], []
    for _ in range(2):
        broker = EmbeddedBroker(free_port, directory=tmp_path / "b", program="mosquitto", log=LOG)
        urls.append(await broker.ensure())
        for_workers.append(await broker.ensure_for_workers())
        if len(urls) > 1:
            with pytest.raises(BrokerRefused):
                await probe(urls[0], 3.0)
        await probe(urls[-1], 3.0)
        await probe(for_workers[0], 3.0)
        await broker.close()
    assert urls[0].password != urls[1].password
    assert for_workers[0] == for_workers[1]
    assert for_workers[0].socket is None
    assert len(urls[0].password or "") >= 24
    assert (tmp_path / "b" / "mosquitto.db").stat().st_size
    for path in (tmp_path / "b").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o700


async def test_an_unreadable_database_does_not_keep_mosquitto_down(
    mosquitto: str, free_port: int, tmp_path: Path
) -> None:
    """Stored messages that mosquitto cannot read are moved away, because it would never start with them."""
    assert mosquitto
    directory = tmp_path / "b"
    directory.mkdir(mode=0o700)
    (directory / "mosquitto.db").write_bytes(b"nonsense" * 100)
    broker = EmbeddedBroker(free_port, directory=directory, program="mosquitto", log=LOG)
    await probe(await broker.ensure(), 3.0)
    assert (directory / "mosquitto.unreadable").read_bytes() == b"nonsense" * 100
    await broker.close()


async def test_another_program_on_the_port(program: Program, free_port: int, tmp_path: Path) -> None:
    """If another program uses the port, the error names the port and says what to do."""
    with socket.create_server(("127.0.0.1", free_port)):
        await refused(EmbeddedBroker(free_port, directory=tmp_path / "b", program=program, log=LOG), free_port)


async def test_another_broker_on_the_port(broker: EmbeddedBroker, free_port: int, tmp_path: Path) -> None:
    """The broker of another folder is not touched; once it has ended, ours starts."""
    url = await broker.ensure()
    other = EmbeddedBroker(free_port, directory=tmp_path / "other", log=LOG)
    await refused(other, free_port)
    await probe(url, 3.0)
    await broker.close()
    ours = await other.ensure()
    assert ours == replace(url, password=ours.password, socket=ours.socket)
    await other.close()


async def refused(broker: EmbeddedBroker, port: int) -> None:
    """Check that a broker does not start, and that the error says what to do."""
    with pytest.raises(UsageError) as caught:
        await broker.ensure()
    assert str(port) in caught.value.message
    assert "embedded:PORT" in caught.value.hint
    assert "P2PFLOWS_BROKER" in caught.value.hint
    assert not broker.owned


def writable(directory: Path) -> None:
    """Create a folder that the group can write to."""
    directory.mkdir()
    directory.chmod(0o770)


def foreign(directory: Path) -> None:
    """Create a folder of another user."""
    if os.geteuid() != 0:
        pytest.skip("only root can give a folder away")
    directory.mkdir(mode=0o700)
    os.chown(directory, 65534, 65534)


def linked(directory: Path) -> None:
    """Create a link to another folder."""
    directory.with_name("elsewhere").mkdir(mode=0o700)
    directory.symlink_to(directory.with_name("elsewhere"))


@pytest.mark.parametrize("spoil", [writable, foreign, linked])
async def test_a_folder_that_is_not_ours_alone(spoil: Callable[[Path], None], free_port: int, tmp_path: Path) -> None:
    """A folder to which another user can write is refused."""
    spoil(tmp_path / "b")
    broker = EmbeddedBroker(free_port, directory=tmp_path / "b", log=LOG)
    with pytest.raises(UsageError, match="not yours alone"):
        await broker.ensure()


async def test_an_unknown_program(free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """P2PFLOWS_EMBEDDED chooses the program, and an unknown name is an error."""
    broker = EmbeddedBroker(free_port, directory=tmp_path / "b", log=LOG)
    monkeypatch.setenv("P2PFLOWS_EMBEDDED", "rabbit")
    with pytest.raises(UsageError, match="rabbit"):
        await broker.ensure()
    monkeypatch.setenv("P2PFLOWS_EMBEDDED", "iotcore")
    await broker.ensure()
    assert broker.name.startswith("iotcore ")
    await broker.close()


async def test_a_closed_broker_stays_closed(broker: EmbeddedBroker) -> None:
    """After close() this daemon does not start the broker again."""
    await broker.close()
    with pytest.raises(OSError, match="closed"):
        await broker.ensure()


async def test_a_full_broker_is_not_restarted(
    mosquitto: str, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Idle connections of some program fill the broker; the watchdog leaves those that work alone."""
    monkeypatch.setattr(broker_programs, "MAX_CONNECTIONS", 60)
    broker = EmbeddedBroker(free_port, directory=tmp_path, program="mosquitto", log=logging.getLogger())
    await broker.ensure()
    idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
    try:
        idle += [await asyncio.open_connection("127.0.0.1", free_port) for _ in range(70)]
        await asyncio.sleep(0.2)
        with pytest.raises((NoAnswer, ConnectionResetError)):
            await probe(await address(free_port, tmp_path), 1.0)
        assert await broker._answers()
    finally:
        for _, writer in idle:
            writer.close()
        await broker.close()
    assert mosquitto


async def test_a_flood_of_the_port_keeps_no_daemon_out(
    mosquitto: str, free_port: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Daemons reach the broker on a socket in its private folder, whoever fills its port, and send nothing there."""
    monkeypatch.setattr(broker_programs, "MAX_CONNECTIONS", 20)
    monkeypatch.setattr(broker_programs, "MIN_CONNECTIONS", 20)
    broker = EmbeddedBroker(free_port, directory=tmp_path / "b", program="mosquitto", log=LOG)
    url = await broker.ensure()
    assert url.socket == str(tmp_path / "b" / "broker.sock")
    assert stat.S_IMODE((tmp_path / "b").stat().st_mode) == 0o700
    idle = [await asyncio.open_connection("127.0.0.1", free_port) for _ in range(40)]
    try:
        await asyncio.sleep(0.2)
        with pytest.raises((NoAnswer, ConnectionResetError)):
            await probe(await broker.ensure_for_workers(), 1.0)
        await probe(url, 3.0)
        assert await broker._answers()
        async with Peer(replace(url, port=1), "t/in", name="b") as peer:
            await peer.wait_until_up()
            peer.link.publish("t/in", b"x" * 200_000)
            await peer.wait_for(b"x" * 200_000)
    finally:
        for _, writer in idle:
            writer.close()
        await broker.close()
    assert mosquitto
    assert not (tmp_path / "b" / "broker.sock").exists()


async def test_a_long_path_has_no_socket(mosquitto: str, free_port: int, tmp_path: Path) -> None:
    """Where the path of a socket would be too long, daemons use the port."""
    assert mosquitto
    folder = tmp_path / ("x" * 100)
    broker = EmbeddedBroker(free_port, directory=folder, program="mosquitto", log=LOG)
    url = await broker.ensure()
    assert url.socket is None
    await probe(url, 3.0)
    await broker.close()


async def test_the_port_of_another_user_gets_no_password(
    broker: EmbeddedBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The daemon sends nothing to a program of another user, and the error names that user."""
    await broker.ensure()
    monkeypatch.setattr(broker._home, "socket", None)  # as with a broker that listens on no socket
    monkeypatch.setattr(os, "geteuid", lambda: 4_242)
    with pytest.raises(UsageError, match=r"Another user of this machine \(uid"):
        await broker._home.probe()


async def test_a_socket_on_which_nobody_listens(broker: EmbeddedBroker, program: Program) -> None:
    """A socket that a broker has left is refused at once, and leaves nothing open."""
    if program != "mosquitto":
        pytest.skip("only mosquitto listens on a socket")
    url = await broker.ensure()
    assert broker._child.pid
    os.kill(broker._child.pid, signal.SIGKILL)
    await gone(broker._child.pid)
    with pytest.raises(ConnectionRefusedError):
        await probe(url, 3.0)
    await probe(await broker.ensure(), 3.0)
