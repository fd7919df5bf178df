"""How what a worker is due is packed into frames."""

from __future__ import annotations

from p2pflows.protocol.asks import AskAnswer, Record, StepValue
from p2pflows.protocol.worker_frames import ExecTarget, TaskSpec
from p2pflowsd.running.worker_outbox import MAX_FRAME_BYTES, WorkerOutbox


def spec(task: str, lane: str, size: int = 2) -> TaskSpec:
    """A task with so many bytes of data."""
    return TaskSpec(
        id=task, op="run", lane=lane, endpoint="echo", revision=1, target=ExecTarget("cat", "/"), sender="b" * 64,
        conversation="c", message="m", expires=1, data=b"x" * size,
    )  # fmt: skip


def test_tasks_of_one_lane_travel_in_one_frame() -> None:
    """Of the last lane of a frame, what does not fit is not sent behind it, but given back."""
    half = MAX_FRAME_BYTES // 2
    outbox = WorkerOutbox([spec("a1", "a", half), spec("a2", "a", half), spec("a3", "a"), spec("b1", "b")])
    frame, unsent = outbox.next_frame("w", 1, 1)
    assert [task.id for task in frame.tasks] == ["a1"]
    assert [task.id for task in unsent] == ["a2", "a3"]
    assert outbox.needs_another_frame
    frame, unsent = outbox.next_frame("w", 1, 2)
    assert ([task.id for task in frame.tasks], unsent) == (["b1"], [])
    assert not outbox.needs_another_frame


def test_a_lane_takes_several_frames_if_none_can_be_missing_between_them() -> None:
    """Over the socket of this machine large tasks of one lane do not wait for each other."""
    outbox = WorkerOutbox([spec(f"a{number}", "a", MAX_FRAME_BYTES - 1) for number in range(3)])
    frames = [outbox.next_frame("w", 1, number, in_order=True) for number in (1, 2, 3)]
    assert [([task.id for task in frame.tasks], unsent) for frame, unsent in frames] == [
        (["a0"], []),
        (["a1"], []),
        (["a2"], []),
    ]
    assert not outbox.needs_another_frame


def test_a_task_larger_than_a_frame_travels_alone() -> None:
    """What no other frame could carry either is sent."""
    outbox = WorkerOutbox([spec("big", "a", 2 * MAX_FRAME_BYTES), spec("b", "b")])
    assert [[task.id for task in outbox.next_frame("w", 1, number)[0].tasks] for number in (1, 2)] == [["big"], ["b"]]


def test_answers_fill_what_tasks_leave_of_a_frame() -> None:
    """Answers travel in order, at least one in a frame without tasks, and only as many as fit beside tasks."""
    big = StepValue("x" * MAX_FRAME_BYTES)
    outbox = WorkerOutbox([spec("a", "a")], answers=[AskAnswer("t", index, big) for index in range(2)])
    packed = [outbox.next_frame("w", 1, number)[0] for number in (1, 2, 3)]
    assert [(len(frame.tasks), [index for _, index, _ in frame.answers]) for frame in packed] == [
        (1, []),
        (0, [0]),
        (0, [1]),
    ]
    assert not outbox.needs_another_frame


def test_what_waits_for_the_commit_is_not_sent_before_it() -> None:
    """A worker may forget a result, and a run may go on, only once that is committed."""
    outbox = WorkerOutbox(finished=["a"], recorded=[AskAnswer("t", 0, StepValue())])
    assert not outbox.is_due(acknowledge=True)
    outbox.release_committed()
    assert outbox.is_due(acknowledge=False)
    frame, _ = outbox.next_frame("w", 1, 1)
    assert (frame.done, frame.answers) == (["a"], [AskAnswer("t", 0, StepValue())])


def test_acknowledgements_alone_wait() -> None:
    """Acknowledgements alone leave when asked for, or when there are many."""
    outbox = WorkerOutbox(acknowledged=["a"])
    assert not outbox.is_due(acknowledge=False)
    assert outbox.is_due(acknowledge=True)
    outbox.acknowledged += [str(number) for number in range(64)]
    assert outbox.is_due(acknowledge=False)


def test_what_follows_a_task_that_waits_for_the_commit_waits_too() -> None:
    """A lane keeps its order; other lanes do not wait."""
    outbox = WorkerOutbox()
    begun = spec("a1", "a")._replace(records={0: Record("m", StepValue(1))})
    assert [outbox.add(task) for task in (begun, spec("a2", "a"), spec("b1", "b"))] == [True, True, False]
    assert [task.id for task in outbox.next_frame("w", 1, 1)[0].tasks] == ["b1"]
    outbox.release_committed()
    assert [task.id for task in outbox.next_frame("w", 1, 2)[0].tasks] == ["a1", "a2"]
