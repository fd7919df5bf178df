"""Running tasks: a fault of the worker itself ends its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import threading, time
from p2pflows.protocol.worker_frames import PythonTarget, TaskSpec
from p2pflows.worker.lanes import HeldTask
from p2pflows.worker.runner import Runner

class Lanes:
    def __init__(self, task): self.tasks = [task]
    def take(self): return self.tasks.pop() if self.tasks else None
    def take_load(self): return None
    def finish(self, task, result): raise AssertionError("lost count")

spec = TaskSpec(
    id="t", op="run", lane="lane", endpoint="f", revision=1, target=PythonTarget("flows.py:%s", "."),
    sender="b", conversation="c", message="m", expires=int((time.time() + 60) * 1000), data=b"{}",
)
Runner(Lanes(HeldTask(spec)), threading.Lock(), 1, lambda: None, lambda: None, user="u").start()
time.sleep(10)
"""


@pytest.mark.parametrize("function", ["plain", "coroutine"])
def test_a_fault_of_ours_ends_the_process(function: str, tmp_path: Path) -> None:
    """A fault in the bookkeeping ends the worker with its traceback, and does not leave a stuck lane."""
    (tmp_path / "flows.py").write_text("def plain(): ...\nasync def coroutine(): ...")
    ended = subprocess.run(
        [sys.executable, "-c", PROGRAM % function],
        capture_output=True,
        cwd=tmp_path,
        text=True,
        timeout=8,
        check=False,
    )
    assert ended.returncode == 1
    assert "AssertionError: lost count" in ended.stderr
