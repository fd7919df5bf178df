"""Workers as a daemon sees them: their frames, their silence, their end, and what it sends them."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Hand, Neighbour
from support.lone_daemon import Packet

from p2pflows.protocol import topics
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.message import MAX_PROGRESS_BYTES
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running import dispatch
from p2pflowsd.running.dispatch import HEARTBEAT_TIMEOUT_S, MAX_ATTEMPTS, RECOVERY_S
from p2pflowsd.running.leases import GRACE_PERIOD_S
from p2pflowsd.running.paces import FIRST_WINDOW
from p2pflowsd.running.points import Worker
from p2pflowsd.running.task import row_id_of
from p2pflowsd.running.worker_outbox import MAX_AHEAD_BYTES, MAX_FRAME_BYTES
from p2pflowsd.running.worker_tokens import point_key

HERE = socket.gethostname()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """A daemon that serves a function at the dispatch point `b`, several tasks of which may run at once."""
    desk = Desk(tmp_path)
    desk.serves("f", kind="python", parallel=True)
    desk.serves("lane", kind="python")
    yield desk
    desk.journal.close()


@pytest.fixture
def ann(desk: Desk) -> Neighbour:
    """A contact who calls the function."""
    return Neighbour(desk, 8, "ann")


def workers(desk: Desk) -> dict[str, Worker]:
    """Return the workers of the point, by name."""
    return desk.node.points.get("b").workers


def state_of(desk: Desk, who: Neighbour, request: str) -> str:
    """Return the state of a request."""
    row = desk.journal.incoming.find(who.user, request)
    assert row is not None
    return row.state


def silent(desk: Desk, seconds: float) -> None:
    """Let time pass in steps, in which no worker says anything."""
    for _ in range(int(seconds)):
        desk.passes(1.0)


# Frames.


def test_a_frame_counts_once_and_in_order(desk: Desk, ann: Neighbour) -> None:
    """A frame that is repeated, or that an earlier one overtakes, is refused."""
    hand = Hand(desk, "b", "w")
    request = ann.sends("f", {})
    ((task, _),) = hand.takes()
    topic = topics.results(desk.user, "b")
    late = {"worker": "w", "boot": desk.node.boot, "n": 1, "seen": 9, "slots": 4, "held": [], "draining": False}
    result = [{"task": task["task"], "error": None}]
    frame = hand._channel.seal(topic, {**late, "bye": False, "results": result}, [b"{}"])
    desk.arrives(topic, frame)
    assert desk.journal.counters["refused.replayed"] == 1
    assert ann.hears(request) == []
    hand.ends(task, {"n": 1})
    assert ann.hears(request) == [{"n": 1}]
    desk.passes(1.1)
    assert [frame["cancel"] for frame in hand.frames() if frame["cancel"]] == []


def test_a_frame_for_an_earlier_start_of_the_daemon_only_shows_life(desk: Desk, ann: Neighbour) -> None:
    """Results for tasks of an earlier boot come again, once the worker knows the new one."""
    hand = Hand(desk, "b", "w")
    request = ann.sends("f", {})
    ((task, _),) = hand.takes()
    hand.says((b"{}",), results=[{"task": task["task"], "error": None}], boot=desk.node.boot - 1)
    assert ann.hears(request) == []
    hand.says((b"{}",), results=[{"task": task["task"], "error": None}])
    assert ann.hears(request) == [{}]


def test_a_goodbye_of_nobody_makes_no_worker(desk: Desk) -> None:
    """A last will that comes after its worker was removed leaves no trace."""
    topic = topics.results(desk.user, "b")
    goodbye = {
        "worker": "ghost", "boot": desk.node.boot, "n": 1, "seen": 0, "slots": 4, "held": [], "results": [],
        "draining": False, "bye": True,
    }  # fmt: skip
    desk.arrives(topic, Channel(point_key(desk.identity, "b")).seal(topic, goodbye))
    assert workers(desk) == {}


def test_a_worker_whose_link_broke_has_a_moment_to_come_back(desk: Desk, ann: Neighbour) -> None:
    """Its tasks stay with it if it does, and go to another one if it does not."""
    one, other = Hand(desk, "b", "w"), Hand(desk, "b", "x")
    ann.sends("f", {})
    ((task, _),) = one.takes()
    one.says(bye=True, held=[task["task"]])
    desk.passes(GRACE_PERIOD_S / 2)
    one.says(held=[task["task"]])
    desk.passes(GRACE_PERIOD_S)
    assert set(workers(desk)) == {"w", "x"}
    one.says(bye=True, held=[task["task"]])
    silent(desk, GRACE_PERIOD_S + 2)
    assert set(workers(desk)) == {"x"}
    ((again, _),) = other.takes()
    assert (again["task"], again["attempt"]) == (task["task"], 2)


def test_a_worker_that_drains_and_leaves_is_gone_at_once(desk: Desk, ann: Neighbour) -> None:
    """It gets no task while it drains; after its goodbye, its tasks go to others and count no attempt."""
    one, other = Hand(desk, "b", "w"), Hand(desk, "b", "x")
    ann.sends("f", {})
    ((task, _),) = one.takes()
    one.says(draining=True, held=[task["task"]])
    assert set(workers(desk)) == {"w", "x"}
    ann.sends("f", {})
    assert len(other.takes()) == 1
    one.says(draining=True, bye=True, held=[task["task"]])
    assert set(workers(desk)) == {"x"}
    desk.passes(0.1)
    ((again, _),) = other.takes()
    assert (again["task"], again["attempt"]) == (task["task"], 1)


def test_the_last_frame_of_a_worker_may_bring_results(desk: Desk, ann: Neighbour) -> None:
    """A worker that has drained says goodbye together with what it has done."""
    hand = Hand(desk, "b", "w")
    request = ann.sends("f", {})
    ((task, _),) = hand.takes()
    hand.says((b'{"n":1}',), results=[{"task": task["task"], "error": None}], draining=True, bye=True)
    assert ann.hears(request) == [{"n": 1}]
    assert workers(desk) == {}


def test_what_a_worker_holds_is_known_at_its_first_frame(desk: Desk, ann: Neighbour) -> None:
    """A frame that says only what has changed does not take tasks away; a full one that misses a task does."""
    hand = Hand(desk, "b", "w")
    ann.sends("f", {})
    ((task, _),) = hand.takes()
    hand.says(held=None, received=[task["task"]], seen=9)
    hand.says(held=None, parked=[task["task"]])
    assert workers(desk)["w"].parked == {task["task"]}
    hand.says(held=None, unparked=[task["task"]])
    assert workers(desk)["w"].parked == set()
    assert workers(desk)["w"].leased != set()
    hand.says(held=[], seen=10**6)
    assert len(hand.takes()) == 1


def test_progress_is_passed_on_if_it_is_short(desk: Desk, ann: Neighbour) -> None:
    """Progress of a task that the worker does not have, or that is too long, is dropped."""
    hand = Hand(desk, "b", "w")
    request = ann.sends("f", {}, progress=True)
    ((task, _),) = hand.takes()
    assert task["progress"] is True
    held = [task["task"]]
    hand.says(held=held, progress=[{"task": "1-" + "0" * 32, "data": {"n": 1}}])
    hand.says(held=held, progress=[{"task": task["task"], "data": {"n": "x" * MAX_PROGRESS_BYTES}}])
    hand.says(held=held, progress=[{"task": task["task"], "data": {"n": 2}}])
    found = [line for notice in ann.gets_notices() for line in notice.get("progress", [])]
    assert found == [[request, {"n": 2}]]


def test_progress_that_nobody_asked_for_is_not_sent(desk: Desk, ann: Neighbour) -> None:
    """The worker is told so; one of an older release, which reports all the same, is not listened to."""
    hand = Hand(desk, "b", "w")
    ann.sends("f", {})
    ((task, _),) = hand.takes()
    assert "progress" not in task
    hand.says(held=[task["task"]], progress=[{"task": task["task"], "data": {"n": 1}}])
    assert [notice for notice in ann.gets_notices() if "progress" in notice] == []


def test_the_caller_hears_that_a_run_begins_again(desk: Desk, ann: Neighbour) -> None:
    """When its worker is lost; once, and only if something was reported that is void now."""
    hand = Hand(desk, "b", "w")
    loud, _quiet = (ann.sends("f", {}, progress=True) for _ in range(2))
    tasks = {task["message"]: task["task"] for task, _ in hand.takes()}
    hand.says(held=list(tasks.values()), progress=[{"task": tasks[loud], "data": {"delta": "Once", "at": 0}}])
    hand.says(bye=True)
    desk.passes(GRACE_PERIOD_S)
    desk.passes(1)
    found = [line for notice in ann.gets_notices() for line in notice.get("progress", [])]
    assert found == [[loud, {"delta": "Once", "at": 0}], [loud, {"restart": True}]]


# Results.


def test_results_of_one_lane_count_in_order(desk: Desk, ann: Neighbour) -> None:
    """A result behind one that was lost waits until both come again."""
    hand = Hand(desk, "b", "w")
    first, second = ann.sends("lane", {}), ann.sends("lane", {})
    ((one, _),) = hand.takes()
    hand.says(held=[one["task"]], seen=1)
    ((two, _),) = hand.takes()
    held = [one["task"], two["task"]]
    hand.says((b'{"n":2}',), results=[{"task": two["task"], "error": None}], held=held, seen=9)
    assert ann.hears(second) == []
    assert all(two["task"] not in frame["done"] for frame in hand.frames())
    results = [{"task": each["task"], "error": None} for each in (one, two)]
    hand.says((b'{"n":1}', b'{"n":2}'), results=results, seen=9)
    assert (ann.hears(first), ann.hears(second)) == ([{"n": 1}], [{"n": 2}])


def test_a_result_of_a_worker_that_lost_its_task_counts(desk: Desk, ann: Neighbour) -> None:
    """Whoever is first with a result is believed, and the other worker is told to stop."""
    one, other = Hand(desk, "b", "w"), Hand(desk, "b", "x")
    request = ann.sends("f", {})
    ((task, _),) = one.takes()
    one.says(bye=True)
    for _ in range(4):
        desk.passes(1.0)
        other.says()
    ((again, _),) = other.takes()
    other.says(held=[again["task"]], seen=9)
    one.says((b'{"by":"one"}',), results=[{"task": task["task"], "error": None}])
    assert ann.hears(request) == [{"by": "one"}]
    assert any(again["task"] in frame["cancel"] for frame in other.frames())
    other.ends(again, {"by": "other"})
    assert ann.hears(request) == [{"by": "one"}]


def test_an_unknown_result_is_confirmed(desk: Desk) -> None:
    """A worker may forget a result for which nothing waits any more."""
    hand = Hand(desk, "b", "w")
    hand.says((b"{}",), results=[{"task": "77-" + "0" * 32, "error": None}])
    desk.passes(1.1)
    assert ["77-" + "0" * 32] in [frame["done"] for frame in hand.frames()]


# Workers that are gone, or stuck.


def test_only_the_worker_of_a_process_ends_with_it(desk: Desk) -> None:
    """A process that has ended here takes with it no worker of another process or machine."""
    for name, host, pid in (("mine", HERE, 7), ("other", HERE, 8), ("far", "elsewhere", 7)):
        Hand(desk, "b", name).says(host=host, pid=pid)
    desk.node.dispatch.on_process_ended("b", 7)
    assert set(workers(desk)) == {"other", "far"}


def test_a_silent_worker_is_removed_and_a_daemon_that_stood_still_waits(desk: Desk) -> None:
    """Silence counts from the last frame, or from when the daemon could listen again."""
    Hand(desk, "b", "w")
    silent(desk, HEARTBEAT_TIMEOUT_S - 1)
    assert set(workers(desk)) == {"w"}
    desk.node.dispatch.forgive_silence()
    silent(desk, RECOVERY_S - 1)
    assert set(workers(desk)) == {"w"}
    silent(desk, 3)
    assert workers(desk) == {}


def test_forgiving_silence_shortens_no_time(desk: Desk) -> None:
    """A worker that has just been heard keeps all of its time, and one whose link broke its moment."""
    one, other = Hand(desk, "b", "w"), Hand(desk, "b", "x")
    other.says(bye=True)
    desk.passes(GRACE_PERIOD_S - 0.5)
    one.says()
    before = workers(desk)["w"].last_heard
    desk.node.dispatch.forgive_silence()
    assert workers(desk)["w"].last_heard == before
    assert workers(desk)["w"].lost_at is None
    desk.passes(1.0)
    assert set(workers(desk)) == {"w", "x"}
    desk.passes(GRACE_PERIOD_S)
    assert set(workers(desk)) == {"w"}
    one.says(bye=True)
    desk.timeline.sleep(5 * GRACE_PERIOD_S)
    desk.node.dispatch.forgive_silence()
    desk.node.dispatch.tick()
    assert set(workers(desk)) == {"w"}


def test_a_task_is_given_up_after_three_deaths(desk: Desk, ann: Neighbour) -> None:
    """A task whose worker dies each time becomes a dead letter, and its sender is told."""
    request = ann.sends("f", {})
    for attempt in range(MAX_ATTEMPTS):
        hand = Hand(desk, "b", f"w{attempt}")
        ((task, _),) = hand.takes()
        assert task["attempt"] == attempt + 1
        hand.says(bye=True)
        silent(desk, GRACE_PERIOD_S + 1)
    assert ann.hears_error(request) == "worker_lost"
    assert state_of(desk, ann, request) == IncomingState.DEAD
    assert Hand(desk, "b", "last").takes() == []


@pytest.mark.parametrize(
    ("host", "slots", "parked", "is_replaced"),
    [(HERE, 1, 0, True), (HERE, 2, 0, False), (HERE, 2, 1, True), ("elsewhere", 1, 0, False), (HERE, 1, 1, False)],
)
def test_a_process_without_a_free_slot_is_replaced(
    desk: Desk, host: str, slots: int, parked: int, is_replaced: bool
) -> None:
    """Cancelled runs that go on are logged; a process of ours is ended, once, if they occupy all of its slots."""
    replaced: list[int] = []

    def replace(pid: int) -> bool:
        replaced.append(pid)
        return True

    desk.node.dispatch._replace_process = replace
    hand = Hand(desk, "b", "w")
    overdue, waiting = [["1-" + "0" * 32, "f", 5]], [f"{n}-" + "1" * 32 for n in range(parked)]
    for _ in range(4):
        hand.says(host=host, pid=7, slots=slots, overdue=overdue, parked=waiting, held=[])
        desk.passes(1.0)
    assert replaced == ([7] if is_replaced else [])
    assert [entry.endpoint for entry in desk.journal.log.newest(9) if entry.what == "overdue"] == ["f"]
    hand.says(host=host, pid=7, slots=slots, overdue=[], held=[])
    assert desk.node.points.get("b").overdue == []


def test_a_run_that_has_just_been_cancelled_is_not_overdue(desk: Desk) -> None:
    """A cancelled task has a moment to end before anything is said of it."""
    hand = Hand(desk, "b", "w")
    hand.says(overdue=[["1-" + "0" * 32, "f", 5]])
    desk.node.dispatch.tick()
    assert desk.journal.log.newest(9) == []


# To workers.


def test_nothing_is_leased_while_the_link_is_down(desk: Desk, ann: Neighbour) -> None:
    """A task waits for the link, and counts no attempt before."""
    hand = Hand(desk, "b", "w")
    desk.link.connected = False
    request = ann.sends("f", {})
    row = desk.journal.incoming.find(ann.user, request)
    assert row is not None
    assert row.attempts == 0
    assert workers(desk)["w"].leased == set()
    before = desk.link.bytes_published
    hand.says(boot=desk.node.boot - 1, held=None)
    Hand(desk, "b", "x").says(boot=desk.node.boot - 1)
    assert desk.link.bytes_published == before
    assert len(hand.takes()) == 0
    desk.link.connected = True
    desk.passes(1.1)
    assert len(hand.takes()) == 1


def test_tasks_wait_a_moment_for_their_workers_after_a_restart(desk: Desk, ann: Neighbour) -> None:
    """A worker that comes first after a restart does not get what another one still has."""
    one, other = Hand(desk, "b", "w"), Hand(desk, "b", "x")
    request = ann.sends("f", {})
    ((task, _),) = one.takes()
    desk.restart()
    other.says()
    assert other.takes() == []
    one.says(held=[task["task"]])
    desk.passes(GRACE_PERIOD_S + 1)
    assert other.takes() == []
    one.ends(task, {"n": 1})
    assert ann.hears(request) == [{"n": 1}]


def test_a_task_that_no_frame_can_hold_fails(desk: Desk, ann: Neighbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """A request that was stored while packets could be larger ends with an error, and the next one runs."""
    hand = Hand(desk, "b", "w")
    monkeypatch.setattr(desk.link, "max_packet", 20_000)
    large, small = ann.sends("f", {"fill": "x" * 30_000}), ann.sends("f", {})
    assert ann.hears_error(large) == "too_large"
    ((task, _),) = hand.takes()
    assert task["message"] == small


def test_results_are_confirmed_once_the_link_is_back(desk: Desk, ann: Neighbour) -> None:
    """Nothing is published for a broker that is away."""
    hand = Hand(desk, "b", "w")
    request = ann.sends("f", {})
    ((task, _),) = hand.takes()
    desk.link.connected = False
    before = desk.link.bytes_published
    hand.ends(task, {"n": 1})
    desk.passes(1.1)
    assert desk.link.bytes_published == before
    desk.link.connected = True
    desk.passes(1.1)
    assert hand.frames()[-1]["done"] == [task["task"]]
    assert ann.hears(request) == [{"n": 1}]


def test_a_task_that_is_longer_than_a_frame_usually_is_holds_up_nobody(desk: Desk, ann: Neighbour) -> None:
    """It travels alone, and those before and behind it in its lane are not sent one by one."""
    fills = (10, 10, MAX_FRAME_BYTES - 10_000, MAX_FRAME_BYTES + 100_000, 10)
    requests = [ann.sends("lane", {"fill": "x" * fill}) for fill in fills]
    hand = Hand(desk, "b", "w")
    done: list[str] = []
    rounds = 0
    while len(done) < len(requests) and rounds < 20:
        rounds += 1
        for task, _ in hand.takes():
            done.append(task["message"])
            hand.ends(task, {})
        desk.passes(0.1)
    assert done == requests
    assert rounds <= 3


def test_tasks_that_fill_a_frame_travel_in_their_order(
    desk: Desk, ann: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits in one lane arrives in its order and once, however many frames it takes; none is read in vain."""
    incoming, read = desk.journal.incoming, []
    bodies = incoming.bodies

    def counted(row_ids: Sequence[int]) -> dict[int, bytes]:
        found = bodies(row_ids)
        read.append(sum(map(len, found.values())))
        return found

    monkeypatch.setattr(incoming, "bodies", counted)
    fill = "x" * (MAX_FRAME_BYTES // 3)
    requests = [ann.sends("lane", {"n": n, "fill": fill}) for n in range(7)]
    hand = Hand(desk, "b", "w")
    done: list[str] = []
    for _ in range(20):
        for task, _ in hand.takes():
            done.append(task["message"])
            hand.ends(task, {})
        desk.passes(0.1)
    assert done == requests
    sizes = [len(payload) for payload in desk.link.sent[topics.dispatch(desk.user, "b", "w")]]
    assert max(sizes) < 1.2 * MAX_FRAME_BYTES
    assert 0 < max(read) <= MAX_FRAME_BYTES
    assert all(ann.hears(request) == [{}] for request in requests)


def test_large_tasks_of_one_lane_wait_at_a_worker_of_this_machine(desk: Desk, ann: Neighbour) -> None:
    """It has the next one at hand when one ends, up to some megabytes; they run in their order, and once."""
    desk.link.is_stream = True
    requests = [ann.sends("lane", {"n": n, "fill": "x" * 250_000}) for n in range(12)]
    hand = Hand(desk, "b", "w")
    taken = [task for task, _ in hand.takes()]
    assert [task["message"] for task in taken] == requests[:FIRST_WINDOW]
    done: list[str] = []
    at_once: list[int] = []
    for _ in range(20):
        at_once.append(len(taken))
        for task in taken:
            done.append(task["message"])
            hand.ends(task, {})
        taken = [task for task, _ in hand.takes()]
        desk.passes(0.1)
    assert done == requests
    assert FIRST_WINDOW < max(at_once) <= MAX_AHEAD_BYTES // 250_000


def test_who_may_no_longer_call_is_not_run(desk: Desk, ann: Neighbour) -> None:
    """A task that waits is looked at again before it is leased."""
    request = ann.sends("f", {})
    desk.contacts.block(ann.user)
    hand = Hand(desk, "b", "w")
    desk.passes(0.1)
    assert hand.takes() == []
    assert state_of(desk, ann, request) == IncomingState.FAILED


def test_a_worker_is_greeted_once(desk: Desk) -> None:
    """A worker that does not know of the daemon's restart gets a frame that tells, and then only what it is due."""
    hand = Hand(desk, "b", "w")
    old = desk.node.boot
    desk.restart()
    assert hand.frames() == []
    hand.says(boot=old)
    boots = [frame["boot"] for frame in hand.frames()]
    assert boots
    assert set(boots) == {desk.node.boot}
    hand.says()
    count = len(hand.frames())
    for _ in range(3):
        hand.says()
    assert len(hand.frames()) == count


def test_a_request_is_confirmed_when_a_worker_takes_it(desk: Desk, ann: Neighbour) -> None:
    """The sender is told that a request waits, and that it does not any more."""
    request = ann.sends("f", {})
    assert [notice.get("waiting") for notice in ann.gets_notices()] == [[request]]
    Hand(desk, "b", "w")
    assert [notice.get("received") for notice in ann.gets_notices()][-1] == [request]


def test_packets_of_others_are_no_frames(desk: Desk) -> None:
    """What is not sealed with the key of a point makes neither a point nor a worker."""
    topic = topics.results(desk.user, "z")
    desk.node.process_batch([Packet(topic, b"x" * 100), Packet(topic, json.dumps({"worker": "w"}).encode())])
    assert desk.journal.counters["refused.bad_frame"] == 2
    assert [point.name for point in desk.node.points] == []


def test_what_a_run_has_spent_is_kept_with_its_caller(desk: Desk, ann: Neighbour) -> None:
    """Once, though a worker repeats its result until that is confirmed."""
    hand = Hand(desk, "b", "w")
    ann.sends("f", {})
    ((task, _),) = hand.takes()
    result = {"task": task["task"], "error": None, "spent": [["a-model", 100, 20, 0]]}
    for _ in range(2):
        hand.says((b"{}",), results=[result])
    (row,) = desk.journal.spending.since(0)
    assert (row.endpoint, row.caller, row.model, row.tokens_in, row.tokens_out) == ("f", ann.user, "a-model", 100, 20)


def test_frames_for_many_points_fill_no_memory(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Anybody may publish for points that nobody has, and each would have a key."""
    monkeypatch.setattr(dispatch, "MAX_CHANNELS", 4)
    for number in range(9):
        desk.arrives(topics.results(desk.user, f"p{number}"), b"x" * 100)
    assert desk.journal.counters["refused.bad_frame"] == 9
    assert len(desk.node.dispatch._channels) <= 4


def test_local_workers_need_no_token_to_be_many(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit is for what a token opens to others."""
    monkeypatch.setattr(dispatch, "MAX_WORKERS_OF_TOKEN", 1)
    for name in ("w", "x", "y"):
        Hand(desk, "b", name)
    assert set(workers(desk)) == {"w", "x", "y"}


# Runs that wait for an answer.


def test_the_scheduler_knows_which_runs_wait(desk: Desk, ann: Neighbour, monkeypatch: pytest.MonkeyPatch) -> None:
    """By full frames and by those that say only what has changed; runs that a worker does not have do not count."""
    hand = Hand(desk, "b", "w")
    for _ in range(2):
        ann.sends("f", {})
    one, two = (task["task"] for task, _ in hand.takes())
    noted: list[tuple[int, bool]] = []

    def note(row_id: int, is_waiting: bool) -> None:
        noted.append((row_id, is_waiting))

    monkeypatch.setattr(desk.node.points.get("b").scheduler, "set_waiting", note)

    def said(**header: Any) -> set[tuple[int, bool]]:
        noted.clear()
        hand.says(seen=9, **header)
        return set(noted)

    first, second = row_id_of(one), row_id_of(two)
    assert said(held=[one, two], parked=[one]) == {(first, True)}
    assert said(held=[one, two], parked=[one]) == set()
    assert said(held=None, parked=[two], unparked=[one]) == {(first, False), (second, True)}
    assert said(held=None) == set()
    assert said(held=None, parked=["99-" + "0" * 32]) == set()
    assert said(held=[one, two], parked=[]) == {(second, False)}


def waiting_run(desk: Desk, ann: Neighbour) -> tuple[Hand, str, str]:
    """Return a worker, a task of it that waits for ann's answer to its call 0, and the id of that call."""
    desk.serves("own", subflows={"far": {"user_id": ann.user, "flow_endpoint": "x"}})
    hand = Hand(desk, "b", "w")
    ann.sends("own", {})
    ((task, _),) = hand.takes()
    ask = {"task": task["task"], "k": 0, "op": "call", "user": ann.user, "endpoint": "x", "data": {}, "mark": "m"}
    hand.says(held=[task["task"]], seen=9, asks=[ask])
    (call,) = ann.gets("x")
    return hand, task["task"], call["id"]


def test_a_wait_is_answered_once_there_is_an_answer(desk: Desk, ann: Neighbour) -> None:
    """A worker that asks again after the frame with the result was lost gets it again, and nothing before."""
    hand, task, call = waiting_run(desk, ann)
    hand.is_told().clear()
    for waits in ([[task, 0], [task, 0]], [["1-" + "0" * 32, 0]]):
        hand.says(held=[task], seen=99, waits=waits)
        assert hand.is_told() == []
    ann.sends(topics.REPLY, {"n": 1}, type="reply", cause=call, epoch=0, seq=0)
    before = len([answer for answer in hand.is_told() if answer.get("data") == {"n": 1}])
    assert before == 1
    hand.says(held=[task], seen=99, waits=[[task, 0], [task, 0]])
    assert len([answer for answer in hand.is_told() if answer.get("data") == {"n": 1}]) == 2


def test_an_ask_for_a_task_that_is_gone_is_dropped(desk: Desk, ann: Neighbour) -> None:
    """What a worker asks for a task that it does not have is recorded for nobody."""
    hand, task, _ = waiting_run(desk, ann)
    ask = {"task": "7-" + "0" * 32, "k": 5, "op": "step", "value": 1, "mark": "m"}
    hand.says(held=[task], seen=99, asks=[ask])
    assert desk.journal.records.runs() == {int(task.split("-", maxsplit=1)[0])}
    assert desk.journal.records.get(int(task.split("-", maxsplit=1)[0]), 5) is None


def test_a_suspended_run_waits_without_a_worker(desk: Desk, ann: Neighbour) -> None:
    """A run that its worker has put aside goes to a worker again when its answer is there, with what it recorded."""
    hand, task, call = waiting_run(desk, ann)
    hand.takes()
    hand.says(held=None, seen=99, suspended=[[task, [0]]])
    hand.says(held=None, seen=99, suspended=[[task, [0]]])
    assert hand.takes() == []
    desk.passes(1.1)
    assert any(task in frame["done"] for frame in hand.frames())
    assert desk.node.points.get("b").scheduler.suspended == 1
    ann.sends(topics.REPLY, {"n": 1}, type="reply", cause=call, epoch=0, seq=0)
    ((again, _),) = hand.takes()
    assert again["task"] == task
    assert again["records"][0][2]["data"] == {"n": 1}


def test_a_run_begins_again_only_once_its_answer_is_kept(
    desk: Desk, ann: Neighbour, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash before the commit undoes the answer; the run must not go on with it, as another one may come."""
    hand, task, call = waiting_run(desk, ann)
    hand.takes()
    hand.says(held=None, seen=99, suspended=[[task, [0]]])
    commit, taken = desk.journal.commit, []

    def commit_later(**options: bool) -> None:
        taken.append(hand.takes())
        commit(**options)

    monkeypatch.setattr(desk.journal, "commit", commit_later)
    ann.sends(topics.REPLY, {"n": 1}, type="reply", cause=call, epoch=0, seq=0)
    assert taken[0] == []
    assert [again["task"] for tasks in (*taken, hand.takes()) for again, _ in tasks] == [task]


def test_a_run_whose_answer_has_come_is_not_suspended(desk: Desk, ann: Neighbour) -> None:
    """A worker that puts a run aside while its answer is under way gets it again at once."""
    hand, task, call = waiting_run(desk, ann)
    ann.sends(topics.REPLY, {"n": 1}, type="reply", cause=call, epoch=0, seq=0)
    hand.takes()
    hand.says(held=None, seen=99, suspended=[[task, [0]]])
    ((again, _),) = hand.takes()
    assert again["task"] == task


def test_a_worker_that_repeats_itself_suspends_no_run_that_it_has_got_again(desk: Desk, ann: Neighbour) -> None:
    """Only a worker that has seen the frame with a task can have put it aside."""
    hand, task, _ = waiting_run(desk, ann)
    hand.says(held=None, seen=0, suspended=[[task, [0]]])
    assert desk.node.points.get("b").scheduler.suspended == 0
