"""Requests wait for their files, in their order, and end if these cannot be had."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Hand, Neighbour
from support.file_desk import reference_to
from support.lone_daemon import HOUR_MS

from p2pflows.errors import BadInput, FileLost
from p2pflows.protocol.file_reference import FileReference
from p2pflows.protocol.message import Type
from p2pflows.settings.file_limits import FileLimits
from p2pflowsd.receiving import awaited_files

CONTENT = b"12345"


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Bob's daemon, with a flow and a human."""
    desk = Desk(tmp_path)
    desk.serves("scan", kind="python")
    desk.serves("other", kind="python")
    desk.serves("wide", kind="python", parallel=True)
    desk.serves("User", kind="human")
    return desk


@pytest.fixture
def ann(desk: Desk) -> Neighbour:
    """A contact."""
    return Neighbour(desk, 1, "ann")


@pytest.fixture
def hand(desk: Desk) -> Hand:
    """The worker of bob's flows."""
    hand = Hand(desk, "b", "w-0000000000000001")
    hand.says(slots=10)
    return hand


def data_with(*files: FileReference, **more: Any) -> dict[str, Any]:
    """Data that refers to files."""
    return {**more, "files": [file.as_data() for file in files]}


def orders(hand: Hand) -> list[str]:
    """The texts in the tasks that a worker has got."""
    return [order["text"] for _, order in hand.takes()]


def arrives(desk: Desk, file: FileReference) -> None:
    """Let the bytes of a file be here."""
    desk.do(lambda: desk.node.files.arrived(file.id))
    desk.passes(0.03)


def test_a_request_waits_for_all_its_files(desk: Desk, ann: Neighbour, hand: Hand) -> None:
    """It is stored and confirmed at once, and goes to a worker when the last file is here; others do not wait."""
    first, second = reference_to(CONTENT, number=1), reference_to(CONTENT, number=2)
    request = ann.sends("scan", data_with(first, second, text="a"))
    ann.sends("other", {"text": "b"})
    assert orders(hand) == ["b"]
    assert any(request in notice.get("received", ()) for notice in ann.gets_notices())
    arrives(desk, first)
    assert orders(hand) == []
    arrives(desk, second)
    assert orders(hand) == ["a"]


def test_later_requests_of_one_stream_keep_their_order(desk: Desk, ann: Neighbour, hand: Hand) -> None:
    """What comes after a request with a file takes effect after it; not where requests run side by side."""
    file, late = reference_to(CONTENT, number=1), reference_to(CONTENT, number=2)
    for endpoint in ("scan", "wide"):
        ann.sends(endpoint, data_with(file, text=f"{endpoint} 1"))
        ann.sends(endpoint, {"text": f"{endpoint} 2"})
        ann.sends(endpoint, data_with(late, text=f"{endpoint} 3"))
        ann.sends(endpoint, {"text": f"{endpoint} 4"})
    assert orders(hand) == ["wide 2", "wide 4"]
    arrives(desk, late)
    assert orders(hand) == ["wide 3"]
    arrives(desk, file)
    assert sorted(orders(hand)) == ["scan 1", "scan 2", "scan 3", "scan 4", "wide 1"]


@pytest.mark.parametrize("is_there", [True, False])
def test_a_long_line_goes_on_in_several_batches(
    desk: Desk, ann: Neighbour, hand: Hand, monkeypatch: pytest.MonkeyPatch, is_there: bool
) -> None:
    """However many requests wait for a file, none else waits for long when it is there, or cannot be had."""
    monkeypatch.setattr(awaited_files, "MAX_RELEASED", 2)
    file = reference_to(CONTENT, number=1)
    requests = [ann.sends("wide", data_with(file, text=str(number))) for number in range(5)]
    settle = desk.node.files.arrived if is_there else (lambda file_id: desk.node.files.failed(file_id, "Gone."))

    def ended() -> int:
        return len(hand.takes()) if is_there else sum(bool(ann.hears(request)) for request in requests)

    desk.do(lambda: settle(file.id))
    assert ended() == 2
    desk.sleep(1)
    assert ended() == (3 if is_there else 5)


def test_a_restart_forgets_nobody_who_waits(desk: Desk, ann: Neighbour) -> None:
    """Neither the one that waits for a file, nor the one behind it; both run once."""
    file = reference_to(CONTENT)
    ann.sends("scan", data_with(file, text="1"))
    ann.sends("scan", {"text": "2"})
    desk.restart()
    hand = Hand(desk, "b", "w-0000000000000002")
    desk.passes(10)
    assert orders(hand) == []
    assert [row.id for row in desk.journal.files.wanted()] == [file.id]
    arrives(desk, file)
    desk.passes(10)
    assert orders(hand) == ["1", "2"]
    assert desk.journal.awaited.all() == []


def test_a_file_that_cannot_be_had_ends_its_requests(desk: Desk, ann: Neighbour, hand: Hand) -> None:
    """Their sender learns why, and what waited behind them runs."""
    file = reference_to(CONTENT)
    request = ann.sends("scan", data_with(file, text="1"))
    ann.sends("scan", {"text": "2"})
    desk.do(lambda: desk.node.files.failed(file.id, "It is gone."))
    desk.passes(0.03)
    assert orders(hand) == ["2"]
    [error] = ann.hears(request)
    assert (error["kind"], error["message"]) == (FileLost.kind, "It is gone.")


@pytest.mark.parametrize("end", ["cancel", "deny", "deadline"])
def test_what_ends_while_it_waits_holds_up_nobody(desk: Desk, ann: Neighbour, hand: Hand, end: str) -> None:
    """A withdrawal, a lost right or a deadline ends the request; the file that comes later has no effect."""
    file = reference_to(CONTENT)
    expires = desk.clock.now() + 5_000
    request = ann.sends("scan", data_with(file, text="1"), expires=expires)
    ann.sends("scan", {"text": "2"})
    if end == "cancel":
        ann.sends("scan", {}, type="cancel", cause=request)
    elif end == "deny":
        desk.do(lambda: desk.node.admission.deny(ann.user))
    else:
        desk.passes(6)
    desk.passes(1)
    desk.passes(1)
    assert orders(hand) == ([] if end == "deny" else ["2"])
    arrives(desk, file)
    assert orders(hand) == []
    assert desk.journal.awaited.all() == []


def test_a_full_quota_is_an_error_of_the_call(desk: Desk, ann: Neighbour, hand: Hand) -> None:
    """The sender reads it as the end of the call, the owner in the log; what is fetched counts before it is here."""
    desk.node.files.limits = FileLimits(bytes_per_contact=12)
    first = ann.sends("scan", data_with(reference_to(CONTENT, number=1), reference_to(CONTENT, number=2), text="1"))
    second = ann.sends("other", data_with(reference_to(CONTENT, number=3, name="photo.png"), text="2"))
    assert ann.hears(first) == []
    [error] = ann.hears(second)
    assert error["kind"] == "over_quota"
    assert "'photo.png' of 5 bytes" in error["message"]
    assert ("over_quota", ann.user) in desk.log()
    assert orders(hand) == []


def test_a_file_that_is_too_large_is_an_error_of_the_call(desk: Desk, ann: Neighbour) -> None:
    """Also of a question to the human, who could never fetch it."""
    desk.node.files.limits = FileLimits(max_size=4)
    assert ann.hears_error(ann.sends("scan", data_with(reference_to(CONTENT)))) == "too_large"


def test_strangers_send_no_files(desk: Desk) -> None:
    """Not even to what is open to anyone."""
    desk.serves("open", kind="python", allow="anyone")
    mallory = Neighbour(desk, 9)
    assert mallory.hears_error(mallory.sends("open", data_with(reference_to(CONTENT)))) == "not_allowed"
    assert desk.journal.files.all() == []


def test_a_malformed_reference_is_an_error_of_the_call(ann: Neighbour) -> None:
    """A path as a name, two files under one id, and a reference that was given another hash later."""
    bad = reference_to(CONTENT, name="../../.ssh/authorized_keys")
    assert ann.hears_error(ann.sends("scan", data_with(bad))) == "bad_input"
    file = reference_to(CONTENT)
    assert ann.hears_error(ann.sends("scan", data_with(file, file._replace(size=6)))) == "bad_input"
    ann.sends("scan", data_with(file))
    assert ann.hears_error(ann.sends("other", data_with(file._replace(sha256="0" * 64)))) == "bad_input"


def test_a_human_is_asked_at_once(desk: Desk, ann: Neighbour) -> None:
    """Small files are fetched, large ones are offered, and what has no room fails without the question."""
    desk.node.files.limits = FileLimits(bytes_per_contact=2_000_000)
    small, large = reference_to(CONTENT, "small", 1), reference_to(CONTENT, "large", 2, size=1_500_000)
    other = reference_to(CONTENT, "other", 3, size=900_000)
    ann.sends("User", data_with(small, large, text="Look"))
    ann.sends("User", data_with(other, text="And this"))
    states = {row.name: row.state for row in desk.journal.files.all()}
    assert states == {"small": "wanted", "large": "offered", "other": "wanted"}
    assert len(desk.journal.prompts.matching("")) in (0, 2)
    error = desk.do(lambda: desk.node.files.want(desk.node.files.find(large.id)))
    assert error.kind == "over_quota"
    desk.do(lambda: desk.node.files.failed(other.id, "gone"))
    assert desk.do(lambda: desk.node.files.want(desk.node.files.find(large.id))).state == "wanted"


def test_a_file_comes_with_an_answer(desk: Desk, ann: Neighbour) -> None:
    """The answer ends the call at once, and its files are fetched; what is no reference there is data."""
    for answer, states in (
        (data_with(reference_to(CONTENT)), ["wanted"]),
        ({"x": {"$file": "no"}}, ["wanted"]),
    ):
        call = desk.do(lambda: desk.node.messages.send(Type.CALL, ann.user, "scan", {}, life_ms=HOUR_MS))
        ann.sends("_reply", answer, type="reply", cause=call, epoch=0, seq=0)
        sent = desk.journal.outgoing.find(call)
        assert sent is not None
        assert sent.state == "done"
        assert [row.state for row in desk.journal.files.all()] == states


def test_a_daemon_without_files_is_sent_none(desk: Desk, ann: Neighbour, tmp_path: Path) -> None:
    """Its status does not say that it takes files, so the caller learns at once what to do."""
    del tmp_path
    from support.lone_daemon import Peer

    old = Peer(desk, 7, "old")
    desk.node.subscriptions()
    old.show(boot=1, online=True)
    file = reference_to(CONTENT)
    desk.do(lambda: desk.node.files.put(file))

    def send(to: str) -> Any:
        return desk.do(lambda: desk.node.messages.send(Type.CALL, to, "scan", data_with(file), life_ms=HOUR_MS))

    error = send(old.user)
    assert isinstance(error, BadInput)
    assert "takes no files" in error.message
    assert isinstance(send(ann.user), str)


def test_a_run_passes_on_what_it_was_sent_and_nothing_else(desk: Desk, ann: Neighbour, hand: Hand) -> None:
    """A flow that repeats the data of its caller gives them the file back, and never one that they only name."""
    mine = reference_to(b"mine", number=8)
    desk.do(lambda: desk.node.files.put(mine))
    file = reference_to(CONTENT)
    call = ann.sends("scan", data_with(file, text="1"))
    arrives(desk, file)
    [(task, order)] = hand.takes()
    hand.ends(task, {"files": order["files"]})
    assert ann.hears(call) == [{"files": [file.as_data()]}]
    assert desk.node.files.may_fetch(ann.user, file.id) is not None
    stolen = mine._replace(id="9" * 32).as_data()
    call = ann.sends("other", {"text": "2"})
    [(task, order)] = hand.takes()
    hand.ends(task, {"files": [stolen]})
    assert ann.hears_error(call) == "flow_failed"
    assert desk.node.files.may_fetch(ann.user, mine.id) is None


def test_files_that_nobody_needs_go_by_themselves(desk: Desk, ann: Neighbour, hand: Hand) -> None:
    """After the time that the owner has set, and never before the message that carries them."""
    del hand
    desk.node.files.limits = FileLimits(keep=60)
    removed: list[str] = []
    desk.node.files.on_removed = lambda row: removed.append(row.name)
    file = reference_to(CONTENT, "sent")
    ann.sends("User", data_with(file, text="Look"))
    arrives(desk, file)
    desk.sleep(3_000)
    assert removed == []
    desk.sleep(1_000)
    assert removed == ["sent"]
    assert desk.journal.files.all() == []
