"""Frames between a daemon and its workers: what one end writes, the other reads, and what is malformed is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from p2pflows.errors import CallError, FlowFailed
from p2pflows.protocol.asks import (
    Ask,
    AskAnswer,
    AskStatus,
    Call,
    CallFailed,
    CallReply,
    CancelCall,
    Malformed,
    Record,
    Recorded,
    Step,
    StepValue,
    Unrecorded,
    read_result,
)
from p2pflows.protocol.channel import BadFrame
from p2pflows.protocol.instance_tasks import (
    InstanceMessage,
    InstanceState,
    InstanceTask,
    MountPlan,
    StoredInstance,
    write_instance_task,
)
from p2pflows.protocol.run_result import (
    CallBack,
    Mounted,
    Post,
    Reply,
    RunResult,
    Subflow,
    read_run_result,
    write_run_result,
)
from p2pflows.protocol.spent import Spent
from p2pflows.protocol.worker_frames import (
    ClassTarget,
    DaemonFrame,
    ErrorInfo,
    ExecTarget,
    Failure,
    Progress,
    PythonTarget,
    Success,
    TaskResult,
    TaskSpec,
    UnknownTarget,
    Wait,
    WorkerFrame,
    WorkerInfo,
)

USER, ID = "a" * 64, "0" * 32
REQUEST: dict[str, Any] = {"user": USER, "endpoint": "echo", "instance": ID, "data": {"x": 1}, "source": "s"}
SPENT = Spent("gpt-x", 10, 5, 2)
CALL = Call(**REQUEST, timeout=2.5, fingerprint="f")
STATUSES: list[AskStatus] = [
    StepValue([1, None]),
    StepValue(),
    CallReply(ID, USER, {"text": "yes"}),
    CallFailed({"kind": "declined", "message": "no", "hint": ""}, ID, USER),
    CallFailed({"kind": "bad_input", "message": "no", "hint": ""}),
    Recorded(),
    Unrecorded(),
]


def spec(task: str, **changes: Any) -> TaskSpec:
    """A task that runs `cat`."""
    fields: dict[str, Any] = {
        "id": task,
        "op": "run",
        "lane": "lane",
        "endpoint": "echo",
        "revision": 3,
        "target": ExecTarget("cat", "/"),
        "sender": USER,
        "conversation": ID,
        "message": ID,
        "expires": 2_000_000_000_500,
        "data": b'{"x":1}',
        **changes,
    }
    return TaskSpec(**fields)


def as_travelled(header: dict[str, Any]) -> Any:
    """A header as the other end gets it."""
    return json.loads(json.dumps(header))


def test_a_frame_of_a_worker_arrives_as_it_was_sent() -> None:
    """Every field of a worker's frame comes out as it went in."""
    frame = WorkerFrame(
        worker=WorkerInfo("w-1", 3, 7, "here"),
        boot=2,
        number=2**62,
        seen=9,
        held=["a", "b"],
        parked=["b"],
        results=[
            TaskResult("a", None, b'{"y":2}'),
            TaskResult("b", ErrorInfo("flow_failed", "no", "again", "ValueError"), b"null", 12, (SPENT,)),
        ],
        draining=True,
        bye=True,
        asks=[Ask("b", 0, CALL), Ask("b", 1, Step(value=[1], fingerprint="step")), Ask("b", -1, CancelCall(call=0))],
        waits=[Wait("b", 4)],
        progress=[Progress("b", {"half": True})],
    )
    header, blobs = frame.to_wire()
    read = WorkerFrame.read(as_travelled(header), blobs)
    assert (list(read.held or ()), list(read.parked)) == (frame.held, frame.parked)
    names = ("worker", "boot", "number", "seen", "results", "draining", "bye", "asks", "waits", "progress")
    assert [getattr(read, name) for name in names] == [getattr(frame, name) for name in names]


def test_a_frame_of_a_daemon_arrives_as_it_was_sent() -> None:
    """Every field of a daemon's frame comes out as it went in, whatever the kind of target, record or answer."""
    records = {0: Record("f", CallReply(ID, USER, {})), 2: Record("step", StepValue(7)), 3: Record("step", None)}
    targets = [PythonTarget("f.py:f", "/"), ClassTarget("f.py:F", "/", {"a": 1}), UnknownTarget({"kind": "wasm"})]
    frame = DaemonFrame(
        worker="w-1",
        boot=2,
        number=5,
        tasks=[
            spec("a", sender_name="bob", attempt=2, records=records),
            *(spec(f"t{number}", target=target) for number, target in enumerate(targets)),
        ],
        done=["x"],
        cancel=["y"],
        answers=[AskAnswer("a", index, status) for index, status in enumerate(STATUSES)],
        stop=True,
    )
    header, blobs = frame.to_wire()
    assert DaemonFrame.read(as_travelled(header), blobs) == frame


@pytest.mark.parametrize(
    "content",
    [
        "cat",
        {"kind": "python", "target": 1, "cwd": "/"},
        {"kind": "python", "target": "f.py:f"},
        {"kind": "exec", "command": ["cat"], "cwd": "/"},
        {"kind": "exec", "command": "cat", "cwd": None},
        {"kind": "class", "target": None, "cwd": "/", "config": {}},
        {"kind": "class", "target": "f.py:F", "cwd": 1, "config": {}},
        {"kind": "class", "target": "f.py:F", "cwd": "/", "config": []},
    ],
)
def test_a_target_of_an_unknown_form_spoils_no_other_task(content: Any) -> None:
    """A worker takes the frame in, and knows the target as one that it cannot run."""
    header, blobs = DaemonFrame(worker="w-1", boot=2, number=5, tasks=[spec("a"), spec("b")]).to_wire()
    header["tasks"][0]["target"] = content
    odd, usual = DaemonFrame.read(as_travelled(header), blobs).tasks
    assert (odd.target, usual) == (UnknownTarget(content), spec("b"))


def test_what_is_as_usual_takes_no_room_in_a_frame() -> None:
    """A field is written only if it says something: the end that reads may be of a release that does not know it."""
    assert "errors" not in ExecTarget("cat", "/").as_json()
    assert ExecTarget("cat", "/", "all").as_json()["errors"] == "all"
    assert TaskResult("a", None, b"{}").as_json() == {"task": "a", "error": None}
    frame = DaemonFrame(worker="w-1", boot=1, number=1)
    assert "refused" not in frame.to_wire()[0]
    assert replace(frame, refused="no").to_wire()[0]["refused"] == "no"


def test_the_size_of_a_task_counts_what_may_be_large() -> None:
    """That is its data, what earlier attempts have recorded, and the config of its class."""
    small = spec("a", target=ClassTarget("f.py:F", "/", {}))
    assert spec("a").size() == small.size() == len(small.data)
    long = "x" * 1_000
    assert spec("a", records={0: Record(long, None)}).size() > 1_000
    assert spec("a", target=ClassTarget("f.py:F", "/", {"a": long})).size() > 1_000


@pytest.mark.parametrize("status", STATUSES, ids=lambda status: type(status).__name__)
def test_what_is_kept_of_an_ask_is_what_is_answered(status: AskStatus) -> None:
    """A result that a journal keeps is read as the same value."""
    if not isinstance(status, Recorded | Unrecorded):
        assert read_result(as_travelled(status.as_json())) == status


ODD_NUMBERS: list[dict[str, Any]] = [
    {field: odd} for field in ("boot", "n", "seen", "slots") for odd in (True, -1, 1.0, "1", None, 2**63)
]


@pytest.mark.parametrize(
    "changes",
    [
        {"worker": "a b"},
        {"slots": 0},
        {"seen": None},
        {"held": 5},
        {"n": "x"},
        {"progress": [{"task": "a", "data": [1]}]},
        *ODD_NUMBERS,
    ],
)
def test_a_malformed_frame_of_a_worker_is_refused(changes: dict[str, Any]) -> None:
    """A frame that lacks a field, or has a wrong one, is refused as a whole."""
    header, blobs = WorkerFrame(worker=WorkerInfo("w-1", 1), boot=1, number=1, seen=0).to_wire()
    assert WorkerFrame.read(header, blobs)
    with pytest.raises(BadFrame):
        WorkerFrame.read({**header, **changes}, blobs)
    with pytest.raises(BadFrame):
        WorkerFrame.read(header, [b"{}"])


@pytest.mark.parametrize(
    "content",
    [
        {"op": "dance"},
        {"op": "step", "mark": "step"},
        {"op": "step", "value": 1},
        {"op": "cancel", "call": 0},
        {"op": "call", **REQUEST, "mark": "f", "timeout": "5"},
        {"op": "call", **REQUEST, "mark": "f", "user": "bob"},
        {"op": "call", **REQUEST, "mark": "f" * 201},
    ],
)
def test_an_ask_of_an_unknown_form_is_refused_alone(content: dict[str, Any]) -> None:
    """Only the malformed ask has no effect; the frame is taken in."""
    header, blobs = WorkerFrame(worker=WorkerInfo("w-1", 1), boot=1, number=1, seen=0).to_wire()
    entry = {"task": "a", "k": 5, **content}
    (ask,) = WorkerFrame.read({**header, "asks": [entry]}, blobs).asks
    assert ask == Ask("a", 5, Malformed(entry))


def test_a_result_is_data_or_an_error() -> None:
    """What a worker sends is an object, an error of a known kind, or a failure of the flow."""
    assert TaskResult("a", None, b'{"x":1}').outcome == Success({"x": 1})
    for data in (b"[]", b"", b"NaN", b"null"):
        outcome = TaskResult("a", None, data).outcome
        assert isinstance(outcome, Failure)
        assert isinstance(outcome.error, FlowFailed)
    for kind, expected in (("", FlowFailed), ("of_another_release", CallError)):
        outcome = TaskResult("a", ErrorInfo(kind, "no"), b"null").outcome
        assert isinstance(outcome, Failure)
        assert type(outcome.error) is expected


def test_what_a_run_leaves_behind_arrives_as_it_was_sent() -> None:
    """Messages, state and a mounted instance come out of a result as they went in."""
    result = RunResult(
        [
            Post(**REQUEST),
            CallBack(**REQUEST, timeout=1.0, subflow="key", packaged="p"),
            Reply(request=ID, data={"x": 1}),
            Reply(request=ID, data={}, error=ErrorInfo("declined", "no", "later")),
        ],
        {"count": 1},
        Mounted({"name": "x"}, {"key": Subflow(USER, "echo", None, shared=True)}),
    )
    written = write_run_result(result.out, b'{"count":1}', result.mounted)
    assert read_run_result(json.loads(written)) == result
    assert read_run_result({}) == RunResult()


@pytest.mark.parametrize(
    "content",
    [{"out": [{"op": "dance"}]}, {"state": []}, {"mounted": {"config": {}, "subflows": {"a": {"user": "me"}}}}],
)
def test_what_a_run_leaves_behind_in_a_wrong_form_is_refused(content: dict[str, Any]) -> None:
    """A result of a wrong form has no effect."""
    with pytest.raises(ValueError, match="validation error"):
        read_run_result(content)


def test_the_task_of_an_instance_arrives_as_it_was_sent() -> None:
    """A worker reads what a daemon writes of an instance that is mounted, run, or both."""
    plan = MountPlan({"name": "x"}, {"description": "y"}, {"count": 1}, trusted=True, path=[[USER, "echo"]])
    message = InstanceMessage({"x": 1}, "shell")
    answer = InstanceMessage({}, "echo", {"kind": "declined", "message": "no"}, "key", "p")
    subflows = {"key": Subflow(USER, "echo", ID)}
    stored = StoredInstance('{"name":"x"}', json.dumps({"key": subflows["key"].as_json()}), "null")
    there = InstanceState({"name": "x"}, subflows, None)
    for written, read in (
        (write_instance_task(ID, "call", mount=plan), InstanceTask(ID, "call", None, plan, None)),
        (write_instance_task(ID, "call"), InstanceTask(ID, "call", None, None, None)),
        (
            write_instance_task(ID, "call", message=message, mount=plan),
            InstanceTask(ID, "call", message, plan, None),
        ),
        (
            write_instance_task(ID, "error", message=answer, stored=stored),
            InstanceTask(ID, "error", answer, None, there),
        ),
    ):
        assert InstanceTask.read(written) == read
