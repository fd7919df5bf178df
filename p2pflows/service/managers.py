"""The programs that run services for one user: systemd's and launchd's."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from pathlib import Path

from p2pflows import files
from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.service.units import Service

TIMEOUT_S = 60.0
_INSTEAD = "Without it, run: p2pflows up --detach"


class Manager(ABC):
    """Runs one service."""

    def __init__(self, service: Service) -> None:
        self.service = service

    @property
    @abstractmethod
    def file(self) -> Path:
        """The file that describes the service."""

    @abstractmethod
    def install(self, *, sandbox: bool) -> list[str]:
        """Write the file, and start the service now and at each login; return what else the user should know."""

    @abstractmethod
    def restart(self) -> None:
        """End the daemon, and start it again."""

    @abstractmethod
    def remove(self) -> bool:
        """End the service, and remove its file; return whether there was one."""

    @abstractmethod
    def state(self) -> dict[str, str]:
        """Return what the manager says of the service."""


class Systemd(Manager):
    """The systemd of one user."""

    @property
    def file(self) -> Path:
        """The unit."""
        config = os.environ.get("XDG_CONFIG_HOME") or str(Path.home() / ".config")
        return Path(config) / "systemd" / "user" / f"{self.service.name}.service"

    def install(self, *, sandbox: bool) -> list[str]:
        """Write the unit, enable and start it."""
        self._call("daemon-reload")  # before anything is written: is there a systemd?
        self.file.parent.mkdir(parents=True, exist_ok=True)
        files.replace(self.file, self.service.unit(sandbox=sandbox), mode=0o644)
        self._call("daemon-reload")
        self._call("enable", self.file.name)
        self._call("restart", self.file.name)
        if self._lingers():
            return []
        return [
            "It ends when you log out, and starts when you log in. To let it run all the time: loginctl enable-linger"
        ]

    def restart(self) -> None:
        """Restart the unit."""
        self._call("restart", self.file.name)

    def remove(self) -> bool:
        """Disable and stop the unit, and remove it."""
        if not self.file.exists():
            return False
        self._call("disable", "--now", self.file.name)
        self.file.unlink()
        self._call("daemon-reload")
        return True

    def state(self) -> dict[str, str]:
        """Return what systemd says of the unit."""
        wanted = ("LoadState", "UnitFileState", "ActiveState", "SubState", "MainPID", "NRestarts", "Result")
        shown = self._call("show", self.file.name, *(f"--property={name}" for name in wanted))
        found = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
        return {
            "installed": "yes" if self.file.exists() else "no",
            "starts at login": "yes" if found.get("UnitFileState") == "enabled" else "no",
            "state": f"{found.get('ActiveState', '')} ({found.get('SubState', '')})",
            "process": found.get("MainPID", "0").removeprefix("0"),
            "restarts": found.get("NRestarts", ""),
            "log": f"journalctl --user -u {self.file.name}",
        }

    @staticmethod
    def _lingers() -> bool:
        done = subprocess.run(
            ["loginctl", "show-user", str(os.geteuid()), "--property=Linger", "--value"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        return done.stdout.strip() == "yes"

    @staticmethod
    def _call(*words: str) -> str:
        return _run("systemctl", "--user", *words)


class Launchd(Manager):
    """The launchd of one user."""

    @property
    def file(self) -> Path:
        """The agent."""
        return Path.home() / "Library" / "LaunchAgents" / f"{self.service.name}.plist"

    def install(self, *, sandbox: bool) -> list[str]:
        """Write the agent, and load it."""
        if sandbox:
            raise UsageError("launchd has no sandbox of this kind.", "Leave out --sandbox.")
        self.file.parent.mkdir(parents=True, exist_ok=True)
        if self.file.exists():
            self.remove()
        files.replace(self.file, self.service.agent().decode(), mode=0o644)
        _run("launchctl", "bootstrap", self._domain, str(self.file))
        return []

    def restart(self) -> None:
        """Kill the daemon; launchd starts it again."""
        _run("launchctl", "kickstart", "-k", f"{self._domain}/{self.service.name}")

    def remove(self) -> bool:
        """Unload the agent, and remove its file."""
        if not self.file.exists():
            return False
        _run("launchctl", "bootout", f"{self._domain}/{self.service.name}")
        self.file.unlink()
        return True

    def state(self) -> dict[str, str]:
        """Return what launchd says of the agent."""
        installed = self.file.exists()
        return {
            "installed": "yes" if installed else "no",
            "starts at login": "yes" if installed else "no",
            "log": str(self.service.home / "daemon.log"),
        }

    @property
    def _domain(self) -> str:
        return f"gui/{os.geteuid()}"


def manager_of(service: Service) -> Manager:
    """Return what runs services here.

    Raises:
        UsageError: nothing that is known does.
    """
    if sys.platform == "darwin":
        return Launchd(service)
    if shutil.which("systemctl"):
        return Systemd(service)
    raise UsageError("This system has neither systemd nor launchd.", _INSTEAD)


def _run(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise P2pflowsError(f"{command[0]} cannot be used: {error}.", _INSTEAD) from error
    if done.returncode:
        said = " ".join((done.stderr or done.stdout).split()).rstrip(".")
        raise P2pflowsError(f"{' '.join(command[:3])} failed: {said or done.returncode}.", _INSTEAD)
    return done.stdout
