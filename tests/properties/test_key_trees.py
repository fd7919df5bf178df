"""What holds for any data and any name: the transformations agree with a plain table of paths."""

from __future__ import annotations

import copy
import functools
import operator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.errors import UsageError
from p2pflows.flows.interfaces import KeyInterface
from p2pflows.flows.transformations import (
    Json2Obj,
    KeyCopy,
    KeyDelete,
    KeyRename,
    KeySelect,
    KeySet,
    MissingKey,
    Obj2Json,
    WrongValue,
    tree,
)

Path = tuple[str, ...]
Table = dict[Path, Any]

KEYS = st.sampled_from("abc")
NAMES = st.lists(KEYS, min_size=1, max_size=3).map(".".join)
LEAVES = st.none() | st.integers(0, 9) | st.text("xyz", max_size=2) | st.lists(st.integers(0, 9), max_size=2)
VALUES = st.recursive(LEAVES, lambda inner: st.dictionaries(KEYS, inner, max_size=3), max_leaves=6)
TREES = st.dictionaries(KEYS, VALUES, max_size=3)

DOTTED_NAMES = st.text("ab.", max_size=5)
ODD_KEYS = DOTTED_NAMES | st.integers(0, 2) | st.booleans() | st.none()
ODD_VALUES = st.recursive(
    LEAVES,
    lambda inner: st.dictionaries(ODD_KEYS, inner, max_size=3) | st.lists(inner, max_size=2),
    max_leaves=6,
)
ODD_TREES = st.dictionaries(ODD_KEYS, ODD_VALUES, max_size=4)
ODD_NAMES = DOTTED_NAMES | st.integers(0, 2)
SETTINGS = st.fixed_dictionaries(
    {
        "keys_to_rename": st.dictionaries(ODD_NAMES, ODD_NAMES, max_size=2),
        "keys_to_copy": st.dictionaries(ODD_NAMES, ODD_NAMES, max_size=2),
        "keys_to_set": st.dictionaries(ODD_NAMES, ODD_VALUES, max_size=2),
        "keys_to_select": st.lists(ODD_NAMES, max_size=1),
        "keys_to_delete": st.lists(ODD_NAMES, max_size=2),
    }
)

APART = ("a", "b.a", "b.b.a", "b.c", "c.a", "c.b")
"""Names of which none is the beginning of another."""

EMPTY = object()
"""What stands in a table for a dict with nothing in it."""


def table_of(data: dict[str, Any], at: Path = ()) -> Table:
    """Return a tree as a table with a row for every leaf and every empty dict."""
    rows: Table = {}
    for key, value in data.items():
        path = (*at, key)
        rows |= (table_of(value, path) or {path: EMPTY}) if isinstance(value, dict) else {path: value}
    return rows


def below(table: Table, path: Path) -> Table:
    """Return the rows at a path and below it."""
    return {row: value for row, value in table.items() if row[: len(path)] == path}


def without(table: Table, path: Path) -> Table:
    """Return the table after a deletion: a dict that loses its last row stays, empty."""
    gone = below(table, path)
    rest = {row: value for row, value in table.items() if row not in gone}
    return {**rest, path[:-1]: EMPTY} if gone and len(path) > 1 and not below(rest, path[:-1]) else rest


def with_rows(table: Table, path: Path, rows: Table) -> Table | None:
    """Return the table after adding rows at a path; None when a value that is not a dict is in the way."""
    above = [path[:length] for length in range(1, len(path))]
    if any(table.get(row, EMPTY) is not EMPTY for row in above):
        return None
    kept = {row: value for row, value in table.items() if row not in above and row[: len(path)] != path}
    return {**kept, **rows}


def moved(rows: Table, old: Path, new: Path) -> Table:
    """Return the same rows at another path."""
    return {(*new, *row[len(old) :]): value for row, value in rows.items()}


def value_at(data: dict[str, Any], name: str) -> Any:
    """Return the value at a dotted name, in a tree without dots in its keys."""
    return functools.reduce(operator.getitem, name.split("."), data)


def is_in(table: Table, name: str) -> bool:
    """Return whether a value has that name."""
    return bool(below(table, tuple(name.split("."))))


def dicts_in(data: dict[str, Any], at: Path = ()) -> list[Path]:
    """Return the paths of all dicts in a tree, the tree included."""
    inner = [path for key, value in data.items() if isinstance(value, dict) for path in dicts_in(value, (*at, key))]
    return [at, *inner]


@given(TREES, NAMES, VALUES)
def test_setting_puts_rows_where_the_name_says(data: dict[str, Any], name: str, value: Any) -> None:
    """Setting replaces the value with that name and changes nothing else; its path leads through dicts only."""
    path = tuple(name.split("."))
    expected = with_rows(table_of(data), path, moved(table_of({"v": value}), ("v",), path))
    if expected is None:
        with pytest.raises(WrongValue):
            KeySet({name: value})(copy.deepcopy(data))
    else:
        assert table_of(KeySet({name: value})(copy.deepcopy(data))) == expected


@given(TREES, st.lists(NAMES, max_size=3))
def test_deleting_takes_rows_away(data: dict[str, Any], names: list[str]) -> None:
    """Deleting removes a value with everything below it, and nothing else; a dict above it stays, even if empty."""
    expected = table_of(data)
    for name in names:
        expected = without(expected, tuple(name.split(".")))
    assert table_of(KeyDelete(names)(copy.deepcopy(data))) == expected


@given(TREES, st.lists(NAMES, max_size=3))
def test_selecting_keeps_the_rows_of_its_names(data: dict[str, Any], names: list[str]) -> None:
    """Selected values stay at their paths; a missing name is an error."""
    table = table_of(data)
    if not all(is_in(table, name) for name in names):
        with pytest.raises(MissingKey):
            KeySelect(names)(copy.deepcopy(data))
        return
    expected: Table = {}
    for name in names:
        expected |= below(table, tuple(name.split(".")))
    assert table_of(KeySelect(names)(copy.deepcopy(data))) == expected


@pytest.mark.parametrize("kind", [KeyRename, KeyCopy])
@given(data=TREES, old=NAMES, new=NAMES)
def test_a_rename_moves_rows_and_a_copy_repeats_them(
    kind: type[KeyRename | KeyCopy], data: dict[str, Any], old: str, new: str
) -> None:
    """The new name has the rows of the old one, which stay for a copy and go for a rename."""
    source, target, table = tuple(old.split(".")), tuple(new.split(".")), table_of(data)
    rows = below(table, source)
    if old == new or not rows:
        expected: Table | None = table
    else:
        left = without(table, source) if kind is KeyRename else table
        expected = with_rows(left, target, moved(rows, source, target))
    if expected is None:
        with pytest.raises(WrongValue):
            kind({old: new})(copy.deepcopy(data))
    else:
        assert table_of(kind({old: new})(copy.deepcopy(data))) == expected


@given(TREES, st.permutations(APART), st.integers(0, 3))
def test_renames_that_do_not_meet_are_as_one_after_another(data: dict[str, Any], names: list[str], count: int) -> None:
    """Several renames at once equal single ones in order, when they share no names."""
    pairs = list(zip(names[:count], names[count : 2 * count], strict=True))
    expected = copy.deepcopy(data)
    try:
        for old, new in pairs:
            expected = KeyRename({old: new})(expected)
    except WrongValue:
        return
    assert KeyRename(dict(pairs))(copy.deepcopy(data)) == expected


@given(st.permutations(APART), st.lists(VALUES, min_size=len(APART), max_size=len(APART)))
def test_a_swap_exchanges_two_values_and_a_second_one_brings_them_back(names: list[str], values: list[Any]) -> None:
    """`{a: b, b: a}` swaps any two values, and loses nothing."""
    data = KeySet(dict(zip(names, values, strict=True)))({})
    swap = KeyInterface(keys_to_rename={names[0]: names[1], names[1]: names[0]})
    swapped = swap(data)
    assert [value_at(swapped, name) for name in names] == [values[1], values[0], *values[2:]]
    assert swap(swapped) == data


@given(st.permutations("abcd"), st.sets(st.sampled_from("abcd")))
def test_any_exchange_of_names_loses_nothing(names: list[str], there: set[str]) -> None:
    """Renames among the same names, in any order, move each value to its new path, even if some are missing."""
    mapping = dict(zip("abcd", names, strict=True))
    assert KeyRename(mapping)({key: key for key in sorted(there)}) == {mapping[key]: key for key in there}


@given(TREES, VALUES, st.data())
def test_deleting_a_new_key_restores_the_data(data: dict[str, Any], value: Any, draw: st.DataObject) -> None:
    """Setting a new key in an existing dict and deleting it changes nothing."""
    name = ".".join((*draw.draw(st.sampled_from(dicts_in(data))), "new"))
    assert KeyInterface(keys_to_set={name: value}, keys_to_select=[name])(data) != {}
    assert KeyInterface(keys_to_set={name: value}, keys_to_delete=[name])(data) == data


@given(TREES, NAMES, VALUES)
def test_selecting_a_set_value_returns_it_alone(data: dict[str, Any], name: str, value: Any) -> None:
    """A value is found under the name under which it was set."""
    path = tuple(name.split("."))
    try:
        found = KeyInterface(keys_to_set={name: value}, keys_to_select=[name])(data)
    except WrongValue:
        return
    assert table_of(found) == moved(table_of({"v": value}), ("v",), path)


@given(ODD_TREES, ODD_NAMES, ODD_VALUES)
def test_in_any_tree_what_is_placed_is_found(data: dict[Any, Any], name: Any, value: Any) -> None:
    """A value is found under its name, also with dots in keys, empty keys and keys that are not text."""
    try:
        tree.place(data, name, value)
    except WrongValue:
        return
    assert tree.get(data, tree.need(data, name)) is value


@given(ODD_TREES)
def test_a_key_with_dots_comes_before_the_path(data: dict[Any, Any]) -> None:
    """A name that is a key of the tree refers to that key, even if it is also a path."""
    assert all(tree.find(data, key) == (key,) for key in data)


@given(ODD_TREES, SETTINGS)
def test_an_interface_never_changes_its_input_nor_its_settings(data: dict[Any, Any], arguments: dict[str, Any]) -> None:
    """For any tree and names, the input stays, errors are ours, and a second call has the same result."""
    interface = KeyInterface(**arguments)
    before = copy.deepcopy((data, arguments))
    try:
        first = interface(data)
        again = copy.deepcopy(first)
        for value in first.values():
            if isinstance(value, (dict, list)):
                value.clear()
        assert interface(data) == again
    except UsageError:
        pass
    assert (data, arguments) == before


@given(VALUES)
def test_json_text_is_read_back_as_its_value(value: Any) -> None:
    """A value that is written as JSON and read again is the same value."""
    interface = KeyInterface(additional_transformations=[Obj2Json("v", "text"), Json2Obj("text", "again")])
    assert interface({"v": value})["again"] == value
