"""What runs have reported and no frame carries yet."""

from __future__ import annotations

from p2pflows.protocol.notice import MAX_PROGRESS_LINES
from p2pflows.worker.pending_progress import MAX_JOINED_CHARS, PendingProgress


def test_pieces_of_a_text_become_one_report() -> None:
    """600 words that come between two frames travel as a few reports, each of limited size."""
    pending = PendingProgress()
    for number in range(600):
        pending.add("a", {"delta": "word ", "at": number * 5})
    reports = [report.data["delta"] for report in pending.take()]
    assert "".join(reports) == "word " * 600
    assert len(reports) == 3_000 // MAX_JOINED_CHARS
    assert pending.take() == []


def test_a_run_that_reports_without_end_fills_no_memory() -> None:
    """The oldest reports are dropped, of this run only."""
    pending = PendingProgress()
    pending.add("quiet", {"step": 0})
    for number in range(10 * MAX_PROGRESS_LINES):
        pending.add("loud", {"step": number})
    assert [report.data for report in pending.take_of(["quiet", "unknown"])] == [{"step": 0}]
    assert [report.data["step"] for report in pending.take()] == list(
        range(9 * MAX_PROGRESS_LINES, 10 * MAX_PROGRESS_LINES)
    )
