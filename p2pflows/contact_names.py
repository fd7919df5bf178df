"""The names in an address book, and their text, so that a change of one of 100,000 names costs little more than one.

The text is the section `contacts:` of the file, with one name and user id in each line. It is read and written without
PyYAML, which takes ten times as long; and when it has changed, only the lines that differ are read.
"""

from __future__ import annotations

import re
from bisect import bisect_left, insort
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from p2pflows import petnames
from p2pflows.protocol import topics

HEAD = b"contacts:\n"
MAX_CHANGED_BYTES = 100_000
"""How long the lines that differ may be; with more of them, it is quicker to read all."""
_NO_TEXTS = "y|n|yes|no|on|off|true|false|null"
_PLAIN_NAME = rf"(?!(?i:{_NO_TEXTS}):)[^\W\d_][\w-]*"
"""A text that is one to every reader of YAML, if a colon follows."""
_ENTRY = rf"  (?:({_PLAIN_NAME})|'([^'\s]+)'): ([0-9a-f]*[a-f][0-9a-f]*)\n"
_IGNORED = r" *(?:#[ -~\w]*)?\n"
"""An empty line, or a comment."""
_PLAIN_KEY = re.compile(f"{_PLAIN_NAME}:")
_LINE = re.compile(f"{_ENTRY}|{_IGNORED}")
_LINES = re.compile(f"(?:{_ENTRY}|{_IGNORED})*")
_END = re.compile(rb"\n(?=[^ \n#])")
_NEXT_SECTION = re.compile(rb"[a-z]+:\n")
_OTHERS = re.compile(rf"(?:{_IGNORED})*(?:[a-z]+:\n(?:(?: +|- )(?:[\w: -]+|'[\w-]+':?)\n|{_IGNORED})*)*")
"""Sections of which no line can belong to a text of several lines, so that the names may stand between any two."""


@dataclass(frozen=True, slots=True)
class Names:
    """The petnames of all contacts.

    Attributes:
        by_name: user ids by petname.
        by_user: petnames by user id; the last one if a user has several, in a file that was edited by hand.
        ordered: the petnames in the order of `order`.
        text: the section that holds them, as it was read or is to be written; None if that is not known.
    """

    by_name: dict[str, str] = field(default_factory=dict)
    by_user: dict[str, str] = field(default_factory=dict)
    ordered: tuple[str, ...] = ()
    text: bytes | None = field(default=None, compare=False, repr=False)

    @classmethod
    def of(cls, by_name: Mapping[str, str]) -> Names:
        """Return the names of these contacts, in their normal form.

        Raises:
            ValueError: a name or user id has a wrong form; the first argument is the name.
        """
        for name, user in by_name.items():
            if not petnames.has_form(name) or not topics.is_user_id(user):
                raise ValueError(name)
        names = {petnames.normalize(name): user for name, user in by_name.items()}
        ordered = tuple(sorted(sorted(names), key=str.casefold))
        return cls(names, {names[name]: name for name in ordered}, ordered)

    @classmethod
    def read(cls, text: bytes) -> Names | None:
        """Read a section; return None if it holds more than plain lines.

        Raises:
            ValueError: as for `of`.
        """
        entries = _entries(text.removeprefix(HEAD))
        if entries is None:
            return None
        names = cls.of(dict(entries))
        is_clear = len(entries) == len(names.by_user) and all(name in names.by_name for name, _ in entries)
        return replace(names, text=text if is_clear else None)

    def read_again(self, text: bytes) -> Names | None:
        """Read a section that has changed; return None if all of it has to be read."""
        if self.text == text:
            return self
        lines = None if self.text is None else _difference(self.text, text)
        if lines is None:
            return None
        old, new = map(_entries, lines)
        if old is None or new is None:
            return None
        gone, come = dict(old), dict(new)
        try:
            if Names.of(come).by_name != come:
                return None
        except ValueError:
            return None
        names = self._changed([name for name in gone if come.get(name) != gone[name]], come, text)
        is_clear = len(names.by_name) == len(names.by_user) == len(self.by_name) + len(new) - len(old)
        return names if is_clear else None

    def put(self, name: str, user: str) -> Names:
        """Return the names with this one for a user, who loses any other."""
        gone = self._names_of(user)
        if gone == [name]:
            return self
        return self._changed(gone, {name: user}, self._edited(gone, name, user))

    def remove(self, user: str) -> Names:
        """Return the names without that of a contact."""
        gone = self._names_of(user)
        return self._changed(gone, {}, self._edited(gone))

    def page(self, after: str, limit: int) -> Sequence[str]:
        """Return the next names in their order.

        Args:
            after: the name before them; it need not be one of them.
            limit: how many at most.
        """
        start = bisect_left(self.ordered, order(after), key=order) if after else 0
        start += self.ordered[start : start + 1] == (after,)
        return self.ordered[start : start + limit]

    def with_text(self) -> Names:
        """Return the names with the text to be written; without one if PyYAML has to write it."""
        if self.text is not None and self.by_name:
            return self
        lines = "".join([_line(name, self.by_name[name]) for name in self.ordered])
        is_plain = lines and _LINES.fullmatch(lines)
        return replace(self, text=HEAD + lines.encode() if is_plain else None)

    def _names_of(self, user: str) -> list[str]:
        """Return all names of a user."""
        if len(self.by_name) != len(self.by_user):
            return [name for name, known in self.by_name.items() if known == user]
        return [self.by_user[user]] if user in self.by_user else []

    def _changed(self, gone: Sequence[str], come: Mapping[str, str], text: bytes | None) -> Names:
        by_name, by_user, ordered = self.by_name.copy(), self.by_user.copy(), list(self.ordered)
        for name in gone:
            by_user.pop(by_name.pop(name), None)
            del ordered[bisect_left(ordered, order(name), key=order)]
        for name, user in come.items():
            if name not in by_name:
                insort(ordered, name, key=order)
            by_name[name] = user
            by_user[user] = name
        return Names(by_name, by_user, tuple(ordered), text)

    def _edited(self, gone: Sequence[str], name: str = "", user: str = "") -> bytes | None:
        """Return the text without the lines of some names and with that of another, if each can be found."""
        text = self.text
        for old in gone:
            text = _replaced(text, _line(old, self.by_name[old]), "")
        if not name:
            return text
        if _entries(line := _line(name, user).encode()) is None:
            return None
        following = next((other for other in self.page(name, len(gone) + 1) if other not in gone), None)
        if following is not None:
            before = _line(following, self.by_name[following])
            return _replaced(text, before, line.decode() + before)
        return None if text is None else text + line


class Parts(NamedTuple):
    """The section of the names, and all others."""

    names: bytes
    others: bytes


def order(name: str) -> tuple[str, str]:
    """Return by what names are ordered: as people look for them, without a difference between capitals and others."""
    return name.casefold(), name


def split(data: bytes) -> Parts | None:
    """Split a file, if each part can be read without the other."""
    if b"\r" in data:
        data = data.replace(b"\r\n", b"\n")
    if not data.endswith(b"\n"):
        data += b"\n"
    start = 0 if data.startswith(HEAD) else data.find(b"\n" + HEAD) + 1
    if not data.startswith(HEAD, start):
        return None
    found = _END.search(data, start + len(HEAD) - 1)
    end = len(data) if found is None else found.end()
    names, others = data[start:end], data[:start] + data[end:]
    if (end < len(data) and not _NEXT_SECTION.match(data, end)) or b"\n" + HEAD in b"\n" + others:
        return None
    try:
        return Parts(names, others) if _OTHERS.fullmatch(others.decode()) else None
    except UnicodeDecodeError:
        return None


def _line(name: str, user: str) -> str:
    quote = "" if _PLAIN_KEY.fullmatch(f"{name}:") else "'"
    return f"  {quote}{name}{quote}: {user}\n"


def _entries(lines: bytes) -> list[tuple[str, str]] | None:
    """Return the names and user ids in some lines; None if any has another form."""
    try:
        text = lines.decode()
    except UnicodeDecodeError:
        return None
    if not _LINES.fullmatch(text):
        return None
    return [(plain or quoted, user) for plain, quoted, user in _LINE.findall(text) if user]


def _replaced(text: bytes | None, line: str, by: str) -> bytes | None:
    """Return a text with another line in the place of one; None if that is not there."""
    place = -1 if text is None else text.find(b"\n" + line.encode()) + 1
    if text is None or not place:
        return None
    return text[:place] + by.encode() + text[place + len(line.encode()) :]


def _difference(old: bytes, new: bytes) -> tuple[bytes, bytes] | None:
    """Return the lines that only one of two texts has; None if they are many. Both begin with `HEAD`."""
    gone, come = bytearray(), bytearray()
    at = new_at = len(HEAD)
    while len(gone) + len(come) <= MAX_CHANGED_BYTES:
        same = old.rfind(b"\n", at - 1, at + _common_length(old, at, new, new_at)) + 1 - at
        at, new_at = at + same, new_at + same
        line, new_line = _line_at(old, at), _line_at(new, new_at)
        if not line and not new_line:
            return bytes(gone), bytes(come)
        following = new.find(b"\n" + line, new_at - 1, new_at + MAX_CHANGED_BYTES) + 1 if line else 0
        old_following = old.find(b"\n" + new_line, at - 1, at + MAX_CHANGED_BYTES) + 1 if new_line else 0
        if following or old_following:
            end, new_end = (at, following) if following else (old_following, new_at)
        else:
            end, new_end = at + len(line), new_at + len(new_line)
        gone += old[at:end]
        come += new[new_at:new_end]
        at, new_at = end, new_end
    return None


def _line_at(text: bytes, start: int) -> bytes:
    return text[start : text.find(b"\n", start) + 1]


def _common_length(old: bytes, at: int, new: bytes, new_at: int) -> int:
    """Return for how many bytes two texts go on alike; large pieces are compared quickly."""
    rest, length, step, grows = memoryview(old)[at:], 0, 256, True
    while step:
        piece = rest[length : length + step]
        if len(piece) == step and new.startswith(piece, new_at + length):
            length += step
        else:
            grows = False
        step = step * 2 if grows else step // 2
    return length
