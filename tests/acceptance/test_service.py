"""A daemon that runs by itself: without a terminal, and as a service of the system."""

from __future__ import annotations

import json
import os
import plistlib
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import Command, CommandResult
from support.processes import free_port, kill_process, wait_until

from p2pflows import logs
from p2pflows.home import Home
from p2pflows.service.running import lock_holder, log_file
from p2pflows.service.units import Service

SERVICE = Service(Path("/home/ann/a b"), False, "/opt/my $python/bin/python", "/usr/bin:/home/ann/$bin/100%")


class User:
    """A new user with an empty home, and commands of the system that a test may replace."""

    def __init__(self, folder: Path, port: int) -> None:
        self.home = Home(folder / "home")
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.folder = folder
        self.environment = {
            **os.environ,
            "HOME": str(folder),
            "XDG_CONFIG_HOME": str(folder / "config"),
            "P2PFLOWS_HOME": str(self.home.path),
            "P2PFLOWS_BROKER": f"embedded:{port}",
            "PATH": f"{self.bin}:{os.environ['PATH']}",
        }

    def cli(self, *words: str) -> CommandResult:
        """Run a command to its end."""
        return Command([*words], self.environment, self.folder, piped=False).wait(None, 60)


@pytest.fixture
def user(tmp_path_factory: pytest.TempPathFactory, unused_port: int) -> Iterator[User]:
    """A user whose daemon ends with the test."""
    user = User(tmp_path_factory.mktemp("u"), unused_port)
    yield user
    pid = lock_holder(user.home)
    if pid:
        kill_process(pid)


@pytest.fixture
def unused_port() -> int:
    """A port on which nobody listens."""
    return free_port()


def test_a_daemon_without_a_terminal(user: User) -> None:
    """It outlives the command, has a private log, starts once, and ends when it is told to."""
    started = user.cli("up", "--detach")
    assert started.code == 0, started
    assert "Your daemon runs as process" in started.err
    status = json.loads(user.cli("status", "--json").out)
    assert status["pid"] == lock_holder(user.home)
    log = log_file(user.home)
    wait_until(lambda: "is running" in log.read_text(), 10)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600
    again = user.cli("up", "--detach")
    assert again.code == 2
    assert f"A daemon already runs on {user.home.path} (process {status['pid']})." in again.err
    down = user.cli("down")
    assert down.code == 0
    assert f"process {status['pid']}" in down.err
    assert lock_holder(user.home) is None
    assert "No daemon runs." in user.cli("down").err
    assert json.loads(user.cli("down", "--json").out) == {"process": None}


def test_a_daemon_that_does_not_start_says_why(user: User) -> None:
    """The command waits for it, and shows what the log has, without a traceback."""
    user.cli("init")
    user.home.config.write_text("brokr: embedded\n")
    failed = user.cli("up", "--detach")
    assert failed.code == 2
    assert "There is no setting 'brokr'." in failed.err
    assert "p2pflows up" in failed.err
    assert "Traceback" not in failed.err


def test_a_log_is_begun_anew_when_it_is_long(tmp_path: Path) -> None:
    """What it had is beside it; who appends to the file goes on in it."""
    path = tmp_path / "daemon.log"
    with path.open("ab", buffering=0) as writer:
        writer.write(b"old\n" * 10)
        assert not logs.rotate(path, 100)
        assert logs.rotate(path, 20)
        writer.write(b"new\n")
    assert path.read_bytes() == b"new\n"
    assert path.with_name("daemon.log.1").read_bytes() == b"old\n" * 10


def unit_of(user: User) -> Path:
    """The unit that `service install` wrote."""
    (found,) = (Path(user.environment["XDG_CONFIG_HOME"]) / "systemd" / "user").iterdir()
    return found


def play_systemctl(user: User, script: str = "exit 0") -> Path:
    """Put a systemctl in place of the real one, which cannot run in most test machines; return where it notes words."""
    noted = user.folder / "noted"
    for name in ("systemctl", "loginctl"):
        path = user.bin / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >> {shlex.quote(str(noted))}\n{script}\n')
        path.chmod(0o755)
    return noted


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is for Linux")
def test_a_service_is_installed_shown_and_removed(user: User) -> None:
    """Its unit runs the daemon of this home, its own systemd is told, and what stays is said."""
    noted = play_systemctl(user)
    installed = user.cli("service", "install")
    assert installed.code == 0, installed
    assert "loginctl enable-linger" in installed.err
    unit = unit_of(user)
    assert noted.read_text().splitlines() == [
        "systemctl --user daemon-reload",
        "systemctl --user daemon-reload",
        f"systemctl --user enable {unit.name}",
        f"systemctl --user restart {unit.name}",
        f"loginctl show-user {os.geteuid()} --property=Linger --value",
    ]
    assert json.loads(user.cli("service", "status", "--json").out)["installed"] == "yes"
    assert user.cli("service", "restart").code == 0
    uninstalled = user.cli("uninstall")
    assert uninstalled.code == 0
    assert f"Removed {unit}." in uninstalled.err
    assert f"stay in {user.home.path}" in uninstalled.err
    assert user.home.key.exists()
    assert not unit.exists()
    assert "There is no service to remove." in user.cli("service", "remove").err


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is for Linux")
def test_a_service_that_cannot_be_installed_leaves_nothing(user: User) -> None:
    """As where no systemd runs, in a container: the error says what to do instead."""
    play_systemctl(user, "echo 'Failed to connect to bus: No such file or directory' >&2; exit 1")
    failed = user.cli("service", "install")
    assert failed.code == 1
    assert "Failed to connect to bus: No such file or directory." in failed.err
    assert "p2pflows up --detach" in failed.err
    assert not Path(user.environment["XDG_CONFIG_HOME"]).exists()


@pytest.mark.skipif(sys.platform != "linux", reason="systemd is for Linux")
def test_the_command_of_the_unit_runs_the_daemon(user: User) -> None:
    """With nothing of the environment but what the unit sets."""
    play_systemctl(user)
    user.cli("service", "install", "--sandbox")
    unit = unit_of(user).read_text()
    lines = [line.split("=", 1) for line in unit.splitlines() if "=" in line]
    (command,) = [shlex.split(value) for name, value in lines if name == "ExecStart"]
    environment = dict(shlex.split(value)[0].split("=", 1) for name, value in lines if name == "Environment")
    assert f'ReadWritePaths="{user.home.path}"' in unit
    broker = {"P2PFLOWS_BROKER": user.environment["P2PFLOWS_BROKER"]}
    process = subprocess.Popen(
        command, env={**environment, **broker}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: user.cli("status").code == 0, 20)
    finally:
        process.terminate()
        assert process.wait(20) == 0


@pytest.mark.parametrize("sandbox", [False, True])
def test_systemd_accepts_the_unit(sandbox: bool, tmp_path: Path) -> None:
    """As far as it can tell without running it."""
    verify = shutil.which("systemd-analyze")
    if verify is None:
        pytest.skip("systemd is not installed")
    python = tmp_path / "a b"
    python.symlink_to(sys.executable)
    path = tmp_path / "p2pflows.service"
    path.write_text(SERVICE._replace(home=tmp_path, python=str(python)).unit(sandbox=sandbox))
    environment = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        [verify, "--user", "verify", path], capture_output=True, text=True, check=False, env=environment
    )
    said = [line for line in done.stderr.splitlines() if "p2pflows.service" in line]
    assert not said


def test_odd_paths_are_quoted() -> None:
    """Blanks, percent signs and dollars stay what they are."""
    unit = SERVICE.unit(sandbox=False)
    assert 'ExecStart="/opt/my $$python/bin/python" -P -m p2pflowsd\n' in unit
    assert 'Environment="P2PFLOWS_HOME=/home/ann/a b"\n' in unit
    assert 'Environment="PATH=/usr/bin:/home/ann/$bin/100%%"\n' in unit
    assert SERVICE.name != SERVICE._replace(home=Path("/home/ann/b")).name
    assert SERVICE._replace(usual=True).name == "p2pflows"


def test_an_agent_for_launchd_is_well_formed() -> None:
    """It starts with the login, and again when it has failed."""
    agent: dict[str, Any] = plistlib.loads(SERVICE.agent())
    assert agent["ProgramArguments"][:4] == ["/opt/my $python/bin/python", "-P", "-m", "p2pflowsd"]
    assert agent["EnvironmentVariables"]["P2PFLOWS_HOME"] == "/home/ann/a b"
    assert agent["KeepAlive"] == {"SuccessfulExit": False}
