"""One field of a JSON result, printed plainly for scripts: `-o FIELD`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from p2pflows.errors import UsageError

META = "p2pflows.field"
"""The key in the `meta` of click's context that has the FIELD of `-o`."""


def select(value: Any, path: str) -> list[Any]:
    """Return the values of a field.

    Args:
        value: the result of a command.
        path: names of keys, nested by dots. In a list, a number is an index, and a name stands for the field of each
            element.

    Raises:
        UsageError: there is no such field.
    """
    found = [value]
    names = path.split(".")
    for position, name in enumerate(names):
        values = list(_inside(found, name))
        if not values and any(not isinstance(each, list) or each for each in found):
            raise _missing(found, ".".join(names[: position + 1]))
        found = values
    return found


def _inside(values: list[Any], name: str) -> Iterator[Any]:
    for value in values:
        if isinstance(value, dict):
            if name in value:
                yield value[name]
        elif isinstance(value, list):
            if name.isdecimal():
                yield from value[int(name) : int(name) + 1]
            else:
                yield from _inside(value, name)


def _missing(values: list[Any], path: str) -> UsageError:
    flat = [each for value in values for each in (value if isinstance(value, list) else [value])]
    known = sorted({key for each in flat if isinstance(each, dict) for key in each})
    hint = f"There are: {', '.join(known)}." if known else "The value there has no fields."
    return UsageError(f"The result has no field {path!r}.", f"{hint} For all of it, use --json.")
