"""A file arrives whole whatever the way does to its pieces, and with no more under way than the way takes."""

from __future__ import annotations

import random
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from p2pflowsd.transfers.window import (
    INITIAL_WINDOW_BYTES,
    MAX_AHEAD_BYTES,
    MAX_WINDOW_BYTES,
    MIN_WINDOW_BYTES,
    PIECE_BYTES,
    Wanted,
    Window,
)


class Way:
    """A holder, and a network that loses, repeats and reorders pieces, or delays them in a queue.

    Args:
        content: the file.
        chance: decides what happens to each piece.
        loss: how likely a piece is lost.
        delay_s: how long a piece takes.
        rate: how many bytes leave in a second.
    """

    def __init__(self, content: bytes, chance: Random, loss: float, delay_s: float, rate: float) -> None:
        self._content = content
        self._chance = chance
        self._loss = loss
        self._delay_s = delay_s
        self._rate = rate
        self._free_at = 0.0
        self.under_way: list[tuple[float, int, bytes, int]] = []

    def ask(self, want: Wanted, now: float) -> None:
        """Send the pieces of a want, of sizes that the holder chooses."""
        start = want.start
        while start < want.end:
            end = min(want.end, start + self._chance.choice((1_000, 50_000, PIECE_BYTES)))
            self._free_at = max(self._free_at, now) + (end - start) / self._rate
            for _ in range(self._chance.choice((1, 1, 1, 2))):
                if self._chance.random() >= self._loss:
                    at = self._free_at + self._delay_s * self._chance.uniform(1, 1.5)
                    self.under_way.append((at, start, self._content[start:end], want.n))
            start = end

    def next(self) -> tuple[float, int, bytes, int] | None:
        """Take the piece that arrives next."""
        if not self.under_way:
            return None
        first = min(self.under_way)
        self.under_way.remove(first)
        return first


def fetch(content: bytes, way: Way, position: int = 0) -> tuple[bytes, float, list[int]]:
    """Fetch a file.

    Returns:
        Its bytes from the position on, how many seconds it took, and how much was under way each time.
    """
    window = Window(len(content), position)
    taken, now, steps, widths = b"", 0.0, 0, []
    while not window.is_complete:
        steps += 1
        assert steps < 20_000, "it never ends"
        for want in window.wants(now):
            assert 0 <= want.start < want.end <= len(content)
            way.ask(want, now)
        widths.append(window.width)
        piece = way.next()
        if piece is None or piece[0] > now + window.wait_s(now) + 1e-6:
            if piece is not None:
                way.under_way.append(piece)
            now += window.wait_s(now) + 1e-6
            continue
        now = max(now, piece[0])
        found = window.take(piece[1], piece[2], piece[3], now)
        taken += found or b""
        assert window._ahead_bytes <= MAX_AHEAD_BYTES
    return taken, now, widths


@settings(deadline=None)
@given(
    size=st.integers(0, 1_500_000),
    share=st.floats(0, 1),
    loss=st.sampled_from([0.0, 0.02, 0.3]),
    delay_s=st.sampled_from([0.0001, 0.01, 0.5]),
    seed=st.integers(0, 1_000),
)
def test_a_file_is_whole_whatever_the_way_does(size: int, share: float, loss: float, delay_s: float, seed: int) -> None:
    """Pieces of any size are lost, repeated and reordered; what comes out goes on exactly where it began."""
    content = random.Random(seed).randbytes(size)  # noqa: S311 - no secret
    position = int(size * share)
    way = Way(content, Random(seed), loss, delay_s, 50e6)  # noqa: S311 - no secret
    taken, _, widths = fetch(content, way, position)
    assert taken == content[position:]
    assert all(MIN_WINDOW_BYTES <= width <= MAX_WINDOW_BYTES for width in widths)


def test_a_slow_way_gets_no_long_queue() -> None:
    """On a way of 1 MB/s the window shrinks to its least; on one of 100 MB/s it grows to its most."""
    content = bytes(8_000_000)
    _, _, slow = fetch(content, Way(content, Random(1), 0.0, 0.005, 1e6))  # noqa: S311 - no secret
    _, _, fast = fetch(content, Way(content, Random(1), 0.0, 0.0001, 500e6))  # noqa: S311 - no secret
    assert slow[-1] == MIN_WINDOW_BYTES < INITIAL_WINDOW_BYTES
    assert fast[-1] == MAX_WINDOW_BYTES > INITIAL_WINDOW_BYTES


def test_a_holder_that_is_away_is_asked_ever_less() -> None:
    """Each time-out doubles the wait, up to a minute; when they are back, everything is asked for at once."""
    window = Window(10_000_000)
    now, asked = 0.0, []
    for _ in range(12):
        asked.append(sum(want.end - want.start for want in window.wants(now)))
        now += window.wait_s(now)
    assert asked[0] == INITIAL_WINDOW_BYTES
    assert asked[1:] == [MIN_WINDOW_BYTES] * 11
    assert 100 < now < 12 * 60
    window.retry_now()
    assert window.wants(now)[0].start == 0
    assert window.timeouts == 0


def test_what_was_not_asked_for_is_refused() -> None:
    """Beyond the end, beyond what was asked for, or under a number that no want had."""
    window = Window(1_000_000)
    [want] = window.wants(0.0)
    assert window.take(want.end, b"x", want.n, 0.1) is None
    assert window.take(999_999, b"xx", want.n, 0.1) is None
    assert window.take(0, b"x", want.n + 1, 0.1) is None
    assert window.take(0, b"x", want.n, 0.1) == b"x"
    assert window.take(0, b"x", want.n, 0.1) == b""


def test_a_lost_piece_is_asked_for_as_soon_as_the_next_one_comes() -> None:
    """Nothing waits for a time-out, and it is asked for once."""
    window = Window(1_000_000)
    [want] = window.wants(0.0)
    assert window.take(PIECE_BYTES, b"x" * 1000, want.n, 0.01) == b""
    again = [each for each in window.wants(0.01) if each.start == 0]
    assert [(each.start, each.end) for each in again] == [(0, PIECE_BYTES)]
    assert [each for each in window.wants(0.02) if each.start == 0] == []
