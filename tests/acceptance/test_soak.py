"""`scripts/soak` runs real daemons under random faults; here for two minutes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from soak import __main__ as soak
from soak.scene import SETTLE_TIMEOUT_S
from support.network import BROKER_PROGRAM
from support.processes import wait_until

TESTS = Path(__file__).parents[1]
START_S = 180
"""How long five daemons with workers may take to start and to end on a busy machine."""


def start(out: Path, *words: str, **variables: str) -> subprocess.Popen[str]:
    """Start a soak in the background, with some variables changed in its environment."""
    return subprocess.Popen(
        [sys.executable, "-m", "soak", "--broker", BROKER_PROGRAM, "--out", str(out), *words],
        env={**os.environ, "PYTHONPATH": str(TESTS), **variables},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def finish(process: subprocess.Popen[str], seconds: float) -> str:
    """Wait for the end of a soak, and return what it has printed; Ctrl-C ends one that takes too long."""
    try:
        return process.communicate(timeout=seconds)[0]
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGINT)
        raise AssertionError(f"it did not end:\n{process.communicate(timeout=60)[0]}") from None


@pytest.mark.early
def test_two_minutes_of_faults(tmp_path: Path, record_property: Callable[[str, object], None]) -> None:
    """All promises hold while processes, connections and clocks of five users fail; how fast it settles is printed."""
    process = start(tmp_path, "--minutes", "2", "--users", "5", "--seed", "11", "--rate", "10")
    text = finish(process, START_S + 120 + SETTLE_TIMEOUT_S)
    logs = "".join(f"\n--- {log.name}\n{log.read_text()[-3000:]}" for log in tmp_path.glob("*.log"))
    assert process.returncode == 0, text + logs
    assert "0 lost, 0 doubled, 0 out of order, 0 asked twice" in text
    assert "again      scripts/soak --broker" in text
    assert (tmp_path / "soak.svg").stat().st_size > 1_000
    assert (tmp_path / "history.jsonl").stat().st_size > 10_000
    record_property("report", text[text.index("\nmessages") :])


def test_ctrl_c_ends_all_processes(tmp_path: Path) -> None:
    """Ctrl-C ends the soak with all daemons, workers and brokers that it has started, and leaves no files behind."""
    process = start(tmp_path, "--minutes", "5", "--users", "2", "--seed", "1", "--faults", "0", "--kills", "0")
    assert process.stdout is not None
    folder = ""
    while "daemons run" not in (line := process.stdout.readline()):
        assert line, "the soak ended"
        folder = line.rpartition("in ")[2].strip() if line.startswith("homes") else folder
    assert folder
    mine = [pid for pid in processes_with(f"P2PFLOWS_HOME={folder}") if pid != process.pid]
    assert len(mine) >= 4  # two daemons, two workers
    process.send_signal(signal.SIGINT)
    text = finish(process, 60)
    assert process.returncode == 130
    assert "has ended" in text
    assert "Traceback" not in text
    wait_until(lambda: not processes_with(f"P2PFLOWS_HOME={folder}"))
    assert not Path(folder).exists()


def processes_with(variable: str) -> list[int]:
    """The processes in whose environment a variable begins so."""
    found = []
    for file in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = file.read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if any(entry.startswith(variable) for entry in environment):
            found.append(int(file.parent.name))
    return found


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--minutes", "soon"], "--minutes: soon is not a number above 0 and below 10,000,000"),
        (["--minutes", "0"], "--minutes: 0 is not a number above 0 and below 10,000,000"),
        (["--minutes", "nan"], "--minutes: nan is not a number above 0 and below 10,000,000"),
        (["--seed", "x"], "--seed: x is not a whole number from 0 to 10,000,000"),
        (["--users", "1"], "--users: 1 is not a whole number from 2 to 8"),
        (["--broker", "rabbit"], "--broker: invalid choice: 'rabbit'"),
        (["--without", "rain"], "--without: invalid choice: 'rain'"),
        (["--rate", "3", "--messages", "9"], "exclude each other"),
        (["--messages", "0"], "--messages: 0 is not a whole number from 1 to 10,000,000"),
        (["--out", "/dev/null/x"], "--out"),
    ],
)
def test_wrong_arguments(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong argument is named, and nothing is started."""
    with pytest.raises(SystemExit) as end:
        soak.main(words)
    assert end.value.code == 2
    assert complaint in capsys.readouterr().err


def test_a_broker_that_is_not_there(tmp_path: Path) -> None:
    """A soak with a broker that this machine does not have says so, and what to choose instead."""
    process = start(tmp_path, "--broker", "ejabberd", PATH="/nowhere")
    out = finish(process, 60)
    assert process.returncode == 2
    assert "Error [usage]: ejabberd is not installed." in out
    assert "--broker mosquitto" in out
