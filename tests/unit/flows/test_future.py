"""The answer to a call: waiting, polling, awaiting, errors, and the output interface."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from support.scripted_run import ALICE, BOB, ScriptedRun

from p2pflows.errors import Cancelled, DeadlinePassed, Declined, FlowFailed, UsageError
from p2pflows.flows import proxy as proxies
from p2pflows.flows.future import FlowFuture
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.proxy import FlowProxy
from p2pflows.flows.run import Target


def asked(run: ScriptedRun, question: str = "Are you there?") -> FlowFuture:
    """Return the future of a question to Bob."""
    proxy = FlowProxy("Bob", Target(BOB, "User"), run=run)
    return proxy.get_reply_future(proxy.package_input_message({"api_output": question}))


def shout(data: dict[str, Any]) -> dict[str, Any]:
    """An output interface that changes its data in place."""
    data["human_input"] = data["human_input"].upper()
    return data


def test_nothing_has_come_yet() -> None:
    """Polling an open call returns None and raises nothing (D34)."""
    future = asked(ScriptedRun())
    assert future.try_get_data() is None
    assert future.try_get_message() is None
    assert not future.done()


def test_an_answer_can_be_read_many_times() -> None:
    """Every way of reading returns the answer, each time a new copy."""
    run = ScriptedRun()
    future = asked(run)
    run.answer(0, {"human_input": "Yes"})
    future.get_data()["human_input"] = "changed"
    assert future.get_data() == future.try_get_data() == {"human_input": "Yes"}
    assert future.get_message().data == {"human_input": "Yes"}
    assert future.done()
    assert future.exception() is None


def test_an_answer_as_a_message_says_who_answered_what() -> None:
    """The message names the authenticated sender, the subflow, and the message that it answers (D30)."""
    run = ScriptedRun()
    future = asked(run)
    run.answer(0, {"human_input": "Yes"})
    message = future.get_message()
    assert message.user_id == BOB
    assert message.subflow == message.src_flow == "Bob"
    assert message.is_reply
    assert message.input_message_id == run.memory.calls[0][0].message.message_id
    assert message.request is None


def test_waiting_ends_when_the_answer_comes() -> None:
    """A waiting thread receives the answer that another thread brings."""
    run = ScriptedRun()
    future = asked(run)
    got: list[dict[str, Any]] = []
    waiting = threading.Thread(target=lambda: got.append(future.get_data(timeout=60)))
    waiting.start()
    run.answer(0, {"human_input": "Yes"})
    waiting.join()
    assert got == [{"human_input": "Yes"}]


def test_a_wait_that_is_too_short_leaves_the_call_alive() -> None:
    """A wait that times out does not end the call (D35)."""
    run = ScriptedRun()
    future = asked(run)
    for wait in (future.get_data, future.get_message, future.exception):
        with pytest.raises(DeadlinePassed):
            wait(0)
    run.answer(0, {"human_input": "Late"})
    assert future.get_data() == {"human_input": "Late"}


def test_an_error_answer_raises_its_kind() -> None:
    """An error answer is raised as its class, with the other side's words, and as a new object each time (D35)."""
    run = ScriptedRun()
    future = asked(run)
    run.fail(0, FlowFailed("ValueError: no", "Look at the input."))
    raised = []
    for read in (future.get_data, future.get_message, future.try_get_data, future.try_get_message):
        with pytest.raises(FlowFailed, match="ValueError: no") as caught:
            read()
        assert caught.value.hint == "Look at the input."
        raised.append(caught.value)
    assert len(set(map(id, raised))) == len(raised)
    error = future.exception()
    assert isinstance(error, FlowFailed)


def test_a_deadline_of_the_call_is_its_exception() -> None:
    """`exception` returns the error of a call whose own deadline passed, and does not raise it."""
    run = ScriptedRun()
    future = asked(run)
    run.fail(0, DeadlinePassed("No answer."))
    assert isinstance(future.exception(), DeadlinePassed)


def test_withdrawing() -> None:
    """An open call can be withdrawn; reading it then raises Cancelled (D35)."""
    run = ScriptedRun()
    future, answered = asked(run), asked(run)
    run.answer(1, {})
    assert future.cancel()
    assert not future.cancel()
    assert not answered.cancel()
    with pytest.raises(Cancelled):
        future.get_data()
    assert isinstance(future.exception(), Cancelled)


def test_the_output_interface_applies_to_every_way_of_reading() -> None:
    """Polling applies the interface as waiting does, once each, to a new copy (D34)."""
    run = ScriptedRun()
    future = asked(run)
    future.set_output_interface(shout)
    assert future.try_get_data() is None
    run.answer(0, {"human_input": "yes"})
    expected = {"human_input": "YES"}
    assert future.get_data() == future.try_get_data() == future.get_message().data == expected
    message = future.try_get_message()
    assert message is not None
    assert message.data == expected
    future.set_output_interface(None)
    assert future.get_data() == {"human_input": "yes"}


def test_an_output_interface_may_give_a_message_and_nothing_else() -> None:
    """An interface may return a dict or a message; any other result is an error."""
    run = ScriptedRun()
    future = asked(run)
    run.answer(0, {"human_input": "yes"})
    future.set_output_interface(lambda data: FlowMessage(data={**data, "more": 1}))
    assert future.get_data() == {"human_input": "yes", "more": 1}
    future.set_output_interface(len)
    with pytest.raises(UsageError, match="int"):
        future.get_data()


async def test_awaiting() -> None:
    """An async flow can await the future before or after the answer arrives, and many at once (D35)."""
    run = ScriptedRun()
    first, second = asked(run), asked(run)
    second.set_output_interface(shout)

    async def answer() -> None:
        run.answer(1, {"human_input": "two"})
        run.answer(0, {"human_input": "one"})

    async def read(future: FlowFuture) -> dict[str, Any]:
        return await future

    one, two, _ = await asyncio.gather(read(first), read(second), answer())
    assert (one, two) == ({"human_input": "one"}, {"human_input": "TWO"})
    assert await first == one


async def test_awaiting_an_error() -> None:
    """Awaiting raises an error answer."""
    run = ScriptedRun()
    future = asked(run)
    run.fail(0, Declined("No."))
    with pytest.raises(Declined):
        await future


def test_a_run_that_starts_over_finds_its_calls() -> None:
    """The n-th call of a run that starts over is the same call, with the same answer (D40)."""
    run = ScriptedRun()
    asked(run, "first")
    asked(run, "second")
    run.answer(1, {"human_input": "2"})
    again = ScriptedRun(memory=run.memory)
    first, second = asked(again, "first"), asked(again, "second")
    assert len(run.memory.calls) == 2
    assert first.try_get_data() is None
    assert second.get_data() == {"human_input": "2"}


def test_call_is_all_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """`proxy.call` packages, sends and waits; its timeout limits the call itself, too."""
    monkeypatch.setattr(proxies, "_END_TIMEOUT_S", 0.05)
    run = ScriptedRun()
    proxy = FlowProxy("Bob", Target(BOB, "User"), run=run)
    with pytest.raises(DeadlinePassed):
        proxy.call({"api_output": "?"}, timeout=0)
    assert run.memory.calls[0][0].timeout == 0
    run.answer(0, {"human_input": "Yes"})
    assert FlowProxy("Bob", Target(BOB, "User"), run=ScriptedRun(ALICE, memory=run.memory)).call({}) == {
        "human_input": "Yes"
    }
