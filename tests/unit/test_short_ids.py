"""Ids in short: which texts may stand for an id, and for which."""

from __future__ import annotations

import pytest

from p2pflows import short_ids

WHOLE = "01a203e1dd7879e9bfd6a6e1454ea5d6"


@pytest.mark.parametrize("part", ["01a2", "a5d6", "01a203e1dd", "e1454ea5d6", WHOLE])
def test_a_beginning_or_an_end_stands_for_an_id(part: str) -> None:
    """Of four digits or more, up to the whole id."""
    assert short_ids.is_id_part(part)
    assert short_ids.matches(part, WHOLE)


@pytest.mark.parametrize("part", ["", "01a", "5d6", "*", "01a*", "????", "[0-9]", "g1a2", "01 a2", "٠١٢٣", WHOLE + "0"])
def test_what_is_no_part_of_an_id_stands_for_none(part: str) -> None:
    """Too few digits, too many, or something else."""
    assert not short_ids.is_id_part(part)
    assert not short_ids.matches(part, WHOLE)


@pytest.mark.parametrize("part", ["03e1", "79e9bf", "01a3", "a5d7"])
def test_other_digits_stand_for_another_id(part: str) -> None:
    """A piece from the middle is neither beginning nor end."""
    assert short_ids.is_id_part(part)
    assert not short_ids.matches(part, WHOLE)


def test_what_a_person_types_is_normalized() -> None:
    """Upper case and spaces do not matter."""
    assert short_ids.normalize("  01A2 \n") == "01a2"
