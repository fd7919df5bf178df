"""People with a home and a daemon of their own, as real processes around one real broker."""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import p2pflows
from p2pflows.contacts import Contacts
from p2pflows.errors import DaemonNotRunning
from p2pflows.protocol import identity
from p2pflows.protocol.identity import Identity

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0
CLI_TIMEOUT_S = 60.0
MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")


@dataclass(frozen=True, slots=True)
class Ran:
    """What came of one command."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def document(self) -> Any:
        """The one JSON document on stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The JSON Lines on stdout."""
        return [json.loads(line) for line in self.out.splitlines()]

    @property
    def error(self) -> dict[str, Any]:
        """The one JSON object on stderr."""
        assert self.err.count("\n") == 1, self.err
        said: dict[str, Any] = json.loads(self.err)
        assert set(said) == {"code", "message", "hint"}, said
        return said

    def ok(self) -> Ran:
        """Itself, if the command succeeded."""
        assert self.code == 0, f"exit code {self.code}\n{self.out}\n{self.err}"
        return self


class Command:
    """A `p2pflows` command that runs."""

    def __init__(self, words: Sequence[str], env: dict[str, str], cwd: Path, *, piped: bool) -> None:
        self._began = time.monotonic()
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "p2pflows", *words],
            env=env,
            cwd=cwd,
            text=True,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def wait(self, given: str | None = None, timeout: float = CLI_TIMEOUT_S) -> Ran:
        """Let it end; whatever it was, no traceback may have been shown."""
        try:
            out, err = self.process.communicate(given, timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, err = self.process.communicate()
            raise AssertionError(f"{self.process.args!r} did not end\n{out}\n{err}") from None
        assert "Traceback" not in out + err, out + err
        return Ran(self.process.returncode, out, err, time.monotonic() - self._began)


class Person:
    """Somebody with a home; `start` runs their daemon.

    Args:
        name: for the log.
        home: their home folder, with a path short enough for a unix socket.
        broker: their broker setting.
        environment: what else their programs find in the environment.
    """

    def __init__(self, name: str, home: Path, broker: str, environment: dict[str, str]) -> None:
        self.name = name
        self.home = home
        self.folder = home.parent / f"{name}-files"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.log = home.parent / f"{name}.log"
        self.environment = {
            **os.environ,
            "HOME": str(self.folder),
            "P2PFLOWS_HOME": str(home),
            "P2PFLOWS_BROKER": broker,
            **environment,
        }
        self.me: Identity = identity.create(home / "identity.key")
        self.user_id = self.me.user_id
        self.daemon: subprocess.Popen[bytes] | None = None
        self.has_workers = True
        self._others: list[subprocess.Popen[Any]] = []
        self._orphans: set[int] = set()

    # The daemon.

    def without_workers(self) -> Person:
        """Have a daemon that starts no workers: a person who only asks and answers needs none."""
        (self.home / "config.yaml").write_text("workers: []\n")
        self.has_workers = False
        return self

    def start(self, *, wait: bool = True) -> Person:
        """Run the daemon; with `wait`, until it is ready."""
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                [sys.executable, "-P", "-m", "p2pflowsd"],
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.ready() if wait else self

    def ready(self) -> Person:
        """Wait until the daemon is connected, and its own workers are there; start it if some test has ended it."""
        if not self.is_running:
            self.start(wait=False)

        def is_ready(now: dict[str, Any]) -> bool:
            return now["broker"]["connected"] and (bool(now["workers"]) or not self.has_workers)

        self.until(is_ready, START_TIMEOUT_S)
        return self

    def stop(self) -> int:
        """End the daemon as Ctrl-C does; gives its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGINT)
        try:
            code = self.daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill9()
            raise AssertionError(f"the daemon did not stop\n{self.told()}") from None
        self.daemon = None
        return code

    def kill9(self) -> None:
        """End the daemon without a goodbye."""
        assert self.daemon is not None
        self._orphans |= set(self.children())
        self.daemon.kill()
        self.daemon.wait()
        self.daemon = None

    @property
    def is_running(self) -> bool:
        """Whether the daemon runs."""
        return self.daemon is not None and self.daemon.poll() is None

    def pause(self) -> None:
        """Stop the daemon's clock, as a sleeping machine would."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGCONT)

    def children(self) -> list[int]:
        """The processes that the daemon has started: workers, and the broker."""
        return _children(self.daemon.pid) if self.daemon is not None else []

    def workers(self) -> list[int]:
        """The worker processes that the daemon has started."""
        return [pid for pid in self.children() if "p2pflows.worker" in words_of(pid)]

    def told(self) -> str:
        """What the daemon and its workers have written."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def close(self) -> None:
        """End everything of this person that still runs."""
        self.end_others()
        if self.daemon is not None:
            with contextlib.suppress(AssertionError):
                self.resume()
                self.stop()
        for pid in self._orphans:
            if "p2pflows" in words_of(pid):
                end(pid)

    def end_others(self) -> None:
        """End the commands and workers that were run beside the test."""
        for process in self._others:
            process.kill()
            process.communicate()
        self._others.clear()

    def ends_later(self, process: subprocess.Popen[Any]) -> None:
        """Remember a process that must not outlive the test."""
        self._others.append(process)

    # The shell.

    def cli(
        self, *words: object, given: str | None = None, timeout: float = CLI_TIMEOUT_S, cwd: Path | None = None
    ) -> Ran:
        """Run one command to its end."""
        command = Command([*map(str, words)], self.environment, cwd or self.folder, piped=given is not None)
        return command.wait(given, timeout)

    def begin(self, *words: object, piped: bool = False) -> Command:
        """Run a command beside the test."""
        command = Command([*map(str, words)], self.environment, self.folder, piped=piped)
        self.ends_later(command.process)
        return command

    def run(self, *words: str, output: BinaryIO, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Run a command beside the test, until it is ended."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "p2pflows", *words],
            env=environment or self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if output.name == str(self.log) else subprocess.DEVNULL,
        )
        self.ends_later(process)
        return process

    def run_worker(self, *words: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Run `p2pflows worker` beside the test."""
        with self.log.open("ab") as log:
            return self.run("worker", *words, output=log, environment=environment)

    def knows(self, other: Person, name: str | None = None) -> None:
        """Add a contact."""
        Contacts(self.home / "contacts.yaml").add(name or other.name, other.user_id)

    def serves(self, name: str, target: str, *options: str) -> None:
        """Serve a flow."""
        self.cli("serve", name, target, *options).ok()

    def writes(self, name: str, text: str, *, executable: bool = False) -> Path:
        """Put a file into the folder that this person's flows are served from."""
        path = self.folder / name
        path.write_text(text)
        if executable:
            path.chmod(0o755)
        return path

    # The control socket, for what tests have to look at often.

    def ask(self, method: str, **params: Any) -> Any:
        """Ask the daemon over its socket."""
        with p2pflows.connect(self.home) as me:
            return me.request(method, **params)

    def status(self) -> dict[str, Any]:
        """What `status --json` shows."""
        now: dict[str, Any] = self.ask("status")
        return now

    def refused(self, reason: str) -> int:
        """How often something was refused for this reason."""
        return int(self.status()["refused"].get(reason, 0))

    def prompts(self, *, everything: bool = False) -> list[dict[str, Any]]:
        """What `inbox --json` shows."""
        prompts: list[dict[str, Any]] = self.ask("inbox", all=everything)["prompts"]
        return prompts

    def until(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 15.0) -> dict[str, Any]:
        """The first status that fulfils a condition; the daemon may be starting."""
        deadline = time.monotonic() + seconds
        now: dict[str, Any] | None = None
        while True:
            with contextlib.suppress(DaemonNotRunning):
                now = self.status()
                if condition(now):
                    return now
            if not self.is_running or time.monotonic() > deadline:
                state = "did not get there" if self.is_running else "ended"
                raise AssertionError(f"the daemon of {self.name} {state}: {now}\n{self.told()[-4000:]}")
            time.sleep(0.05)

    def prompted(self, count: int = 1, seconds: float = 15.0) -> list[dict[str, Any]]:
        """The open prompts, once there are so many."""
        self.until(lambda now: now["prompts_open"] >= count, seconds)
        return self.prompts()


class Neighbourhood:
    """Some people on one broker, and the folder with their homes.

    Args:
        program: the embedded broker to run, or None when `broker` names one.
        broker: the broker setting, if it is not an embedded one.
    """

    def __init__(self, program: str | None = "mosquitto", broker: str | None = None) -> None:
        # Short, for unix sockets take a path of about a hundred bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="p2p-", dir="/tmp"))
        self.port = free_port()
        self.broker = broker or f"embedded:{self.port}"
        self.program = program
        self.environment = {"P2PFLOWS_EMBEDDED": program} if program else {}
        self.people: list[Person] = []

    def person(self, name: str, home: Path | None = None) -> Person:
        """Somebody new, whose daemon does not run yet."""
        person = Person(name, home or self.folder / name, self.broker, self.environment)
        self.people.append(person)
        return person

    def pair(self, *, workers: bool = True) -> tuple[Person, Person]:
        """Alice and bob, who know each other and whose daemons run; bob's with a worker if so wanted."""
        alice, bob = self.person("alice").without_workers(), self.person("bob")
        if not workers:
            bob.without_workers()
        for person in (alice, bob):
            person.start(wait=False)
        Contacts(alice.home / "contacts.yaml").add("bob", bob.user_id)
        Contacts(bob.home / "contacts.yaml").add("alice", alice.user_id)
        return alice.ready(), bob.ready()

    @property
    def broker_folder(self) -> Path:
        """Where the embedded broker keeps its files."""
        return Path(f"/var/tmp/p2pflows-{os.geteuid()}/broker-{self.port}")  # noqa: S108 - the daemon's choice

    @property
    def broker_pid(self) -> int | None:
        """The process of the embedded broker, if it runs."""
        try:
            pid = int((self.broker_folder / "broker.pid").read_text())
        except (FileNotFoundError, ValueError):
            return None
        return pid if f"{self.broker_folder}/" in words_of(pid) else None

    def kill_broker(self) -> None:
        """Kill -9 the embedded broker."""
        pid = self.broker_pid
        if pid is not None:
            end(pid)

    def close(self) -> None:
        """End everything, and see that no daemon found a bug in itself."""
        for person in self.people:
            person.close()
        self.kill_broker()
        shutil.rmtree(self.broker_folder, ignore_errors=True)
        crashes = [report.read_text() for person in self.people if (report := person.home / "crash.log").exists()]
        shutil.rmtree(self.folder, ignore_errors=True)
        assert not crashes, crashes[0]


def free_port() -> int:
    """A port that nobody listens on, below those that Linux gives to outgoing connections."""
    while True:
        port = random.randrange(20_000, 32_000)  # noqa: S311 - no secret
        with socket.socket() as trial, contextlib.suppress(OSError):
            trial.bind(("127.0.0.1", port))
            return port


def words_of(pid: int) -> str:
    """The command line of a process; empty if there is none."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def end(pid: int) -> None:
    """Kill -9 a process, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def wait_until(condition: Callable[[], bool], seconds: float = 15.0) -> None:
    """Look again and again until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come about in time"
        time.sleep(0.05)


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError, IndexError, ValueError):
                # The name in parentheses may hold anything; what follows it has fixed places.
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if int(fields[1]) == pid and fields[0] != "Z":
                    found.append(int(entry.name))
    return found
