"""The address book: a YAML file with the petnames of contacts, what is known of them, and the blocked user ids.

The CLI and the daemon both write the file, under a lock and by atomic replacement. The daemon reads it again when it
has changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from p2pflows import contact_names, files, petnames, strict_modes, yaml_file
from p2pflows.contact_names import Names
from p2pflows.errors import P2pflowsError, UnknownUser, UsageError
from p2pflows.protocol import topics

ME = "me"
_Stamp = tuple[int, int, int] | None
"""What changes whenever the file does; None if there is no file."""
MAX_GROUPS = 100
MAX_MEMBERS = 50
_RESERVED = {ME, "contacts", "anyone"}
_WHAT = "The contacts"


@dataclass(frozen=True, slots=True)
class Book:
    """The content of the file.

    Attributes:
        names: the petnames of all contacts.
        blocked: the user ids that the owner has denied.
        verified: the user ids of contacts with whom the owner has compared the words.
        introduced_by: by the user id of a contact, the user id of who introduced them.
        groups: the user ids of the contacts in each group, by the name of the group.
    """

    names: Names = field(default_factory=Names)
    blocked: frozenset[str] = frozenset()
    verified: frozenset[str] = frozenset()
    introduced_by: dict[str, str] = field(default_factory=dict)
    groups: dict[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def by_name(self) -> dict[str, str]:
        """User ids by petname."""
        return self.names.by_name

    @property
    def by_user(self) -> dict[str, str]:
        """Petnames by user id."""
        return self.names.by_user


@dataclass(frozen=True, slots=True)
class _State:
    """What was read or written last; one object, as threads of a program may share the address book.

    Attributes:
        book: the content.
        facts: what the file holds beside the names, also of users who are no contacts.
        facts_text: the sections that hold these facts; None if that is not known.
        stamp: of the file.
    """

    book: Book = field(default_factory=Book)
    facts: Book = field(default_factory=Book)
    facts_text: bytes | None = b""
    stamp: _Stamp = None


class Contacts:
    """The address book of one home.

    Attributes:
        problem: why the last `reload_if_changed` could not read the file; None if it could.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._state = _State()
        self._checked_stamp: _Stamp = None
        self.problem: UsageError | None = None

    @property
    def known(self) -> Book:
        """The content as last read, without a look at the file."""
        return self._state.book

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
        if stamp != self._state.stamp:
            self._state = replace(self._read(self._state), stamp=stamp)
        return self._state.book

    def add(self, name: str, user: str, *, introduced_by: str | None = None) -> str:
        """Give a user id a petname, and unblock it.

        Args:
            name: the petname.
            user: the user id.
            introduced_by: the user id of the contact who introduced them.

        Returns:
            The petname in its normal form.

        Raises:
            UsageError: the name or the id has a wrong form, the name stands for another user, or the user has another
                name.
        """
        user = normal_user_id(user)
        with self._locked():
            book = self.book()
            name = _checked(name, user, book)
            known = book.by_user.get(user, name)
            if known != name:
                raise UsageError(
                    f"That user is your contact already, as {known!r}.",
                    f"To call them {name!r}, run: p2pflows contacts rename {known} {name}",
                )
            introduced = {**book.introduced_by, **({user: introduced_by} if introduced_by is not None else {})}
            names = book.names if user in book.by_user else book.names.put(name, user)
            self._write(replace(book, names=names, blocked=book.blocked - {user}, introduced_by=introduced))
        return name

    def check_name(self, name: str) -> str:
        """Return a name in its normal form, if a user who is no contact yet may have it.

        Raises:
            UsageError: it has a wrong form, or stands for another user.
        """
        return _checked(name, "", self.known)

    def rename(self, old: str, new: str) -> str:
        """Give a contact another petname, and return their user id.

        Args:
            old: the petname or user id of the contact.
            new: the new petname.

        Raises:
            UnknownUser: no contact has the old name.
            UsageError: the new name has a wrong form, or stands for another user.
        """
        with self._locked():
            book = self.book()
            user = _contact(old, book)
            new = _checked(new, user, book)
            self._write(replace(book, names=book.names.put(new, user)))
        return user

    def verify(self, who: str) -> str:
        """Note that the words of a contact were compared, and return their user id.

        Raises:
            UnknownUser: no contact has that name.
        """
        with self._locked():
            book = self.book()
            user = _contact(who, book)
            self._write(replace(book, verified=book.verified | {user}))
        return user

    def remove(self, name: str) -> str:
        """Remove a contact, given by petname or user id.

        Returns:
            The user id.

        Raises:
            UnknownUser: no contact has that name.
        """
        with self._locked():
            book = self.book()
            user = _contact(name, book)
            introduced = {known: by for known, by in book.introduced_by.items() if known != user}
            groups = {group: tuple(each for each in users if each != user) for group, users in book.groups.items()}
            self._write(
                replace(
                    book,
                    names=book.names.remove(user),
                    verified=book.verified - {user},
                    introduced_by=introduced,
                    groups={group: users for group, users in groups.items() if users},
                )
            )
        return user

    def add_to_group(self, group: str, who: Sequence[str]) -> list[str]:
        """Add contacts to a group, which is made if there is none, and return the petnames of its members.

        Raises:
            UnknownUser: somebody is no contact.
            UsageError: the name has a wrong form, or there are too many members or groups.
        """
        with self._locked():
            book = self.book()
            group = petnames.check(group)
            members = tuple(dict.fromkeys([*book.groups.get(group, ()), *(_contact(name, book) for name in who)]))
            groups = {**book.groups, group: members}
            if len(members) > MAX_MEMBERS or len(groups) > MAX_GROUPS:
                raise UsageError(
                    f"There may be {MAX_GROUPS} groups of {MAX_MEMBERS} members each.", "Make a group smaller."
                )
            self._write(replace(book, groups=groups))
        return [book.by_user[user] for user in members]

    def remove_from_group(self, group: str, who: Sequence[str]) -> list[str]:
        """Remove members of a group, by default all, and return the petnames of those who stay.

        Raises:
            UnknownUser: there is no such group, or somebody is not in it.
        """
        with self._locked():
            book = self.book()
            members = members_of(group, book)
            gone = {_contact(name, book) for name in who} if who else set(members)
            if not gone <= set(members):
                raise UnknownUser(f"Not all of them are in the group {group!r}.", "See: p2pflows contacts group list")
            left = tuple(user for user in members if user not in gone)
            groups = {**book.groups, petnames.normalize(group): left}
            self._write(replace(book, groups={name: users for name, users in groups.items() if users}))
        return [book.by_user[user] for user in left]

    def block(self, user: str) -> None:
        """Block a user id."""
        with self._locked():
            book = self.book()
            self._write(replace(book, blocked=book.blocked | {user}))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Hold the lock of the file while it is changed.

        Raises:
            P2pflowsError: a file cannot be written.
        """
        try:
            with files.exclusive_lock(self._path.with_suffix(".lock")):
                yield
        except OSError as error:
            raise P2pflowsError(
                f"Cannot use {error.filename or self._path}: {error.strerror or error}.",
                "Check its permissions and disk space. Nothing was changed.",
            ) from error

    def _write(self, book: Book) -> None:
        before = self._state
        if book.names is before.book.names and book == before.book:
            return
        names, facts = book.names.with_text(), _of_contacts(replace(book, names=Names()), book.names)
        text = before.facts_text if facts == before.facts else None
        text = _text(facts) if text is None else text
        files.replace(self._path, (names.text or yaml_file.dump({"contacts": names.by_name}).encode()) + text)
        self._state = _State(replace(facts, names=names), facts, text, _stamp(self._path))

    def _read(self, before: _State) -> _State:
        """Read what has changed in the file since it had another content, or all of it where that is not clear."""
        strict_modes.check(self._path)
        hint = f"Correct {self._path}, or move it away to start with an empty address book."
        data = yaml_file.read_bytes(self._path, _WHAT, hint) or b""
        parts = contact_names.split(data)
        names = None if parts is None else _read_names(before.book.names, parts.names, hint)
        if parts is not None and names is not None:
            facts, text = before.facts, parts.others
            if text != before.facts_text:
                try:
                    content = yaml_file.load(text, _WHAT, hint)
                except UsageError:  # all of the file, so that the error names the right line
                    content = yaml_file.load(data, _WHAT, hint)
                facts = _read_facts(content or {}, hint)
        else:
            content = yaml_file.load(data, _WHAT, hint) or {}
            names, facts, text = _all_names(content, hint), _read_facts(content, hint), None
        return _State(_of_contacts(replace(facts, names=names), names), facts, text)


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
    who = petnames.normalize(who)
    if who in book.by_name:
        return book.by_name[who]
    raise UnknownUser(
        f"No contact is named {who!r}.",
        f"Meet them: p2pflows invite --for {who}; or, with their id: p2pflows contacts add {who} USER_ID",
    )


def members_of(group: str, book: Book) -> tuple[str, ...]:
    """Return the user ids of the contacts in a group.

    Raises:
        UnknownUser: there is no such group.
    """
    members = book.groups.get(petnames.normalize(group))
    if members is None:
        raise UnknownUser(f"There is no group {group!r}.", f"Make it: p2pflows contacts group add {group} CONTACT...")
    return members


def _checked(name: str, user: str, book: Book) -> str:
    """Return a petname in its normal form, if a user may have it."""
    name = petnames.normalize(name)
    if name in _RESERVED or topics.is_user_id(name):
        raise UsageError(f"{name!r} cannot name a contact.", "Choose another name.")
    if book.by_name.get(name, user) != user:
        raise UsageError(
            f"{name!r} already stands for {book.by_name[name]}.",
            f"Choose another name, or first run: p2pflows contacts remove {name}",
        )
    name = petnames.check(name)
    twin = next((other for other in petnames.lookalikes(name, book.by_name) if book.by_name[other] != user), None)
    if twin is not None:
        raise UsageError(
            f"{name!r} looks like {twin!r}, which names another contact.", "Choose a name that you cannot mix up."
        )
    return name


def _contact(who: str, book: Book) -> str:
    """Return the user id of a contact, given by petname or user id."""
    user = book.by_name.get(petnames.normalize(who), who.lower())
    if user not in book.by_user:
        raise UnknownUser(f"No contact is named {who!r}.", "See: p2pflows contacts list")
    return user


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


def _of_contacts(facts: Book, names: Names) -> Book:
    """Return facts without those about users who are no contacts."""
    known = names.by_user
    return replace(
        facts,
        verified=frozenset(user for user in facts.verified if user in known),
        introduced_by={user: by for user, by in facts.introduced_by.items() if user in known},
        groups={group: tuple(user for user in users if user in known) for group, users in facts.groups.items()},
    )


def _text(facts: Book) -> bytes:
    """Return the sections beside the names."""
    content: dict[str, object] = {}
    about: dict[str, dict[str, object]] = {}
    for user in sorted(facts.verified | facts.introduced_by.keys()):
        about[user] = {"verified": True} if user in facts.verified else {}
        if user in facts.introduced_by:
            about[user]["introduced_by"] = facts.introduced_by[user]
    if about:
        content["about"] = about
    if facts.groups:
        content["groups"] = {group: list(users) for group, users in sorted(facts.groups.items())}
    if facts.blocked:
        content["blocked"] = sorted(facts.blocked)
    return yaml_file.dump(content).encode() if content else b""


def _read_names(before: Names, text: bytes, hint: str) -> Names | None:
    """Read the section of the names, or what has changed in it; return None if PyYAML has to read it."""
    try:
        return before.read_again(text) or Names.read(text)
    except ValueError as error:
        raise _wrong_entry(error.args[0], hint) from None


def _all_names(content: object, hint: str) -> Names:
    names = content.get("contacts") or {} if isinstance(content, dict) else None
    if not isinstance(names, dict):
        raise UsageError("The contacts file has an unknown form.", hint)
    for name, user in names.items():
        if not isinstance(name, str) or not isinstance(user, str):
            raise _wrong_entry(name, hint)
    try:
        return Names.of(names)
    except ValueError as error:
        raise _wrong_entry(error.args[0], hint) from None


def _wrong_entry(name: object, hint: str) -> UsageError:
    return UsageError(f"The contacts file has a wrong entry: {name!r}.", hint)


def _read_facts(content: object, hint: str) -> Book:
    """Return what a file holds beside the names."""
    blocked = content.get("blocked") or [] if isinstance(content, dict) else None
    if not isinstance(content, dict) or not isinstance(blocked, list):
        raise UsageError("The contacts file has an unknown form.", hint)
    blocked_ids = [str(user).lower() for user in blocked]  # YAML reads an id of decimal digits as a number
    for user in blocked_ids:
        if not topics.is_user_id(user):
            raise UsageError(f"The contacts file blocks {user!r}, which is not a user id.", hint)
    verified, introduced_by = _read_about(content.get("about") or {}, hint)
    groups = _read_groups(content.get("groups") or {}, hint)
    return Book(Names(), frozenset(blocked_ids), verified, introduced_by, groups)


def _read_groups(content: object, hint: str) -> dict[str, tuple[str, ...]]:
    if not isinstance(content, dict) or not all(isinstance(users, list) for users in content.values()):
        raise UsageError("The contacts file has groups of an unknown form.", hint)
    return {
        petnames.normalize(str(group)): tuple(str(each).lower() for each in users) for group, users in content.items()
    }


def _read_about(content: object, hint: str) -> tuple[frozenset[str], dict[str, str]]:
    """Return who is verified, and who introduced whom; what a later release adds is ignored."""
    if not isinstance(content, dict) or not all(isinstance(known, dict) for known in content.values()):
        raise UsageError("The contacts file has an unknown form.", hint)
    about = {str(user).lower(): known for user, known in content.items()}
    verified = frozenset(user for user, known in about.items() if known.get("verified") is True)
    introduced = {
        user: str(known["introduced_by"]).lower() for user, known in about.items() if "introduced_by" in known
    }
    for user in [*about, *introduced.values()]:
        if not topics.is_user_id(user):
            raise UsageError(f"The contacts file says something about {user!r}, which is not a user id.", hint)
    return verified, introduced
