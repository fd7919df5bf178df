"""The address book: its rules, and that no change is lost."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest
import yaml

from p2pflows.contact_names import Names
from p2pflows.contacts import Book, Contacts, normal_user_id, resolve
from p2pflows.errors import P2pflowsError, UnknownUser, UsageError

ALICE, BOB = "a1" * 32, "b2" * 32


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of the address book in a new home."""
    return tmp_path / "home" / "contacts.yaml"


@pytest.fixture
def contacts(path: Path) -> Contacts:
    """An empty address book."""
    return Contacts(path)


def test_without_a_file_nobody_is_known(contacts: Contacts) -> None:
    """A new home has an empty address book; reading it does not create the file."""
    assert contacts.book() == Book()


def test_a_contact_is_found_by_name_and_by_user_id(contacts: Contacts, path: Path) -> None:
    """A contact is stored in the file, where other processes find it."""
    contacts.add("alice", ALICE)
    contacts.add("bob", BOB.upper())
    for book in (contacts.book(), Contacts(path).book()):
        assert book.by_name == {"alice": ALICE, "bob": BOB}
        assert book.by_user == {ALICE: "alice", BOB: "bob"}


def test_adding_twice_changes_nothing(contacts: Contacts) -> None:
    """Adding the same name for the same user again is not a conflict."""
    contacts.add("alice", ALICE)
    contacts.add("alice", ALICE)
    assert contacts.book().by_name == {"alice": ALICE}


def test_a_name_is_not_taken_from_its_user(contacts: Contacts) -> None:
    """A petname of one user cannot be given to another."""
    contacts.add("alice", ALICE)
    with pytest.raises(UsageError, match="already stands for"):
        contacts.add("alice", BOB)
    assert contacts.book().by_name == {"alice": ALICE}


def test_adding_never_renames_a_contact_silently(contacts: Contacts) -> None:
    """A known user keeps their petname until the owner renames them."""
    contacts.add("alice", ALICE)
    with pytest.raises(UsageError, match="your contact already, as 'alice'") as error:
        contacts.add("alicia", ALICE)
    assert "contacts rename alice alicia" in error.value.hint
    assert contacts.book().by_name == {"alice": ALICE}
    assert contacts.rename("alice", "alicia") == ALICE
    assert contacts.book().by_name == {"alicia": ALICE}


def test_a_new_name_must_be_free(contacts: Contacts) -> None:
    """Renaming takes no name from another contact, and finds only contacts."""
    contacts.add("alice", ALICE)
    contacts.add("bob", BOB)
    with pytest.raises(UsageError, match="already stands for"):
        contacts.rename("bob", "alice")
    with pytest.raises(UnknownUser):
        contacts.rename("carol", "caroline")
    assert contacts.book().by_name == {"alice": ALICE, "bob": BOB}


def test_what_is_known_of_a_contact_is_kept_until_they_are_removed(contacts: Contacts, path: Path) -> None:
    """That a contact was verified or introduced stays through other changes, and ends with the contact."""
    contacts.add("alice", ALICE)
    contacts.verify("alice")
    contacts.add("bob", BOB, introduced_by=ALICE)
    contacts.rename("alice", "alicia")
    contacts.block("c3" * 32)
    for book in (contacts.book(), Contacts(path).book()):
        assert book == Book(
            Names.of({"alicia": ALICE, "bob": BOB}), frozenset({"c3" * 32}), frozenset({ALICE}), {BOB: ALICE}
        )
    contacts.remove("alicia")
    contacts.remove("bob")
    assert contacts.book() == Book(blocked=frozenset({"c3" * 32}))


def test_an_older_release_reads_a_newer_file(contacts: Contacts, path: Path) -> None:
    """What is known of a contact stands beside the names, which keep the form that older releases read."""
    contacts.add("alice", ALICE)
    contacts.verify("alice")
    assert yaml.safe_load(path.read_text()) == {"contacts": {"alice": ALICE}, "about": {ALICE: {"verified": True}}}


@pytest.mark.parametrize("name", ["", "a/b", "a b", "a,b", "a" * 65, "me", "contacts", "anyone", ALICE, "a\n"])
def test_a_name_that_means_something_else_is_refused(contacts: Contacts, name: str) -> None:
    """A petname cannot be confused with an address, a rule, `me` or a user id."""
    with pytest.raises(UsageError, match="cannot name a contact"):
        contacts.add(name, BOB)


@pytest.mark.parametrize("user", ["", "bob", "a1" * 31, "a1" * 33, "g1" * 32, "0x" + "a1" * 31])
def test_a_malformed_user_id_is_refused(contacts: Contacts, user: str) -> None:
    """A user id is 64 hex digits."""
    with pytest.raises(UsageError, match="is not a user id"):
        contacts.add("bob", user)


def test_a_user_id_may_be_pasted_in_capitals_and_with_space(contacts: Contacts) -> None:
    """Any such form is stored in the normal form."""
    contacts.add("alice", f" {ALICE.upper()}\n")
    assert contacts.book().by_name == {"alice": ALICE}
    assert normal_user_id(ALICE.upper()) == ALICE


def test_a_removed_contact_is_gone(contacts: Contacts) -> None:
    """Removing a contact, by name or by user id, does not affect the others."""
    contacts.add("alice", ALICE)
    contacts.add("bob", BOB)
    assert contacts.remove("alice") == ALICE
    assert contacts.book().by_name == {"bob": BOB}
    assert contacts.remove(BOB) == BOB
    assert contacts.book().by_name == {}


def test_a_file_without_contacts_says_so_to_every_reader(contacts: Contacts, path: Path) -> None:
    """The section is an empty mapping, not null."""
    contacts.add("alice", ALICE)
    contacts.remove("alice")
    assert yaml.safe_load(path.read_text()) == {"contacts": {}}


def test_removing_an_unknown_contact_is_an_error(contacts: Contacts) -> None:
    """An unknown name cannot be removed."""
    with pytest.raises(UnknownUser, match="No contact is named"):
        contacts.remove("carol")


def test_a_blocked_user_stays_blocked_until_added(contacts: Contacts, path: Path) -> None:
    """Blocked users are stored beside the contacts; adding one as a contact unblocks it."""
    contacts.add("alice", ALICE)
    contacts.block(BOB)
    assert Contacts(path).book().blocked == {BOB}
    contacts.add("bob", BOB)
    assert Contacts(path).book() == Book(Names.of({"alice": ALICE, "bob": BOB}))


def test_what_changes_nothing_writes_nothing(contacts: Contacts, path: Path) -> None:
    """The daemon blocks a user at once and again in a batch; the second time costs no write."""
    contacts.add("alice", ALICE)
    contacts.verify("alice")
    contacts.block(BOB)
    before = path.stat()
    contacts.block(BOB)
    contacts.add("alice", ALICE)
    contacts.verify("alice")
    contacts.rename("alice", "alice")
    assert path.stat() == before


def test_a_user_with_two_names_loses_both(path: Path) -> None:
    """As only a file that was edited by hand can have it; renaming leaves one name, too."""
    for change in ("remove", "rename"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"contacts:\n  ali: {ALICE}\n  bob: {BOB}\n  alice: {ALICE}\n")
        path.chmod(0o600)
        contacts = Contacts(path)
        contacts.remove("ali") if change == "remove" else contacts.rename("ali", "al")
        left = {"bob": BOB} if change == "remove" else {"bob": BOB, "al": ALICE}
        assert contacts.known.by_name == Contacts(path).book().by_name == left


def test_a_change_by_another_process_is_seen(contacts: Contacts, path: Path) -> None:
    """The daemon sees a change that the command line has made."""
    contacts.add("alice", ALICE)
    Contacts(path).add("bob", BOB)
    assert contacts.book().by_name == {"alice": ALICE, "bob": BOB}
    path.unlink()
    assert contacts.book() == Book()


def test_the_names_stay_the_same_object_when_something_else_changes(contacts: Contacts, path: Path) -> None:
    """So the daemon, whose rights follow the names, does not look at all of them because somebody was denied."""
    contacts.add("alice", ALICE)
    reader = Contacts(path)
    names = reader.book().names
    contacts.block(BOB)
    assert reader.book().blocked == {BOB}
    assert reader.book().names is names
    assert contacts.book().names.text == names.text


def test_nothing_is_lost_when_many_write_at_once(path: Path) -> None:
    """Each writer keeps the changes of the others."""
    users = {f"user{n}": f"{n:02x}" * 32 for n in range(20)}
    threads = [threading.Thread(target=Contacts(path).add, args=item) for item in users.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Contacts(path).book().by_name == users


def test_the_file_is_private_and_leaves_no_drafts(contacts: Contacts, path: Path) -> None:
    """Only its owner can read the address book."""
    contacts.add("alice", ALICE)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {file.name for file in path.parent.iterdir()} == {"contacts.yaml", "contacts.lock"}


@pytest.mark.parametrize("name", ["no", "on", "1234", "1e5", "null", "-"])
def test_names_that_look_like_other_yaml_values_survive(contacts: Contacts, path: Path, name: str) -> None:
    """A petname stays a text, even if YAML would read it as another type."""
    contacts.add(name, "1" * 64)
    assert Contacts(path).book().by_name == {name: "1" * 64}


@pytest.mark.parametrize(
    "content",
    [
        "contacts: [",
        "- alice",
        "contacts: [alice]",
        "blocked: 5",
        "contacts: {alice: 5}",
        "contacts: {a/b: " + ALICE + "}",
        "contacts: {alice: " + ALICE.upper() + "}",
        "contacts: {alice: 2024-13-01}",
        "contacts: {alice: " + "1" * 5000 + "}",
        "contacts: " + "{a: " * 5000,
        "about: [1]",
        "about: {" + ALICE + ": yes}",
        "about: {alice: {verified: true}}",
        "about: {" + ALICE + ": {introduced_by: bob}}",
        "blocked: [mallory]",
        "blocked: [" + BOB + ", mallory]",
        "blocked: [2024-01-01]",
        "blocked: [null]",
        b"\xff\xfe",
    ],
)
def test_a_malformed_file_is_refused_and_kept(path: Path, content: str | bytes) -> None:
    """The error names the file, which is never overwritten."""
    path.parent.mkdir()
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as error:
        Contacts(path).book()
    assert str(path) in error.value.hint
    with pytest.raises(UsageError):
        Contacts(path).add("bob", BOB)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())


def test_the_error_names_the_line_of_the_file(path: Path) -> None:
    """Although the names are not read with the rest."""
    path.parent.mkdir()
    path.write_text(f"contacts:\n  alice: {ALICE}\nabout:\n  x: y\n   z: y\n")
    with pytest.raises(UsageError, match="in line 5"):
        Contacts(path).book()


def test_a_user_id_that_was_blocked_in_capitals_is_blocked(path: Path) -> None:
    """A blocked user id that was edited by hand may have capitals, or be all digits, which YAML reads as a number."""
    path.parent.mkdir()
    path.write_text(f"blocked: [{BOB.upper()}, {'1' * 64}]\n")
    assert Contacts(path).book().blocked == {BOB, "1" * 64}


def test_a_name_among_the_blocked_is_an_error(path: Path) -> None:
    """An entry that would block nobody is an error that names it."""
    path.parent.mkdir()
    path.write_text("blocked: [mallory]\n")
    with pytest.raises(UsageError, match="blocks 'mallory', which is not a user id"):
        Contacts(path).book()


@pytest.mark.parametrize("content", ["", "contacts:", "contacts: {}\nblocked: []", "# nobody yet"])
def test_an_empty_file_is_an_empty_book(path: Path, content: str) -> None:
    """A file without contacts is valid."""
    path.parent.mkdir()
    path.write_text(content)
    assert Contacts(path).book() == Book()


def test_the_file_can_be_read_by_people(contacts: Contacts, path: Path) -> None:
    """The file is plain YAML: names and user ids, sorted."""
    contacts.add("bob", BOB)
    contacts.add("alice", ALICE)
    assert yaml.safe_load(path.read_text()) == {"contacts": {"alice": ALICE, "bob": BOB}}
    assert path.read_text().index("alice") < path.read_text().index("bob")


@pytest.mark.parametrize(
    ("who", "user"), [("", "me-id"), ("me", "me-id"), ("alice", ALICE), (BOB, BOB), (BOB.upper(), BOB)]
)
def test_an_address_is_a_name_a_user_id_or_me(who: str, user: str) -> None:
    """A petname, a user id and `me` are all accepted for a user."""
    assert resolve(who, Book(Names.of({"alice": ALICE})), "me-id") == user


def test_an_unknown_name_says_how_to_add_it() -> None:
    """An unknown name is an error of the kind unknown_user."""
    with pytest.raises(UnknownUser) as error:
        resolve("carol", Book(Names.of({"alice": ALICE})), "me-id")
    assert error.value.hint == (
        "Meet them: p2pflows invite --for carol; or, with their id: p2pflows contacts add carol USER_ID"
    )


def test_a_disk_that_takes_no_change_is_told_as_such(
    contacts: Contacts, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error names the file, and the contacts are as they were."""

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    contacts.add("alice", ALICE)
    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        for change in (lambda: contacts.add("bob", BOB), lambda: contacts.block(BOB), lambda: contacts.remove("alice")):
            with pytest.raises(P2pflowsError, match=f"Cannot use {path}: No space left"):
                change()
    assert contacts.book() == Contacts(path).book()
    assert contacts.book().by_name == {"alice": ALICE}
    contacts.add("bob", BOB)
