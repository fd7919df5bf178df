"""The errors of transformations."""

from __future__ import annotations

from p2pflows.errors import UsageError


class MissingKey(UsageError, KeyError):
    """The data, or the call, lacks something that a transformation needs."""

    def __str__(self) -> str:
        return self.message


class WrongValue(UsageError, ValueError):
    """A key has a value that a transformation cannot use."""
