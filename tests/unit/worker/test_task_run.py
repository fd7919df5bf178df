"""What a run asks of its daemon, and when; the daemon here records all and answers at once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, NoReturn

import pytest

from p2pflows.errors import FlowFailed
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.run import CallResult, Target
from p2pflows.protocol.asks import Ask, Call, CallReply, Record, Step, StepValue
from p2pflows.protocol.spent import Spent
from p2pflows.protocol.worker_frames import ExecTarget, TaskSpec
from p2pflows.worker.lanes import HeldTask
from p2pflows.worker.task_run import TaskRun

BOB = Target("b" * 64, "search")
SPENT = Spent("m", 5, 7, 0)


class Desk:
    """A worker whose daemon records each ask, and answers it in the thread that asks."""

    def __init__(self) -> None:
        self.asks: list[Ask] = []
        self.run: TaskRun | None = None

    def ask(self, ask: Ask) -> None:
        """Record an ask."""
        assert self.run is not None
        self.asks.append(ask)
        result = StepValue(ask.content.value) if isinstance(ask.content, Step) else CallReply("1", BOB.user, {})
        self.run.deliver(ask.call_index, result)

    @contextlib.contextmanager
    def parked(self, task: HeldTask, *, is_timed: bool) -> Iterator[None]:
        """Do nothing: there are no slots."""
        del task, is_timed
        yield

    def in_loop(self) -> bool:
        """Return False: these runs have a thread."""
        return False

    def progress(self, task: HeldTask, data: dict[str, Any]) -> NoReturn:
        """Fail: nobody listens."""
        raise AssertionError((task, data))

    def recorded(self) -> list[tuple[int, type, Any]]:
        """Return the index and kind of what was recorded, with the values of steps."""
        return [(ask.call_index, type(ask.content), getattr(ask.content, "value", None)) for ask in self.asks]


def begun(records: Mapping[int, Record] | None = None) -> tuple[TaskRun, Desk]:
    """Begin a run, perhaps over again."""
    desk = Desk()
    target = ExecTarget("cat", "/")
    spec = TaskSpec("t", "run", "lane", "chat", 1, target, BOB.user, "c", "m", 2_000_000_000_000, b"{}")
    spec = spec._replace(records=records or {})
    desk.run = TaskRun(HeldTask(spec), "a" * 64, "1" * 32, desk)
    return desk.run, desk


def call(run: TaskRun) -> Future[CallResult]:
    """Call bob."""
    return run.call(BOB, FlowMessage(data={}), timeout=None, subflow="search")


def ask_model(run: TaskRun, text: str) -> Any:
    """Make a deferred step that costs something."""

    def compute() -> str:
        run.note_spent(SPENT)
        return text

    return run.step(compute, is_deferred=True)


def test_a_step_is_recorded_before_it_returns() -> None:
    """A flow goes on only when nothing can make it compute again."""
    run, desk = begun()
    assert run.step(lambda: "one") == "one"
    assert desk.recorded() == [(0, Step, "one")]


def test_a_deferred_step_needs_no_record_if_the_run_ends_next() -> None:
    """Its result replaces the record, and takes along what was spent."""
    run, desk = begun()
    assert ask_model(run, "one") == "one"
    run.reply("m", {"api_output": "one"})
    assert desk.recorded() == []
    assert run.take_spent() == (SPENT,)


@pytest.mark.parametrize(
    ("go_on", "recorded"),
    [
        (call, (1, Call, None)),
        (lambda run: run.step(lambda: "two"), (1, Step, "two")),
    ],
)
def test_a_deferred_step_is_recorded_before_the_run_does_anything_else(
    go_on: Callable[[TaskRun], Any], recorded: tuple[int, type, Any]
) -> None:
    """A run that begins again finds the step under what came after it, with what was spent."""
    run, desk = begun()
    ask_model(run, "one")
    go_on(run)
    assert desk.recorded() == [(0, Step, "one"), recorded]
    first = desk.asks[0].content
    assert isinstance(first, Step)
    assert first.spent == (SPENT,)
    assert run.take_spent() == ()


def test_a_deferred_step_is_recorded_before_the_run_waits() -> None:
    """A run that waits may be ended there, to begin again."""
    run, desk = begun()
    pending = call(run)
    ask_model(run, "one")
    assert isinstance(desk.asks[0].content, Call)
    run.wait(pending, None)
    assert desk.recorded()[1:] == [(1, Step, "one")]


async def test_a_deferred_step_is_recorded_before_an_async_run_waits() -> None:
    """The same, where the run waits without a thread."""
    run, desk = begun()
    pending = call(run)
    ask_model(run, "one")
    await run.wait_async(pending, None)
    assert desk.recorded()[1:] == [(1, Step, "one")]


def test_a_deferred_step_that_was_recorded_is_not_computed_again() -> None:
    """The run that begins again gets the recorded value."""
    run, desk = begun({0: Record("step", StepValue("one"))})
    assert ask_model(run, "another") == "one"
    assert run.take_spent() == ()
    call(run)
    assert desk.recorded() == [(1, Call, None)]


@pytest.mark.parametrize(
    ("sends", "words"),
    [
        (lambda run, much: run.call(BOB, FlowMessage(data=much), timeout=None, subflow="search"), "subflow 'search'"),
        (lambda run, much: run.post(BOB, FlowMessage(data=much)), "message"),
        (lambda run, much: run.reply("m", much), "answer"),
        (lambda run, much: run.step(lambda: much), "step"),
        (lambda run, much: run.progress(much), "Progress"),
    ],
)
def test_what_a_run_sends_too_large_is_no_fault_of_its_caller(
    sends: Callable[[TaskRun, dict[str, Any]], Any], words: str
) -> None:
    """It is a failure of the flow, and not `too_large`, which blames what the caller has sent."""
    run, desk = begun()
    run._task.spec = run._task.spec._replace(progress=True)
    with pytest.raises(FlowFailed, match=words) as failed:
        sends(run, {"text": "x" * 700_001})
    assert failed.value.hint.startswith("Its author can let it ")
    assert desk.asks == []
