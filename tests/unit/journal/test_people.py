"""The tables of how people meet: each statement names its rows, and changes no others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.invitations import MAX_ENDPOINTS_CHARS
from p2pflowsd.journal.rows import IntroductionRow, InvitationRow, MeetingRow

ANN, BOB, CID = "a" * 64, "b" * 64, "c" * 64
FIRST, SECOND = "1" * 32, "2" * 32


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal with two invitations, each used by two users, and introductions by two."""
    journal = Journal(tmp_path / "journal.sqlite3", ANN, NoFaults())
    for invitation in (FIRST, SECOND):
        journal.invitations.add(InvitationRow(0, invitation, b"secret", "", "", 2, 0, 1, 100, 0))
        for peer in (BOB, CID):
            journal.meetings.add(MeetingRow(0, invitation, peer, "name", "", "invited", 5))
    for by, peer in ((ANN, BOB), (ANN, CID), (BOB, CID)):
        journal.introductions.add(IntroductionRow(0, peer, by, "name", 5), 10)
    yield journal
    journal.close()


def test_an_invitation_is_used_and_revoked_alone(journal: Journal) -> None:
    """The other one stays as it is."""
    first, second = journal.invitations.all()
    assert journal.invitations.count_open(50) == 2
    journal.invitations.use(first.row_id)
    journal.invitations.revoke(second.row_id, 7)
    assert [(row.used, row.revoked) for row in journal.invitations.all()] == [(1, 0), (0, 7)]
    assert journal.invitations.count_open(50) == 1
    journal.invitations.use(first.row_id)
    assert journal.invitations.count_open(50) == 0
    assert journal.invitations.find(SECOND) == second._replace(revoked=7)
    assert journal.invitations.matching(FIRST[:8]) == [first._replace(used=2)]


def test_an_invitation_that_has_ended_is_not_open(journal: Journal) -> None:
    """At its last moment, and after it."""
    assert [journal.invitations.count_open(now) for now in (99, 100)] == [2, 0]


def test_a_meeting_is_stored_once(journal: Journal) -> None:
    """A user may use several invitations, and each of them once."""
    again = MeetingRow(0, FIRST, BOB, "other", "", "invited", 9)
    assert journal.meetings.add(again) is None
    stored = journal.meetings.add(again._replace(invitation="3" * 32))
    assert stored is not None
    assert journal.meetings.get(stored.row_id) == stored


def test_a_meeting_is_found_and_changed_alone(journal: Journal) -> None:
    """By its number, or by invitation and user."""
    bob, cid = journal.meetings.of(SECOND)
    assert (bob.peer, cid.peer, bob.invitation) == (BOB, CID, SECOND)
    assert journal.meetings.find(SECOND, CID) == journal.meetings.get(cid.row_id) == cid
    assert len(journal.meetings.unfinished()) == 4
    journal.meetings.set_added(cid.row_id, "cid")
    assert journal.meetings.set_words(cid.row_id, "five words")
    assert not journal.meetings.set_words(cid.row_id, "other words")
    assert journal.meetings.of(SECOND) == [bob, cid._replace(added=1, name="cid", words="five words")]
    assert len(journal.meetings.unfinished()) == 3
    journal.meetings.set_added(bob.row_id, "bob")
    assert len(journal.meetings.unfinished()) == 3


def test_introductions_of_one_contact_give_way_to_its_own(journal: Journal) -> None:
    """The newest stay; those of others are not counted; one that is repeated is renewed."""
    journal.introductions.add(IntroductionRow(0, BOB, ANN, "robert", 6), 2)
    journal.introductions.add(IntroductionRow(0, "d" * 64, ANN, "dora", 7), 2)
    assert [(row.by, row.peer, row.name) for row in journal.introductions.all()] == [
        (ANN, "d" * 64, "dora"), (ANN, BOB, "robert"), (BOB, CID, "name")
    ]  # fmt: skip
    journal.introductions.remove(BOB)
    assert {row.peer for row in journal.introductions.all()} == {CID, "d" * 64}


def test_a_wish_is_one_row_of_its_stranger(journal: Journal) -> None:
    """It names each endpoint once, up to a limit, and when it was made first and last."""
    journal.wishes.note(BOB, "x", 1)
    journal.wishes.note(CID, "x", 2)
    journal.wishes.note(BOB, "y", 3)
    journal.wishes.note(BOB, "x", 4)
    assert [(row.peer, json.loads(row.endpoints), row.first, row.last) for row in journal.wishes.all()] == [
        (BOB, ["x", "y"], 1, 4), (CID, ["x"], 2, 2)
    ]  # fmt: skip
    oldest = journal.wishes.oldest()
    assert oldest is not None
    assert oldest.peer == CID
    for number in range(100):
        journal.wishes.note(CID, f"{number:064}", 5)
    found = journal.wishes.find(CID)
    assert found is not None
    assert MAX_ENDPOINTS_CHARS <= len(found.endpoints) < MAX_ENDPOINTS_CHARS + 100
    assert journal.wishes.remove(CID)
    assert not journal.wishes.remove(CID)
    assert journal.wishes.peers() == {BOB}
