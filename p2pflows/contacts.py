"""The address book: a YAML file with the petnames of contacts, and the user ids that are blocked.

The CLI and the daemon both write the file, under a lock and by atomic replacement. The daemon reads it again when it
has changed.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from p2pflows import files, strict_modes, yaml_file
from p2pflows.errors import UnknownUser, UsageError
from p2pflows.protocol import topics

ME = "me"
_Stamp = tuple[int, int, int] | None
"""What changes whenever the file does; None if there is no file."""
_RESERVED = {ME, "contacts", "anyone"}


@dataclass(frozen=True, slots=True)
class Book:
    """The content of the file: user ids by petname, petnames by user id, and blocked user ids."""

    by_name: dict[str, str] = field(default_factory=dict)
    blocked: frozenset[str] = frozenset()
    by_user: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_user", {user: name for name, user in self.by_name.items()})


class Contacts:
    """The address book of one home.

    Attributes:
        problem: why the last `reload_if_changed` could not read the file; None if it could.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_stamp: _Stamp = None
        self._checked_stamp: _Stamp = None
        self._book = Book()
        self.problem: UsageError | None = None

    @property
    def known(self) -> Book:
        """The content as last read, without a look at the file."""
        return self._book

    def reload_if_changed(self) -> None:
        """Read the file again if it has changed; if it cannot be read, keep the last content and set `problem`."""
        stamp = _stamp(self._path)
        if stamp != self._checked_stamp:
            self._checked_stamp = stamp
            try:
                self.book()
                self.problem = None
            except UsageError as error:
                self.problem = error

    def book(self) -> Book:
        """Return the current content; read the file only if it has changed.

        Raises:
            UsageError: the file cannot be read, or is not an address book.
        """
        stamp = _stamp(self._path)
        if stamp != self._read_stamp:
            self._book = Book() if stamp is None else _read(self._path)
            self._read_stamp = stamp
        return self._book

    def add(self, name: str, user: str) -> None:
        """Give a user id a petname, and unblock it.

        Raises:
            UsageError: the name or the id has a wrong form, or the name stands for another user.
        """
        topics.check_name(name, "a contact")
        user = normal_user_id(user)
        if name in _RESERVED or topics.is_user_id(name):
            raise UsageError(f"{name!r} cannot name a contact.", "Choose another name.")
        with self._locked():
            book = self.book()
            if book.by_name.get(name, user) != user:
                raise UsageError(
                    f"{name!r} already stands for {book.by_name[name]}.",
                    f"Choose another name, or first run: p2pflows contacts remove {name}",
                )
            names = {known: key for known, key in book.by_name.items() if key != user}
            self._write({**names, name: user}, book.blocked - {user})

    def remove(self, name: str) -> str:
        """Remove a contact, given by petname or user id.

        Returns:
            The user id.

        Raises:
            UnknownUser: no contact has that name.
        """
        with self._locked():
            book = self.book()
            name = book.by_user.get(name, name)
            if name not in book.by_name:
                raise UnknownUser(f"No contact is named {name!r}.", "See: p2pflows contacts list")
            self._write({k: v for k, v in book.by_name.items() if k != name}, book.blocked)
            return book.by_name[name]

    def block(self, user: str) -> None:
        """Block a user id."""
        with self._locked():
            book = self.book()
            self._write(book.by_name, book.blocked | {user})

    def _locked(self) -> AbstractContextManager[None]:
        return files.exclusive_lock(self._path.with_suffix(".lock"))

    def _write(self, by_name: dict[str, str], blocked: frozenset[str]) -> None:
        content: dict[str, object] = {"contacts": dict(sorted(by_name.items()))}
        if blocked:
            content["blocked"] = sorted(blocked)
        yaml_file.write(self._path, content)
        self._read_stamp = None


def normal_user_id(text: str) -> str:
    """Return a user id in its normal form, lower-case hex.

    Raises:
        UsageError: the text is not a user id.
    """
    user = text.strip().lower()
    if not topics.is_user_id(user):
        raise UsageError(
            f"{text!r} is not a user id.", "A user id is 64 hex digits; its owner can print it with: p2pflows id"
        )
    return user


def resolve(who: str, book: Book, me: str) -> str:
    """Return the user id that a petname, a user id or `me` stands for.

    Args:
        who: the petname, the user id in either case, or `me` or an empty text for oneself.
        book: the address book.
        me: the user id for `me`.

    Raises:
        UnknownUser: no contact has that name.
    """
    if who in ("", ME):
        return me
    if topics.is_user_id(who.lower()):
        return who.lower()
    if who in book.by_name:
        return book.by_name[who]
    raise UnknownUser(f"No contact is named {who!r}.", f"Add them: p2pflows contacts add {who} USER_ID")


def _stamp(path: Path) -> _Stamp:
    try:
        info = path.stat()
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_ino, info.st_size)


def naming(contacts: Contacts, me: str) -> Callable[[str], str | None]:
    """Return a function from a user id to its display name: `me`, a petname, or None."""

    def name_of(user: str) -> str | None:
        return "me" if user == me else contacts.known.by_user.get(user)

    return name_of


def _read(path: Path) -> Book:
    strict_modes.check(path)
    hint = f"Correct {path}, or move it away to start with an empty address book."
    content = yaml_file.read(path, "The contacts", hint) or {}
    names = content.get("contacts") or {} if isinstance(content, dict) else None
    blocked = content.get("blocked") or [] if isinstance(content, dict) else None
    if not isinstance(names, dict) or not isinstance(blocked, list):
        raise UsageError("The contacts file has an unknown form.", hint)
    for name, user in names.items():
        if not (isinstance(name, str) and isinstance(user, str) and topics.is_name(name) and topics.is_user_id(user)):
            raise UsageError(f"The contacts file has a wrong entry: {name!r}.", hint)
    blocked_ids = [str(user).lower() for user in blocked]  # YAML reads an id of decimal digits as a number
    for user in blocked_ids:
        if not topics.is_user_id(user):
            raise UsageError(f"The contacts file blocks {user!r}, which is not a user id.", hint)
    return Book(dict(names), frozenset(blocked_ids))
