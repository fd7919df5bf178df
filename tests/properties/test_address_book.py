"""Whatever is changed in an address book, by hand or by programs, it is read as PyYAML reads the whole of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from p2pflows import contact_names, petnames, yaml_file
from p2pflows.contact_names import Names
from p2pflows.contacts import Book, Contacts
from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.protocol import topics

USERS = [f"{number:02x}" * 32 for number in (0xA1, 0xB2, 0xC3, 0xD4)] + ["11" * 32]
NAMES = ["ann", "Bob-2", "bob", "Zoë", "Алиса", "नेहा", "no", "2pac", "1e5", "_x", "team"]
_USER, _NAME = st.sampled_from(USERS), st.sampled_from(NAMES)
_ENTRIES = st.builds("  {}{}{}: {}{}".format, st.just(""), _NAME, st.just(""), _USER, st.sampled_from(["", "", " # x"]))
_LINES = _ENTRIES | st.builds("  '{}': {}".format, _NAME, _USER) | st.builds("- {}".format, _USER) | st.sampled_from([
    *("contacts:", "about:", "groups:", "blocked:", "later:"), *("  team:", "  'no':", "  - " + USERS[0], "  x: |"),
    *(f"  {USERS[1]}:", "    verified: true", f"    introduced_by: {USERS[2]}", f"  ann: {USERS[0][:-1]}"),
    *("", "   ", "# a note", "  # a note:", "---", "\tx", "  zoe\u0308: " + USERS[3], f'  "bob": {USERS[1]}', "  cd"),
    "  'zoe\u0308': " + USERS[3],
])  # fmt: skip
_PLACES = st.integers(0, 30)
_EDITS = st.one_of(
    st.tuples(st.sampled_from(["insert", "replace"]), _PLACES, _LINES),
    st.tuples(st.sampled_from(["delete", "repeat", "begin with"]), _PLACES),
    st.tuples(st.sampled_from(["windows", "no end", "latin"])),
)
_COMMANDS = st.one_of(
    st.tuples(st.sampled_from(["add", "rename"]), _NAME, _NAME | _USER),
    st.tuples(st.sampled_from(["remove", "verify"]), _NAME),
    st.tuples(st.just("block"), _USER),
    st.tuples(st.sampled_from(["add_to_group", "remove_from_group"]), st.just("team"), st.lists(_NAME, max_size=2)),
    st.tuples(st.just("introduce"), _NAME, _USER),
)
_STEPS = st.lists(st.tuples(st.booleans(), _COMMANDS | _EDITS), max_size=12)


def as_yaml(data: bytes) -> Book | None:
    """Return what a file holds, as a reader without any shortcut reads it; None if it is wrong."""
    try:
        content = yaml.load(data.decode(), _LOADER) or {}  # noqa: S506 - one of the safe loaders
    except (yaml.YAMLError, UnicodeDecodeError):
        return None
    if not isinstance(content, dict):
        return None
    sections: list[Any] = [content.get(name) or kind() for name, kind in _SECTIONS]
    if not all(isinstance(section, kind) for section, (_, kind) in zip(sections, _SECTIONS, strict=True)):
        return None
    names, about, groups, blocked = sections
    try:
        book = Book(
            Names.of(names),
            frozenset(str(user).lower() for user in blocked),
            frozenset(str(user).lower() for user, known in about.items() if known.get("verified") is True),
            {str(u).lower(): str(k["introduced_by"]).lower() for u, k in about.items() if "introduced_by" in k},
            {petnames.normalize(str(group)): tuple(map(_lower, users)) for group, users in groups.items()},
        )
    except (ValueError, TypeError, AttributeError):
        return None
    users = [*map(str, about), *book.blocked, *book.introduced_by.values()]
    if not all(map(topics.is_user_id, map(_lower, users))) or not all(isinstance(u, list) for u in groups.values()):
        return None
    return Book(
        book.names,
        book.blocked,
        book.verified & book.by_user.keys(),
        {user: by for user, by in book.introduced_by.items() if user in book.by_user},
        {group: tuple(user for user in users if user in book.by_user) for group, users in book.groups.items()},
    )


_LOADER: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_SECTIONS: list[tuple[str, type[dict[str, Any] | list[Any]]]] = [
    ("contacts", dict), ("about", dict), ("groups", dict), ("blocked", list),
]  # fmt: skip


def _lower(value: object) -> str:
    return str(value).lower()


def edited(data: bytes, kind: str, place: int = 0, line: str = "") -> bytes:
    """Return a file as somebody edits it."""
    match kind:
        case "windows":
            return data.replace(b"\n", b"\r\n")
        case "no end":
            return data.removesuffix(b"\n")
        case "latin":
            return data.replace("ë".encode(), b"\xeb")
    lines = data.decode("utf-8", "replace").splitlines()
    place %= len(lines) + 1
    found = lines[place : place + 1]
    match kind:
        case "insert":
            lines.insert(place, line)
        case "replace":
            lines[place : place + 1] = [line]
        case "delete":
            lines[place : place + 1] = []
        case "repeat":
            lines[place:place] = found
        case "begin with":  # as if sections changed places
            lines = lines[place:] + lines[:place]
    return "".join(f"{each}\n" for each in lines).encode()


def run(book: Contacts, command: str, *words: Any) -> None:
    """Do what a program does; many a command is refused."""
    with contextlib.suppress(P2pflowsError):
        if command == "add":
            book.add(words[0], words[1] if words[1] in USERS else USERS[0])
        elif command == "introduce":
            book.add(words[0], words[1], introduced_by=USERS[2])
        else:
            getattr(book, command)(*words)


def check(book: Contacts, path: Path) -> None:
    """Check that a book has the content of its file; if that is wrong, it must say so."""
    expected = as_yaml(path.read_bytes())
    before = book.known
    book.reload_if_changed()
    if expected is None:
        assert book.problem is not None
        assert book.known is before
        with pytest.raises(UsageError):
            Contacts(path).book()
    else:
        assert book.problem is None
        assert book.known == expected == Contacts(path).book()


@given(st.lists(st.tuples(_NAME, _USER), max_size=8), _STEPS)
@example([("ann", USERS[0])], [(True, ("insert", 0, "blocked:")), (True, ("insert", 3, "- " + USERS[0]))])
@example([("ann", USERS[0])], [(True, ("insert", 0, "  x: y")), (False, ("insert", 2, "# a note"))])
@example([("ann", USERS[0])], [(True, ("insert", 2, f"  bob: {USERS[0]}")), (True, ("remove", "ann"))])
@example([("ann", USERS[0])], [(True, ("insert", 2, f"  2pac: {USERS[0]}")), (True, ("block", USERS[0]))])
@example([("ann", USERS[0])], [(True, ("insert", 2, "contacts:")), (True, ("insert", 3, f"  bob: {USERS[1]}"))])
@example([("ann", USERS[0])], [(True, ("insert", 2, f"  bob: {USERS[1][:-1]}"))])
@example([("ann", USERS[0])], [(True, ("insert", 2, f"  'zoe\u0308': {USERS[1]}")), (True, ("remove", "ann"))])
@example([("ann", USERS[0])], [(True, ("repeat", 1)), (True, ("delete", 1))])
@example([("ann", USERS[0])], [(True, ("repeat", 1)), (True, ("insert", 1, f"  ann: {USERS[1]}"))])
@example([], [(True, ("add", "2pac", USERS[0])), (False, ("add", "no", USERS[1])), (True, ("remove", "2pac"))])
@settings(max_examples=200, deadline=None)
def test_a_book_is_what_its_file_says(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str]], steps: list[tuple[bool, tuple[Any, ...]]]
) -> None:
    """After each change by hand, or through one of two programs, both have what PyYAML reads."""
    path = tmp_path_factory.mktemp("book") / "contacts.yaml"
    times = count(2**60, 1_000)
    books = Contacts(path), Contacts(path)
    for name, user in entries:
        run(books[0], "add", name, user)
    for is_first, (kind, *words) in steps:
        if hasattr(books[0], kind) or kind == "introduce":
            run(books[is_first], kind, *words)
            if path.exists() and as_yaml(path.read_bytes()) is not None:
                assert books[is_first].known == as_yaml(path.read_bytes())
        else:
            path.write_bytes(edited(path.read_bytes() if path.exists() else b"contacts:\n", kind, *words))
            path.chmod(0o600)
        if path.exists():
            moment = next(times)
            os.utime(path, ns=(moment, moment))  # as if time passed
            for book in books:
                check(book, path)


class Work:
    """Counts the lines of names that are read and made one by one, and the bytes that PyYAML reads and writes."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.amount = 0
        self._count(patch, contact_names, "_entries", lambda text: text.count(b"\n"))
        self._count(patch, contact_names, "_line", lambda *_: 1)
        self._count(patch, yaml_file, "load", lambda data, *_: len(data))
        self._count(patch, yaml_file, "dump", lambda content: len(str(content)))

    def _count(self, patch: pytest.MonkeyPatch, module: Any, name: str, amount: Callable[..., int]) -> None:
        function = getattr(module, name)

        def counted(*words: Any) -> Any:
            self.amount += amount(*words)
            return function(*words)

        patch.setattr(module, name, counted)


@pytest.mark.parametrize("odd", ["person-7", "Алиса", "no", "2pac", "नेहा"])
def test_a_change_of_one_contact_costs_one_however_many_there_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, odd: str
) -> None:
    """Among 20,000, no more lines are read and written than among 20, whatever letters the names have."""
    changes: list[Callable[[Contacts], Any]] = [
        lambda book: book.add("carol", USERS[1]),
        lambda book: book.rename("carol", "Caroline"),
        lambda book: book.rename(odd, "odd"),
        lambda book: book.rename("odd", odd),
        lambda book: book.block(USERS[2]),
        lambda book: book.add_to_group("team", ["Caroline", "zed"]),
        lambda book: book.verify("zed"),
        lambda book: book.remove("zed"),
        lambda book: book.remove(odd),
    ]
    costs = []
    for size in (20, 20_000):
        path = tmp_path / f"{size}.yaml"
        path.write_text(yaml_file.dump({"contacts": {f"person-{n}": f"{n:063x}a" for n in range(size) if n != 7}}))
        path.chmod(0o600)
        writer, reader = Contacts(path), Contacts(path)
        writer.add(odd, "ab" * 32)
        writer.add("zed", USERS[0])
        assert reader.book() == writer.book()
        cost = []
        for change in changes:
            with monkeypatch.context() as patch:
                work = Work(patch)
                change(writer)
                reader.reload_if_changed()
            assert reader.known == writer.known
            cost.append(work.amount)
        assert reader.known == as_yaml(path.read_bytes())
        costs.append(cost)
    assert costs[0] == costs[1]
