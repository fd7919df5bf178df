"""The owner's log: nobody can fill it so that the owner misses something else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.lone_daemon import LoneDaemon, Peer

from p2pflowsd.owners_log import MAX_NOTES_PER_DAY, MAX_NOTES_PER_INTERVAL, REPEAT_INTERVAL_S


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[LoneDaemon]:
    """Bob's daemon."""
    daemon = LoneDaemon(tmp_path)
    yield daemon
    daemon.journal.close()


def note(bob: LoneDaemon, what: str, peer: str, detail: str, count: int = 1) -> None:
    """Note something, with a number if it is noted several times."""

    def note_all() -> None:
        for n in range(count):
            bob.node._log.note(what, peer, "x", f"{detail} {n}")

    bob.do(note_all)


def entries_about(bob: LoneDaemon, peer: str) -> list[str]:
    """Return what the log says about a user."""
    return [row.detail for row in bob.journal.log.newest(10_000) if row.peer == peer]


def test_strangers_who_fill_the_log_hide_nothing_of_the_daemon_itself(bob: LoneDaemon) -> None:
    """While strangers fill their part, a failing disk and a worker that hangs are still noted."""
    for n in range(3):
        note(bob, "refused", Peer(bob, 66 + n).user, "A bundle was refused.", MAX_NOTES_PER_INTERVAL)
    note(bob, "refused", "", "A delivery was refused.")
    note(bob, "disk", "", "The journal could not be written")
    assert entries_about(bob, "") == ["The journal could not be written 0"]


def test_a_day_of_refusals_leaves_what_was_noted_before(bob: LoneDaemon) -> None:
    """Whoever causes other entries all day fills a part of the log, and no more; the next day they are noted again."""
    mallory, ann = Peer(bob, 66, "mallory"), Peer(bob, 65, "ann")
    note(bob, "not_served", ann.user, "missing")
    minutes = 2 * MAX_NOTES_PER_DAY // MAX_NOTES_PER_INTERVAL
    for minute in range(minutes):
        note(bob, "not_served", mallory.user, f"minute {minute}:", MAX_NOTES_PER_INTERVAL)
        bob.timeline.sleep(REPEAT_INTERVAL_S)
    about = entries_about(bob, mallory.user)
    assert len(about) == MAX_NOTES_PER_DAY + 1
    assert about[-1] == "Further entries within this day are not written."
    assert len(entries_about(bob, ann.user)) == 1
    bob.timeline.sleep(86_400)
    note(bob, "not_served", mallory.user, "the next day")
    assert entries_about(bob, mallory.user)[-1] == "the next day 0"
