"""Names of values in nested dicts: `a.b` is the key `b` in the dict under `a`.

At each level, the longest beginning of the name that is a key is used, so a key `a.b` with a dot of its own precedes
the `b` in `a`. A name that is not a text is a key as it is. Only dicts are searched: lists and other values have no
keys.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Hashable
from typing import Any

from p2pflows.flows.transformations.errors import MissingKey, WrongValue

Tree = dict[Any, Any]
Path = tuple[Hashable, ...]
_MAX_SHOWN_KEYS = 10


def find(tree: Tree, name: Hashable, *, nested: bool = True) -> Path | None:
    """Return the path of keys to the value with this name; None when there is none.

    Args:
        tree: the data.
        name: the name of a value.
        nested: whether a name with dots is a path into nested dicts.
    """
    path: list[Hashable] = []
    while name not in tree:
        cut = _cut(tree, name, nested=nested)
        if cut is None or not isinstance(tree[cut[0]], dict):
            return None
        head, name = cut
        path.append(head)
        tree = tree[head]
    return (*path, name)


def need(tree: Tree, name: Hashable, *, nested: bool = True) -> Path:
    """Return the path of keys to the value with this name.

    Raises:
        MissingKey: there is none.
    """
    path = find(tree, name, nested=nested)
    if path is None:
        known = sorted(map(str, tree))
        more = " and more" if len(known) > _MAX_SHOWN_KEYS else ""
        shown = ", ".join(known[:_MAX_SHOWN_KEYS]) + more
        raise MissingKey(f"The data has no key {name!r}.", f"Its keys are: {shown}." if known else "The data is empty.")
    return path


def get(tree: Tree, path: Path) -> Any:
    """Return the value at an existing path."""
    return functools.reduce(operator.getitem, path, tree)


def take(tree: Tree, path: Path) -> Any:
    """Remove and return the value at an existing path; the dict that held it stays, even if it is empty."""
    return get(tree, path[:-1]).pop(path[-1])


def put(tree: Tree, path: Path, value: Any) -> None:
    """Set the value at a path, and create the dicts on the way."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def place(tree: Tree, name: Hashable, value: Any, *, nested: bool = True) -> None:
    """Set the value with a name: replace the one that has the name, or add a key, and dicts on the way to it.

    Raises:
        WrongValue: the path of the name leads through a value that is not a dict.
    """
    rest = name
    while rest not in tree and (cut := _cut(tree, rest, nested=nested)) is not None:
        head, rest = cut
        if not isinstance(tree[head], dict):
            raise WrongValue(
                f"{name!r} cannot be set: the value of {head!r} must be a dict, not {type(tree[head]).__name__}.",
                f"Choose another name, or first rename or delete {head!r}.",
            )
        tree = tree[head]
    put(tree, tuple(rest.split(".")) if nested and rest not in tree and isinstance(rest, str) else (rest,), value)


def _cut(tree: Tree, name: Hashable, *, nested: bool) -> tuple[str, str] | None:
    """Split a name after its longest beginning that is a key of the tree; None when no beginning is a key."""
    if not nested or not isinstance(name, str):
        return None
    dots = [at for at, character in enumerate(name) if character == "."]
    return next(((name[:at], name[at + 1 :]) for at in reversed(dots) if name[:at] in tree), None)
