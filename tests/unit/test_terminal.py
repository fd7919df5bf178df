"""Streams that are closed, and the signals that stop a process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from p2pflows import terminal


def test_a_hangup_stops_a_process_unless_it_is_ignored() -> None:
    """`nohup` ignores SIGHUP, and so the process must go on."""
    before = signal.getsignal(signal.SIGHUP)
    try:
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        assert terminal.stop_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        assert terminal.stop_signals() == [signal.SIGINT, signal.SIGTERM]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_nothing_takes_the_place_of_a_closed_stream() -> None:
    """A file that is opened later does not become stdout, into which something would print."""
    open_one = "import os; from p2pflows.terminal import *; {} raise SystemExit(os.open('/', os.O_RDONLY))"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}

    def run(code: str) -> int:
        words = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", sys.executable, "-c", code]
        return subprocess.run(words, check=False, env=environment).returncode

    assert run(open_one.format("open_closed_streams();")) > 2
    assert run(open_one.format("")) == 0


@pytest.mark.parametrize("program", ["p2pflows", "p2pflows.worker", "p2pflowsd"])
def test_ctrl_c_while_a_program_begins_leaves_no_traceback(tmp_path: Path, program: str) -> None:
    """Whoever starts it by mistake and presses Ctrl-C at once reads nothing; the program has done nothing."""
    code = (
        "import os, signal, sys; from p2pflows import terminal; terminal.hold_interrupts();"
        "os.kill(os.getpid(), signal.SIGINT);"
        f"os.execv(sys.executable, [sys.executable, '-P', '-m', '{program}'])"
    )
    environment = {**os.environ, "P2PFLOWS_HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run(
        [sys.executable, "-c", code], env=environment, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (-signal.SIGINT, b"", b"")
    assert not list(tmp_path.iterdir())


def test_ctrl_c_while_the_event_loop_is_made_leaves_no_traceback() -> None:
    """It cancels the coroutine, as a moment later it would; Python complains of no half loop and no lost coroutine."""
    code = """
import asyncio, os, selectors, signal
from p2pflows.terminal import run_interruptible

class Selector(selectors.DefaultSelector):
    def __init__(self):
        super().__init__()
        os.kill(os.getpid(), signal.SIGINT)  # the loop has begun to be made

selectors.DefaultSelector = Selector

async def main():
    await asyncio.sleep(60)

try:
    run_interruptible(main())
except KeyboardInterrupt:
    os.kill(os.getpid(), signal.SIGINT)  # a second one is not held
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ended = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert ended.returncode == -signal.SIGINT
    assert ended.stderr.splitlines()[-1] == "KeyboardInterrupt"
    assert "Exception ignored" not in ended.stderr
    assert "never awaited" not in ended.stderr
