"""Checks of a transformation's settings, so that a mistake is found before the first message.

In each function, `what` names the setting for the error, and the checked value is returned.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from p2pflows.errors import UsageError


def name(value: object, what: str) -> Hashable:
    """Check the name of a key.

    Raises:
        UsageError: it is None, or cannot be hashed.
    """
    try:
        hash(value)
    except TypeError:
        value = None
    if value is None:
        raise UsageError(f"{what} is not the name of a key.", "Write the name of a key, such as: answer.text")
    return value


def names(value: object, what: str) -> list[Hashable]:
    """Check a list of names of keys.

    Raises:
        UsageError: it is not a list, or an entry is not a name.
    """
    return [name(entry, f"An entry of {what}") for entry in entries(value, what)]


def renames(value: object, what: str) -> dict[Hashable, Hashable]:
    """Check a mapping of old names to new ones.

    Raises:
        UsageError: it is not a mapping, or an entry is not a name.
    """
    return {
        name(old, f"An old name in {what}"): name(new, f"The new name for {old!r} in {what}")
        for old, new in mapping(value, what).items()
    }


def mapping(value: object, what: str) -> dict[Hashable, Any]:
    """Check a mapping from names of keys to any values.

    Raises:
        UsageError: it is not a mapping, or one of its keys is None.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{what} must be a mapping, not {type(value).__name__}.", "Write it as: {key: value}")
    return {name(key, f"A key of {what}"): kept for key, kept in value.items()}


def entries(value: object, what: str) -> list[Any]:
    """Check a list, and return it as one.

    Raises:
        UsageError: it is not iterable; a text does not count as a list of characters.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise UsageError(f"{what} must be a list, not {type(value).__name__}.", "Write it as a list: [one, another]")
    return list(value)


def text(value: object, what: str) -> str:
    """Check a text.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, str):
        raise UsageError(f"{what} must be text, not {type(value).__name__}.", "Put it in quotes.")
    return value


def flag(value: object, what: str) -> bool:
    """Check true or false.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{what} must be true or false, not {type(value).__name__}.", "Write true or false.")
    return value
