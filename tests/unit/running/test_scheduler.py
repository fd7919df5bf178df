"""Lanes keep their order, one worker at a time; slots are never exceeded; no lane starves."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from p2pflowsd.running.fair_queue import FIRST
from p2pflowsd.running.paces import FIRST_WINDOW, MAX_WINDOW, Paces
from p2pflowsd.running.scheduler import Assignment, Group, Scheduler


def test_a_lane_goes_to_one_worker() -> None:
    """Tasks of one lane go to the same worker, in order, even if others are free."""
    scheduler = Scheduler()
    for worker in ("w1", "w2"):
        scheduler.announce(worker, 2)
    for task in (1, 2, 3):
        scheduler.add(task, "a")
    given = scheduler.assign()
    assert [task for _, task in given] == [1, 2, 3]
    assert len({worker for worker, _ in given}) == 1


def test_no_more_before_it_is_sure() -> None:
    """A lane gets more only once its worker holds the last of what it got before."""
    scheduler = Scheduler()
    scheduler.announce("w", 1)
    for task in (1, 2):
        scheduler.add(task, "a")
    assert scheduler.assign() == [Assignment("w", 1), Assignment("w", 2)]
    scheduler.add(3, "a")
    assert scheduler.assign() == []
    scheduler.confirm(1)
    assert scheduler.assign() == []
    scheduler.confirm(2)
    assert scheduler.assign() == [Assignment("w", 3)]


def test_what_got_lost_waits_before_the_rest() -> None:
    """Tasks that did not reach their worker come again in order, with all behind them, before all that waited."""
    scheduler = Scheduler()
    scheduler.announce("w", 1)
    for task in range(5):
        scheduler.add(task, "a")
    scheduler.assign()
    scheduler.add(5, "a")
    assert scheduler.requeue([3, 2]) == [2, 3, 4]
    assert [task for _, task in scheduler.assign()] == [2, 3, 4, 5]


def test_a_suspended_task_stops_its_lane() -> None:
    """It gives back its slot, nothing behind it runs before it, and it comes first when it goes on."""
    scheduler = Scheduler()
    scheduler.announce("w", 1)
    for task in (1, 2):
        scheduler.add(task, "a")
    scheduler.assign()
    assert scheduler.suspend(1) == [1, 2]
    assert (scheduler.suspended, scheduler.free) == (1, 1)
    scheduler.add(3, "a")
    scheduler.add(4, "b")
    assert scheduler.assign() == [Assignment("w", 4)]
    scheduler.done(4)
    scheduler.resume(1)
    assert scheduler.suspended == 0
    assert [task for _, task in scheduler.assign()] == [1, 2, 3]


def test_a_suspended_task_that_ends_lets_its_lane_go_on() -> None:
    """Its deadline may pass, or its sender may withdraw it, while it waits."""
    scheduler = Scheduler()
    scheduler.announce("w", 1)
    for task in (1, 2):
        scheduler.add(task, "a")
    scheduler.suspend(1)
    assert scheduler.assign() == []
    scheduler.done(1)
    assert scheduler.suspended == 0
    assert scheduler.assign() == [Assignment("w", 2)]


def test_what_did_not_fit_waits_until_the_worker_has_what_did() -> None:
    """Else the worker could miss the first frame, and run what came with the second."""
    scheduler = Scheduler()
    scheduler.announce("w", 1)
    for task in range(4):
        scheduler.add(task, "a")
    scheduler.assign()
    assert scheduler.requeue([2, 3], unsent=True) == [2, 3]
    assert scheduler.assign() == []
    scheduler.confirm(1)
    assert [task for _, task in scheduler.assign()] == [2, 3]


def test_a_lost_worker() -> None:
    """What a lost worker had goes to another, in order; only the first of each lane may have been running."""
    scheduler = Scheduler()
    scheduler.announce("w1", 2)
    for task, lane in enumerate("aabb"):
        scheduler.add(task, lane)
    scheduler.assign()
    scheduler.announce("w2", 2)
    assert scheduler.remove_worker("w1") == [0, 2]
    assert scheduler.remove_worker("w1") == []
    assert scheduler.assign() == [Assignment("w2", task) for task in range(4)]


def test_a_draining_worker_gets_nothing() -> None:
    """A worker that is about to end gets no more, and its lane moves on once it is empty."""
    scheduler = Scheduler()
    scheduler.announce("w1", 1)
    scheduler.add(1, "a")
    scheduler.assign()
    scheduler.confirm(1)
    scheduler.announce("w1", 1, draining=True)
    scheduler.announce("w2", 1)
    scheduler.add(2, "a")
    assert scheduler.assign() == []
    scheduler.done(1)
    assert scheduler.assign() == [Assignment("w2", 2)]


def test_adoption_takes_only_the_beginning() -> None:
    """A worker keeps what it holds if nothing that waits elsewhere comes before it in its lane."""
    scheduler = Scheduler()
    scheduler.announce("w", 1)
    for task in (1, 2, 3, 4):
        scheduler.add(task, "a")
    assert scheduler.adopt("w", [4, 2, 1]) == [1, 2]
    assert scheduler.adopt("other", [3]) == []
    assert scheduler.assign() == [Assignment("w", 3), Assignment("w", 4)]


def test_a_busy_lane_does_not_starve_others() -> None:
    """A waiting lane gets the only slot within a window, although another lane never empties."""
    scheduler = Scheduler()
    scheduler.announce("w", 1)
    scheduler.add(0, "busy")
    scheduler.assign()
    scheduler.add(-1, "patient")
    running = [0]
    for task in range(1, 3 * MAX_WINDOW):
        scheduler.add(task, "busy")
        scheduler.confirm(running[-1])
        scheduler.done(running.pop(0))
        running += [number for _, number in scheduler.assign()]
        if -1 in running:
            break
    assert -1 in running


def test_no_slot_is_free_while_a_lane_waits() -> None:
    """Every lane gets a slot as long as there are free ones, on the worker with the most room."""
    scheduler = Scheduler()
    scheduler.announce("small", 1)
    scheduler.announce("big", 3)
    for task, lane in enumerate("abcdef"):
        scheduler.add(task, lane)
    given = scheduler.assign()
    assert sorted(worker for worker, _ in given) == ["big"] * 3 + ["small"]
    assert scheduler.free == 0
    assert (scheduler.workers, scheduler.slots, scheduler.queued) == (2, 4, 6)


def test_callers_take_turns() -> None:
    """Twenty calls of one caller do not keep the single call of another waiting; nor do those that run already."""
    scheduler = Scheduler()
    scheduler.announce("w", 2)
    for task in range(20):
        scheduler.add(task, f"bob {task}", caller="bob")
    assert [task for _, task in scheduler.assign()] == [0, 1]
    for task in (50, 51):
        scheduler.add(task, f"carol {task}", caller="carol")
    scheduler.done(0)
    assert [task for _, task in scheduler.assign()] == [50]
    scheduler.done(1)
    assert [task for _, task in scheduler.assign()] == [2]
    scheduler.done(50)
    assert [task for _, task in scheduler.assign()] == [51]


def test_some_callers_come_first() -> None:
    """The lanes of the owner come before those of all others, if the owner says so."""
    scheduler = Scheduler()
    scheduler.announce("w", 1)
    for task in range(3):
        scheduler.add(task, f"bob {task}", caller="bob")
    for task in (10, 11):
        scheduler.add(task, f"me {task}", caller=FIRST)
    order = []
    for _ in range(5):
        given = [task for _, task in scheduler.assign()]
        order += given
        scheduler.done(given[0])
    assert order == [10, 11, 0, 1, 2]


def test_a_full_group_holds_its_lanes_and_no_others() -> None:
    """Of one endpoint run as many as it allows, callers in turn, while other endpoints use the slots that are left."""
    scheduler = Scheduler()
    scheduler.announce("w", 4)
    model = Group("Assistant", 2)
    for task in range(4):
        scheduler.add(task, f"bob {task}", caller="bob", groups=(model, Group("Assistant bob", 1)))
    assert [task for _, task in scheduler.assign()] == [0]
    scheduler.add(10, "carol", caller="carol", groups=(model, Group("Assistant carol", 1)))
    scheduler.add(20, "dave", caller="dave", groups=(model, Group("Assistant dave", 1)))
    scheduler.add(30, "echo of bob", caller="bob")
    assert sorted(task for _, task in scheduler.assign()) == [10, 30]
    scheduler.done(10)
    assert [task for _, task in scheduler.assign()] == [20]
    scheduler.done(0)
    assert [task for _, task in scheduler.assign()] == [1]


def test_a_waiting_run_leaves_its_group_to_others() -> None:
    """Else a run that calls its own endpoint would wait for itself."""
    scheduler = Scheduler()
    scheduler.announce("w", 2)
    only = (Group("Helper", 1),)
    scheduler.add(1, "outer", groups=only)
    scheduler.add(2, "inner", groups=only)
    assert [task for _, task in scheduler.assign()] == [1]
    scheduler.set_waiting(1, True)
    assert [task for _, task in scheduler.assign()] == [2]
    scheduler.done(2)
    scheduler.set_waiting(1, False)
    scheduler.done(1)
    assert not scheduler._groups


def test_a_higher_bound_lets_what_waits_go_on() -> None:
    """The bound that came last holds for all lanes of the group."""
    scheduler = Scheduler()
    scheduler.announce("w", 8)
    for task in range(4):
        scheduler.add(task, f"lane {task}", groups=(Group("Assistant", 1),))
    assert len(scheduler.assign()) == 1
    scheduler.add(4, "lane 4", groups=(Group("Assistant", 4),))
    assert len(scheduler.assign()) == 3


def test_the_only_worker_has_short_runs_at_hand() -> None:
    """A slot goes on at once with a lane that waits at its worker; there are few of them, and fewer of longer runs."""
    scheduler = Scheduler({"short": MAX_WINDOW, "longer": 12, "long": 1})
    scheduler.announce("w", 2)
    for task in range(100):
        scheduler.add(task, f"lane{task}", endpoint="short")
    assert [task for _, task in scheduler.assign()] == list(range(2 + MAX_WINDOW // 4))
    for endpoint, ahead in (("longer", 3), ("long", 0), ("unknown", 0)):
        others = Scheduler({"short": MAX_WINDOW, "longer": 12, "long": 1})
        others.announce("w", 2)
        for task in range(100):
            others.add(task, f"lane{task}", endpoint=endpoint)
        assert len(others.assign()) == 2 + ahead
    scheduler.done(1)
    assert scheduler.assign() == [Assignment("w", 2 + MAX_WINDOW // 4)]


def test_no_lane_waits_at_a_worker_while_another_could_run_it() -> None:
    """Where several workers serve a point, and where a group bounds what runs, lanes wait in the queue."""
    scheduler = Scheduler({"short": MAX_WINDOW})
    for worker in ("w1", "w2"):
        scheduler.announce(worker, 1)
    for task in range(9):
        scheduler.add(task, f"lane{task}", endpoint="short")
    assert len(scheduler.assign()) == 2
    for busy in ({"slots": 0}, {"slots": 2, "overdue": 2}, {"slots": 2, "draining": True}):
        alone = Scheduler({"short": MAX_WINDOW})
        alone.announce("w", **busy)  # type: ignore[arg-type]
        alone.add(1, "lane", endpoint="short")
        assert alone.assign() == []
    bound = Scheduler({"short": MAX_WINDOW})
    bound.announce("w", 1)
    for task in range(9):
        bound.add(task, f"lane{task}", endpoint="short", groups=[Group("g", 5)])
    assert len(bound.assign()) == 1


def test_only_what_had_a_slot_counts_as_tried() -> None:
    """When a worker dies, lanes that waited there for a slot have not run; a lane that goes on comes behind them."""
    scheduler = Scheduler({"short": MAX_WINDOW})
    scheduler.announce("w", 1)
    for task, lane in enumerate("aabc"):
        scheduler.add(task, lane, endpoint="short")
    assert [task for _, task in scheduler.assign()] == [0, 1, 2, 3]
    scheduler.done(0)
    assert scheduler.remove_worker("w") == [2]
    scheduler.announce("v", 4)
    assert {task for _, task in scheduler.assign()} == {1, 2, 3}


def test_long_runs_are_leased_one_at_a_time() -> None:
    """What is leased to a worker cannot go to another, so a lane of long runs gets no second one at hand."""
    paces = Paces()
    paces.note("slow", 3_000)
    scheduler = Scheduler(paces.windows)
    scheduler.announce("w", 1)
    for task in range(3):
        scheduler.add(task, "bob", caller="bob", endpoint="slow")
    assert [task for _, task in scheduler.assign()] == [0]
    scheduler.confirm(0)
    scheduler.add(10, "carol", caller="carol", endpoint="slow")
    scheduler.done(0)
    assert [task for _, task in scheduler.assign()] == [10]


def test_windows_follow_how_long_runs_take() -> None:
    """Unknown runs get few, short ones many, long ones one; a single long run among short ones does not stay."""
    paces = Paces()
    for endpoint, took_ms in (("short", 0), ("middle", 20), ("long", 400)):
        paces.note(endpoint, took_ms)
    assert paces.windows == {"short": MAX_WINDOW, "middle": 10, "long": 1}
    paces.note("short", 10_000)
    assert paces.windows["short"] == 1
    for _ in range(30):
        paces.note("short", 0)
    assert paces.windows["short"] == MAX_WINDOW
    scheduler = Scheduler(paces.windows)
    scheduler.announce("w", 1)
    for task in range(10):
        scheduler.add(task, "bob", caller="bob", endpoint="new")
    assert len(scheduler.assign()) == FIRST_WINDOW


LANES = st.sampled_from("abc")
CALLER_OF = {"a": "ann", "b": "ann", "c": "bob"}
GROUPS_OF = {
    "a": (Group("one", 1), Group("two", 2)),
    "b": (Group("one", 1),),
    "c": (Group("two", 2),),
}
WORKERS = st.sampled_from(("w1", "w2", "w3"))
ANY = st.integers(0, 1_000)


class Scheduling(RuleBasedStateMachine):
    """The scheduler beside a model that only knows which task was added when."""

    def __init__(self) -> None:
        super().__init__()
        self.scheduler = Scheduler()
        self.order: dict[str, list[int]] = {lane: [] for lane in "abc"}
        self.slots: dict[str, int] = {}
        self.count = 0

    @rule(lane=LANES, times=st.integers(1, 4))
    def add(self, lane: str, times: int) -> None:
        """Some tasks come."""
        for _ in range(times):
            self.count += 1
            self.order[lane].append(self.count)
            self.scheduler.add(self.count, lane, caller=CALLER_OF[lane], groups=GROUPS_OF[lane])

    @rule(worker=WORKERS, slots=st.integers(1, 2), draining=st.booleans())
    def announce(self, worker: str, slots: int, draining: bool) -> None:
        """A worker announces itself."""
        self.scheduler.announce(worker, slots, draining=draining)
        self.slots[worker] = 0 if draining else slots

    @rule()
    def assign(self) -> None:
        """What is given out is the next of its lane, to a worker with room; no lane waits while there is room."""
        leased = self._leased()
        before = {worker: len(self.scheduler._workers[worker].lanes) for worker in self.slots}
        running = {name: group.running for name, group in self.scheduler._groups.items()}
        for worker, task in self.scheduler.assign():
            lane = next(lane for lane, tasks in self.order.items() if task in tasks)
            assert self.order[lane][len(leased[lane])] == task
            leased[lane].append(task)
            assert self.slots[worker] > 0
        for worker, slots in self.slots.items():
            assert len(self.scheduler._workers[worker].lanes) <= max(slots, before[worker])
        assert not self.scheduler._idle or self.scheduler.free == 0
        for name, group in self.scheduler._groups.items():
            assert group.running <= max(group.most, running[name])
            assert not group.held or group.running >= group.most or self.scheduler.free == 0

    @rule(which=ANY)
    def confirm(self, which: int) -> None:
        """A worker shows that it holds a task."""
        if task := self._some_leased(which):
            self.scheduler.confirm(task)

    @rule(which=ANY)
    def end(self, which: int) -> None:
        """A task ends, mostly but not always the first of its lane."""
        tasks = [task for tasks in self.order.values() for task in tasks[: 1 + which % 2]]
        if tasks:
            task = tasks[which % len(tasks)]
            assert self.scheduler.is_head(task) == any(tasks[:1] == [task] for tasks in self.order.values())
            self.scheduler.done(task)
            for tasks in self.order.values():
                if task in tasks:
                    tasks.remove(task)

    @rule(which=ANY, is_waiting=st.booleans())
    def wait(self, which: int, is_waiting: bool) -> None:
        """A run begins to wait for an answer, or goes on."""
        if task := self._some_leased(which):
            self.scheduler.set_waiting(task, is_waiting)

    @rule(which=ANY)
    def get_lost(self, which: int) -> None:
        """A leased task does not arrive."""
        if task := self._some_leased(which):
            gone = self.scheduler.requeue([task])
            assert gone[0] == task
            assert gone == sorted(gone)

    @rule(worker=WORKERS)
    def lose(self, worker: str) -> None:
        """A worker dies."""
        known = self.scheduler._workers.get(worker)
        lanes = [self.scheduler._lanes[name] for name in known.lanes][: known.slots] if known is not None else []
        firsts = {next(iter(lane.leased)) for lane in lanes if lane.leased}
        assert set(self.scheduler.remove_worker(worker)) == firsts
        self.slots.pop(worker, None)

    @rule(worker=WORKERS, lane=LANES, which=st.sets(st.integers(0, 5)))
    def adopt(self, worker: str, lane: str, which: set[int]) -> None:
        """A worker reports that it holds tasks that wait."""
        waiting = self.order[lane][len(self._leased()[lane]) :]
        held = [task for place, task in enumerate(waiting) if place in which]
        if worker in self.slots:
            adopted = self.scheduler.adopt(worker, held)
            assert adopted == waiting[: len(adopted)]

    @invariant()
    def lanes_are_in_order(self) -> None:
        """Leased and waiting tasks of a lane are, in this order, those that were added and have no end."""
        for name, tasks in self.order.items():
            lane = self.scheduler._lanes.get(name)
            assert ([*lane.leased, *lane.waiting] if lane else []) == tasks

    @invariant()
    def one_worker_to_a_lane(self) -> None:
        """A lane is with the worker that counts it, and with no other."""
        for name, lane in self.scheduler._lanes.items():
            owners = [worker for worker, known in self.scheduler._workers.items() if name in known.lanes]
            assert owners == ([lane.worker] if lane.worker else [])
            assert bool(lane.leased) == bool(lane.worker)

    @invariant()
    def groups_count_what_runs(self) -> None:
        """A group knows its running lanes, and holds no lane that also queues."""
        for name, group in self.scheduler._groups.items():
            lanes = [lane for lane in self.scheduler._lanes.values() if name in lane.groups]
            assert group.lanes == len(lanes)
            assert group.running == sum(lane.is_counted for lane in lanes)
        for lane in self.scheduler._lanes.values():
            assert not (lane.is_counted and lane.worker is None)
            queued = lane.name in self.scheduler._idle._waiting.get(lane.caller, {})
            assert (lane.worker is None) == (queued != (lane.held_in is not None))

    def _leased(self) -> dict[str, list[int]]:
        lanes = self.scheduler._lanes
        return {lane: list(lanes[lane].leased) if lane in lanes else [] for lane in self.order}

    def _some_leased(self, which: int) -> int | None:
        tasks = [task for tasks in self._leased().values() for task in tasks]
        return tasks[which % len(tasks)] if tasks else None


TestScheduling = Scheduling.TestCase
TestScheduling.settings = settings(max_examples=150, stateful_step_count=40)
