"""One run of an instance: what it leaves behind."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from p2pflows.protocol.instance_tasks import (
    InstanceMessage,
    InstanceTask,
    MountPlan,
    StoredInstance,
    write_instance_task,
)
from p2pflows.protocol.worker_frames import ClassTarget, TaskSpec
from p2pflows.worker.instance_run import InstanceRun
from p2pflows.worker.lanes import HeldTask
from p2pflows.worker.loading import FlowClass, Loader
from p2pflows.worker.task_run import TaskRun

ME, ID = "b" * 64, "1" * 32
CONFIG = {"private_keys": [], "unsent_keys": [], "name": "Keeper", "description": "Keeps.", "marks": ["a"]}
KEEPER = """
from p2pflows import AtomicFlow

class Keeper(AtomicFlow):
    default_config = {"name": "Keeper", "description": "Keeps.", "marks": ["a"]}

    def run(self, input_message):
        self.flow_config["marks"].append("b")
        self.flow_state.update(input_message.data)
        return {"kept": self.flow_state}
"""


@pytest.fixture
def keeper(tmp_path: Path) -> FlowClass:
    """A class whose flows keep what they get."""
    (tmp_path / "keeper.py").write_text(KEEPER)
    loaded = Loader().load("Keeper", 1, ClassTarget("keeper.py:Keeper", str(tmp_path), {}))
    assert isinstance(loaded, FlowClass)
    return loaded


def left_by(keeper: FlowClass, data: dict[str, Any], state: str | None) -> dict[str, Any]:
    """What a run leaves behind that gets this data: of an instance with a state, or of a new one."""
    stored = None if state is None else StoredInstance(json.dumps(CONFIG), "{}", state)
    mount = MountPlan({}, {}, None, trusted=False, path=[[ME, "Keeper"]]) if state is None else None
    written = write_instance_task(ID, "call", message=InstanceMessage(data), stored=stored, mount=mount)
    target = ClassTarget("keeper.py:Keeper", "", {})
    expires = int(time.time() * 1000) + 60_000
    spec = TaskSpec("1-2", "run", "lane", "Keeper", 1, target, ME, ID, ID, expires, written)
    run = InstanceRun(spec, keeper, InstanceTask.read(written), TaskRun(HeldTask(spec), ME, ID, Host()), None)
    assert run.begin() is None
    result: dict[str, Any] = json.loads(run.result())
    return result


class Host:
    """A worker of which the runs of this test want nothing."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


@pytest.mark.parametrize("state", ['{"n":1}', '{"state":{"n":1}}', '{"x":",\\"state\\":","state":{"n":1.5,"é":[]}}'])
def test_a_state_is_sent_only_if_it_has_changed(keeper: FlowClass, state: str) -> None:
    """Whatever is in it; an unchanged one needs no room in the frame."""
    assert "state" not in left_by(keeper, {}, state)
    assert "state" not in left_by(keeper, json.loads(state), state)
    for more in ({"more": 1}, {"state": {"n": 2}}, {"n": True}):
        assert left_by(keeper, more, state)["state"] == {**json.loads(state), **more}
    assert left_by(keeper, {"n": True}, '{"n":1}')["state"] == {"n": True}, "equal in Python, not in JSON"
    assert left_by(keeper, {}, "null")["state"] == {}


def test_each_instance_has_a_config_of_its_own(keeper: FlowClass) -> None:
    """A run may change the config of its object; the defaults, which are merged once, stay as they were written."""
    for _ in range(2):
        left = left_by(keeper, {"é": "\x00"}, None)
        assert left["mounted"] == {"config": CONFIG, "subflows": {}}
        assert left["state"] == {"é": "\x00"}
        assert left["out"] == [{"op": "reply", "request": ID, "data": {"kept": {"é": "\x00"}}, "error": None}]
