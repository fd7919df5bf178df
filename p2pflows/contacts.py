"""Whom I know: a YAML address book of petnames and user ids, and the user ids I have blocked.

The CLI and the daemon both write it, each under a lock and by atomic replacement; the daemon sees a change at its
next look.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path

from p2pflows import files, yaml_file
from p2pflows.errors import UnknownUser, UsageError
from p2pflows.protocol import topics

ME = "me"
_Stamp = tuple[int, int, int] | None
_RESERVED = {ME, "contacts", "anyone"}


@dataclass(frozen=True, slots=True)
class Book:
    """The content of the file at one moment."""

    by_name: dict[str, str] = field(default_factory=dict)
    blocked: frozenset[str] = frozenset()
    by_user: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "by_user", {user: name for name, user in self.by_name.items()})


class Contacts:
    """The address book of one home."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_at: _Stamp = None
        self._looked_at: _Stamp = None
        self._book = Book()
        self.problem: UsageError | None = None

    @property
    def known(self) -> Book:
        """What was read last; costs nothing."""
        return self._book

    def reload_if_changed(self) -> None:
        """Read the file again if it has changed; what cannot be read leaves all as it was, and a `problem`."""
        stamp = _stamp(self._path)
        if stamp != self._looked_at:
            self._looked_at = stamp
            try:
                self.book()
                self.problem = None
            except UsageError as error:
                self.problem = error

    def book(self) -> Book:
        """The current content; the file is read again only when it has changed.

        Raises:
            UsageError: the file is not a contacts file.
        """
        stamp = _stamp(self._path)
        if stamp != self._read_at:
            self._book = Book() if stamp is None else _read(self._path)
            self._read_at = stamp
        return self._book

    def add(self, name: str, user: str) -> None:
        """Give a user id a petname, and unblock it.

        Raises:
            UsageError: the name or id is malformed, or the name stands for somebody else.
        """
        topics.check_name(name, "a contact")
        user = normal_user_id(user)
        if name in _RESERVED or topics.is_user_id(name):
            raise UsageError(f"{name!r} cannot name a contact.", "Choose a name of your own.")
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
        """Forget a petname; gives the user id it stood for.

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
        """Refuse a user id from now on."""
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
        self._read_at = None


def normal_user_id(text: str) -> str:
    """A user id in its one form, lower-case hex.

    Raises:
        UsageError: the text is no user id.
    """
    user = text.strip().lower()
    if not topics.is_user_id(user):
        raise UsageError(
            f"{text!r} is not a user id.", "A user id is 64 hex digits; its owner sees it with: p2pflows id"
        )
    return user


def resolve(who: str, book: Book, me: str) -> str:
    """The user id that a petname, a user id or `me` stands for.

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
    """What changes when the file does; None if there is none."""
    try:
        info = path.stat()
    except OSError:
        return None
    return (info.st_mtime_ns, info.st_ino, info.st_size)


def naming(contacts: Contacts, me: str) -> Callable[[str], str | None]:
    """The function that returns the name by which a user knows a user id: "me", a petname, or None."""

    def name_of(user: str) -> str | None:
        return "me" if user == me else contacts.known.by_user.get(user)

    return name_of


def _read(path: Path) -> Book:
    hint = f"Mend {path}, or move it away to start an empty address book."
    content = yaml_file.read(path, "The contacts", hint) or {}
    names = content.get("contacts") or {} if isinstance(content, dict) else None
    blocked = content.get("blocked") or [] if isinstance(content, dict) else None
    if not isinstance(names, dict) or not isinstance(blocked, list):
        raise UsageError("The contacts file has an unknown form.", hint)
    for name, user in names.items():
        if not (isinstance(name, str) and isinstance(user, str) and topics.is_name(name) and topics.is_user_id(user)):
            raise UsageError(f"The contacts file has a wrong entry: {name!r}.", hint)
    refused = [str(user).lower() for user in blocked]  # whom YAML may take for a number
    for user in refused:
        if not topics.is_user_id(user):
            raise UsageError(f"The contacts file blocks {user!r}, which is no user id.", hint)
    return Book(dict(names), frozenset(refused))
