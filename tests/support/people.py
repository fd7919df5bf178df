"""People with homes, each with a daemon of their own that runs as a real process."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import p2pflows
from p2pflows.contacts import Contacts
from p2pflows.errors import DaemonNotRunning
from p2pflows.protocol import identity
from p2pflows.protocol.identity import Identity
from support.commands import COMMAND_TIMEOUT_S, Command, CommandResult
from support.processes import children_of, command_line_of, kill_process

START_TIMEOUT_S = 30.0
STOP_TIMEOUT_S = 30.0


class Person:
    """A person with a home and a daemon, which `start` runs.

    Args:
        name: the petname, and the name of the log.
        home: the home folder, with a path short enough for a unix socket.
        broker: the broker setting.
        environment: further variables in the environment of the person's programs.

    Attributes:
        folder: the current folder of the person's programs, from which flows are served.
        log: the file for the output of the daemon and its workers.
        daemon_command: the command that runs the daemon.
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
        self.daemon_command = [sys.executable, "-P", "-m", "p2pflowsd"]
        self.has_workers = True
        self._background: list[subprocess.Popen[Any]] = []
        self._orphans: set[int] = set()

    # The daemon.

    def without_workers(self) -> Person:
        """Let the daemon start no workers: a person who only asks and answers needs none."""
        (self.home / "config.yaml").write_text("workers: []\n")
        self.has_workers = False
        return self

    def start(self, *, wait: bool = True) -> Person:
        """Start the daemon; with `wait`, return only once it is ready."""
        with self.log.open("ab") as log:
            self.daemon = subprocess.Popen(
                self.daemon_command,
                env=self.environment,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return self.ready() if wait else self

    def ready(self) -> Person:
        """Wait until the daemon and its workers are connected; start the daemon if a test has ended it."""
        if not self.is_running:
            self.start(wait=False)

        def is_ready(now: dict[str, Any]) -> bool:
            return now["broker"]["connected"] and (bool(now["workers"]) or not self.has_workers)

        self.wait_for_status(is_ready, START_TIMEOUT_S)
        return self

    def stop(self) -> int:
        """End the daemon as Ctrl-C does; returns its exit code."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGINT)
        try:
            code = self.daemon.wait(STOP_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.kill_daemon()
            raise AssertionError(f"the daemon did not stop\n{self.log_text()}") from None
        self.daemon = None
        return code

    def kill_daemon(self) -> None:
        """Kill -9 the daemon."""
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
        """Stop the process of the daemon, as a machine that sleeps does."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let the process of the daemon go on."""
        assert self.daemon is not None
        self.daemon.send_signal(signal.SIGCONT)

    def children(self) -> list[int]:
        """The processes that the daemon has started: its workers and the broker."""
        return children_of(self.daemon.pid) if self.daemon is not None else []

    def workers(self) -> list[int]:
        """The worker processes that the daemon has started."""
        return [pid for pid in self.children() if "p2pflows.worker" in command_line_of(pid)]

    def log_text(self) -> str:
        """The output of the daemon and its workers."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    def close(self) -> None:
        """End all processes of this person that still run."""
        self.end_background_processes()
        if self.daemon is not None:
            with contextlib.suppress(AssertionError):
                self.resume()
                self.stop()
        for pid in self._orphans:
            if "p2pflows" in command_line_of(pid):
                kill_process(pid)

    def end_background_processes(self) -> None:
        """End the commands and workers that run in the background."""
        for process in self._background:
            process.kill()
            process.communicate()
        self._background.clear()

    def end_at_close(self, process: subprocess.Popen[Any]) -> None:
        """Remember a process that `end_background_processes` must end."""
        self._background.append(process)

    # The shell.

    def cli(
        self, *words: object, stdin: str | None = None, timeout: float = COMMAND_TIMEOUT_S, cwd: Path | None = None
    ) -> CommandResult:
        """Run a command to its end."""
        command = Command([*map(str, words)], self.environment, cwd or self.folder, piped=stdin is not None)
        return command.wait(stdin, timeout)

    def start_command(self, *words: object, piped: bool = False) -> Command:
        """Start a command in the background."""
        command = Command([*map(str, words)], self.environment, self.folder, piped=piped)
        self.end_at_close(command.process)
        return command

    def start_command_into(
        self, *words: str, output: BinaryIO, environment: dict[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a command in the background, with its output in a file."""
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", "p2pflows", *words],
            env=environment or self.environment,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output if output.name == str(self.log) else subprocess.DEVNULL,
        )
        self.end_at_close(process)
        return process

    def start_worker(self, *words: str, environment: dict[str, str] | None = None) -> subprocess.Popen[bytes]:
        """Start `p2pflows worker` in the background."""
        with self.log.open("ab") as log:
            return self.start_command_into("worker", *words, output=log, environment=environment)

    def add_contact(self, other: Person, name: str | None = None) -> None:
        """Add a contact."""
        Contacts(self.home / "contacts.yaml").add(name or other.name, other.user_id)

    def serve(self, name: str, target: str, *options: str) -> None:
        """Serve a flow."""
        self.cli("serve", name, target, *options).ok()

    def write_file(self, name: str, text: str, *, executable: bool = False) -> Path:
        """Write a file into the folder from which this person's flows are served."""
        path = self.folder / name
        path.write_text(text)
        if executable:
            path.chmod(0o755)
        return path

    # The control socket: quicker than a command.

    def request(self, method: str, **params: Any) -> Any:
        """Call a method of the daemon's control socket."""
        with p2pflows.connect(self.home) as me:
            return me.request(method, **params)

    def status(self) -> dict[str, Any]:
        """The result of `status`."""
        now: dict[str, Any] = self.request("status")
        return now

    def refused(self, reason: str) -> int:
        """How often the daemon has refused something for this reason."""
        return int(self.status()["refused"].get(reason, 0))

    def prompts(self, *, everything: bool = False) -> list[dict[str, Any]]:
        """The open prompts; with `everything`, past ones too."""
        prompts: list[dict[str, Any]] = self.request("inbox", all=everything)["prompts"]
        return prompts

    def wait_for_status(self, condition: Callable[[dict[str, Any]], bool], seconds: float = 30.0) -> dict[str, Any]:
        """Wait for a status that fulfils a condition, even of a daemon that is still starting; returns the status."""
        deadline = time.monotonic() + seconds
        now: dict[str, Any] | None = None
        while True:
            with contextlib.suppress(DaemonNotRunning):
                now = self.status()
                if condition(now):
                    return now
            if not self.is_running or time.monotonic() > deadline:
                state = "did not get there" if self.is_running else "ended"
                raise AssertionError(f"the daemon of {self.name} {state}: {now}\n{self.log_text()[-4000:]}")
            time.sleep(0.05)

    def wait_for_prompts(self, count: int = 1, seconds: float = 30.0) -> list[dict[str, Any]]:
        """Wait for so many open prompts; returns all open prompts."""
        self.wait_for_status(lambda now: now["prompts_open"] >= count, seconds)
        return self.prompts()
