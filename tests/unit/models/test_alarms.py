"""Alarms: each in its time, and none after its block."""

from __future__ import annotations

import threading
import time

import pytest
from support.processes import wait_until

from p2pflows.models import alarms
from p2pflows.models.alarms import Alarms


def test_a_block_that_takes_too_long_hears_its_alarm() -> None:
    """Each in its own time, whatever the order in which they are set."""
    clock, rung = Alarms(), list[str]()
    with (
        clock.after(60, lambda: rung.append("never")),
        clock.after(0.1, lambda: rung.append("second")),
        clock.after(0.02, lambda: rung.append("first")),
    ):
        wait_until(lambda: len(rung) == 2)
    assert rung == ["first", "second"]


def test_no_alarm_comes_after_its_block() -> None:
    """Not even where both end at the same time: what it was about is over."""
    clock, late = Alarms(), list[float]()
    for number in range(300):
        over = threading.Event()

        def ring(over: threading.Event = over) -> None:
            if over.is_set():
                late.append(time.monotonic())

        with clock.after(0.0005 + number % 3 * 0.0002, ring):
            time.sleep(0.0006)
        over.set()
    assert late == []


def test_ended_alarms_take_no_room() -> None:
    """Most deadlines are far away when the answer is there."""
    clock = Alarms()
    with clock.after(3600, lambda: None):
        for _ in range(10_000):
            with clock.after(3600, lambda: None):
                pass
    assert len(clock._alarms) < 300


def test_the_thread_ends_and_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without alarms there is no thread."""
    monkeypatch.setattr(alarms, "IDLE_S", 0.02)
    clock, rung = Alarms(), threading.Event()
    for _ in range(2):
        rung.clear()
        with clock.after(0.01, rung.set):
            assert rung.wait(5)
        wait_until(lambda: clock._thread is None)
