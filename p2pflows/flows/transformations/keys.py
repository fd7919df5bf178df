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
    """Sets values under new names, as a mapping says; names that the data lacks are skipped.

    Each entry takes its value from the data before any change, so `{a: b, b: a}` swaps two values. When the data lacks
    the name, the entry takes the value that an earlier entry has set: with `{a: b, b: c}`, a lone `a` becomes `c`. In a
    circle of names, each value moves once.
    """

    def __init__(self, old_key2new_key: Mapping[Any, Any], nested_keys: bool, what: str) -> None:
        super().__init__()
        self.old_key2new_key = settings.renames(old_key2new_key, what)
        self.nested_keys = settings.flag(nested_keys, "nested_keys")
        self._moves = {old: new for old, new in self.old_key2new_key.items() if old != new}
        self._circular = _in_circles(self._moves)

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """Return the data with the new names.

        Raises:
            WrongValue: a new name leads through a value that is not a dict.
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
        """Collect the values of these names, as far as the data has them."""
        for name in names:
            path = tree.find(data, name, nested=self.nested_keys)
            if path is not None:
                held[name] = self._lift(data, path)

    @abstractmethod
    def _lift(self, data: tree.Tree, path: tree.Path) -> Any:
        """Return the value at a path."""


class KeyRename(_Moving):
    """Renames keys. A dict that loses its last key stays, empty.

    Args:
        old_key2new_key: old names to new ones.
        nested_keys: whether names with dots are paths into nested dicts.
    """

    def __init__(self, old_key2new_key: Mapping[Any, Any], nested_keys: bool = True) -> None:
        super().__init__(old_key2new_key, nested_keys, "keys_to_rename")

    def _lift(self, data: tree.Tree, path: tree.Path) -> Any:
        return tree.take(data, path)


class KeyCopy(_Moving):
    """Sets deep copies of values under further names.

    Args:
        old_key2new_key: names to further names.
        nested_keys: whether names with dots are paths into nested dicts.
    """

    def __init__(self, old_key2new_key: Mapping[Any, Any], nested_keys: bool = True) -> None:
        super().__init__(old_key2new_key, nested_keys, "keys_to_copy")

    def _lift(self, data: tree.Tree, path: tree.Path) -> Any:
        return copy.deepcopy(tree.get(data, path))


class KeySet(DataTransformation):
    """Sets keys to fixed values, in order, each time to a deep copy.

    Args:
        key2value: names to values.
        nested_keys: whether names with dots are paths into nested dicts.
    """

    def __init__(self, key2value: Mapping[Any, Any], nested_keys: bool = True) -> None:
        super().__init__()
        self.key2value = copy.deepcopy(settings.mapping(key2value, "keys_to_set"))
        self.nested_keys = settings.flag(nested_keys, "nested_keys")

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """Return the data with the values set.

        Raises:
            WrongValue: a name leads through a value that is not a dict.
        """
        for name, value in self.key2value.items():
            tree.place(data_dict, name, copy.deepcopy(value), nested=self.nested_keys)
        return data_dict


class KeySelect(DataTransformation):
    """Keeps the values with these names, at their paths, and drops everything else.

    Args:
        keys_to_select: the names.
        nested_keys: whether names with dots are paths into nested dicts.
    """

    def __init__(self, keys_to_select: Iterable[Any], nested_keys: bool = True) -> None:
        super().__init__()
        self.keys_to_select = settings.names(keys_to_select, "keys_to_select")
        self.nested_keys = settings.flag(nested_keys, "nested_keys")

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """Return a new dict with the selected values.

        Raises:
            MissingKey: the data lacks one of the names.
        """
        kept: dict[str, Any] = {}
        for name in self.keys_to_select:
            path = tree.need(data_dict, name, nested=self.nested_keys)
            tree.put(kept, path, tree.get(data_dict, path))
        return kept


class KeyDelete(DataTransformation):
    """Drops the values with these names; names that the data lacks are skipped.

    Args:
        keys_to_delete: the names.
        nested_keys: whether names with dots are paths into nested dicts.
    """

    def __init__(self, keys_to_delete: Iterable[Any], nested_keys: bool = True) -> None:
        super().__init__()
        self.keys_to_delete = settings.names(keys_to_delete, "keys_to_delete")
        self.nested_keys = settings.flag(nested_keys, "nested_keys")

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """Return the data without them; a dict that loses its last key stays as `{}`."""
        for name in self.keys_to_delete:
            path = tree.find(data_dict, name, nested=self.nested_keys)
            if path is not None:
                tree.take(data_dict, path)
        return data_dict


class KeyMatchInput(DataTransformation):
    """Keeps the keys that the destination flow names as its input, and drops everything else."""

    def __init__(self) -> None:
        super().__init__()

    def __call__(self, data_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return a new dict with the keys in `dst_flow.get_interface_description()["input"]`.

        Raises:
            MissingKey: the interface was called without `dst_flow`, or the data lacks one of the keys.
            WrongValue: the flow does not describe its input.
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
                "The dst_flow of KeyMatchInput does not describe its input.",
                "Pass a flow whose config has an input_interface.",
            )
        if isinstance(wanted, (str, Mapping)):
            wanted = [wanted] if isinstance(wanted, str) else list(wanted)
        return KeySelect(wanted)(data_dict)


def _in_circles(moves: Mapping[Hashable, Hashable]) -> set[Hashable]:
    """Return the names from which the moves lead back to the same name."""
    found = set()
    for start in moves:
        seen, at = set[Hashable](), start
        while at in moves and at not in seen:
            seen.add(at)
            at = moves[at]
        if at == start:
            found.add(start)
    return found
