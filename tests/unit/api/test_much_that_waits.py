"""What a person asks for costs a batch no more when much waits: the statements are counted, not the time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Neighbour, control_of
from support.lone_daemon import Cost

from p2pflows.protocol.message import Type
from p2pflows.settings.limits import Limits
from p2pflowsd.api.methods import METHODS

DAY_MS = 24 * 3_600_000
FEW, MANY = 100, 2_500


class Costs:
    """A desk that notes what the dearest batch of a method costs."""

    def __init__(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        self.desk = desk
        self.dearest = Cost()
        process = desk.node.process_batch

        def measured(*arguments: Any) -> None:
            with desk.measured() as cost:
                process(*arguments)
            self.dearest = max(self.dearest, cost, key=lambda each: each.steps)

        monkeypatch.setattr(desk.node, "process_batch", measured)

    def of(self, method: str, **params: Any) -> int:
        """Call a method; return how many instructions of SQLite its dearest batch took."""
        self.dearest = Cost()
        asyncio.run(METHODS[method].run(control_of(self.desk), params))
        return self.dearest.steps


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """Bob's daemon, which lets others send much."""
    return Desk(tmp_path, Limits(requests_per_contact=100_000, bytes_per_contact=10**10))


@pytest.fixture
def alice(desk: Desk) -> Neighbour:
    """A contact who does not answer."""
    return Neighbour(desk, 1, "alice")


@pytest.fixture
def costs(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> Costs:
    """Measures the methods of Bob's daemon."""
    return Costs(desk, monkeypatch)


def send(desk: Desk, alice: Neighbour, kind: Type, number: int) -> list[str]:
    """Send messages to somebody who is offline; return their ids."""

    def step() -> list[str]:
        data = {"text": "hello?"}
        return [desk.node.messages.send(kind, alice.user, "echo", data, life_ms=DAY_MS) for _ in range(number)]

    ids: list[str] = desk.do(step)
    return ids


@pytest.mark.parametrize(
    "part",
    [lambda whole: whole, lambda whole: whole[-8:], lambda whole: whole[-8:-2], lambda whole: whole[-12:]],
    ids=["whole", "as shown", "part of what is shown", "end"],
)
def test_a_withdrawal_costs_the_same(
    desk: Desk, alice: Neighbour, costs: Costs, part: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By whatever part of its id a call is named, with 100 open calls or with 2,500."""
    monkeypatch.setattr("p2pflowsd.journal.outgoing._IS_NEW", "n > (SELECT max(n) FROM outgoing) - 50")
    few = costs.of("cancel", id=part(send(desk, alice, Type.CALL, FEW)[0]))
    many = costs.of("cancel", id=part(send(desk, alice, Type.CALL, MANY)[MANY // 2]))
    assert many < 1.2 * few + 500


def test_a_page_of_the_outbox_costs_the_same(desk: Desk, alice: Neighbour, costs: Costs) -> None:
    """However many messages wait behind it; each message is on one page."""
    ids = send(desk, alice, Type.POST, FEW)
    few = costs.of("outbox", limit=50)
    ids += send(desk, alice, Type.POST, MANY)
    assert costs.of("outbox", limit=50, offset=2_000) < 1.2 * few + 500
    control = control_of(desk)
    pages = [asyncio.run(METHODS["outbox"].run(control, {"offset": offset})) for offset in range(0, 3_000, 500)]
    assert [each["id"] for page in pages for each in page["pending"]] == ids
    assert {tuple(page["count"].items()) for page in pages} == {(("pending", FEW + MANY), ("dead", 0))}


def test_what_was_asked_is_read_in_slices(desk: Desk, alice: Neighbour, costs: Costs) -> None:
    """A call behind thousands of posts is found, and no batch looks through all of them."""
    (call,) = send(desk, alice, Type.CALL, 1)
    send(desk, alice, Type.POST, 2 * MANY)
    assert costs.of("asked", limit=50) < 100_000
    found = asyncio.run(METHODS["asked"].run(control_of(desk), {"limit": 50}))
    assert [each["id"] for each in found["asked"]] == [call]


def test_what_ended_is_cleared_in_slices(desk: Desk, alice: Neighbour, costs: Costs) -> None:
    """`asked clear` forgets thousands of calls, a slice in each batch."""
    calls = send(desk, alice, Type.CALL, MANY)

    def end() -> None:
        for call in calls:
            desk.node.messages.cancel(call)

    desk.do(end)
    assert costs.of("clear_asked") < 300_000
    assert desk.journal.outgoing.own(2**62, 9, is_open=False)[0] == []


def test_a_retry_looks_through_few_messages(desk: Desk, alice: Neighbour, costs: Costs) -> None:
    """A failed message is found by the end of its id, beside thousands that wait."""
    failed = desk.do(lambda: desk.node.messages.send(Type.POST, alice.user, "echo", {}, life_ms=1_000))
    desk.sleep(2)
    few = costs.of("retry", id=failed[-8:])
    send(desk, alice, Type.POST, MANY)
    assert costs.of("retry", id=failed) < few + 500


def test_an_endpoint_with_many_tasks_is_unserved_in_slices(desk: Desk, alice: Neighbour, costs: Costs) -> None:
    """Each batch ends some of what waits for a worker, until all senders know."""
    desk.serves("work", kind="python", point="none")
    for _ in range(250):
        alice.sends("work", {"text": "x"})
    costs.dearest = Cost()
    desk.do(lambda: desk.node.serving.unserve("work"))
    while desk.has_work:
        desk.node.process_batch([])
    assert costs.dearest.changes < 500
    assert desk.journal.incoming.count_dead() == 0
    assert len(alice.hears()) == 250
