"""Transformations of the keys of the data: rename, copy, set, select, delete."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

from p2pflows.flows.transformations import settings, tree
from p2pflows.flows.transformations.base import DataTransformation
from p2pflows.flows.transformations.errors import MissingKey, WrongValue


class _Moving(DataTransformation):
    """Gives values names that a mapping says; names that the data lacks are passed over.

    Each entry takes its value from the data as it came in, so that `{a: b, b: a}` swaps. Where the data lacks the
    name, it takes what an entry before it made: `{a: b, b: c}` brings a lone `a` to `c`. In a circle of names each
    value moves once, even a lone one.
    """

    def __init__(self, old_key2new_key: Mapping[Any, Any], nested_keys: bool, what: str) -> None:
        super().__init__()
        self.old_key2new_key = settings.renames(old_key2new_key, what)
        self.nested_keys = settings.flag(nested_keys, "nested_keys")
        self._moves = {old: new for old, new in self.old_key2new_key.items() if old != new}
        self._circular = _in_circles(self._moves)

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """The data with the new names.

        Raises:
            WrongValue: a new name leads through something that is not a dict.
        """
        held: dict[Hashable, Any] = {}
        self._hold(data_dict, self._moves, held)
        for old, new in self._moves.items():
            if old not in held and old not in self._circular:
                self._hold(data_dict, [old], held)
            if old in held:
                tree.place(data_dict, new, held[old], nested=self.nested_keys)
        return data_dict

    def _hold(self, data: tree.Tree, names: Iterable[Hashable], held: dict[Hashable, Any]) -> None:
        """Lay the values of these names by, as far as they are there."""
        for name in names:
            path = tree.find(data, name, nested=self.nested_keys)
            if path is not None:
                held[name] = self._lift(data, path)

    @abstractmethod
    def _lift(self, data: tree.Tree, path: tree.Path) -> Any:
        """The value at the end of a path."""


class KeyRename(_Moving):
    """Gives values new names. The dicts that they were in stay, even empty.

    Args:
        old_key2new_key: old names to new ones.
        nested_keys: whether dots in names lead into dicts.
    """

    def __init__(self, old_key2new_key: Mapping[Any, Any], nested_keys: bool = True) -> None:
        super().__init__(old_key2new_key, nested_keys, "keys_to_rename")

    def _lift(self, data: tree.Tree, path: tree.Path) -> Any:
        return tree.take(data, path)


class KeyCopy(_Moving):
    """Gives deep copies of values further names.

    Args:
        old_key2new_key: names to further names.
        nested_keys: whether dots in names lead into dicts.
    """

    def __init__(self, old_key2new_key: Mapping[Any, Any], nested_keys: bool = True) -> None:
        super().__init__(old_key2new_key, nested_keys, "keys_to_copy")

    def _lift(self, data: tree.Tree, path: tree.Path) -> Any:
        return copy.deepcopy(tree.get(data, path))


class KeySet(DataTransformation):
    """Sets keys to fixed values, one after another; each time to a deep copy.

    Args:
        key2value: names to values.
        nested_keys: whether dots in names lead into dicts.
    """

    def __init__(self, key2value: Mapping[Any, Any], nested_keys: bool = True) -> None:
        super().__init__()
        self.key2value = copy.deepcopy(settings.mapping(key2value, "keys_to_set"))
        self.nested_keys = settings.flag(nested_keys, "nested_keys")

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """The data with the values set.

        Raises:
            WrongValue: a name leads through something that is not a dict.
        """
        for name, value in self.key2value.items():
            tree.place(data_dict, name, copy.deepcopy(value), nested=self.nested_keys)
        return data_dict


class KeySelect(DataTransformation):
    """Keeps what has one of the names, where it was, and drops all else.

    Args:
        keys_to_select: the names.
        nested_keys: whether dots in names lead into dicts.
    """

    def __init__(self, keys_to_select: Iterable[Any], nested_keys: bool = True) -> None:
        super().__init__()
        self.keys_to_select = settings.names(keys_to_select, "keys_to_select")
        self.nested_keys = settings.flag(nested_keys, "nested_keys")

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """A dict of its own with what is kept.

        Raises:
            MissingKey: the data lacks one of the names.
        """
        kept: dict[str, Any] = {}
        for name in self.keys_to_select:
            path = tree.need(data_dict, name, nested=self.nested_keys)
            tree.put(kept, path, tree.get(data_dict, path))
        return kept


class KeyDelete(DataTransformation):
    """Drops what has one of the names, with all below it; names that the data lacks are passed over.

    Args:
        keys_to_delete: the names.
        nested_keys: whether dots in names lead into dicts.
    """

    def __init__(self, keys_to_delete: Iterable[Any], nested_keys: bool = True) -> None:
        super().__init__()
        self.keys_to_delete = settings.names(keys_to_delete, "keys_to_delete")
        self.nested_keys = settings.flag(nested_keys, "nested_keys")

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """The data without them; a dict that is emptied by it stays as `{}`."""
        for name in self.keys_to_delete:
            path = tree.find(data_dict, name, nested=self.nested_keys)
            if path is not None:
                tree.take(data_dict, path)
        return data_dict


class KeyMatchInput(DataTransformation):
    """Keeps the keys that the destination flow names as its input, and drops all else."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, data_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """A dict of its own with the keys in `dst_flow.get_interface_description()["input"]`.

        Raises:
            MissingKey: the interface was called without `dst_flow`, or the data lacks one of the keys.
            WrongValue: the flow does not tell its input.
        """
        if kwargs.get("dst_flow") is None:
            raise MissingKey(
                "KeyMatchInput does not know the destination.", "Call the interface with dst_flow=, a flow."
            )
        flow = kwargs["dst_flow"]
        described = flow.get_interface_description() if hasattr(flow, "get_interface_description") else None
        wanted = described.get("input") if isinstance(described, Mapping) else None
        if wanted is None:
            raise WrongValue(
                "KeyMatchInput got a dst_flow that does not tell its input.",
                "Give it a flow whose config has an input_interface.",
            )
        if isinstance(wanted, (str, Mapping)):
            wanted = [wanted] if isinstance(wanted, str) else list(wanted)
        return KeySelect(wanted)(data_dict)


def _in_circles(moves: Mapping[Hashable, Hashable]) -> set[Hashable]:
    """The names from which following the moves leads back to them."""
    found = set()
    for start in moves:
        seen, at = set[Hashable](), start
        while at in moves and at not in seen:
            seen.add(at)
            at = moves[at]
        if at == start:
            found.add(start)
    return found
