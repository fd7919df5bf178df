"""Petnames: letters of every alphabet, and no two names that look alike."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import pytest

from p2pflows import petnames
from p2pflows.contacts import Contacts, resolve
from p2pflows.errors import UsageError

ALICE, BOB = "a1" * 32, "b2" * 32


@pytest.mark.parametrize(
    "name", ["Zoë", "Søren", "Ελένη", "Алиса", "太郎", "まさこ-2", "김민준", "नेहा", "محمد", "שרה", "Đặng", "bob_2"]
)
def test_people_may_be_called_by_their_names(name: str) -> None:
    """Letters are Unicode letters."""
    assert petnames.check(name) == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("b\u043eb", "mixes letters of several alphabets"),
        ("\u0430lice", "mixes letters of several alphabets"),
        ("\uff42\uff4f\uff42", "plain letters|cannot name"),
        ("bob\u200b", "cannot name"),
        ("\u202ebob", "cannot name"),
        ("bob\u0660", "cannot name"),
        ("\u0301bob", "cannot name"),
        ("b" + "\u0301" * 4, "cannot name"),
        ("bob\N{SLIGHTLY SMILING FACE}", "cannot name"),
        ("\ufb01n", "cannot name"),
    ],
)
def test_a_name_that_deceives_is_refused(name: str, why: str) -> None:
    """Mixed alphabets, hidden characters, other digits, and letters in disguise name nobody."""
    with pytest.raises(UsageError, match=why):
        petnames.check(name)


@pytest.mark.parametrize(
    ("name", "other"), [("\u0430\u0441\u0435", "ace"), ("bi11", "bill"), ("AIice", "Alice"), ("B0B", "BOB")]
)
def test_a_name_that_looks_like_that_of_another_contact_is_refused(tmp_path: Path, name: str, other: str) -> None:
    """Two contacts never have names that nobody can tell apart."""
    contacts = Contacts(tmp_path / "contacts.yaml")
    contacts.add(other, ALICE)
    with pytest.raises(UsageError, match=f"looks like '{other}'"):
        contacts.add(name, BOB)
    contacts.rename(other, name)
    assert contacts.book().by_name == {name: ALICE}


def test_a_name_is_found_however_the_keyboard_writes_its_accents(tmp_path: Path) -> None:
    """Joined and separate accents are the same name, and the file shows the letters."""
    contacts = Contacts(tmp_path / "contacts.yaml")
    contacts.add(unicodedata.normalize("NFD", "Zoë"), ALICE)
    assert "Zoë" in (tmp_path / "contacts.yaml").read_text(encoding="utf-8")
    for form in ("NFC", "NFD"):
        assert resolve(unicodedata.normalize(form, "Zoë"), contacts.book(), BOB) == ALICE
