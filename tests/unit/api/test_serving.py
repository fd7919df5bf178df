"""Serving a flow that a worker loads: what the worker says of it is checked before it is kept."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Hand, control_of

from p2pflows.errors import FlowFailed, UsageError
from p2pflowsd.api.methods import Methods

TIMEOUT_S = 10.0
FLOW = {"endpoint": "g", "kind": "class", "target": "x:X", "cwd": "/", "dispatch_point": "b"}
HONEST: dict[str, Any] = {
    "description": "Writes.", "schema": {"type": "object"}, "interleaved": True, "overridable": ["n"],
    "subflows": {"other": {"user_id": "local"}}, "release": "1", "async": False, "output": None,
}  # fmt: skip


async def serve(desk: Desk, hand: Hand, description: Any) -> Any:
    """Serve a flow that a worker loads, and let the worker describe it."""
    serving = asyncio.create_task(Methods.of(control_of(desk)).run("serve", FLOW))
    while not (tasks := hand.takes()):
        await asyncio.sleep(0)
        desk.passes(0.03)
    hand.ends(tasks[0][0], description)
    return await asyncio.wait_for(serving, TIMEOUT_S)


@pytest.mark.parametrize("left_out", [(), ("overridable", "subflows", "interleaved", "release"), tuple(HONEST)])
async def test_a_flow_is_served_as_its_worker_describes_it(tmp_path: Path, left_out: tuple[str, ...]) -> None:
    """Workers of earlier releases say less of a flow."""
    desk = Desk(tmp_path)
    described = {name: value for name, value in HONEST.items() if name not in left_out}
    shown = await serve(desk, Hand(desk, "b", "w"), described)
    assert shown["description"] == described.get("description", "")
    assert shown["schema"] == described.get("schema")
    assert shown["overridable"] == described.get("overridable", [])
    desk.restart()
    assert desk.node.catalog.get("g") is not None
    desk.journal.close()


@pytest.mark.parametrize(
    "wrong",
    [
        {"overridable": 5},
        {"overridable": "abc"},
        {"overridable": [1]},
        {"schema": 5},
        {"schema": "x"},
        {"schema": []},
        {"subflows": []},
        {"description": {}},
        {"interleaved": "yes"},
        {"release": 5},
    ],
    ids=str,
)
async def test_a_worker_that_describes_a_flow_wrongly_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    """The client gets an error, nothing is served, and the daemon starts again."""
    desk = Desk(tmp_path)
    with pytest.raises(FlowFailed, match="described 'g'"):
        await serve(desk, Hand(desk, "b", "w"), HONEST | wrong)
    assert desk.node.catalog.get("g") is None
    desk.restart()
    desk.journal.close()


async def test_an_empty_rule_opens_nothing(tmp_path: Path) -> None:
    """An empty text, as of a variable that is not set, does not open a flow to all contacts."""
    desk = Desk(tmp_path)
    methods = Methods.of(control_of(desk))
    what = {"endpoint": "g", "kind": "human"}
    with pytest.raises(UsageError, match="unclear"):
        await methods.run("serve", {**what, "allow": ""})
    assert desk.node.catalog.get("g") is None
    assert (await methods.run("serve", {**what, "allow": None}))["allow"] == "contacts"
    desk.journal.close()
