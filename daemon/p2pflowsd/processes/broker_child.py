"""The broker process that a daemon runs as its child."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

from p2pflows import files
from p2pflows.errors import P2pflowsError, UsageError
from p2pflowsd.processes.broker_home import HOST, BrokerHome
from p2pflowsd.processes.broker_programs import Program, prepare, set_aside_unreadable_messages

STOP_TIMEOUT_S = 5.0
_START_TIMEOUT_S = 15.0
_PORT_TIMEOUT_S = 1.0


class BrokerChild:
    """One broker process at a time; start it only while holding the lock of its home.

    Args:
        home: its files, address and password.
        program: which broker to run; see `broker_programs.prepare`.
        log: gets a line when stored messages cannot be used.
    """

    def __init__(self, home: BrokerHome, program: Program | None, log: logging.Logger) -> None:
        self._home = home
        self._program = program
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None
        self.name = ""
        """The program that was started last, with its version."""

    @property
    def running(self) -> bool:
        """Whether the process runs."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int | None:
        """The process id, or None before the start."""
        return None if self._process is None else self._process.pid

    async def start(self) -> None:
        """Run the broker, in place of any that this or an earlier daemon started here, until it answers.

        Raises:
            UsageError: there is no such program, or another program uses the port.
            P2pflowsError: the broker ends at once.
            TimeoutError: the broker does not answer.
        """
        await self.stop(grace_s=STOP_TIMEOUT_S)
        await self._end_left_over()
        await self._wait_for_port()
        for _ in range(2):
            if await self._run():
                return
            await self.stop(grace_s=0)
            if set_aside_unreadable_messages(self._home):
                self._log.error("the broker cannot read its stored messages; starting it without them")
        raise P2pflowsError(
            f"The embedded broker {self.name} ended at once: {self._home.last_log_line()}",
            f"Its log is {self._home.log}.",
        )

    async def stop(self, *, grace_s: float) -> None:
        """End the process.

        Args:
            grace_s: how many seconds it has to end by itself before it is killed.
        """
        process = self._process
        if process is None:
            return
        if grace_s:
            process.terminate()
            await _wait_until(lambda: process.poll() is not None, grace_s)
        process.kill()
        await _wait_until(lambda: process.poll() is not None, STOP_TIMEOUT_S)
        if process.stdin:
            process.stdin.close()
        self._process = None
        self._home.pid_file.unlink(missing_ok=True)
        if self._home.socket is not None:
            self._home.socket.unlink(missing_ok=True)

    async def _run(self) -> bool:
        """Start the program and wait until it answers; return False if it ends instead."""
        process = self._spawn()
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT_S
        while process.poll() is None:
            try:
                await self._home.probe()
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise TimeoutError(f"the embedded broker {self.name} does not answer") from error
                await asyncio.sleep(0.02)
            else:
                return True
        return False

    def _spawn(self) -> subprocess.Popen[bytes]:
        if self._home.socket is not None:
            self._home.socket.unlink(missing_ok=True)
        command = prepare(self._home, self._program)
        self.name = command.name
        log = os.open(self._home.log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._process = subprocess.Popen(
                command.arguments,
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal reaches only us; we end the child ourselves
            )
        finally:
            os.close(log)
        files.replace(self._home.pid_file, str(self._process.pid))
        return self._process

    async def _end_left_over(self) -> None:
        """End the broker that a dead daemon has left, if it still runs."""
        try:
            pid = int(self._home.pid_file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                await _wait_until(lambda: not self._is_ours(pid), STOP_TIMEOUT_S)
        self._home.pid_file.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        """Return whether a process uses our configuration; a reused pid belongs to another program."""
        if Path("/proc/self/cmdline").exists():
            try:
                arguments = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                return False
        else:
            ps = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, check=False)
            arguments = ps.stdout.decode(errors="replace")
        return f"{self._home.folder}/" in arguments

    async def _wait_for_port(self) -> None:
        """Wait a moment until the port is free, as a process that has just ended may still hold it."""
        if not await _wait_until(self._port_is_free, _PORT_TIMEOUT_S):
            raise UsageError(
                f"Another program uses port {self._home.port}, on which the embedded broker listens.",
                "Stop it, or choose a free port: `broker: embedded:PORT` in config.yaml, or P2PFLOWS_BROKER.",
            )

    def _port_is_free(self) -> bool:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((HOST, self._home.port))
            except OSError:
                return False
        return True


async def _wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Test a condition again and again; return False if it does not hold within the time."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + timeout_s
    while not condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
