"""The broker that one user's daemons on this machine run for themselves on loopback.

Whoever holds `owner.lock` runs the broker as its child. The others use it, and one of them takes over when
the lock comes free. The child dies with its owner; should it not, the next owner ends it by its pid file.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import fcntl
import hashlib
import importlib.metadata
import logging
import os
import re
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from p2pflows import files
from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.mqtt_probe import probe

Program = Literal["mosquitto", "iotcore"]

_HOST = "127.0.0.1"
_USER = "local"
_PLACES = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
"""Where mosquitto is although it is not on everybody's PATH."""
_LOOK_INTERVAL_S = 1.0
"""How often the owner looks after its child, and the others after the lock."""
_PROBE_INTERVAL_S = 10.0
_PROBE_TIMEOUT_S = 3.0
_START_TIMEOUT_S = 15.0
_STOP_TIMEOUT_S = 5.0
_PORT_TIMEOUT_S = 1.0

_MOSQUITTO = """\
per_listener_settings false
set_tcp_nodelay true
persistence true
persistence_location {directory}/
autosave_interval 5
max_inflight_messages 100
max_queued_messages 0
max_queued_bytes 268435456
max_packet_size 1114112
max_keepalive 300
persistent_client_expiration 30d
sys_interval 0
connection_messages false
log_dest stderr
log_type error
log_type warning
log_timestamp_format %Y-%m-%dT%H:%M:%S
allow_anonymous false
password_file {directory}/passwords
{as_root}listener {port} {host}
"""
_IOTCORE = """\
id = 0
[router]
id = 0
max_connections = 2000
max_outgoing_packet_count = 200
max_segment_size = 8388608
max_segment_count = 8
[v5.1]
name = "v5-1"
listen = "{host}:{port}"
next_connection_delay_ms = 1
    [v5.1.connections]
    connection_timeout_ms = 5000
    max_payload_size = 1048576
    max_inflight_count = 100
    [v5.1.connections.auth]
    {user} = "{password}"
"""


class EmbeddedBroker:
    """One daemon's hold on the shared broker of a port.

    Use it on the main thread's event loop: Linux ends the child when the thread that started it ends.

    Args:
        port: where it listens, on loopback only.
        directory: where its files are, by default a folder of this user in /var/tmp.
        program: which broker to run; by default what P2PFLOWS_EMBEDDED names, else mosquitto, else iotcore.
        log: where starts and faults are told.
    """

    def __init__(
        self, port: int, *, directory: Path | None = None, program: Program | None = None, log: logging.Logger
    ) -> None:
        mine = Path(f"/var/tmp/p2pflows-{os.geteuid()}")  # noqa: S108 - checked to be ours alone in _check_folders
        self._folders = [directory.absolute()] if directory else [mine, mine / f"broker-{port}"]
        self._directory = self._folders[-1]
        self._port = port
        self._program = program
        self._log = log
        self._lock: int | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._busy = asyncio.Lock()
        self._closed = False
        self.owned = False
        self.name = "shared"

    async def ensure(self) -> BrokerUrl:
        """Give the address of a broker that answers; start it when nobody else does.

        Raises:
            UsageError: the folder is not ours alone, the program is missing, or a stranger holds the port.
            P2pflowsError: the broker does not start.
            TimeoutError: another daemon's broker does not answer.
        """
        async with self._busy:
            return await self._ensure()

    async def watch(self) -> None:
        """Run for ever: restart the broker when it ends or hangs, take over when its owner is gone."""
        loop = asyncio.get_running_loop()
        probed = loop.time()
        told = ""
        while True:
            await asyncio.sleep(_LOOK_INTERVAL_S)
            async with self._busy:
                try:
                    if self._closed or not self._take_lock():
                        continue
                    if self._running() and loop.time() - probed > _PROBE_INTERVAL_S:
                        if not await self._answers():
                            self._log.error("the embedded broker hangs; starting it again")
                            await self._stop_child(grace=0)
                        probed = loop.time()
                    if not self._running():
                        await self._ensure()
                        told = ""
                except (P2pflowsError, OSError) as error:
                    if told != str(error):
                        told = str(error)
                        self._log.error("%s %s", told, getattr(error, "hint", ""))

    async def close(self) -> None:
        """Stop the broker if it is ours, and let another daemon have it."""
        async with self._busy:
            self._closed = True
            await self._stop_child(grace=_STOP_TIMEOUT_S)
            self._release_lock()

    async def _ensure(self) -> BrokerUrl:
        if self._closed:
            raise ConnectionError("the embedded broker is closed")
        self._check_folders()
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT_S
        while not self._take_lock():
            try:
                await probe(self._url(), _PROBE_TIMEOUT_S)
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise TimeoutError(f"the embedded broker on port {self._port} does not answer") from error
                await asyncio.sleep(0.1)
            else:
                return self._url()
        if not self._running():
            await self._start()
        return self._url()

    async def _start(self) -> None:
        """Run the broker, as holder of the lock; on failure give up the lock."""
        try:
            await self._stop_child(grace=_STOP_TIMEOUT_S)
            await self._end_left_over()
            await self._await_port()
            await self._start_child()
        except BaseException:
            await self._stop_child(grace=0)
            self._release_lock()
            raise
        self.owned = True
        self._log.info("embedded broker: %s on port %d", self.name, self._port)

    async def _start_child(self) -> None:
        for _ in range(2):
            if await self._run_child():
                return
            await self._stop_child(grace=0)
            if "database" in self._last_words():
                # mosquitto does not start on stored messages it cannot read; their senders still have them.
                database = self._directory / "mosquitto.db"
                database.replace(database.with_suffix(".unreadable"))
                self._log.error("the broker's stored messages cannot be read; starting it without them")
        raise P2pflowsError(
            f"The embedded broker {self.name} ended at once: {self._last_words()}",
            f"Its log is {self._directory / 'broker.log'}.",
        )

    async def _run_child(self) -> bool:
        """Start the program and wait until it answers; gives False if it ended instead."""
        child = self._spawn()
        deadline = asyncio.get_running_loop().time() + _START_TIMEOUT_S
        while child.poll() is None:
            try:
                await probe(self._url(), _PROBE_TIMEOUT_S)
            except OSError as error:
                if asyncio.get_running_loop().time() > deadline:
                    raise TimeoutError(f"the embedded broker {self.name} does not answer") from error
                await asyncio.sleep(0.02)
            else:
                return True
        return False

    def _spawn(self) -> subprocess.Popen[bytes]:
        self.name, command = self._command()
        handle = os.open(self._directory / "broker.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            self._child = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=handle,
                stderr=handle,
                start_new_session=True,  # the terminal's Ctrl-C is for us; we stop the child when we are done
            )
        finally:
            os.close(handle)
        files.replace(self._pid_file, str(self._child.pid))
        return self._child

    def _command(self) -> tuple[str, list[str]]:
        """The name of the program to run, and how; its config is written."""
        wanted = self._program or os.environ.get("P2PFLOWS_EMBEDDED") or None
        if wanted not in (None, "mosquitto", "iotcore"):
            raise UsageError(
                f"No embedded broker is called {wanted!r}.", "Set P2PFLOWS_EMBEDDED to mosquitto or iotcore."
            )
        found = None if wanted == "iotcore" else _find_mosquitto()
        if found:
            path, version = found
            files.replace(self._directory / "passwords", _password_line(self._password()))
            # Started as root, mosquitto would become a user who may not read our files.
            as_root = "user root\n" if os.geteuid() == 0 else ""
            text = _MOSQUITTO.format(directory=self._directory, port=self._port, host=_HOST, as_root=as_root)
            config = self._directory / "mosquitto.conf"
            files.replace(config, text)
            # By path and isolated, here and below: nothing in the working directory is imported instead.
            shim = (sys.executable, "-I", "-S", _beside("tied_child.py"), str(os.getpid()))
            tie = shim if sys.platform == "linux" else ()
            return f"mosquitto {version}", [*tie, path, "-c", str(config)]
        if wanted == "mosquitto":
            raise UsageError("There is no mosquitto 2 on this machine.", "Install it, or unset P2PFLOWS_EMBEDDED.")
        text = _IOTCORE.format(host=_HOST, port=self._port, user=_USER, password=self._password())
        config = self._directory / "iotcore.toml"
        files.replace(config, text)
        version = importlib.metadata.version("iotcore")
        return f"iotcore {version}", [sys.executable, "-P", _beside("iotcore_child.py"), str(config)]

    async def _stop_child(self, *, grace: float) -> None:
        """End our child: asked first if there is grace, then by force."""
        child = self._child
        if child is None:
            return
        if grace:
            child.terminate()
            await _until(lambda: child.poll() is not None, grace)
        child.kill()
        await _until(lambda: child.poll() is not None, _STOP_TIMEOUT_S)
        if child.stdin:
            child.stdin.close()
        self._child = None
        self._pid_file.unlink(missing_ok=True)

    async def _end_left_over(self) -> None:
        """End the broker that a dead owner left, if it still runs."""
        try:
            pid = int(self._pid_file.read_text(encoding="ascii"))
        except (FileNotFoundError, ValueError):
            return
        for number in (signal.SIGTERM, signal.SIGKILL):
            if self._is_ours(pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
                await _until(lambda: not self._is_ours(pid), _STOP_TIMEOUT_S)
        self._pid_file.unlink(missing_ok=True)

    def _is_ours(self, pid: int) -> bool:
        """Whether a process runs on our config, so that a pid used anew is never hit."""
        if Path("/proc/self/cmdline").exists():
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            except OSError:
                return False
        else:
            asked = subprocess.run(["ps", "-ww", "-o", "args=", "-p", str(pid)], capture_output=True, check=False)
            words = asked.stdout.decode(errors="replace")
        return f"{self._directory}/" in words

    async def _await_port(self) -> None:
        """Wait a moment for the port, then blame a stranger."""
        if not await _until(self._port_is_free, _PORT_TIMEOUT_S):
            raise UsageError(
                f"Another program holds port {self._port}, where the embedded broker belongs.",
                "Stop it, or set a free one: `broker: embedded:PORT` in config.yaml, or P2PFLOWS_BROKER.",
            )

    def _port_is_free(self) -> bool:
        with socket.socket() as trial:
            trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((_HOST, self._port))
            except OSError:
                return False
        return True

    async def _answers(self) -> bool:
        """Whether the broker passes a message; one miss may be this machine's load."""
        for _ in range(2):
            with contextlib.suppress(OSError):
                await probe(self._url(), _PROBE_TIMEOUT_S)
                return True
        return False

    def _running(self) -> bool:
        return self.owned and self._child is not None and self._child.poll() is None

    def _take_lock(self) -> bool:
        """Whether we hold the lock, if need be from now on."""
        if self._lock is None:
            handle = os.open(self._directory / "owner.lock", os.O_RDWR | os.O_CREAT, 0o600)  # not inherited
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                return False
            self._lock = handle
        return True

    def _release_lock(self) -> None:
        self.owned, self.name = False, "shared"
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _url(self) -> BrokerUrl:
        return BrokerUrl(_HOST, self._port, username=_USER, password=self._password())

    def _password(self) -> str:
        """The password all daemons of this folder share; made by the first."""
        path = self._directory / "password"
        if not path.exists():
            with contextlib.suppress(FileExistsError):
                files.create(path, secrets.token_urlsafe(24))
        return path.read_text(encoding="ascii").strip()

    def _check_folders(self) -> None:
        for folder in self._folders:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            info = folder.lstat()
            if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o022:
                raise UsageError(
                    f"The folder {folder} of the embedded broker is not yours alone.",
                    "Others could put files into it: have it removed, and it is made anew.",
                )

    def _last_words(self) -> str:
        lines = (self._directory / "broker.log").read_text(encoding="utf-8", errors="replace").split("\n")
        return next((line for line in reversed(lines) if line.strip()), "it said nothing")

    @property
    def _pid_file(self) -> Path:
        return self._directory / "broker.pid"


def _find_mosquitto() -> tuple[str, str] | None:
    """Path and version of a mosquitto that speaks MQTT 5 well, 2.0 or later."""
    path = shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *_PLACES]))
    if path is None:
        return None
    told = subprocess.run([path, "-h"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"mosquitto version (\d+)(\S*)", told)
    return (path, version[1] + version[2]) if version and int(version[1]) >= 2 else None  # noqa: PLR2004


def _beside(name: str) -> str:
    """The path of a program in this folder."""
    return str(Path(__file__).with_name(name))


def _password_line(password: str) -> str:
    """User and password as mosquitto stores them: PBKDF2 with SHA-512."""
    salt, rounds = secrets.token_bytes(12), 101
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    return f"{_USER}:$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}\n"


async def _until(condition: Callable[[], bool], limit: float) -> bool:
    """Look again and again until the condition holds; gives False when it does not within the limit."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + limit
    while not condition():
        if loop.time() > deadline:
            return False
        await asyncio.sleep(0.02)
    return True
