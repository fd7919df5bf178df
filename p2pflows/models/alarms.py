"""Alarms: functions that one thread calls when a time is up, as to start a thread for each would take longer."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import threading
import time
from collections.abc import Callable, Iterator

IDLE_S = 10.0
"""How long the thread waits for another alarm before it ends."""
MAX_SLEEP_S = 0.25
"""How long the thread sleeps at most while an alarm is set: one that is further away need not wake it."""
_MAX_ENDED = 64
"""How many ended alarms are kept beside as many that are set."""


class _Alarm:
    """An alarm; without a function, it has ended."""

    __slots__ = ("at", "function", "number")

    def __init__(self, at: float, number: int, function: Callable[[], object]) -> None:
        self.at = at
        self.number = number
        self.function: Callable[[], object] | None = function

    def __lt__(self, other: _Alarm) -> bool:
        return (self.at, self.number) < (other.at, other.number)


class Alarms:
    """Sets alarms. It is thread-safe."""

    def __init__(self) -> None:
        self._alarms: list[_Alarm] = []
        self._ended = 0
        self._numbers = itertools.count()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._wakes_at = 0.0

    @contextlib.contextmanager
    def after(self, seconds: float, function: Callable[[], object]) -> Iterator[None]:
        """Call a function from another thread if the block takes longer than so many seconds, and never after it.

        The function must return at once, and must not raise.
        """
        alarm = _Alarm(time.monotonic() + seconds, next(self._numbers), function)
        with self._changed:
            heapq.heappush(self._alarms, alarm)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="model alarms", daemon=True)
                self._thread.start()
            elif alarm.at < self._wakes_at:
                self._wakes_at = alarm.at
                self._changed.notify()
        try:
            yield
        finally:
            with self._changed:  # which waits while the function is called
                if alarm.function is not None:
                    alarm.function = None
                    self._ended += 1
                    self._drop_ended()

    def _drop_ended(self) -> None:
        """Forget ended alarms where they are many: most alarms end long before their time."""
        if self._ended > max(_MAX_ENDED, len(self._alarms) // 2):
            self._alarms = [alarm for alarm in self._alarms if alarm.function is not None]
            heapq.heapify(self._alarms)
            self._ended = 0

    def _run(self) -> None:
        with self._changed:
            while True:
                while self._alarms and self._alarms[0].function is None:
                    heapq.heappop(self._alarms)
                    self._ended -= 1
                if not self._alarms:
                    if not self._sleep(IDLE_S) and not self._alarms:
                        self._thread = None
                        return
                    continue
                first = self._alarms[0]
                left = first.at - time.monotonic()
                if left > 0:
                    self._sleep(min(left, MAX_SLEEP_S))
                    continue
                heapq.heappop(self._alarms)
                function, first.function = first.function, None
                if function is not None:
                    function()

    def _sleep(self, seconds: float) -> bool:
        self._wakes_at = time.monotonic() + seconds
        return self._changed.wait(seconds)
