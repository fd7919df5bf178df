"""Names of values in nested dicts: `a.b` is the key `b` in the dict under `a`.

At each level the longest beginning of a name that is there as a key is taken, so that a key `a.b` with a dot of its own
comes before the `b` of `a`. Names that are no text are keys as they are. Lists, like all that is not a dict, have
no inside.
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
    """The keys that lead to what has that name; None when nothing has.

    Args:
        tree: the data.
        name: the name of a value.
        nested: whether dots in the name lead into dicts.
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
    """The keys that lead to what has that name.

    Raises:
        MissingKey: nothing has.
    """
    path = find(tree, name, nested=nested)
    if path is None:
        known = sorted(map(str, tree))
        more = " and more" if len(known) > _MAX_SHOWN_KEYS else ""
        shown = ", ".join(known[:_MAX_SHOWN_KEYS]) + more
        raise MissingKey(f"The data has no key {name!r}.", f"Its keys are: {shown}." if known else "The data is empty.")
    return path


def get(tree: Tree, path: Path) -> Any:
    """The value at the end of a path that is there."""
    return functools.reduce(operator.getitem, path, tree)


def take(tree: Tree, path: Path) -> Any:
    """The value at the end of a path that is there, no longer in the tree; the dict that held it stays, even empty."""
    return get(tree, path[:-1]).pop(path[-1])


def put(tree: Tree, path: Path, value: Any) -> None:
    """Put a value at the end of a path, making the dicts on the way."""
    for key in path[:-1]:
        tree = tree.setdefault(key, {})
    tree[path[-1]] = value


def place(tree: Tree, name: Hashable, value: Any, *, nested: bool = True) -> None:
    """Give a value a name: in place of what has it, else as a new key, in new dicts where there are none.

    Raises:
        WrongValue: the name leads through something that is not a dict.
    """
    rest = name
    while rest not in tree and (cut := _cut(tree, rest, nested=nested)) is not None:
        head, rest = cut
        if not isinstance(tree[head], dict):
            raise WrongValue(
                f"{name!r} cannot be set: {head!r} holds a {type(tree[head]).__name__}, not a dict.",
                f"Choose another name, or first rename or delete {head!r}.",
            )
        tree = tree[head]
    put(tree, tuple(rest.split(".")) if nested and rest not in tree and isinstance(rest, str) else (rest,), value)


def _cut(tree: Tree, name: Hashable, *, nested: bool) -> tuple[str, str] | None:
    """A name as its longest beginning that is a key of the tree, and the rest; None when no beginning is."""
    if not nested or not isinstance(name, str):
        return None
    dots = [at for at, letter in enumerate(name) if letter == "."]
    return next(((name[:at], name[at + 1 :]) for at in reversed(dots) if name[:at] in tree), None)
