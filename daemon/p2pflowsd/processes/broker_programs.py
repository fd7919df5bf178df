"""The programs that can be the embedded broker: mosquitto and iotcore, with their configuration."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import re
import resource
import secrets
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from p2pflows import files
from p2pflows.errors import UsageError
from p2pflowsd.processes.broker_home import DAEMON, HOST, USER, BrokerHome

Program = Literal["mosquitto", "iotcore"]

_MOSQUITTO_FOLDERS = ("/usr/sbin", "/usr/local/sbin", "/opt/homebrew/sbin")
"""Where mosquitto may be although these folders are not on everybody's PATH."""
MAX_CONNECTIONS = 2_000
MIN_CONNECTIONS = 50
RESERVED_DESCRIPTORS = 100
"""File descriptors that mosquitto needs for its files and listeners, rounded up."""
_MIN_MOSQUITTO_VERSION = 2
"""The first version with reliable MQTT 5."""
_MOSQUITTO_CONFIG = """\
per_listener_settings false
set_tcp_nodelay true
persistence true
persistence_location {folder}/
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
password_file {folder}/passwords
{as_root}listener {port} {host}
max_connections {max_connections}
{unix}"""
_IOTCORE_CONFIG = """\
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
    {daemon} = "{daemon_password}"
"""


@dataclass(frozen=True, slots=True)
class BrokerCommand:
    """How to run a broker program.

    Attributes:
        name: the program with its version, for people.
        arguments: the command and its arguments.
    """

    name: str
    arguments: list[str]


def prepare(home: BrokerHome, program: Program | None) -> BrokerCommand:
    """Choose a program, and write its configuration.

    Args:
        home: the folder for the configuration, the port and the password.
        program: which program to run; by default the one that P2PFLOWS_EMBEDDED names, or else mosquitto if it is
            installed, or else iotcore.

    Raises:
        UsageError: there is no such program.
    """
    wanted = program or os.environ.get("P2PFLOWS_EMBEDDED") or None
    if wanted not in (None, "mosquitto", "iotcore"):
        raise UsageError(f"No embedded broker is called {wanted!r}.", "Set P2PFLOWS_EMBEDDED to mosquitto or iotcore.")
    if wanted == "iotcore":
        return _prepare_iotcore(home)
    found = _find_mosquitto()
    if found is not None:
        return _prepare_mosquitto(home, *found)
    if wanted == "mosquitto":
        raise UsageError("There is no mosquitto 2 on this machine.", "Install it, or unset P2PFLOWS_EMBEDDED.")
    return _prepare_iotcore(home)


def set_aside_unreadable_messages(home: BrokerHome) -> bool:
    """Move the stored messages away if mosquitto did not start because it cannot read them.

    The senders of these messages still have them, and send them again.

    Returns:
        Whether the messages were moved, so that another start may work.
    """
    database = home.folder / "mosquitto.db"
    if "database" not in home.last_log_line() or not database.exists():
        return False
    database.replace(database.with_suffix(".unreadable"))
    return True


def _find_mosquitto() -> tuple[str, str] | None:
    """Return path and version of mosquitto, or None if there is none that is new enough."""
    path = shutil.which("mosquitto", path=os.pathsep.join([os.environ.get("PATH", ""), *_MOSQUITTO_FOLDERS]))
    if path is None:
        return None
    usage = subprocess.run([path, "-h"], capture_output=True, text=True, check=False).stdout
    version = re.search(r"mosquitto version (\d+)(\S*)", usage)
    if version is None or int(version[1]) < _MIN_MOSQUITTO_VERSION:
        return None
    return path, version[1] + version[2]


def _prepare_mosquitto(home: BrokerHome, path: str, version: str) -> BrokerCommand:
    lines = _password_line(USER, home.password()) + _password_line(DAEMON, home.renew_password())
    files.replace(home.folder / "passwords", lines)
    unix = "" if home.socket is None else f"listener 0 {home.socket}\n"
    # Started as root, mosquitto would switch to a user who cannot read our files.
    as_root = "user root\n" if os.geteuid() == 0 else ""
    config = home.folder / "mosquitto.conf"
    files.replace(
        config,
        _MOSQUITTO_CONFIG.format(
            folder=home.folder,
            port=home.port,
            host=HOST,
            as_root=as_root,
            max_connections=_max_connections(),
            unix=unix,
        ),
    )
    # The child runs by path and isolated, so that it imports nothing from the working directory; iotcore likewise.
    tied = [sys.executable, "-I", "-S", _beside("tied_child.py"), str(os.getpid())]
    prefix = tied if sys.platform == "linux" else []
    return BrokerCommand(f"mosquitto {version}", [*prefix, path, "-c", str(config)])


def _max_connections() -> int:
    """How many clients mosquitto may have before its process runs out of file descriptors and stops to answer."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    usable = MAX_CONNECTIONS if soft == resource.RLIM_INFINITY else soft - RESERVED_DESCRIPTORS
    return max(MIN_CONNECTIONS, min(MAX_CONNECTIONS, usable))


def _prepare_iotcore(home: BrokerHome) -> BrokerCommand:
    config = home.folder / "iotcore.toml"
    content = _IOTCORE_CONFIG.format(
        host=HOST,
        port=home.port,
        user=USER,
        password=home.password(),
        daemon=DAEMON,
        daemon_password=home.renew_password(),
    )
    files.replace(config, content)
    version = importlib.metadata.version("iotcore")
    return BrokerCommand(f"iotcore {version}", [sys.executable, "-P", _beside("iotcore_child.py"), str(config)])


def _password_line(user: str, password: str) -> str:
    """Return user and password in mosquitto's format: PBKDF2 with SHA-512."""
    salt, rounds = secrets.token_bytes(12), 101
    key = hashlib.pbkdf2_hmac("sha512", password.encode(), salt, rounds)
    return f"{user}:$7${rounds}${base64.b64encode(salt).decode()}${base64.b64encode(key).decode()}\n"


def _beside(name: str) -> str:
    """Return the path of a program in this folder."""
    return str(Path(__file__).with_name(name))
