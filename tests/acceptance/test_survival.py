"""After kill -9 of everything, a full disk or a sleep, each accepted message takes effect once, and in order."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.network import Network
from support.people import Person
from support.processes import command_line_of, kill_process, wait_until

import p2pflows
from p2pflows.errors import CallError, DaemonNotRunning, UnknownUser

SETTLE = 60.0
"""Seconds in which all must have arrived once nothing is killed any more."""
VICTIMS = ("alice", "bob", "worker", "broker")


class Feeder(threading.Thread):
    """Sends numbered lines through `send --lines`, again and again, until so many are accepted.

    A line whose command died with the daemon is not sent again: the next line has a new number.

    Attributes:
        accepted: message id to number, in the order of acceptance.
        sent: how many numbers were used.
        problems: output of a command that should not occur.
    """

    def __init__(self, alice: Person, address: str, count: int, pace: float) -> None:
        super().__init__()
        self.accepted: dict[str, int] = {}
        self.sent = 0
        self.problems: list[str] = []
        self._alice = alice
        self._address = address
        self._count = count
        self._pace = pace

    def run(self) -> None:
        """Feed until enough lines are accepted."""
        while len(self.accepted) < self._count and not self.problems:
            self._run_once(self._count - len(self.accepted))
            time.sleep(0.1)

    def _run_once(self, count: int) -> None:
        first = self.sent
        with (self._alice.folder / "ids").open("w+") as ids, (self._alice.folder / "errors").open("w+") as errors:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "p2pflows", "send", self._address, "--lines", "--json"],
                env=self._alice.environment,
                stdin=subprocess.PIPE,
                stdout=ids,
                stderr=errors,
            )
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):
                while self.sent < first + count and process.poll() is None:
                    process.stdin.write(b'{"text":"message %d","n":%d}\n' % (self.sent, self.sent))
                    process.stdin.flush()
                    self.sent += 1
                    time.sleep(self._pace)
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait(60)
            ids.seek(0)
            errors.seek(0)
            for number, line in enumerate(ids.read().splitlines(), start=first):
                accepted = json.loads(line).get("id")
                if accepted is not None:
                    self.accepted[accepted] = number
            words = errors.read()
        if code != 0 and json.loads(words)["code"] != "daemon_not_running":
            self.problems.append(words)


class Chaos:
    """Kills its victims, and starts them again, at moments that a seed decides.

    Args:
        network: the victims and their broker.
        rounds: how often each victim is killed, at least.
    """

    def __init__(self, network: Network, seed: int, rounds: int) -> None:
        self.network = network
        self.alice, self.bob = network.people
        self.random = random.Random(seed)  # noqa: S311 - decides when, guards nothing
        self.plan = [victim for victim in VICTIMS for _ in range(rounds)]
        self.random.shuffle(self.plan)
        self.killed: list[str] = []
        self.calls: dict[str, int] = {}

    def run(self) -> None:
        """Kill all victims as planned, with a few calls under way at each kill."""
        for victim in self.plan:
            time.sleep(self.random.uniform(0.1, 0.8))
            self._call()
            self._kill(victim)
        for person in (self.alice, self.bob):
            person.ready()

    def _kill(self, victim: str) -> None:
        match victim:
            case "broker":
                pid = self.network.broker_pid
                if pid is None:
                    wait_until(lambda: self.network.broker_pid is not None, 30)
                    pid = self.network.broker_pid
                assert pid is not None
                kill_process(pid)
            case "worker":
                wait_until(lambda: bool(self.bob.workers()), 30)
                kill_process(self.bob.workers()[0])
            case _:
                person = self.alice if victim == "alice" else self.bob
                person.kill_daemon()
                time.sleep(self.random.uniform(0, 0.5))
                person.start(wait=False)
        self.killed.append(victim)

    def _call(self) -> None:
        for _ in range(3):
            n = len(self.calls)
            with contextlib.suppress(DaemonNotRunning):
                self.calls[self.alice.request("submit", address="bob/double", data={"n": n}, timeout=45)["id"]] = n

    def check_calls(self) -> int:
        """Check that every accepted call has an answer or an error of a known kind; returns how many have an answer."""
        right = 0
        for message, n in self.calls.items():
            try:
                assert self.alice.request("wait", id=message, timeout=50)["data"] == {"result": 2 * n}
                right += 1
            except CallError as error:
                assert error.kind in ("deadline", "unreachable", "worker_lost", "no_worker"), error  # noqa: PT017
        return right


def send_while_all_is_killed(network: Network, count: int) -> Feeder:
    """Send so many messages to bob while everything is killed; returns once all that was accepted is delivered."""
    alice, bob = network.pair()
    bob.write_file("flows.py", "def double(n: int) -> int:\n    return 2 * n\n")
    bob.serve("double", "flows.py:double")
    feeder = Feeder(alice, "bob/User", count, pace=8 / count)
    chaos = Chaos(network, seed=1, rounds=2)
    feeder.start()
    try:
        chaos.run()
    finally:
        feeder.join(120)
    assert not feeder.problems, feeder.problems
    assert not feeder.is_alive()
    assert len(feeder.accepted) >= count
    assert set(chaos.killed) == set(VICTIMS)
    alice.wait_for_status(lambda now: now["pending"] == 0, SETTLE)
    assert chaos.check_calls() >= len(chaos.calls) * 0.9
    return feeder


@contextlib.contextmanager
def notes_cleared_away(network: Network) -> Iterator[None]:
    """Let bob clear away alice's notes while the block runs, because only so many may be open at a time."""
    is_over = threading.Event()

    def clear() -> None:
        while not is_over.wait(0.1):
            with contextlib.suppress(IndexError, DaemonNotRunning, UnknownUser):  # not there yet, or killed
                network.people[1].request("decline_all", user="alice")

    with ThreadPoolExecutor() as pool:
        clearing = pool.submit(clear)
        try:
            yield
        finally:
            is_over.set()
        clearing.result()


def test_every_message_to_a_human_is_asked_once(network: Network) -> None:
    """Of 1,000 messages sent during the kills, each accepted one is shown to bob once, in alice's order."""
    with notes_cleared_away(network):
        feeder = send_while_all_is_killed(network, count=1_000)
    with p2pflows.connect(network.people[1].home) as bob:
        prompts = bob.inbox(all=True)
    ids = [prompt["id"] for prompt in prompts]
    assert len(ids) == len(set(ids))
    assert set(feeder.accepted) <= set(ids)
    assert all(feeder.accepted.get(prompt["id"], prompt["data"]["n"]) == prompt["data"]["n"] for prompt in prompts)
    numbers = [prompt["data"]["n"] for prompt in prompts]
    assert len(numbers) == len(set(numbers))
    assert numbers == sorted(numbers)


@pytest.mark.parametrize(
    "program", ["mosquitto", pytest.param("iotcore", marks=pytest.mark.slow)], indirect=["program"]
)
def test_a_broker_whose_owner_is_killed(network_on_each_broker: Network) -> None:
    """When the daemon that owns the shared broker is killed or stopped, the other daemon starts a new broker."""
    network = network_on_each_broker
    alice, bob = network.person("alice").without_workers().start(), network.person("bob").without_workers().start()
    alice.add_contact(bob)
    bob.add_contact(alice)
    for owner, other, end_it in ((alice, bob, alice.kill_daemon), (bob, alice, bob.stop)):
        assert network.broker_pid in owner.children()
        call = other.request("submit", address=f"{owner.name}/User", data={"text": "Still there?"})["id"]
        (prompt,) = owner.wait_for_prompts()
        end_it()
        wait_until(lambda other=other: network.broker_pid in other.children())  # type: ignore[misc]
        other.wait_for_status(lambda now: now["broker"]["connected"])
        owner.start()
        owner.request("answer", id=prompt["id"], text="Yes.")
        assert other.request("wait", id=call, timeout=30)["data"] == {"human_input": "Yes."}


def test_one_daemon_for_a_home(network: Network) -> None:
    """A second daemon on a home is refused with the process id of the first, which runs on."""
    alice = network.person("alice").without_workers().start()
    assert alice.daemon is not None
    result = alice.cli("up")
    assert result.code == 2
    assert str(alice.daemon.pid) in result.err
    assert "p2pflows status" in result.err
    assert alice.status()["pid"] == alice.daemon.pid


def test_a_terminal_that_is_closed(network: Network) -> None:
    """A daemon that was started with `up &` ends properly with its terminal, and its log says why."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # with `nohup`, all programs of the tests would ignore it
    try:
        alice = network.person("alice").without_workers().start()
    finally:
        signal.signal(signal.SIGHUP, before)
    assert alice.daemon is not None
    alice.daemon.send_signal(signal.SIGHUP)
    assert alice.daemon.wait(20) == 0
    assert "The terminal was closed (SIGHUP), so this process stops." in alice.log_text()
    assert alice.log_text().endswith("stopped; everything accepted is kept\n")


def test_ctrl_c_and_on_again(network: Network) -> None:
    """`p2pflows up` prints the next steps; Ctrl-C ends it and its processes; the next `up` continues."""
    home = Person("alice", network.folder / "a", network.broker, network.environment)
    (home.home / "identity.key").unlink()
    network.people.append(home)
    output_file = home.folder / "output_file"
    for first in (True, False):
        with output_file.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "p2pflows", "up"],
                env=home.environment,
                cwd=home.folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        home.daemon = process
        home.ready()
        wait_until(lambda: "p2pflows inbox" in output_file.read_text())
        user = home.cli("id").ok().out.strip()
        text = output_file.read_text()
        assert user in text
        assert f"embedded:{network.port}" in text
        assert str(home.home / "daemon.sock") in text
        assert ("Made your identity" in text) is first
        if first:
            message = home.cli("send", "me/User", "text=kept").ok().out.strip()
        assert [prompt["id"] for prompt in home.wait_for_prompts()] == [message]
        children = home.children()
        assert len(children) == 2
        os.killpg(process.pid, signal.SIGINT)
        assert process.wait(15) == 0
        home.daemon = None
        assert not [pid for pid in children if command_line_of(pid)]
        assert not (home.home / "daemon.sock").exists()
        assert "Traceback" not in output_file.read_text()
        assert home.cli("status").code == 3
    assert oct((home.home / "identity.key").stat().st_mode & 0o777) == "0o600"


@pytest.fixture
def small_disk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A disk of four megabytes."""
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("only root can mount a small disk")
    folder = tmp_path_factory.mktemp("disk")
    words = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("a small disk cannot be mounted here")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(ballast: Path) -> None:
    """Fill a disk with a file."""
    with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 4096)


def test_a_full_disk(network: Network, small_disk: Path) -> None:
    """On a full disk a send fails with a clear error, nothing is lost, and the daemon continues once there is room."""
    alice, bob = (
        network.person("alice", small_disk / "alice").without_workers(),
        network.person("bob").without_workers(),
    )
    for person in (alice, bob):
        person.start()
    alice.add_contact(bob)
    bob.add_contact(alice)
    first = alice.cli("send", "bob/User", "text=before").ok().out.strip()
    bob.wait_for_prompts()
    ballast = small_disk / "ballast"
    fill(ballast)
    refused = 0
    for _ in range(200):
        result = alice.cli("send", "bob/User", f"text={'x' * 20_000}", "--json")
        if result.code:
            refused += 1
            assert result.code == 1
            assert result.error["code"] == "disk"
            assert "journal" in result.error["message"]
            assert "free" in result.error["hint"].lower()
            break
    assert refused
    for reading in ("inbox", "outbox", "log", "requests"):
        assert alice.cli(reading).code == 0
    assert "cannot be written" in alice.cli("status", "--json").ok().document["problem"]
    shown = alice.cli("status", "--json")
    assert shown.code == 0, shown
    assert alice.daemon is not None
    assert alice.daemon.poll() is None
    bob.request("send", address="alice/User", data={"text": "meanwhile"})
    time.sleep(1)
    ballast.unlink()
    again = []

    def goes_on() -> bool:
        result = alice.cli("send", "bob/User", "text=after")
        again.append(result.out.strip())
        return result.code == 0

    wait_until(goes_on, 20)
    assert alice.wait_for_prompts(1, 20)[0]["text"] == "meanwhile"
    alice.wait_for_status(lambda now: now["pending"] == 0, 20)
    texts = [prompt["text"] for prompt in bob.prompts()]
    assert texts[0] == "before"
    assert texts[-1] == "after"
    assert first in [prompt["id"] for prompt in bob.prompts()]
    assert len(texts) == len({prompt["id"] for prompt in bob.prompts()})
    assert alice.stop() == 0
    fill(ballast)
    alice.start(wait=False)
    assert alice.daemon is not None
    assert alice.daemon.wait(15) == 1
    assert "Error [disk]" in alice.log_text()
    ballast.unlink()
    alice.start()
    assert "Traceback" not in alice.log_text()


def test_a_machine_that_slept(network: Network) -> None:
    """A call whose deadline passed while its machine slept ends on waking, its prompt closes, and all continues."""
    alice, bob = network.pair()
    bob.serve("back", "--exec", "cat")
    asked = alice.start_command("call", "bob/User", "text=Awake?", "--timeout", "2s", "--json")
    (prompt,) = bob.wait_for_prompts()
    lasting = alice.request("submit", address="bob/User", data={"text": "Later?"}, timeout=60)["id"]
    bob.wait_for_prompts(2)
    alice.wait_for_status(lambda now: now["pending"] == 0)
    for person in (alice, bob):
        person.pause()
    time.sleep(2.5)
    for person in (alice, bob):
        person.resume()
    woken = time.monotonic()
    result = asked.wait()
    assert time.monotonic() - woken < 20
    assert (result.code, result.error["code"]) == (5, "deadline")
    bob.wait_for_status(lambda now: now["prompts_open"] == 1)
    assert bob.cli("answer", prompt["id"], "Too late").code == 5
    bob.request("answer", id=lasting, text="Now.")
    assert alice.request("wait", id=lasting)["data"] == {"human_input": "Now."}
    assert alice.request("call", address="bob/back", data={"n": 1}, timeout=30)["data"] == {"n": 1}


def test_a_neighbour_that_slept(network: Network) -> None:
    """Messages to a daemon that hangs arrive once it continues; until then the sender sees them as pending."""
    alice, bob = network.pair(workers=False)
    alice.request("send", address="bob/User", data={"text": "first"})
    bob.wait_for_prompts()
    bob.pause()
    result = alice.cli("call", "bob/User", "text=x", "--timeout", "1s", "--json")
    assert (result.code, result.error["code"]) == (3, "unreachable")
    second = alice.cli("send", "bob/User", "text=second").ok().out.strip()
    bob.resume()
    prompts = bob.wait_for_prompts(2)
    assert [prompt["id"] for prompt in prompts[1:]] == [second]
    assert alice.request("wait", id=second, timeout=30)["state"] == "delivered"


def test_a_restored_backup(network: Network) -> None:
    """After an old copy of a home is restored, its user neither repeats nor loses further messages."""
    alice, bob = network.pair(workers=False)
    for n in range(3):
        alice.request("send", address="bob/User", data={"text": f"old {n}"})
    bob.wait_for_prompts(3)
    alice.wait_for_status(lambda now: now["pending"] == 0)
    alice.stop()
    backup = {file.name: file.read_bytes() for file in alice.home.glob("journal.sqlite3*")}
    alice.start()
    for n in range(3):
        alice.request("send", address="bob/User", data={"text": f"lost {n}"})
    bob.wait_for_prompts(6)
    alice.wait_for_status(lambda now: now["pending"] == 0)
    alice.kill_daemon()
    for file in alice.home.glob("journal.sqlite3*"):
        file.unlink()
    for name, content in backup.items():
        (alice.home / name).write_bytes(content)
    alice.start()
    for n in range(3):
        alice.request("send", address="bob/User", data={"text": f"new {n}"})
    bob.wait_for_prompts(9)
    alice.wait_for_status(lambda now: now["pending"] == 0)
    texts = [prompt["text"] for prompt in bob.prompts()]
    assert texts == [f"{age} {n}" for age in ("old", "lost", "new") for n in range(3)]


def test_a_lost_journal(network: Network) -> None:
    """A user who loses the journal, but not the key, continues with an empty one, as sender and as recipient."""
    alice, bob = network.pair(workers=False)

    def lose(person: Person) -> None:
        person.kill_daemon()
        for file in person.home.glob("journal.sqlite3*"):
            file.unlink()
        person.start()

    alice.request("send", address="bob/User", data={"text": "one"})
    bob.wait_for_prompts(1)
    lose(alice)
    alice.request("send", address="bob/User", data={"text": "two"})
    assert [prompt["text"] for prompt in bob.wait_for_prompts(2)] == ["one", "two"]
    alice.wait_for_status(lambda now: now["pending"] == 0)
    lose(bob)
    alice.request("send", address="bob/User", data={"text": "three"})
    assert [prompt["text"] for prompt in bob.wait_for_prompts(1)] == ["three"]
    alice.wait_for_status(lambda now: now["pending"] == 0)
