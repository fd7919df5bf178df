"""Counts that hold no key without anything to count, so that they do not grow with all that ever was."""

from __future__ import annotations

from collections.abc import MutableMapping
from typing import TypeVar

_Key = TypeVar("_Key")


def count_down(counts: MutableMapping[_Key, int], key: _Key, by: int = 1) -> None:
    """Count fewer of a key, and forget it when nothing is left.

    Args:
        counts: how many there are, by key.
        key: what there are fewer of.
        by: how many fewer.
    """
    counts[key] -= by
    if counts[key] <= 0:
        del counts[key]
