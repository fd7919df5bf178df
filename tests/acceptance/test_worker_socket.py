"""Workers on the daemon's own machine send their frames over its socket, and not through the broker."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

import pytest
from support.broker_spy import Spy
from support.network import Network
from support.people import Person
from support.processes import wait_until

import p2pflows
from p2pflows.protocol import topics
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.framing import Records, pack
from p2pflowsd.running.worker_tokens import point_key

FLOW = """
import os

SEEN = []

def pid() -> int:
    return os.getpid()

def keep(number: int, fill: str) -> list[int]:
    SEEN.append(number)
    return SEEN
"""


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Bob alone on a broker of his own."""
    network = Network()
    bob = network.person("bob").start()
    bob.write_file("flow.py", FLOW)
    bob.serve("pid", "flow.py:pid")
    bob.serve("keep", "flow.py:keep")
    try:
        yield network
    finally:
        network.close()


@pytest.fixture
def bob(network: Network) -> Person:
    """The user who serves."""
    return network.people[0].ready()


def call(bob: Person, endpoint: str = "pid") -> int:
    """Call a flow of bob; returns the process that ran it."""
    return int(bob.request("call", address=f"me/{endpoint}", data={})["data"]["result"])


def connect(bob: Person) -> socket.socket:
    """Connect to the socket for workers."""
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(10)
    connection.connect(str(bob.home / "worker.sock"))
    return connection


def is_closed_by_daemon(connection: socket.socket) -> bool:
    """Whether the daemon closes a connection without a word."""
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def introduction(bob: Person, name: str = "w-stranger", *, user: str | None = None, will: bytes = b"?") -> bytes:
    """The first line that a worker sends."""
    return Records.wrap(pack([topics.dispatch(user or bob.user_id, "default", name).encode(), will]))


def test_frames_of_a_worker_here_do_not_pass_through_the_broker(network: Network, bob: Person) -> None:
    """Only frames of a worker with a token pass through the broker, as from another machine."""
    with Spy(network.port, network.broker_folder) as spy:
        assert call(bob) in bob.workers()
        assert not [seen.topic for seen in spy.seen if "/dispatch/" in seen.topic or "/results/" in seen.topic]
        bob.start_worker("--token", bob.request("worker_token", dispatch_point="away")["token"])
        spy.first(lambda seen: "/results/away" in seen.topic)


def test_the_socket_is_its_users_alone(bob: Person) -> None:
    """Only its own user can connect to the socket."""
    assert stat.S_IMODE((bob.home / "worker.sock").stat().st_mode) == 0o600


def test_a_worker_outlives_its_daemon_and_its_broker(bob: Person, network: Network) -> None:
    """A worker reconnects after its daemon or the broker was killed, and serves its point again."""
    worker = bob.start_worker("--dispatch-point", "own")
    wait_until(lambda: any(point["dispatch_point"] == "own" for point in bob.status()["workers"]))
    bob.serve("own", "flow.py:pid", "--dispatch-point", "own")
    before = call(bob, "own")
    bob.kill_daemon()
    bob.start()
    assert call(bob, "own") == before
    network.kill_broker()
    assert call(bob, "own") == before
    assert worker.poll() is None


def test_a_worker_that_dies_is_noticed_at_once(bob: Person) -> None:
    """The daemon notices a dead worker by its connection, long before heartbeats are missed."""
    worker = bob.start_worker("--dispatch-point", "brief")
    wait_until(lambda: any(point["dispatch_point"] == "brief" for point in bob.status()["workers"]))
    started = time.monotonic()
    worker.kill()
    worker.wait()
    wait_until(lambda: all(point["dispatch_point"] != "brief" for point in bob.status()["workers"]))
    assert time.monotonic() - started < 10  # of silence it takes 15


@pytest.mark.parametrize(
    "attack",
    [
        pytest.param(lambda _bob: b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", id="another protocol"),
        pytest.param(lambda _bob: b"\xff\xff\xff\xff", id="a record of four gigabytes"),
        pytest.param(lambda _bob: Records.wrap(b""), id="an empty introduction"),
        pytest.param(lambda _bob: Records.wrap(pack([b"one part"])), id="an introduction without a will"),
        pytest.param(lambda _bob: Records.wrap(pack([b"\xff\xfe", b"will"])), id="a topic that is no text"),
        pytest.param(lambda bob: introduction(bob, user="ab" * 32), id="the topic of another user"),
        pytest.param(lambda bob: Records.wrap(pack([topics.inbox(bob.user_id, "pid").encode(), b""])), id="an inbox"),
        pytest.param(lambda bob: introduction(bob, "w/+"), id="a wildcard"),
    ],
)
def test_a_connection_of_no_worker_is_closed(bob: Person, attack: Callable[[Person], bytes]) -> None:
    """The daemon closes a connection that speaks no frames, and other workers notice nothing."""
    with connect(bob) as connection:
        connection.sendall(attack(bob))
        assert is_closed_by_daemon(connection)
    assert call(bob) in bob.workers()


def test_nobody_takes_the_topic_of_a_worker_that_is_connected(bob: Person) -> None:
    """A second worker with the topic of a connected one is refused."""
    with connect(bob) as first, connect(bob) as second:
        first.sendall(introduction(bob, "w-taken"))
        first.sendall(Records.wrap(b"a frame"))
        wait_until(lambda: bob.refused("bad_frame") > 0)
        second.sendall(introduction(bob, "w-taken"))
        assert is_closed_by_daemon(second)
        before = bob.refused("bad_frame")
        first.sendall(Records.wrap(b"another frame"))
        wait_until(lambda: bob.refused("bad_frame") > before)


def test_frames_without_the_key_of_the_point_are_refused(bob: Person) -> None:
    """Frames without the key of the point are refused, even those sealed for another point, and a last will."""
    with connect(bob) as connection:
        before = bob.refused("bad_frame")
        topic = topics.results(bob.user_id, "default")
        other = Channel(point_key(bob.me, "other")).seal(topic, {"worker": "w-stranger"})
        connection.sendall(introduction(bob) + Records.wrap(other) + Records.wrap(secrets.token_bytes(100)))
        wait_until(lambda: bob.refused("bad_frame") == before + 2)
    wait_until(lambda: bob.refused("bad_frame") == before + 3)


def test_a_frame_in_pieces_is_one_frame(bob: Person) -> None:
    """A frame that arrives in pieces is read as one frame."""
    with connect(bob) as connection:
        before = bob.refused("bad_frame")
        for byte in introduction(bob, "w-slow") + Records.wrap(b"x" * 40):
            connection.sendall(bytes([byte]))
        wait_until(lambda: bob.refused("bad_frame") == before + 1)


def test_a_large_answer_comes_whole(bob: Person) -> None:
    """An answer that is larger than the buffer of a socket arrives whole."""
    bob.write_file("large.py", "def large(n: int) -> str:\n    return 'x' * n\n")
    bob.serve("large", "large.py:large")
    assert bob.request("call", address="me/large", data={"n": 600_000})["data"]["result"] == "x" * 600_000


def test_a_worker_without_a_daemon(bob: Person) -> None:
    """A worker without a daemon says so once, and keeps trying."""
    token = bob.request("worker_token", dispatch_point="default")["token"]
    command = [sys.executable, "-P", "-m", "p2pflows.worker", "--socket", str(bob.folder / "nothing.sock")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **bob.environment}, text=True
    ) as worker:
        assert worker.stdin is not None
        assert worker.stderr is not None
        worker.stdin.write(token + "\n")
        worker.stdin.flush()
        line = worker.stderr.readline()
        assert "No daemon listens at" in line
        assert "Traceback" not in line
        worker.stdin.close()
        assert worker.wait(20) == 0


async def test_large_calls_run_in_their_order_and_several_at_once_reach_the_worker(bob: Person) -> None:
    """Over the socket they take several frames, and none overtakes another."""
    fill = "x" * 250_000
    async with p2pflows.connect_async(bob.home) as me:
        answers = await asyncio.gather(*(me.call("me/keep", {"number": number, "fill": fill}) for number in range(24)))
    assert [answer["result"] for answer in answers] == [list(range(count)) for count in range(1, 25)]
