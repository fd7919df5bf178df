"""What a run has spent at a model: it travels from the worker with the step or result that it was spent on."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple, Self

MAX_TOKENS = 10**12
MAX_MODEL_CHARS = 200
MAX_ENTRIES = 100
"""How many entries one step or result may have."""


class Spent(NamedTuple):
    """What one request to a model took.

    Attributes:
        model: the model, in its server's words.
        tokens_in: the tokens that it read.
        tokens_out: the tokens that it wrote.
        cached: how many of those that it read its server had at hand, which costs less.
    """

    model: str
    tokens_in: int
    tokens_out: int
    cached: int = 0

    @classmethod
    def read(cls, entry: Any) -> Self:
        """Return what an entry of a frame says.

        Raises:
            ValueError: it has a wrong form.
        """
        if not isinstance(entry, (list, tuple)) or len(entry) != len(cls._fields) or not isinstance(entry[0], str):
            raise ValueError(f"{entry!r} does not say what was spent")
        counts = entry[1:]
        if not all(type(count) is int and 0 <= count <= MAX_TOKENS for count in counts):
            raise ValueError(f"{entry!r} holds no counts")
        return cls(entry[0].encode(errors="replace").decode()[:MAX_MODEL_CHARS], *counts)


def read_all(entries: Any) -> tuple[Spent, ...]:
    """Return what the entries of a frame say.

    Raises:
        ValueError: they have a wrong form, or are too many.
    """
    if not isinstance(entries, (list, tuple)) or len(entries) > MAX_ENTRIES:
        raise ValueError("no list of what was spent")
    return tuple(Spent.read(entry) for entry in entries)


def add_up(spent: Iterable[Spent]) -> tuple[Spent, ...]:
    """Return one entry for each model; what is over the limit of entries counts for the last one."""
    sums: dict[str, Spent] = {}
    for each in spent:
        model = each.model[:MAX_MODEL_CHARS]
        if model not in sums and len(sums) == MAX_ENTRIES:
            model = next(reversed(sums))
        before = sums.get(model, Spent(model, 0, 0))
        sums[model] = Spent(
            model, *(min(MAX_TOKENS, one + more) for one, more in zip(before[1:], each[1:], strict=True))
        )
    return tuple(sums.values())
