"""The worker's bookkeeping, without a worker."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pflows.protocol.asks import Ask, AskAnswer, Call, CallReply, Recorded
from p2pflows.protocol.channel import BadFrame
from p2pflows.protocol.spent import Spent
from p2pflows.protocol.worker_frames import CANCELLED, DaemonFrame, ErrorInfo, TaskResult, WorkerFrame, WorkerInfo
from p2pflows.worker.lanes import HeldTask, Lanes
from p2pflows.worker.packing import split_results

SLOTS = 2


def lanes(slots: int = SLOTS, max_waiting: int = 256) -> Lanes:
    """The bookkeeping of a worker that has just started."""
    return Lanes(WorkerInfo("w-1", slots, 7, "here"), max_waiting)


def entry(id_: str, lane: str = "lane", **changes: Any) -> dict[str, Any]:
    """A task as it stands in a frame's header."""
    return {
        "task": id_,
        "op": "run",
        "lane": lane,
        "endpoint": "echo",
        "revision": 1,
        "target": {"kind": "exec", "command": "cat", "cwd": "/"},
        "from": "b" * 64,
        "name": None,
        "conversation": "c",
        "message": "m",
        "expires": 2_000_000_000_500,
        "attempt": 1,
        **changes,
    }


def header(n: int, *tasks: dict[str, Any], boot: int = 1, **changes: Any) -> dict[str, Any]:
    """The header of a frame from the daemon."""
    return {
        "worker": "w-1",
        "boot": boot,
        "n": n,
        "tasks": list(tasks),
        "done": [],
        "cancel": [],
        "stop": False,
        **changes,
    }


def frame(n: int, *tasks: dict[str, Any], boot: int = 1, **changes: Any) -> DaemonFrame:
    """A frame from the daemon."""
    return DaemonFrame.read(header(n, *tasks, boot=boot, **changes), [b"{}"] * len(tasks))


def started(book: Lanes) -> list[str]:
    """Start all tasks that may start, and return their ids."""
    ids = []
    while (task := book.take()) is not None:
        ids.append(task.spec.id)
    return ids


def end(book: Lanes, id_: str, data: bytes = b"{}") -> None:
    """End a running task with data."""
    (task,) = [task for task in book.running if task.spec.id == id_]
    book.finish(task, TaskResult(id_, None, data))


def ids(results: list[TaskResult]) -> list[str]:
    """The tasks of some results."""
    return [result.task for result in results]


def test_a_frame_is_read() -> None:
    """A task's fields and its data are paired, deadlines become seconds, unknown fields do not matter."""
    (task,) = DaemonFrame.read(header(1, entry("a", name="bob", later="news")), [b'{"x":1}']).tasks
    assert (task.id, task.sender_name, task.expires_s, task.data) == ("a", "bob", 2_000_000_000.5, b'{"x":1}')


@pytest.mark.parametrize(
    ("content", "blobs"),
    [
        ({}, []),
        (header(1, entry("a")), []),
        (header(1, {"task": "a"}), [b"{}"]),
        ({**header(1), "n": None}, []),
    ],
)
def test_a_frame_without_its_fields(content: dict[str, Any], blobs: list[bytes]) -> None:
    """A frame that lacks something is refused as a whole."""
    with pytest.raises(BadFrame):
        DaemonFrame.read(content, blobs)


def test_one_lane_runs_in_order() -> None:
    """Tasks of one lane start one at a time, in the order they came."""
    book = lanes()
    book.receive(frame(1, entry("a"), entry("b"), entry("c")))
    assert started(book) == ["a"]
    end(book, "a")
    assert started(book) == ["b"]


def test_lanes_run_beside_each_other() -> None:
    """As many lanes run at once as there are slots, and who waits longest comes next."""
    book = lanes(slots=2)
    book.receive(frame(1, entry("a1", "a"), entry("a2", "a"), entry("b", "b"), entry("c", "c")))
    assert started(book) == ["a1", "b"]
    end(book, "a1")
    assert started(book) == ["c"]
    end(book, "b")
    assert started(book) == ["a2"]


def test_repeated_frames_are_ignored() -> None:
    """A frame that is not newer than the last, or of an earlier boot, changes nothing."""
    book = lanes()
    assert book.receive(frame(2, entry("a"), boot=5)) is not None
    for old in (
        frame(2, entry("b"), boot=5),
        frame(1, entry("b"), boot=5),
        frame(9, entry("b"), boot=4, cancel=["a"]),
    ):
        assert book.receive(old) is None
    assert book.held == ["a"]


def test_a_is_new_boot_is_noticed() -> None:
    """The first frame, and the first after a restart of the daemon, call for a hello."""
    book = lanes()
    assert [
        received.is_new_boot
        for received in map(book.receive, (frame(7), frame(8), frame(1, boot=2), frame(2, boot=2)))
        if received is not None
    ] == [True, False, True, False]
    assert (book.next_frame().boot, book.next_frame().seen) == (2, 2)


def test_a_task_that_is_held_comes_again() -> None:
    """A task that waits, runs, or has ended without an acknowledgement is not taken a second time."""
    book = lanes(slots=1)
    book.receive(frame(1, entry("ended", "x"), entry("runs", "y"), entry("waits", "z")))
    started(book)
    end(book, "ended")
    started(book)
    book.receive(frame(1, entry("ended", "x"), entry("runs", "y"), entry("waits", "z"), boot=2))
    assert sorted(book.held) == ["ended", "runs", "waits"]
    end(book, "runs")
    assert started(book) == ["waits"]
    end(book, "waits")
    assert started(book) == []


def test_results_until_acknowledged() -> None:
    """A result is fresh once, overdue after a while, and kept until the daemon has it."""
    book = lanes()
    book.receive(frame(1, entry("a")))
    started(book)
    end(book, "a", b'{"x":1}')
    assert [result.data for result in book.fresh_results(now=10)] == [b'{"x":1}']
    assert book.fresh_results(now=10) == []
    assert book.overdue_results(now=11, resend_after=2) == []
    assert ids(book.overdue_results(now=12, resend_after=2)) == ["a"]
    assert book.overdue_results(now=13, resend_after=2) == []
    assert ids(book.unacknowledged_results(now=13)) == ["a"]
    assert not book.is_idle
    book.receive(frame(2, done=["a"]))
    assert book.unacknowledged_results(now=20) == []
    assert book.held == []
    assert book.is_idle


def test_a_hello_has_the_fresh_results() -> None:
    """The results of a hello are not sent again at once."""
    book = lanes()
    book.receive(frame(1, entry("a")))
    started(book)
    end(book, "a")
    assert ids(book.unacknowledged_results(now=1)) == ["a"]
    assert book.fresh_results(now=1) == []


def test_cancel_while_waiting() -> None:
    """A cancelled task that has not started never does, and the lane goes on."""
    book = lanes(slots=1)
    book.receive(frame(1, entry("a"), entry("b"), entry("c"), entry("alone", "other")))
    started(book)
    received = book.receive(frame(2, cancel=["b", "alone", "unknown"]))
    assert received is not None
    assert received.to_stop == []
    assert sorted(book.held) == ["a", "c"]
    end(book, "a")
    assert started(book) == ["c"]


def test_cancel_while_running() -> None:
    """A cancelled task that runs is to be stopped; it keeps its lane until it ends, without a result."""
    book = lanes()
    book.receive(frame(1, entry("a"), entry("b")))
    started(book)
    received = book.receive(frame(2, cancel=["a"]))
    assert received is not None
    assert [task.spec.id for task in received.to_stop] == ["a"]
    assert received.to_stop[0].cancelled
    assert book.held == ["b"]
    assert started(book) == []
    end(book, "a")
    assert started(book) == ["b"]
    assert book.fresh_results(now=0) == []


def test_what_a_cancelled_task_has_spent_is_told() -> None:
    """Its result is sent until it is acknowledged, with nothing else in it; its lane goes on."""
    book = lanes()
    book.receive(frame(1, entry("a"), entry("b")))
    started(book)
    (task,) = book.running
    book.receive(frame(2, cancel=["a"]))
    spent = (Spent("tiny", 7, 3),)
    book.finish(task, TaskResult("a", None, b'{"secret": 1}', 5, spent))
    assert started(book) == ["b"]
    (result,) = book.fresh_results(now=0)
    assert (result.task, result.data, result.spent) == ("a", b"null", spent)
    assert result.error is not None
    assert result.error.kind == CANCELLED
    assert "a" in book.held
    book.receive(frame(3, done=["a"]))
    assert book.held == ["b"]


def test_cancel_after_the_end() -> None:
    """A cancelled task's result is forgotten, even before it was in a frame."""
    book = lanes()
    book.receive(frame(1, entry("a")))
    started(book)
    end(book, "a")
    book.receive(frame(2, cancel=["a"]))
    assert book.fresh_results(now=0) == []
    assert book.is_idle


def test_cancelled_and_sent_again() -> None:
    """A task cancelled while it runs and then sent again runs again, once the first run has ended."""
    book = lanes()
    book.receive(frame(1, entry("a")))
    started(book)
    first = book.running[0]
    book.receive(frame(2, cancel=["a"]))
    book.receive(frame(3, entry("a")))
    assert started(book) == []
    book.finish(first, TaskResult("a", None, b'"first"'))
    assert started(book) == ["a"]
    end(book, "a", b'"second"')
    assert [result.data for result in book.fresh_results(now=0)] == [b'"second"']


def test_drain() -> None:
    """A draining worker finishes what runs, forgets what waits, and takes nothing new."""
    book = lanes(slots=1)
    book.receive(frame(1, entry("a"), entry("b"), entry("c", "other")))
    started(book)
    book.drain()
    book.receive(frame(2, entry("d")))
    assert book.held == ["a"]
    assert book.next_frame().draining
    end(book, "a")
    assert started(book) == []
    assert not book.is_idle
    book.receive(frame(3, done=["a"]))
    assert book.is_idle


def test_backlog() -> None:
    """There is a backlog while something waits for a lane or a slot."""
    book = lanes(slots=1)
    book.receive(frame(1, entry("a"), entry("b")))
    started(book)
    assert book.has_backlog
    end(book, "a")
    started(book)
    assert not book.has_backlog


def test_header() -> None:
    """A header names the worker, what it has seen and holds, and how tasks ended."""
    book = lanes()
    book.receive(frame(4, entry("a"), boot=3))
    failed = TaskResult("x", ErrorInfo("flow_failed", "no"), b"null")
    header, blobs = book.next_frame([failed]).to_wire()
    assert blobs == [b"null"]
    assert header == {
        "worker": "w-1",
        "slots": SLOTS,
        "pid": 7,
        "host": "here",
        "parked": [],
        "boot": 3,
        "n": 1,
        "seen": 4,
        "held": ["a"],
        "results": [{"task": "x", "error": {"kind": "flow_failed", "message": "no"}}],
        "draining": False,
        "bye": False,
    }


def test_frames_and_wills_are_numbered_upwards() -> None:
    """A will is above all frames of its connection and below those of the next: none looks like a repeat."""
    book = lanes()
    numbers = []
    for _ in range(3):
        will = book.next_will()
        assert will.bye
        assert list(will.held or ()) == []
        numbers += [book.next_frame().number, book.next_frame().number, will.number]
    assert numbers[2] == 2**52
    assert numbers == sorted(set(numbers))


def test_portions() -> None:
    """Results are split so that a frame stays below the limit, in order, and each is in one frame."""
    results = [TaskResult(str(n), None, b"x" * 400) for n in range(10)]
    portions = list(split_results(results, 2000))
    assert [result for portion in portions for result in portion] == results
    assert max(map(len, portions)) == 3


def test_a_result_over_the_limit() -> None:
    """A result that no frame can hold becomes an error of the flow, or it would be sent for ever."""
    ((result,),) = split_results([TaskResult("a", None, b"x" * 5000)], 2000)
    assert result.task == "a"
    assert result.error is not None
    assert result.error.kind == "flow_failed"
    assert "too large" in result.error.message
    assert result.data == b"null"


class Conversation:
    """A daemon that repeats itself, restarts and loses frames both ways, and a worker's lanes.

    Each move takes a number, which picks what it is about.
    """

    def __init__(self) -> None:
        self.book = lanes()
        self.boot, self.n = 1, 0
        self.lane_of: dict[str, str] = {}
        self.on_the_way: list[DaemonFrame] = []
        self.delivered: list[DaemonFrame] = []
        self.committed: set[str] = set()
        self.withdrawn: set[str] = set()
        # What the worker must do, told in the simplest way there is.
        self.expected: defaultdict[str, list[str]] = defaultdict(list)
        self.known: set[str] = set()
        self.runs: list[HeldTask] = []
        self.ran: set[str] = set()
        self.owed: set[str] = set()
        self.unreported: set[str] = set()

    def lease(self, pick: int) -> None:
        """The daemon sends new tasks."""
        new = [f"t{len(self.lane_of) + more}" for more in range(1 + pick % 3)]
        self.lane_of |= {id_: "abc"[(pick + more) % 3] for more, id_ in enumerate(new)}
        self._publish(new)

    def lease_again(self, _pick: int) -> None:
        """It sends again what is neither committed nor withdrawn, as after a restart or a lost frame."""
        self._publish([id_ for id_ in self.lane_of if id_ not in self.committed | self.withdrawn])

    def acknowledge(self, _pick: int) -> None:
        """It acknowledges the results that it has committed."""
        self._publish([], done=sorted(self.committed))

    def cancel(self, pick: int) -> None:
        """It withdraws a task."""
        if self.lane_of:
            id_ = sorted(self.lane_of)[-1 - pick % len(self.lane_of)]
            self.withdrawn.add(id_)
            self._publish([], cancel=[id_])

    def restart(self, _pick: int) -> None:
        """It restarts; frames that it has published may still arrive."""
        self.boot += 1
        self.n = 0

    def deliver(self, pick: int) -> None:
        """The oldest frame on its way arrives, or is lost."""
        if not self.on_the_way:
            return
        arriving = self.on_the_way.pop(0)
        if pick == 0:
            return
        self.delivered.append(arriving)
        if self.book.receive(arriving) is None:
            return
        self.owed -= {*arriving.done, *arriving.cancel}
        for id_ in arriving.cancel:
            self.known.add(id_)
            if id_ in self.expected[self.lane_of[id_]]:
                self.expected[self.lane_of[id_]].remove(id_)
        for task in arriving.tasks:
            if task.id not in self.known:
                self.known.add(task.id)
                self.expected[task.lane].append(task.id)

    def repeat(self, pick: int) -> None:
        """A frame that has arrived before arrives again."""
        if self.delivered:
            held = self.book.held
            assert self.book.receive(self.delivered[-1 - pick % len(self.delivered)]) is None
            assert self.book.held == held

    def start(self, _pick: int) -> None:
        """A slot is free for a task: it gets the oldest of a lane that is free, unless there is none."""
        task = self.book.take()
        if task is None:
            busy = {running.spec.lane for running in self.runs}
            assert len(self.runs) == SLOTS or not any(self.expected[lane] for lane in set("abc") - busy)
            return
        assert task.spec.id not in self.ran
        assert self.expected[task.spec.lane].pop(0) == task.spec.id
        self.ran.add(task.spec.id)
        self.runs.append(task)

    def finish(self, pick: int) -> None:
        """A task ends."""
        if self.runs:
            task = self.runs.pop(pick % len(self.runs))
            if not task.cancelled:
                self.owed.add(task.spec.id)
                self.unreported.add(task.spec.id)
            self.book.finish(task, TaskResult(task.spec.id, None, b"{}"))

    def report(self, pick: int) -> None:
        """A frame leaves, with all results or the fresh ones, and is lost or committed."""
        everything = pick % 2 == 0
        told = ids(self.book.unacknowledged_results(0) if everything else self.book.fresh_results(0))
        assert set(told) == (self.owed if everything else self.owed & self.unreported)
        self.unreported.clear()
        if pick > 1:
            self.committed.update(told)

    def check(self) -> None:
        """Lanes and slots are respected, and what waits, runs or is not acknowledged is reported as held."""
        busy = [task.spec.lane for task in self.book.running]
        assert len(busy) == len(set(busy)) <= SLOTS
        waiting = {id_ for ids_ in self.expected.values() for id_ in ids_}
        running = {task.spec.id for task in self.runs if not task.cancelled}
        assert sorted(self.book.held) == sorted(waiting | running | self.owed)

    def _publish(self, tasks: list[str], *, done: Sequence[str] = (), cancel: Sequence[str] = ()) -> None:
        self.n += 1
        entries = [entry(id_, self.lane_of[id_]) for id_ in tasks]
        self.on_the_way.append(frame(self.n, *entries, boot=self.boot, done=list(done), cancel=list(cancel)))


MOVES = [
    *[Conversation.lease, Conversation.lease_again, Conversation.acknowledge, Conversation.cancel],
    *[Conversation.restart, Conversation.repeat, Conversation.report],
    *[Conversation.deliver, Conversation.start, Conversation.finish] * 3,
]


@settings(max_examples=100, derandomize=True)
@given(st.lists(st.tuples(st.sampled_from(MOVES), st.integers(0, 7)), min_size=20, max_size=120))
def test_any_conversation(moves: list[tuple[Callable[[Conversation, int], None], int]]) -> None:
    """However frames repeat or are lost, lanes keep their order, a task runs once, and no result is forgotten."""
    conversation = Conversation()
    for move, pick in moves:
        move(conversation, pick)
        conversation.check()


def test_a_load_needs_no_slot() -> None:
    """A flow is loaded while all slots are occupied, and occupies none."""
    book = lanes(slots=1)
    book.receive(frame(1, entry("a1", "a"), entry("load-1", "load-1", op="load"), entry("b1", "b")))
    assert started(book) == ["a1"]
    load = book.take_load()
    assert load is not None
    assert load.spec.id == "load-1"
    assert book.take_load() is None
    end(book, "a1")
    assert started(book) == ["b1"]
    book.finish(load, TaskResult("load-1", None, b"{}"))
    assert started(book) == []


def test_a_load_that_is_cancelled_before_it_starts() -> None:
    """A load that nobody waits for is not started."""
    book = lanes()
    book.receive(frame(1, entry("load-1", "load-1", op="load")))
    book.receive(frame(2, cancel=["load-1"]))
    assert book.take_load() is None
    assert book.held == []


def test_cancelled_tasks_that_go_on() -> None:
    """A frame names the cancelled tasks that still occupy a slot, until they end."""
    book = lanes()
    book.receive(frame(1, entry("a1", "a"), entry("b1", "b")))
    started(book)
    (running,) = [task for task in book.running if task.spec.id == "a1"]
    assert book.next_frame().overdue == []
    book.receive(frame(2, cancel=["a1"]))
    (overdue,) = WorkerFrame.read(*book.next_frame().to_wire()).overdue
    assert (overdue.task, overdue.endpoint, overdue.expires) == ("a1", "echo", 2_000_000_000_500)
    book.take_slots_changed()
    book.finish(running, TaskResult("a1", None, b"{}"))
    assert book.next_frame().overdue == []
    assert book.take_slots_changed()


# Waiting runs.


def waiting(book: Lanes, *ids: str, timed: bool = False) -> list[HeldTask]:
    """Let tasks run, each in its own lane, until each waits for a call that the daemon has recorded."""
    book.receive(frame(1, *(entry(id_, id_) for id_ in ids), reads_changes=True))
    started(book)
    tasks = [task for task in book.running if task.spec.id in ids]
    for task in tasks:
        call = Call(user="b" * 64, endpoint="User", data={}, source="Human", fingerprint="mark")
        book.add_ask(Ask(task.spec.id, 0, call))
        book.park(task, is_timed=timed)
    return tasks


def recorded(n: int, *ids: str) -> DaemonFrame:
    """A frame that says that calls are recorded."""
    answers = [AskAnswer(id_, 0, Recorded()).as_json() for id_ in ids]
    return frame(n, answers=answers, reads_changes=True)


def suspend(book: Lanes, n: int, *ids: str) -> list[str]:
    """Take in that calls are recorded, and end the runs that have to be stopped; return their tasks."""
    received = book.receive(recorded(n, *ids))
    assert received is not None
    for task in received.to_stop:
        book.unpark(task)
        book.finish(task, TaskResult(task.spec.id, None, b"null"))
    return [task.spec.id for task in received.to_stop]


def test_the_longest_waits_are_suspended() -> None:
    """Only what is beyond the limit ends here, and the daemon hears of it until it confirms."""
    book = lanes(slots=3, max_waiting=1)
    waiting(book, "a", "b", "c")
    assert suspend(book, 2, "a", "b", "c") == ["a", "b"]
    for is_full in (False, True):
        reported = book.next_frame(is_full=is_full)
        assert [tuple(run) for run in reported.suspended] == [("a", [0]), ("b", [0])]
    assert list(reported.held or ()) == ["c"]
    book.receive(frame(3, done=["a", "b"], reads_changes=True))
    assert book.next_frame().suspended == []


def test_a_run_that_may_be_about_to_go_on_is_not_suspended() -> None:
    """One whose call is not recorded yet, one that has just got its answer, and one with a time limit of its own."""
    book = lanes(slots=4, max_waiting=0)
    waiting(book, "a")
    assert suspend(book, 2) == []
    answer = AskAnswer("a", 0, CallReply("f" * 32, "b" * 64, {})).as_json()
    received = book.receive(frame(3, answers=[answer], reads_changes=True))
    assert received is not None
    assert received.to_stop == []
    limited = lanes(max_waiting=0)
    waiting(limited, "z", timed=True)
    assert suspend(limited, 2, "z") == []


def test_a_daemon_of_an_older_release_gets_no_suspended_runs() -> None:
    """It would take them for lost; and each of its frames lists all that the worker holds."""
    book = lanes(max_waiting=0)
    waiting(book, "a")
    received = book.receive(frame(2, answers=[AskAnswer("a", 0, Recorded()).as_json()]))
    assert received is not None
    assert received.to_stop == []
    assert list(book.next_frame(is_full=False).held or ()) == ["a"]


def test_nothing_runs_before_a_suspended_task_of_its_lane() -> None:
    """What waited behind it goes back with it, and the lane takes nothing until the daemon has confirmed."""
    book = lanes(max_waiting=0)
    waiting(book, "a")
    book.receive(frame(2, entry("behind", "a"), reads_changes=True))
    assert suspend(book, 3, "a") == ["a"]
    book.receive(frame(4, entry("early", "a"), reads_changes=True))
    assert book.held == []
    book.receive(frame(5, entry("a", "a"), entry("behind", "a"), done=["a"], reads_changes=True))
    assert started(book) == ["a"]


def test_a_frame_says_only_what_has_changed() -> None:
    """Tasks are named when they have come, and when they begin or cease to wait; a full frame names all."""
    book = lanes()
    (task,) = waiting(book, "a")
    first = book.next_frame(is_full=False)
    assert (first.held, first.received, first.parked, first.unparked) == (None, ["a"], ["a"], [])
    book.unpark(task)
    second = book.next_frame(is_full=False)
    assert (second.held, second.received, second.parked, second.unparked) == (None, [], [], ["a"])
    assert list(book.next_frame().held or ()) == ["a"]
