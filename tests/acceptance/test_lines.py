"""`call --lines` and `send --lines` as processes: with input that is still open, interrupted, and with much input."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon, command


def _numbers(count: int) -> str:
    return "".join(f'{{"n": {n}}}\n' for n in range(count))


def test_a_dead_daemon_ends_it_even_while_input_is_awaited(daemon: ScriptedDaemon) -> None:
    """The command ends although its input is still open."""
    daemon.script["call"] = lambda _: daemon.die()
    running = _start(daemon, "call", "bob/x", "--lines")
    assert running.stdin is not None
    running.stdin.write(b"{}\n")
    running.stdin.flush()
    assert running.wait(10) == 3
    running.communicate()


def test_lines_are_answered_as_they_arrive(daemon: ScriptedDaemon) -> None:
    """A program may write a line, read its answer, and write the next."""
    daemon.script["call"] = lambda params: {"data": params["data"]}
    running = _start(daemon, "call", "bob/x", "--lines")
    assert running.stdin is not None
    assert running.stdout is not None
    for n in range(3):
        running.stdin.write(b'{"n":%d}\n' % n)
        running.stdin.flush()
        assert running.stdout.readline() == b'{"n":%d}\n' % n
    running.communicate()
    assert running.returncode == 0


def test_ctrl_c_reports_progress(daemon: ScriptedDaemon) -> None:
    """The error has the counts of finished and sent lines, and the line at which to continue."""
    daemon.script["call"] = lambda params: {"data": {}} if params["data"]["n"] < 2 else asyncio.sleep(60)
    running = _start(daemon, "call", "bob/x", "--lines")
    assert running.stdin is not None
    running.stdin.write(_numbers(5).encode())
    running.stdin.flush()
    while len(daemon.asked) < 5:
        time.sleep(0.01)
    time.sleep(0.2)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=10)
    assert running.returncode == 130
    assert err.decode() == (
        "Error [interrupted]: You stopped after 2 lines; 3 more were sent and continue without you.\n"
        "Lines from 6 on were not sent: tail -n +6\n"
    )


def test_a_reader_that_stops_is_not_an_error(daemon: ScriptedDaemon) -> None:
    """`call --lines | head -1` ends quietly, even with calls in flight."""
    daemon.script["call"] = lambda params: {"data": params["data"]}
    running = _start(daemon, "call", "bob/x", "--lines")
    assert running.stdin is not None
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdin.write(_numbers(1000).encode())
    running.stdin.flush()
    running.stdout.readline()
    running.stdout.close()
    running.stdin.write(_numbers(1000).encode())
    running.stdin.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    assert running.wait(10) == 128 + signal.SIGPIPE


def test_progress_is_shown_on_a_terminal_only(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    """Progress is shown on stderr if stdout is not the terminal; its line is wiped at the end."""

    async def call(params: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.5)
        return {"data": params["data"]}

    daemon.script["call"] = call
    arguments, environment = command(daemon.home, "call", "bob/x", "--lines")
    ours, theirs = pty.openpty()
    with (tmp_path / "out").open("wb") as out:
        subprocess.run(arguments, env=environment, input=_numbers(10).encode(), stdout=out, stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 65_536).decode()
    os.close(ours)
    assert "\r0 done, 10 in flight, 0 per second" in shown
    assert shown.endswith("\r\x1b[K")
    assert (tmp_path / "out").read_text().count("\n") == 10


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux's /proc")
def test_memory_does_not_grow_with_the_input(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    """20 MB in 10,000 lines need hardly more memory than the first few lines."""
    daemon.script["send"] = {"id": "x"}
    line = json.dumps({"text": "x" * 2000}).encode() + b"\n"
    peaks: list[int] = []
    arguments, environment = command(daemon.home, "send", "bob/x", "--lines")
    with (tmp_path / "out").open("wb") as out:
        running = subprocess.Popen(arguments, env=environment, stdin=subprocess.PIPE, stdout=out)
        assert running.stdin is not None
        for count in (500, 10_000):
            running.stdin.write(line * count)
            running.stdin.flush()
            while Path(out.name).stat().st_size < 2 * (count + 500 * len(peaks)):
                time.sleep(0.01)
            status = Path(f"/proc/{running.pid}/status").read_text()
            peaks.append(int(status.partition("VmHWM:")[2].split()[0]))
        running.communicate()
    assert peaks[1] - peaks[0] < 6_000


def _start(daemon: ScriptedDaemon, *words: str) -> subprocess.Popen[bytes]:
    arguments, environment = command(daemon.home, *words)
    pipe = subprocess.PIPE
    return subprocess.Popen(arguments, env=environment, stdin=pipe, stdout=pipe, stderr=pipe)
