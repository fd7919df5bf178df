"""The programs in `scripts/peers`: what each is, and the Python that runs it, with what it needs installed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
import venv
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "scripts" / "peers"
ENVIRONMENTS = ROOT / "build" / "peers"
_METADATA = re.compile(r"^# /// script\n((?:#.*\n)*?)# ///$", re.MULTILINE)
"""Dependencies inside a program: https://packaging.python.org/en/latest/specifications/inline-script-metadata/."""


class Peer(NamedTuple):
    """A program that is measured.

    Attributes:
        script: its file in `scripts/peers`.
        label: what the table calls it.
        is_durable: whether an exchange outlives the death of every process; "part" if only some of it does.
        is_signed: whether its sender proves who they are.
        needs: a program that must be on the PATH.
        takes_broker: whether it uses the broker of p2pflows.
        only_single: whether it makes one exchange at a time.
    """

    script: str
    label: str
    is_durable: str
    is_signed: str
    needs: str = ""
    takes_broker: bool = False
    only_single: bool = False


OURS = Peer("p2pflows_calls", "p2pflows, everything on", "yes", "yes")
PAHO = Peer("raw_paho", "raw paho-mqtt, QoS 1", "no", "no", takes_broker=True)
BARE = Peer("bare_hops", "the hops of a call, bare", "part", "yes", takes_broker=True, only_single=True)
OTHERS = {
    "nats": Peer("nats_core", "NATS core", "no", "no", "nats-server"),
    "jetstream": Peer("nats_jetstream", "NATS JetStream", "part", "no", "nats-server"),
    "dramatiq": Peer("dramatiq_redis", "Dramatiq, 8 threads, Redis", "no", "no", "redis-server"),
    "celery": Peer("celery_redis", "Celery, 4 processes, Redis", "no", "no", "redis-server"),
    "autogen": Peer("autogen_grpc", "AutoGen core, gRPC", "no", "no"),
    "a2a": Peer("a2a_tasks", "A2A over MQTT", "no", "no", takes_broker=True),
    "uagents": Peer("uagents_http", "uAgents, HTTP", "no", "yes"),
    "temporal": Peer("temporal_server", "Temporal, developers' server", "yes", "no"),
}


class CannotRun(Exception):
    """A peer cannot be measured here."""


def python_of(peer: Peer) -> Path:
    """Return the Python that runs a peer; install what it needs into an environment of its own, the first time.

    Raises:
        CannotRun: a program is missing, or the installation fails.
    """
    if peer.needs and shutil.which(peer.needs) is None:
        raise CannotRun(f"{peer.needs} is not installed")
    packages = dependencies(peer)
    if not packages:
        return Path(sys.executable)
    folder = ENVIRONMENTS / peer.script
    installed = folder / "installed"
    if not installed.exists() or installed.read_text(encoding="utf-8") != "\n".join(packages):
        venv.create(folder, with_pip=True, clear=True)
        pip = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", *packages]
        if subprocess.run(pip, check=False, capture_output=True).returncode:
            raise CannotRun(f"{', '.join(packages)} cannot be installed")
        installed.write_text("\n".join(packages), encoding="utf-8")
    return folder / "bin" / "python"


def dependencies(peer: Peer) -> list[str]:
    """Return the packages that a peer's program names."""
    found = _METADATA.search((FOLDER / f"{peer.script}.py").read_text(encoding="utf-8"))
    if found is None:
        return []
    lines = [line.removeprefix("#").removeprefix(" ") for line in found[1].splitlines()]
    return [str(package) for package in tomllib.loads("\n".join(lines)).get("dependencies", [])]
