"""Notices: receipts are collected for a moment, an answer replaces its receipt, and missing messages are asked for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from simulation.timeline import START_MS, Timeline, TimelineClock

from p2pflows.protocol.message import MAX_COUNT, MAX_PROGRESS_BYTES
from p2pflows.protocol.notice import MAX_NOTICE_BYTES, MAX_PROGRESS_LINES, MAX_RECEIPTS, MAX_STREAM_LINES, Notice
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.sending.gaps import GAP_BACKOFF
from p2pflowsd.sending.notices import GATHER_S, MAX_DRAFTED_STREAMS, REWIND_INTERVAL_S, Notices, is_progress

ANN, BOB = "a" * 64, "b" * 64


@pytest.fixture
def timeline() -> Timeline:
    """A virtual time."""
    return Timeline()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    """A journal in which ann's stream to `echo` is at position 3 of epoch 7."""
    journal = Journal(tmp_path / "journal.sqlite3", BOB, NoFaults())
    with journal.transaction():
        journal.streams.set(Direction.INCOMING, ANN, "echo", Position(7, 3))
    yield journal
    journal.close()


@pytest.fixture
def notices(journal: Journal, timeline: Timeline) -> Notices:
    """Bob's notices."""
    return Notices(journal, TimelineClock(timeline))


def message_id(number: int) -> str:
    """Return a message id."""
    return f"{number:032x}"


def test_nothing_is_due_at_first(notices: Notices) -> None:
    """New notices have nothing to send, and no time at which to wake."""
    assert notices.next_due() is None
    assert notices.take() == []


def test_receipts_travel_together(notices: Notices, timeline: Timeline) -> None:
    """Receipts of one moment are sent once, as one notice to each peer, when the moment is over."""
    for number in range(3):
        notices.confirm(ANN, message_id(number))
    notices.confirm(BOB, message_id(9))
    assert notices.take() == []
    assert notices.next_due() == pytest.approx(GATHER_S)
    timeline.run(GATHER_S)
    assert notices.take() == [
        (ANN, Notice(to=ANN, received=[message_id(number) for number in range(3)])),
        (BOB, Notice(to=BOB, received=[message_id(9)])),
    ]
    assert notices.take() == []


def test_many_receipts_do_not_wait(notices: Notices) -> None:
    """A notice with the maximum number of receipts is sent at once."""
    for number in range(MAX_RECEIPTS):
        notices.confirm(ANN, message_id(number))
    ((peer, notice),) = notices.take()
    assert (peer, len(notice.received)) == (ANN, MAX_RECEIPTS)


def test_an_answer_replaces_the_receipt(notices: Notices, timeline: Timeline) -> None:
    """A request that is answered within the moment gets no receipt; a notice without content is not sent."""
    for number, how in enumerate(({}, {"held": True}, {"waiting": True})):
        notices.confirm(ANN, message_id(number), **how)
        notices.drop_receipt(ANN, message_id(number))
    timeline.run(GATHER_S)
    assert notices.take() == []


def test_only_the_last_receipt_of_a_message_is_sent(notices: Notices, timeline: Timeline) -> None:
    """A message is in one list only: the one of its last receipt."""
    notices.confirm(ANN, message_id(1), held=True)
    notices.confirm(ANN, message_id(1), waiting=True)
    notices.confirm(ANN, message_id(2))
    notices.confirm(ANN, message_id(2), held=True)
    notices.confirm(ANN, message_id(3), waiting=True)
    notices.confirm(ANN, message_id(3))
    timeline.run(GATHER_S)
    assert notices.take() == [
        (ANN, Notice(to=ANN, received=[message_id(3)], held=[message_id(2)], waiting=[message_id(1)]))
    ]


def test_a_missing_message_is_asked_for_less_and_less_often(notices: Notices, timeline: Timeline) -> None:
    """A stream asks for its next message with growing delays, up to a limit, until it has the message."""
    notices.request_missing(ANN, "echo")
    asked = []
    while timeline.elapsed < 3 * GAP_BACKOFF.max_s:
        due = notices.next_due()
        assert due is not None
        timeline.run(due - timeline.elapsed)
        assert notices.take() == [(ANN, Notice(to=ANN, gaps=[("echo", 7, 3)]))]
        asked.append(timeline.elapsed)
    pauses = [later - earlier for earlier, later in zip([0.0, *asked], asked, strict=False)]
    assert pauses[0] == pytest.approx(GAP_BACKOFF.initial_s)
    assert pauses == sorted(pauses)
    assert pauses[-1] == pytest.approx(GAP_BACKOFF.max_s)
    notices.stop_requesting(ANN, "echo")
    assert notices.next_due() is None
    assert not notices.is_requesting_from(ANN)


def test_a_missing_message_is_asked_for_soon_when_the_broker_is_back(notices: Notices, timeline: Timeline) -> None:
    """The delay that grew while the link was down is reset when the link is up."""
    notices.request_missing(ANN, "echo")
    for _ in range(12):
        timeline.run(GAP_BACKOFF.max_s)
        notices.take()
    notices.request_all_missing()
    assert notices.next_due() == pytest.approx(timeline.elapsed + GAP_BACKOFF.initial_s)


def test_more_blocked_messages_do_not_shorten_the_delay(notices: Notices, timeline: Timeline) -> None:
    """A stream that is blocked already is not asked for sooner when further messages arrive."""
    notices.request_missing(ANN, "echo")
    timeline.run(GAP_BACKOFF.initial_s)
    notices.take()
    notices.request_missing(ANN, "echo")
    assert notices.next_due() == pytest.approx(GAP_BACKOFF.initial_s + 2 * GAP_BACKOFF.initial_s)


def test_repairs_are_sent(notices: Notices, timeline: Timeline) -> None:
    """A notice has one line for each stream: its last skip, or the first rewound message with our position."""
    notices.announce_skip(ANN, "echo", 7, 3)
    notices.announce_skip(ANN, "echo", 7, 5)
    for number in range(3):
        notices.report_rewind(ANN, "echo", 7, message_id(number), Position(9, 4))
    timeline.run(GATHER_S)
    ((_, notice),) = notices.take()
    assert notice.skips == [("echo", 7, 5)]
    assert notice.rewound == [("echo", 7, message_id(0))]
    assert notice.positions == [("echo", 9, 4)]


def test_a_refused_time_is_told_with_ours(notices: Notices, timeline: Timeline) -> None:
    """A message that is refused for its times is reported with the time at which that was."""
    notices.refuse_untimely(ANN, message_id(1))
    timeline.run(GATHER_S)
    assert notices.take() == [(ANN, Notice(to=ANN, untimely=[(message_id(1), START_MS)]))]


def test_a_draft_is_bounded(notices: Notices, timeline: Timeline) -> None:
    """Whatever a peer sends, a draft keeps so many lines of each kind; a line that is known is brought up to date."""
    for number in range(3_000):
        notices.refuse_untimely(ANN, message_id(number))
        notices.refuse(ANN, message_id(number), "streams_full")
        notices.announce_skip(ANN, f"e{number}", 1, 1)
        notices.send_progress(ANN, message_id(number), {})
    notices.announce_skip(ANN, "e0", 1, 9)
    timeline.run(GATHER_S)
    sent = [notice for _, notice in notices.take()]
    assert sum(len(notice.untimely) for notice in sent) == MAX_RECEIPTS
    assert sum(len(notice.refused) for notice in sent) == MAX_RECEIPTS
    assert sum(len(notice.progress) for notice in sent) == MAX_PROGRESS_LINES
    skips = [line for notice in sent for line in notice.skips]
    assert len(skips) == MAX_DRAFTED_STREAMS
    assert ("e0", 1, 9) in skips


def test_each_notice_is_within_what_its_reader_takes(notices: Notices, timeline: Timeline) -> None:
    """Much that is due at once is said in several notices, of so many bytes, receipts and streams each."""
    for number in range(700):
        notices.confirm(ANN, message_id(number))
        notices.confirm(ANN, message_id(10_000 + number), held=True)
        notices.announce_skip(ANN, f"{number:064}", 2**50, 2**50)
        notices.report_rewind(ANN, f"e{number}", 2**50, message_id(number), Position(2**50, 2**50))
        notices.send_progress(ANN, message_id(number), {"text": "x" * 3_000})
    timeline.run(GATHER_S)
    sent = [notice for _, notice in notices.take()]
    for notice in sent:
        assert len(notice.to_bytes()) <= MAX_NOTICE_BYTES
        assert len(notice.received) + len(notice.held) <= MAX_RECEIPTS
        assert max(len(notice.skips), len(notice.rewound), len(notice.progress)) <= MAX_STREAM_LINES
        assert [line[0] for line in notice.rewound] == [line[0] for line in notice.positions]
        assert Notice.from_bodies([notice.to_bytes()]) == notice
    assert sum(len(notice.received) for notice in sent) == 700
    assert sum(len(notice.rewound) for notice in sent) == 700
    assert len(sent) < 40


def test_a_link_that_takes_more_changes_no_notice(notices: Notices, timeline: Timeline) -> None:
    """A notice is never larger than its reader takes, whatever the broker takes."""
    for number in range(2_000):
        notices.announce_skip(ANN, f"{number:064}", 2**50, 2**50)
    timeline.run(GATHER_S)
    for max_bytes in (MAX_NOTICE_BYTES, 100 * MAX_NOTICE_BYTES):
        for number in range(MAX_PROGRESS_LINES):
            notices.send_progress(ANN, message_id(number), {"text": "x" * 3_000})
        timeline.run(GATHER_S)
        sent = [notice for _, notice in notices.take(max_bytes)]
        assert len(sent) > 1
        assert max(len(notice.to_bytes()) for notice in sent) <= MAX_NOTICE_BYTES


def test_whatever_is_due_first_wakes_first(notices: Notices, timeline: Timeline) -> None:
    """A receipt that waits for others holds up no request for a missing message, and the other way round."""
    notices.request_missing(ANN, "echo")
    notices.confirm(BOB, message_id(1))
    assert notices.next_due() == pytest.approx(GATHER_S)
    timeline.run(GAP_BACKOFF.initial_s - GATHER_S / 2)
    notices.take()
    notices.confirm(BOB, message_id(2))
    assert notices.next_due() == pytest.approx(GAP_BACKOFF.initial_s)


@pytest.mark.parametrize("data", [{"n": float("nan")}, {"text": "\ud800"}, {"text": "x" * MAX_PROGRESS_BYTES}])
def test_what_no_reader_takes_is_no_progress(data: dict[str, Any]) -> None:
    """Numbers that JSON does not have, text that is not Unicode, and what is long would make the whole notice bad."""
    assert not is_progress(data)
    assert is_progress({"n": 1.5, "text": "half"})


def test_a_position_that_no_number_can_name(notices: Notices, journal: Journal, timeline: Timeline) -> None:
    """The place after the largest number is told as that number."""
    with journal.transaction():
        journal.streams.set(Direction.INCOMING, ANN, "far", Position(7, 2**62 + 1))
    notices.request_missing(ANN, "far")
    notices.report_rewind(ANN, "far", 7, message_id(1), Position(7, 2**62 + 1))
    timeline.run(GAP_BACKOFF.initial_s)
    ((_, notice),) = notices.take()
    assert notice.gaps == [("far", 7, MAX_COUNT)]
    assert notice.positions == [("far", 7, MAX_COUNT)]


def test_nothing_is_asked_of_a_stream_that_is_forgotten(notices: Notices, timeline: Timeline) -> None:
    """A stream whose position is not known any more has nothing to ask for."""
    notices.request_missing(ANN, "never")
    timeline.run(GAP_BACKOFF.initial_s)
    assert notices.take() == []


def test_progress_is_sent_before_its_answer(notices: Notices) -> None:
    """An answer lets progress of its own request leave at once, and no other."""
    notices.send_progress(ANN, message_id(1), {"n": 1})
    notices.drop_receipt(ANN, message_id(2))
    notices.drop_receipt(BOB, message_id(1))
    assert notices.take() == []
    notices.drop_receipt(ANN, message_id(1))
    assert notices.take() == [(ANN, Notice(to=ANN, progress=[(message_id(1), {"n": 1})]))]


def test_a_stream_is_reported_as_rewound_once_in_a_while(notices: Notices, timeline: Timeline) -> None:
    """Each stream has a pause of its own after a report."""
    for number in range(3):
        notices.report_rewind(ANN, "echo", 7, message_id(number), Position(9, 4))
    notices.report_rewind(BOB, "echo", 7, message_id(9), Position(9, 4))
    timeline.run(REWIND_INTERVAL_S)
    assert {peer: notice.rewound for peer, notice in notices.take()} == {
        ANN: [("echo", 7, message_id(0))],
        BOB: [("echo", 7, message_id(9))],
    }
    notices.report_rewind(ANN, "echo", 7, message_id(5), Position(9, 4))
    timeline.run(GATHER_S)
    assert [notice.rewound for _, notice in notices.take()] == [[("echo", 7, message_id(5))]]
