"""The files by which systemd and launchd run a daemon for one user. No I/O."""

from __future__ import annotations

import hashlib
import plistlib
from pathlib import Path
from typing import NamedTuple

_HARDENED = """\
# Flows may do what their user may, but become nobody else.
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictRealtime=yes
LockPersonality=yes
SystemCallArchitectures=native
"""
_SANDBOX = """\
# Flows may write in the home of p2pflows only, and read nothing of the devices.
ProtectSystem=strict
ProtectHome=read-only
ReadWritePaths={home}
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectControlGroups=yes
"""


class Service(NamedTuple):
    """A daemon that the system runs.

    Attributes:
        home: its home folder.
        usual: whether that is the usual one, which needs no name in the name of the service.
        python: the interpreter that runs it.
        path: where commands of flows are looked for.
    """

    home: Path
    usual: bool
    python: str
    path: str

    @property
    def name(self) -> str:
        """What the service is called, a name of its own for each home."""
        if self.usual:
            return "p2pflows"
        return f"p2pflows-{hashlib.sha256(str(self.home).encode()).hexdigest()[:8]}"

    def unit(self, *, sandbox: bool) -> str:
        """Return the unit for the user's systemd.

        Args:
            sandbox: whether flows may write in the home of p2pflows only.
        """
        return (
            "[Unit]\n"
            f"Description=p2pflows, the daemon of {_specifier_safe(str(self.home))}\n"
            "Wants=network-online.target\n"
            "After=network-online.target\n"
            "StartLimitIntervalSec=0\n\n"
            "[Service]\n"
            "Type=exec\n"
            f"ExecStart={_quoted(self.python).replace('$', '$$')} -P -m p2pflowsd\n"
            f"Environment={_quoted('P2PFLOWS_HOME=' + str(self.home))}\n"
            f"Environment={_quoted('PATH=' + self.path)}\n"
            f"WorkingDirectory={_specifier_safe(str(self.home))}\n"
            "UMask=0077\n"
            "Restart=on-failure\n"
            "RestartSec=2\n"
            # A wrong setting does not mend itself.
            "RestartPreventExitStatus=2\n"
            "TimeoutStopSec=30\n"
            f"{_HARDENED}{_SANDBOX.format(home=_quoted(str(self.home))) if sandbox else ''}\n"
            "[Install]\n"
            "WantedBy=default.target\n"
        )

    def agent(self) -> bytes:
        """Return the agent for launchd."""
        return plistlib.dumps(
            {
                "Label": self.name,
                "ProgramArguments": [self.python, "-P", "-m", "p2pflowsd", "--log-file", str(self.home / "daemon.log")],
                "EnvironmentVariables": {"P2PFLOWS_HOME": str(self.home), "PATH": self.path},
                "WorkingDirectory": str(self.home),
                "RunAtLoad": True,
                "KeepAlive": {"SuccessfulExit": False},
                "Umask": 0o077,
                "StandardOutPath": str(self.home / "daemon.log"),
                "StandardErrorPath": str(self.home / "daemon.log"),
            }
        )


def _quoted(text: str) -> str:
    """Return a text as one word of a unit: https://www.freedesktop.org/software/systemd/man/systemd.syntax.html."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{_specifier_safe(escaped)}"'


def _specifier_safe(text: str) -> str:
    return text.replace("%", "%%")
