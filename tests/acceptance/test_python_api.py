"""`p2pflows.connect()` and `connect_async()`: the API for programs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest
from support.people import Person

import p2pflows
from p2pflows.errors import BadInput, DaemonNotRunning, DeadlinePassed, Declined, NotServed, UnknownUser


@pytest.fixture
def flows(bob: Person) -> Person:
    """Bob, who serves a flow."""
    bob.write_file("api.py", "def double(n: int) -> int:\n    return 2 * n\n")
    bob.serve("double", "api.py:double")
    return bob


def test_importing_the_package_is_cheap() -> None:
    """`import p2pflows` loads nothing heavy."""
    heavy = "{'asyncio', 'pydantic', 'aiohttp', 'nacl', 'yaml', 'http.client', 'click'}"
    code = f"import sys, p2pflows; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_the_synchronous_form(alice: Person, flows: Person) -> None:
    """A program calls, sends, waits, reads its inbox and answers, with ordinary calls."""
    with p2pflows.connect(alice.home) as me, p2pflows.connect(flows.home) as neighbour:
        assert me.call("bob/double", {"n": 21}) == {"result": 42}
        message = me.send("bob/User", {"text": "A note"})
        assert me.wait(message, timeout=10) == {"id": message, "state": "delivered"}
        (prompt,) = neighbour.inbox()
        assert (prompt["id"], prompt["text"], prompt["name"]) == (message, "A note", "alice")
        neighbour.dismiss(message)
        answers: list[dict[str, object]] = []
        asking = threading.Thread(target=lambda: answers.append(me.call("bob/User", {"text": "Question?"}, timeout=20)))
        asking.start()
        (prompt,) = flows.wait_for_prompts()
        assert neighbour.answer(prompt["id"][-8:], "Answer.") == prompt["id"]
        asking.join(20)
        assert answers == [{"human_input": "Answer."}]
        assert [past["status"] for past in neighbour.inbox(all=True)[-2:]] == ["dismissed", "answered"]


def test_a_person_is_asked_for_a_value(alice: Person, bob: Person) -> None:
    """A yes is True, a default is said to be one, and a note wants no answer."""
    with p2pflows.connect(alice.home) as me, p2pflows.connect(bob.home) as neighbour:
        found: list[p2pflows.Answer[bool]] = []
        asking = threading.Thread(target=lambda: found.append(me.ask("bob", "Drop it?", form=bool, timeout=20)))
        asking.start()
        (prompt,) = bob.wait_for_prompts()
        neighbour.answer(prompt["id"], "yes", remark="after 18:00")
        asking.join(20)
        assert found == [p2pflows.Answer(True, "yes", "after 18:00", bob.user_id)]
        silent = me.ask("bob/User", "Which port?", form=int, default=8080, timeout=0.2)
        assert (silent.value, silent.outcome, silent.by) == (8080, "defaulted", "")
        with pytest.raises(DeadlinePassed):
            me.ask("bob", "Drop it?", form=bool, timeout=0.2)
        note = me.tell("bob", "Never mind.")
        bob.wait_for_prompts()
        neighbour.dismiss(note)


async def test_a_question_that_nobody_waits_for_is_withdrawn(alice: Person, bob: Person) -> None:
    """Cancelling the task withdraws the question."""
    async with p2pflows.connect_async(alice.home) as me:
        asking = asyncio.create_task(me.ask("bob", "Are you there?", form=["yes", "maybe"]))
        await asyncio.to_thread(bob.wait_for_prompts)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await asyncio.to_thread(bob.wait_for_status, lambda now: now["prompts_open"] == 0)


def test_errors_are_classes(alice: Person, flows: Person) -> None:
    """Each kind of failure is an exception class, with a message and a hint."""
    with p2pflows.connect(alice.home) as me:
        with pytest.raises(BadInput, match="n"):
            me.call("bob/double", {"n": "x"})
        with pytest.raises(NotServed, match="missing"):
            me.call("bob/missing")
        with pytest.raises(UnknownUser) as unknown:
            me.call("nobody/User")
        assert "contacts add" in unknown.value.hint
        with pytest.raises(DeadlinePassed):
            me.call("bob/User", {"text": "x"}, timeout=0.5)
        with pytest.raises(BadInput):
            me.call("bob/double", {"n": float("nan")})
        with pytest.raises(BadInput):
            me.call("bob/double", {"n": {1, 2}})
    with pytest.raises(DaemonNotRunning, match="No daemon"), p2pflows.connect(flows.home.parent / "nobody") as nobody:
        nobody.inbox()


async def test_the_asynchronous_form(alice: Person, flows: Person) -> None:
    """The asynchronous API does the same, with many calls at once over one connection."""
    async with p2pflows.connect_async(alice.home) as me, p2pflows.connect_async(flows.home) as neighbour:
        answers = await asyncio.gather(*(me.call("bob/double", {"n": n}) for n in range(500)))
        assert answers == [{"result": 2 * n} for n in range(500)]
        shown: asyncio.Queue[dict[str, object]] = asyncio.Queue()

        async def watch() -> None:
            async for prompt in neighbour.watch():
                shown.put_nowait(prompt)

        watching = asyncio.create_task(watch())
        asking = asyncio.create_task(me.call("bob/User", {"text": "Async?"}, timeout=20))
        prompt = await asyncio.wait_for(shown.get(), 10)
        assert (prompt["text"], prompt["status"]) == ("Async?", "open")
        await neighbour.answer(str(prompt["id"]), "Yes.")
        assert await asking == {"human_input": "Yes."}
        assert (await asyncio.wait_for(shown.get(), 10))["status"] == "answered"
        message = await me.send("bob/User", {"text": "Note"})
        assert (await me.wait(message, timeout=10))["state"] == "delivered"
        assert (await asyncio.wait_for(shown.get(), 10))["id"] == message
        assert [prompt["id"] for prompt in await neighbour.inbox()] == [message]
        await neighbour.dismiss(message)
        assert (await asyncio.wait_for(shown.get(), 10))["status"] == "dismissed"
        with pytest.raises(NotServed):
            await me.call("bob/missing")
        refused = asyncio.create_task(me.call("bob/User", {"text": "No?"}, timeout=20))
        prompt = await asyncio.wait_for(shown.get(), 10)
        assert prompt["status"] == "open"
        await neighbour.decline(str(prompt["id"]), "Not now")
        with pytest.raises(Declined, match="Not now"):
            await refused
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


async def test_a_daemon_that_goes_away(pair_without_workers: tuple[Person, Person]) -> None:
    """When the daemon is killed, all waiting calls fail with one kind of error, and continue without the program."""
    alice, bob = pair_without_workers
    async with p2pflows.connect_async(alice.home) as me:
        waiting = [asyncio.create_task(me.call("bob/User", {"text": f"{n}"}, timeout=60)) for n in range(5)]
        prompts = await asyncio.to_thread(bob.wait_for_prompts, 5)
        alice.kill_daemon()
        gone = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(error) for error in gone] == [DaemonNotRunning] * 5
    alice.start()
    bob.request("answer", id=prompts[0]["id"], text="y")
    with p2pflows.connect(alice.home) as me_again:
        assert me_again.wait(prompts[0]["id"], timeout=10) == {"human_input": "y"}
