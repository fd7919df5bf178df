"""A power cut leaves everything that was synced, and any sectors of the rest."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random

from simulation.disk import Create, Delete, Event, Sync, SyncFolder, Truncate, Write
from simulation.power_cut import SECTOR_BYTES, Remains

OLD, NEW = b"o" * 1_000, b"n" * 1_000
BEGIN = (Create("a"), Write("a", 0, OLD), Sync("a"), SyncFolder())


def outcomes(*events: Event, before: Sequence[Event] = BEGIN) -> set[bytes | None]:
    """Return what one file may hold after a cut; None if it may be gone."""
    found = set()
    for seed in range(300):
        remains = Remains()
        remains.follow([*before, *events])
        found.add(remains.after_cut(Random(seed)).get("a"))  # noqa: S311 - decides what is lost
    return found


def test_what_was_synced_is_there() -> None:
    """Neither bytes nor names are lost that were synced."""
    assert outcomes() == {OLD}
    assert outcomes(Write("a", 0, NEW), Sync("a")) == {NEW}
    assert outcomes(Truncate("a", 10), Sync("a")) == {OLD[:10]}
    assert outcomes(Delete("a"), SyncFolder()) == {None}


def test_a_write_may_be_torn_between_sectors() -> None:
    """Each sector of a write is there or not."""
    first, second = slice(0, SECTOR_BYTES), slice(SECTOR_BYTES, None)
    assert outcomes(Write("a", 0, NEW)) == {one[first] + other[second] for one in (OLD, NEW) for other in (OLD, NEW)}


def test_writes_may_arrive_in_any_order() -> None:
    """Of two writes to one place the first may win; what lies before a lone write behind the end is zeros."""
    assert outcomes(Write("a", 0, b"1"), Write("a", 0, b"2")) == {end + OLD[1:] for end in (b"o", b"1", b"2")}
    assert outcomes(Write("a", 1_002, b"!")) == {OLD, OLD + b"\0\0!"}
    assert outcomes(Truncate("a", 0), Write("a", 0, b"x")) >= {OLD, b"", b"x", b"x" + OLD[1:]}


def test_names_may_be_lost() -> None:
    """A file that was made, removed or made again may be there or not until its folder is synced."""
    assert outcomes(Create("a"), Write("a", 0, NEW), Sync("a"), before=()) == {None, NEW}
    assert outcomes(Delete("a")) == {None, OLD}
    assert outcomes(Delete("a"), Create("a"), Write("a", 0, NEW), Sync("a")) == {OLD, NEW}
