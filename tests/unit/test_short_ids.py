"""Ids in short: which texts may stand for an id, and for which."""

from __future__ import annotations

import contextlib
import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows import short_ids

WHOLE = "01a203e1dd7879e9bfd6a6e1454ea5d6"


@pytest.mark.parametrize("part", ["01a2", "a5d6", "01a203e1dd", "e1454ea5d6", "454e", "454ea5d", WHOLE])
def test_a_beginning_or_an_end_stands_for_an_id(part: str) -> None:
    """Of four digits or more, up to the whole id; or the beginning of the digits that are shown, 454ea5d6."""
    assert short_ids.is_id_part(part)
    assert short_ids.matches(part, WHOLE)


@pytest.mark.parametrize("part", ["", "01a", "5d6", "*", "01a*", "????", "[0-9]", "g1a2", "01 a2", "٠١٢٣", WHOLE + "0"])
def test_what_is_no_part_of_an_id_stands_for_none(part: str) -> None:
    """Too few digits, too many, or something else."""
    assert not short_ids.is_id_part(part)
    assert not short_ids.matches(part, WHOLE)


@pytest.mark.parametrize("part", ["03e1", "79e9bf", "01a3", "a5d7", "54ea"])
def test_other_digits_stand_for_another_id(part: str) -> None:
    """A piece from the middle is neither beginning nor end."""
    assert short_ids.is_id_part(part)
    assert not short_ids.matches(part, WHOLE)


def test_what_a_person_types_is_normalized() -> None:
    """Upper case and spaces do not matter."""
    assert short_ids.normalize("  01A2 \n") == "01a2"


@given(st.sampled_from([*range(1, 33)]), st.text("0123456789abcdefg", max_size=33))
def test_sqlite_finds_what_stands_for_an_id(cut: int, other: str) -> None:
    """The patterns for SQLite and `matches` agree."""
    with contextlib.closing(sqlite3.connect(":memory:")) as db:
        for part in (WHOLE[:cut], WHOLE[-cut:], WHOLE[cut:], WHOLE[24 : 24 + cut], other):
            found = any(
                db.execute("SELECT ? GLOB ?", (WHOLE, pattern)).fetchone()[0] for pattern in short_ids.globs(part)
            )
            assert found == short_ids.matches(part, WHOLE)


def test_candidates_are_listed_so_that_they_differ() -> None:
    """By their last digits if these differ, else whole; and not too many."""
    others = [WHOLE[:-1] + digit for digit in "789"]
    assert short_ids.name_all([WHOLE, *others]) == "454ea5d6, 454ea5d7, 454ea5d8, 454ea5d9"
    twin = "ff" + WHOLE[2:]
    assert short_ids.name_all([WHOLE, twin]) == f"{WHOLE}, {twin}"
    many = [WHOLE[:-2] + f"{number:02x}" for number in range(9)]
    assert short_ids.name_all(many).endswith("454ea504 and 4 more")
