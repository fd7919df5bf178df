"""Worker tokens: who may work with one, until when, and what happens to a worker whose token ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from support.desk import Desk, Hand, Neighbour

from p2pflows.errors import NotAllowed, UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.channel import Channel
from p2pflowsd.journal.rows import WorkerTokenRow
from p2pflowsd.running import dispatch
from p2pflowsd.running.worker_tokens import MAX_ENDED_TOKENS, MAX_TOKENS, WorkerTokens, token_key

DAY_MS = 24 * 3_600_000


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A daemon that serves a function at the dispatch point `b`."""
    desk = Desk(tmp_path)
    desk.serves("function", kind="python", parallel=True)
    yield desk
    desk.journal.close()


def make(desk: Desk, point: str = "b", lifetime_ms: int | None = None) -> WorkerTokenRow:
    """Make a token."""
    row = desk.do(lambda: desk.node.worker_tokens.make(point, "", lifetime_ms))
    if isinstance(row, Exception):
        raise row
    assert isinstance(row, WorkerTokenRow)
    return row


def revoke(desk: Desk, token_id: str) -> None:
    """Revoke a token as the command does."""
    result = desk.do(lambda: desk.node.worker_tokens.revoke(token_id))
    if isinstance(result, Exception):
        raise result
    desk.node.dispatch.disconnect_refused()
    desk.passes(0.1)


def accept_old_tokens(desk: Desk) -> None:
    """Let the journal be one that an earlier release began."""
    desk.do(lambda: desk.journal.meta.set("old_worker_tokens", "accepted"))


def count_refused(desk: Desk) -> int:
    """How many frames were refused because of their token."""
    return desk.journal.counters.get("refused.worker_token", 0)


def test_a_worker_with_a_token_runs_tasks(desk: Desk) -> None:
    """A worker with a good token runs the tasks of its point over the broker."""
    worker = Hand(desk, "b", "w", token=make(desk).id, is_local=False)
    alice = Neighbour(desk, 1, "alice")
    call = alice.sends("function", {})
    ((task, _),) = worker.takes()
    worker.ends(task, {"result": 1})
    assert alice.hears(call) == [{"result": 1}]


def test_a_revoked_worker_loses_its_runs_to_others(desk: Desk) -> None:
    """When its token is revoked, a worker is told so, its run goes to another, and its result counts no more."""
    token = make(desk)
    worker = Hand(desk, "b", "w", token=token.id, is_local=False)
    alice = Neighbour(desk, 1, "alice")
    call = alice.sends("function", {})
    ((task, _),) = worker.takes()
    other = Hand(desk, "b", "other")
    revoke(desk, token.id)
    assert "was revoked. Ask for another: p2pflows worker-token b" in worker.refusal()
    worker.ends(task, {"result": "stolen"})
    assert count_refused(desk) == 1
    ((again, _),) = other.takes()
    other.ends(again, {"result": "right"})
    assert alice.hears(call) == [{"result": "right"}]
    assert ("worker_token", "") in desk.log()


def test_a_revocation_outlives_a_restart(desk: Desk) -> None:
    """After a restart, the daemon refuses a revoked worker, and tells it why."""
    token = make(desk)
    worker = Hand(desk, "b", "w", token=token.id, is_local=False)
    revoke(desk, token.id)
    desk.restart()
    Neighbour(desk, 1, "alice").sends("function", {})
    desk.passes(5)
    worker.says()
    assert "was revoked" in worker.refusal()
    assert worker.takes() == []


def test_a_token_is_refused_on_the_socket_as_well(desk: Desk) -> None:
    """A revoked token opens no other way: over the socket of this machine it is refused too."""
    token = make(desk)
    revoke(desk, token.id)
    worker = Hand(desk, "b", "w", token=token.id, is_local=True)
    assert "was revoked" in worker.refusal()
    assert desk.node.points.status() == []


def test_an_expired_worker_is_disconnected(desk: Desk) -> None:
    """A worker whose token expires while it works is disconnected without being asked for anything."""
    worker = Hand(desk, "b", "w", token=make(desk, lifetime_ms=4_000).id, is_local=False)
    assert desk.node.points.has_workers("b")
    desk.passes(4.5)
    assert "expired at" in worker.refusal()
    assert not desk.node.points.has_workers("b")


def test_a_token_serves_its_own_point_only(desk: Desk) -> None:
    """A token of one point is refused at another, whatever the holder seals."""
    token = make(desk, "a")
    queue = topics.queue_of("b", token.id)
    topic = topics.results(desk.user, queue)
    header = {
        "worker": "w", "boot": desk.node.boot, "n": 1, "seen": 0, "slots": 4, "held": [], "results": [],
        "draining": False, "bye": False,
    }  # fmt: skip
    desk.arrives(topic, Channel(token_key(desk.identity, "a", token.id)).seal(topic, header), is_local=False)
    assert desk.journal.counters["refused.bad_frame"] == 1
    desk.arrives(topic, Channel(token_key(desk.identity, "b", token.id)).seal(topic, header), is_local=False)
    assert count_refused(desk) == 1
    assert desk.node.points.status() == []


def test_a_worker_cannot_play_one_with_another_token(desk: Desk) -> None:
    """The holder of one token ends no worker of another token by its name, nor one on this machine."""
    thief = make(desk)
    victim = make(desk)
    for name, token in (("w-victim", victim.id), ("w-here", "")):
        Hand(desk, "b", name, token=token, is_local=not token)
    Hand(desk, "b", "w-victim", token=thief.id, is_local=False).says(bye=True, draining=True)
    Hand(desk, "b", "w-here", token=thief.id, is_local=False).says(bye=True, draining=True)
    assert desk.node.points.status()[0]["workers"] == 2
    assert desk.journal.counters["refused.bad_frame"] == 4


def test_a_token_connects_so_many_workers(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever calls themselves ever new names fills no memory, is in the log, and keeps nobody else out."""
    monkeypatch.setattr(dispatch, "MAX_WORKERS_OF_TOKEN", 5)
    token = make(desk)
    for number in range(20):
        Hand(desk, "b", f"w-{number}", token=token.id, is_local=False)
    Hand(desk, "b", "w-3", token=token.id, is_local=False)
    assert desk.node.points.status()[0]["workers"] == 5
    assert desk.journal.counters["refused.workers_full"] == 15
    assert any(token.id in row.detail and "workers_full" in row.detail for row in desk.journal.log.newest(10))
    Hand(desk, "b", "w-other", token=make(desk).id, is_local=False)
    assert desk.node.points.status()[0]["workers"] == 6


def test_a_worker_says_that_ever_more_runs_wait(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that nobody leased to a worker fill no memory, however often it says that they wait."""
    monkeypatch.setattr(dispatch, "MAX_PARKED", 100)
    worker = Hand(desk, "b", "w", token=make(desk).id, is_local=False)
    for frame in range(10):
        worker.says(held=None, parked=[f"{frame}-{number}" for number in range(40)])
    (known,) = (each for point in desk.node.points for each in point.workers.values())
    assert len(known.parked) <= 100
    assert desk.journal.counters["refused.bad_frame"] == 8
    for frame in range(3):  # what a whole frame says takes the place of what was said before
        worker.says(held=[], parked=[f"{frame}-{number}" for number in range(80)])
    assert desk.journal.counters["refused.bad_frame"] == 8


def test_a_worker_says_long_texts_about_itself(desk: Desk) -> None:
    """What a daemon keeps of a worker is short, whatever the worker says of its host and of its runs."""
    worker = Hand(desk, "b", "w", token=make(desk).id, is_local=False)
    worker.says(host="h" * 100_000, overdue=[[f"{n}", "e", 0] for n in range(5_000)])
    worker.says(parked=["x" * 100_000])
    (known,) = (each for point in desk.node.points for each in point.workers.values())
    assert len(known.host) == 255
    assert len(known.overdue) == 1_000
    assert known.parked == set()
    assert desk.journal.counters["refused.bad_frame"] == 1


def test_a_worker_elsewhere_cannot_end_a_process_here(desk: Desk) -> None:
    """A worker with a token that claims the id of a process of this machine is not taken for that process."""
    import socket

    Hand(desk, "b", "w", token=make(desk).id, is_local=False).says(pid=4711, host=socket.gethostname())
    desk.node.dispatch.on_process_ended("b", 4711)
    assert desk.node.points.has_workers("b")


def test_the_key_of_this_machine_is_no_token(desk: Desk) -> None:
    """What a worker on this machine has is refused when it comes over the broker."""
    worker = Hand(desk, "b", "w", is_local=False)
    assert "is not known any more" in worker.refusal()
    assert desk.node.points.status() == []
    assert desk.node.worker_tokens.all() == []


def test_a_token_of_an_earlier_release_works_is_listed_and_can_be_revoked(desk: Desk) -> None:
    """Tokens without an id work on in a journal of an earlier release, are one entry for each point, and can end."""
    accept_old_tokens(desk)
    far, here = Hand(desk, "b", "far", is_local=False), Hand(desk, "b", "here")
    assert desk.node.points.status()[0]["workers"] == 2
    (row,) = desk.node.worker_tokens.all()
    assert (row.id, row.point) == ("old-b", "b")
    revoke(desk, "old-b")
    assert "was revoked" in far.refusal()
    assert here.refusal() == ""
    assert desk.node.points.status()[0]["workers"] == 1
    desk.restart()
    far.says()
    assert count_refused(desk) == 1
    assert [row.id for row in desk.node.worker_tokens.all()] == ["old-b"]


def test_the_list_is_bounded(desk: Desk) -> None:
    """There are so many good tokens, and so many ended ones; an ended one that was forgotten is refused too."""
    accept_old_tokens(desk)
    Hand(desk, "b", "far", is_local=False)
    revoke(desk, "old-b")
    good = make(desk)
    first = make(desk)
    revoke(desk, first.id)
    for _ in range(MAX_ENDED_TOKENS - 2):
        revoke(desk, make(desk).id)
    assert len(desk.node.worker_tokens.all()) == MAX_ENDED_TOKENS + 1, "no ended one is forgotten before its time"
    for _ in range(7):
        revoke(desk, make(desk).id)
    rows = desk.node.worker_tokens.all()
    assert len(rows) <= MAX_ENDED_TOKENS + 3
    assert [row.id for row in rows[:2]] == ["old-b", good.id]
    assert first.id not in {row.id for row in rows}
    assert "not known any more" in Hand(desk, "b", "w", token=first.id, is_local=False).refusal()
    for _ in range(MAX_TOKENS - 1):
        make(desk)
    with pytest.raises(NotAllowed, match="which is the most"):
        make(desk)


def test_tokens_of_an_earlier_release_are_listed_up_to_a_limit(desk: Desk) -> None:
    """Whoever has such a token cannot fill the journal with points that are none."""
    accept_old_tokens(desk)
    for number in range(2 * MAX_TOKENS + 5):
        desk.do(partial(desk.node.worker_tokens.old_id, f"p{number}"))
    assert len(desk.node.worker_tokens.all()) == 2 * MAX_TOKENS


def test_a_token_whose_id_begins_another_one_is_revoked(desk: Desk) -> None:
    """A whole id is never unclear."""
    accept_old_tokens(desk)
    for point in ("b", "bc"):
        desk.do(partial(desk.node.worker_tokens.old_id, point))
    revoke(desk, "old-b")
    assert [desk.node.worker_tokens.state(row) for row in desk.node.worker_tokens.all()] == ["revoked", "good"]


def test_no_two_tokens_have_one_id(desk: Desk) -> None:
    """An id that is taken is not given again."""
    ids = iter([b"1" * 8, b"1" * 8, b"2" * 8])
    tokens = WorkerTokens(
        identity=desk.identity, journal=desk.journal, clock=desk.clock, entropy=lambda size: next(ids)[:size]
    )
    made = [desk.do(lambda: tokens.make("b", "", None)) for _ in range(2)]
    assert [row.id[:2] for row in made] == ["31", "32"]


def test_whoever_has_an_expired_token_reads_since_when(desk: Desk) -> None:
    """And what to ask for."""
    token = make(desk, lifetime_ms=DAY_MS)
    desk.timeline.sleep(2 * DAY_MS / 1_000)
    when = datetime.fromtimestamp((token.expires or 0) / 1_000, UTC).strftime("%Y-%m-%d %H:%M")
    assert f"expired at {when} (UTC)" in Hand(desk, "b", "w", token=token.id, is_local=False).refusal()


def test_what_cannot_be_revoked(desk: Desk) -> None:
    """An unknown id, an unclear one and a second revocation are errors."""
    rows = [make(desk) for _ in range(20)]
    for wrong in ("", "zzzz", "-"):
        with pytest.raises(UsageError, match="no worker token"):
            revoke(desk, wrong)
    shared = next(row.id[0] for row in rows if sum(other.id[0] == row.id[0] for other in rows) > 1)
    with pytest.raises(UsageError, match="begin with"):
        revoke(desk, shared)
    revoke(desk, rows[0].id[:7])
    with pytest.raises(UsageError, match="revoked already"):
        revoke(desk, rows[0].id)
