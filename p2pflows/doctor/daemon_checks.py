"""Looks at the daemon that runs: release, disk, broker, workers, clocks, and limits that are nearly reached."""

from __future__ import annotations

import statistics
import subprocess
from collections.abc import Iterator
from typing import Any

from p2pflows import __version__
from p2pflows.client import Client
from p2pflows.doctor.finding import Finding, fine, note, problem
from p2pflows.errors import DaemonNotRunning, P2pflowsError
from p2pflows.home import Home
from p2pflows.service.running import lock_holder

TIMEOUT_S = 10.0
CLOCK_MS = 60_000
"""From this difference on, deadlines go wrong."""


def ask_daemon(home: Home) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Return the status of the daemon, with what it serves as `flows`; None if it does not answer, and why."""
    try:
        with Client(home.path, timeout=TIMEOUT_S) as client:
            status = client.request("status")
            return {**status, "flows": client.request("ls")["flows"]}, []
    except DaemonNotRunning as error:
        pid = lock_holder(home)
        if pid is None:
            return None, [note("daemon", "It does not run.", "Run: p2pflows up")]
        text = f"Process {pid} holds {home.lock} and does not answer: {error.message}"
        return None, [problem("daemon", text, f"Look at what it prints; if it hangs: kill {pid}, then p2pflows up")]
    except P2pflowsError as error:
        return None, [problem("daemon", error.message, error.hint)]


def check_daemon(status: dict[str, Any]) -> Iterator[Finding]:
    """Whether the daemon that answered can do its work."""
    if status["version"] != __version__:
        text = f"The daemon is release {status['version']}, this command is {__version__}."
        yield problem("daemon", text, "End the daemon with Ctrl-C (or p2pflows service restart), and start it again.")
    else:
        yield fine("daemon", f"runs as process {status['pid']}")
    if status.get("problem"):
        yield problem("daemon", str(status["problem"]), "It works again by itself once that is mended.")
    yield from _check_link(status["broker"])
    yield from _check_page(status.get("page"))
    yield from _check_workers(status)
    yield from _check_clocks(status.get("clocks", []))
    for peer in status.get("quotas", {}).get("peers", ()):
        for fill in peer["near"]:
            who = peer["name"] or peer["user"]
            text = f"{who} has {fill['used']:,} of {fill['most']:,} {fill['what']} ({fill['limit']})."
            yield note("limits", text, "See: p2pflows status")
    if status["dead"]:
        yield note("messages", f"{status['dead']:,} requests failed at every attempt.", "See: p2pflows outbox")
    for journal in status.get("restored", ()):
        yield note("journal", str(journal["detail"]), "See: p2pflows log")


def _check_link(broker: dict[str, Any]) -> Iterator[Finding]:
    if not broker["connected"]:
        text = f"The daemon is not connected to {broker['url']}" + (
            f": {broker['reason']}" if broker.get("reason") else ""
        )
        yield problem("broker", f"{text.rstrip('.')}.", "What is found out about the broker below says more.")
    elif broker["url"].startswith("embedded") or broker.get("name") not in (None, "", broker["url"]):
        took = broker.get("round_trip_ms")
        yield fine("broker", f"{broker['name']}, connected" + ("" if took is None else f", round trip {took:.1f} ms"))


def _check_page(page: dict[str, Any] | None) -> Iterator[Finding]:
    """Whether the page for browsers runs, if the daemon should run it."""
    if page is not None and page["problem"]:
        text = f"Your page does not run: {page['problem']}"
        yield problem("page", text, f"{page['next']} It is tried again within a minute.")
    elif page is not None and page["url"]:
        yield fine("page", str(page["url"]))


def _check_workers(status: dict[str, Any]) -> Iterator[Finding]:
    points = {point["dispatch_point"]: point for point in status["workers"]}
    for name in sorted({flow["dispatch_point"] for flow in status["flows"] if flow["kind"] != "human"}):
        point = points.get(name, {"workers": 0, "queued": 0})
        served = ", ".join(sorted(flow["endpoint"] for flow in status["flows"] if flow["dispatch_point"] == name)[:5])
        if not point["workers"]:
            text = f"No worker runs for {name!r}, so nothing runs {served}."
            yield problem("workers", text, f"Run: p2pflows worker --dispatch-point {name}")
        else:
            yield fine("workers", f"{point['workers']} for {name}, {point['queued']} calls wait or run")


def _check_clocks(clocks: list[dict[str, Any]]) -> Iterator[Finding]:
    """Whose clock is wrong: if it differs from that of most others, it is this one."""
    offsets = [int(each["ahead_ms"]) for each in clocks]
    if len(offsets) > 1 and abs(statistics.median(offsets)) > CLOCK_MS:
        side = "behind" if statistics.median(offsets) > 0 else "ahead"
        text = (
            f"The clock of this machine is {abs(statistics.median(offsets)) / 60_000:.0f} min {side} of your contacts'."
        )
        yield problem("clock", text, "Set it; best let it be kept right: timedatectl set-ntp true")
        return
    for each in clocks:
        if abs(each["ahead_ms"]) > CLOCK_MS:
            side = "ahead" if each["ahead_ms"] > 0 else "behind"
            who = each["name"] or each["user"]
            text = f"The clock of {who} is {abs(each['ahead_ms']) / 60_000:.0f} min {side}, or yours."
            yield note("clock", text, "Compare both with a clock that is right: date -u")


def check_time_service() -> Iterator[Finding]:
    """Whether this machine keeps its clock right, as far as systemd knows."""
    try:
        shown = subprocess.run(
            ["timedatectl", "show", "--property=NTPSynchronized", "--value"],
            capture_output=True, text=True, check=False, timeout=TIMEOUT_S,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return
    if shown.stdout.strip() == "no":
        text = "Nothing keeps the clock of this machine right."
        yield note("clock", text, "Run: timedatectl set-ntp true")
