"""The window of a conversation: first and last messages, in order, each once."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.errors import UsageError
from p2pflows.models.history import window

lengths = st.integers(0, 30)
counts = st.none() | st.integers(0, 40)


@pytest.mark.parametrize(
    ("first_k", "last_k", "expected"),
    [
        (None, None, "abcde"),
        (2, None, "ab"),
        (None, 2, "de"),
        (1, 2, "ade"),
        (3, 3, "abcde"),
        (9, 9, "abcde"),
        (0, 0, ""),
        (0, None, ""),
        (None, 0, ""),
        (1, 0, "a"),
    ],
)
def test_window(first_k: int | None, last_k: int | None, expected: str) -> None:
    """The first messages, the last ones, both or all are returned; none is returned twice."""
    assert "".join(window("abcde", first_k, last_k)) == expected


def test_window_at_the_first_call() -> None:
    """A conversation shorter than both parts together is returned once."""
    assert window(["system", "user"], 1, 2) == ["system", "user"]


@given(lengths, counts, counts)
def test_window_rules(length: int, first_k: int | None, last_k: int | None) -> None:
    """A message is returned exactly if it is among the first or the last; the order and the input stay."""
    messages = [{"number": number} for number in range(length)]
    got = window(messages, first_k, last_k)
    numbers = [message["number"] for message in got]
    both = first_k is None and last_k is None
    first, last = (length, 0) if both else (first_k or 0, last_k or 0)
    assert numbers == sorted({*range(length)[:first], *range(length)[max(0, length - last) :]})
    assert messages == [{"number": number} for number in range(length)]
    assert all(message is messages[message["number"]] for message in got)


@pytest.mark.parametrize("wrong", [-1, 1.5, "2", True])
def test_window_wrong_count(wrong: Any) -> None:
    """A wrong count is refused, and the error names it."""
    with pytest.raises(UsageError, match="first_k"):
        window([1], wrong, None)
    with pytest.raises(UsageError, match="last_k"):
        window([1], None, wrong)
