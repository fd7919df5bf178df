"""The ids of open messages, found by what people see of them."""

from __future__ import annotations

import pytest

from p2pflowsd.sending.open_ids import OpenIds

ONE = "0" * 24 + "12345678"
TWO = "0" * 24 + "12349999"
SAME_END = "1" * 24 + "ffff5678"


@pytest.fixture
def ids() -> OpenIds:
    """Three of them."""
    made = OpenIds()
    for each in (ONE, TWO, SAME_END):
        made.add(each)
    return made


@pytest.mark.parametrize(
    ("part", "found"),
    [
        ("5678", [ONE, SAME_END]), ("1234", [ONE, TWO]), ("12345678", [ONE]), ("345678", [ONE]), (ONE, [ONE]),
        ("123456", [ONE]), ("123", []), ("0000", []), ("99995678", []), ("12345678 ", []), ("", []), ("12*4", []),
    ],
)  # fmt: skip
def test_an_id_is_found_by_its_end_or_by_the_part_that_is_shown(ids: OpenIds, part: str, found: list[str]) -> None:
    """Each once, and nothing by its beginning, or by what is no part of an id."""
    assert sorted(ids.matching(part)) == sorted(found)


def test_what_has_ended_is_forgotten(ids: OpenIds) -> None:
    """The others are found as before, and nothing is left of the last one."""
    for each in (ONE, ONE, "f" * 32):
        ids.remove(each)
    assert (ids.matching("5678"), ids.matching("1234")) == ([SAME_END], [TWO])
    for each in (TWO, SAME_END):
        ids.remove(each)
    assert not ids._by_end
    assert not ids._by_shown
