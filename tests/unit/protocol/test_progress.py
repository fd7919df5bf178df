"""Reports of how far a call has got: where a piece of a text belongs, and what a reader notices."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from p2pflows.protocol.progress import MAX_CHOICES, RESTART, Numbering, Reader, joined

TEXTS = st.lists(st.tuples(st.integers(0, 2), st.text(min_size=1, max_size=5)), max_size=12)
"""Pieces of texts, each with the choice that it belongs to."""


def numbered(pieces: list[tuple[int, str]]) -> list[dict[str, Any]]:
    """Return the reports of pieces, as one run numbers them."""
    numbering = Numbering()
    return [numbering.number({"delta": text, "choice": choice}) for choice, text in pieces]


@given(TEXTS, TEXTS, st.data())
def test_a_reader_never_takes_two_runs_or_a_text_with_holes_for_one_whole_text(
    before: list[tuple[int, str]], after: list[tuple[int, str]], data: st.DataObject
) -> None:
    """Whatever is lost of a run and of the one that follows it, and also if the report between them is lost."""
    reports = [*numbered(before), RESTART, *numbered(after)]
    kept = data.draw(st.lists(st.booleans(), min_size=len(reports), max_size=len(reports)))
    reader, texts, whole = Reader(), dict[int, str](), dict[int, bool]()
    for report, is_kept in zip(reports, kept, strict=True):
        if not is_kept:
            continue
        piece = reader.read(report)
        if piece.restarts and not piece.text:
            texts.clear()
            whole.clear()
        if piece.text:
            text = "" if piece.restarts else texts.get(piece.choice, "")
            whole[piece.choice] = (piece.restarts or whole.get(piece.choice, True)) and not piece.skips
            texts[piece.choice] = text + piece.text
    for choice, text in texts.items():
        runs = ["".join(piece for each, piece in run if each == choice) for run in (before, after)]
        # A run that was lost from the start may go on where the one before ended; `at` cannot tell them apart then.
        is_seamless = not kept[len(before)]
        assert not whole[choice] or is_seamless or any(run.startswith(text) for run in runs)


def test_what_a_flow_numbers_itself_stays_as_it_is() -> None:
    """So does what is no piece of a text; a text that begins again is numbered from 0."""
    numbering = Numbering()
    given: list[dict[str, Any]] = [
        {"delta": "ab"},
        {"delta": "c"},
        {"step": 1},
        {"delta": "d", "restart": True},
        {"delta": "e", "at": 9},
    ]
    wanted: list[dict[str, int]] = [{"at": 0}, {"at": 2}, {}, {"at": 0}, {}]
    assert [numbering.number(report) for report in given] == [
        {**report, **more} for report, more in zip(given, wanted, strict=True)
    ]


def test_a_reader_keeps_a_limited_number_of_choices() -> None:
    """A neighbour who names ever other choices fills no memory."""
    reader = Reader()
    for choice in range(MAX_CHOICES + 50):
        reader.read({"delta": "x", "choice": choice})
    assert len(reader._lengths) == MAX_CHOICES


@given(st.text(max_size=5), st.text(max_size=5))
def test_pieces_that_follow_each_other_are_joined(one: str, other: str) -> None:
    """The reader sees the same text."""
    first, second = numbered([(1, one), (1, other)])
    assert joined(first, second, 10) == {"delta": one + other, "choice": 1, "at": 0}


def test_only_pieces_of_one_text_are_joined() -> None:
    """Not what belongs elsewhere, begins again, is something else, or would be too long."""
    first = {"delta": "ab", "at": 0}
    others: list[dict[str, Any]] = [
        {"delta": "c", "at": 3},
        {"delta": "c", "at": 2, "choice": 1},
        {"delta": "c", "at": 0, "restart": True},
        {"delta": "c", "at": 2, "tokens": 3},
        {"step": 1},
        {"delta": "c" * 9, "at": 2},
    ]
    assert [joined(first, other, 10) for other in others] == [None] * len(others)
    assert joined({"step": 1}, first, 10) is None
    assert joined({"delta": "ab"}, {"delta": "c"}, 10) is None
    assert joined({"delta": "ab", "at": "0"}, {"delta": "c", "at": "02"}, 10) is None
