"""The checks of what a transformation is configured with, so that a mistake shows before any message does."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from p2pflows.errors import UsageError


def name(value: object, what: str) -> Hashable:
    """The name of a key.

    Raises:
        UsageError: it is None, or something that cannot be a key.
    """
    try:
        hash(value)
    except TypeError:
        value = None
    if value is None:
        raise UsageError(f"{what} is not the name of a key.", "Write the name of a key, such as: answer.text")
    return value


def names(value: object, what: str) -> list[Hashable]:
    """A list of names of keys.

    Raises:
        UsageError: it is no list, or an entry is no name.
    """
    return [name(entry, f"An entry of {what}") for entry in entries(value, what)]


def renames(value: object, what: str) -> dict[Hashable, Hashable]:
    """A mapping of old names to new ones.

    Raises:
        UsageError: it is no mapping, or an entry is no name.
    """
    return {
        name(old, f"An old name in {what}"): name(new, f"The new name for {old!r} in {what}")
        for old, new in mapping(value, what).items()
    }


def mapping(value: object, what: str) -> dict[Hashable, Any]:
    """A mapping with names of keys.

    Raises:
        UsageError: it is no mapping, or one of its keys is None.
    """
    if not isinstance(value, Mapping):
        raise UsageError(f"{what} is a {type(value).__name__}, not a mapping.", "Write it as: {key: value}")
    return {name(key, f"A key of {what}"): kept for key, kept in value.items()}


def entries(value: object, what: str) -> list[Any]:
    """A list.

    Raises:
        UsageError: it is something else; a text is no list of letters.
    """
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise UsageError(f"{what} is a {type(value).__name__}, not a list.", "Write it as a list: [one, another]")
    return list(value)


def text(value: object, what: str) -> str:
    """A text.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, str):
        raise UsageError(f"{what} is a {type(value).__name__}, not a text.", "Put it in quotes.")
    return value


def flag(value: object, what: str) -> bool:
    """A yes or no.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(value, bool):
        raise UsageError(f"{what} is a {type(value).__name__}, not true or false.", "Write true or false.")
    return value
