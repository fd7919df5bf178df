"""What is to be said through one channel, and when: at once, later in one, or when the quiet hours are over. No I/O."""

from __future__ import annotations

from collections.abc import Sequence

from p2pflows.backoff import Backoff
from p2pflows.notifying.news import News

GATHER_S = 1.0
"""How long the first of some news waits for others, so that they are told together."""
PAUSE_S = 30.0
"""How long after one message the next one may come."""
MAX_WAITING = 10_000
"""How many news may wait; beyond that, the oldest are only counted."""
RETRY = Backoff(initial_s=2.0, max_s=300.0)


class Queue:
    """The news for one channel.

    Attributes:
        failures: how often it has failed since it worked last.
        problem: why it fails; empty if it works.
    """

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, str, str], News] = {}
        self._due: float | None = None
        self._last_sent = float("-inf")
        self.failures = 0
        self.problem = ""

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def due(self) -> float | None:
        """When the next message is due; None if nothing waits."""
        return self._due

    def add(self, news: News, now: float) -> None:
        """Let news wait for their time."""
        if len(self._waiting) >= MAX_WAITING:
            del self._waiting[next(iter(self._waiting))]
        self._waiting[news.kind, news.id, news.user] = news
        if self._due is None:
            self._due = max(now + GATHER_S, self._last_sent + PAUSE_S)

    def forget(self, prompt_id: str, user: str) -> None:
        """Say nothing of a question that needs it no more, as it was answered meanwhile."""
        for kind in ("asked", "note", "expiring"):
            self._waiting.pop((kind, prompt_id, user), None)
        if not self._waiting:
            self._due = None

    def take(self, now: float, *, is_quiet: bool = False) -> list[News]:
        """Return the news whose time has come, all in one; they stay until `sent` or `failed` is called."""
        if self._due is None or now < self._due or is_quiet:
            return []
        return list(self._waiting.values())

    def sent(self, news: Sequence[News], now: float) -> None:
        """Forget news that were taken."""
        for each in news:
            self._waiting.pop((each.kind, each.id, each.user), None)
        self._last_sent = now
        self.failures, self.problem = 0, ""
        self._due = now + PAUSE_S if self._waiting else None

    def failed(self, problem: str, now: float) -> None:
        """Try again later."""
        self.problem = problem
        self._due = now + RETRY.delay_s(self.failures)
        self.failures += 1
