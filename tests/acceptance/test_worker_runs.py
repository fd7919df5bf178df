"""Flow classes in a worker with one slot: they wait in every way, raise anything, and end with their worker."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.processes import wait_until

from p2pflows import run_dispatch_worker_thread, serving, start_local
from p2pflows.errors import CallError, FlowFailed, UsageError
from p2pflows.local import LocalUser, LocalUsers
from p2pflows.worker.socket_link import SocketLink

WAIT = 30.0

FLOWS = '''
import asyncio
import threading

from p2pflows import AtomicFlow, CompositeFlow, FlowFailed, FlowMessage
from p2pflows.errors import CallError
from p2pflows.flows.run import current

ABOUT = {"name": "n", "description": "d"}


class Echo(AtomicFlow):
    default_config = ABOUT

    async def run(self, input_message):
        return {"echo": input_message.data}


class Composite(CompositeFlow):
    default_config = {**ABOUT, "subflows_config": {key: {**ABOUT, "flow_endpoint": "Echo"} for key in "abc"}}

    def asks(self, key, **data):
        return self.subflows[key].get_reply_future(self.subflows[key].package_input_message(data))


class SideBySide(Composite):
    async def run(self, input_message):
        return {"all": await asyncio.gather(*(self.asks(key, of=key) for key in "abc"))}


class InThreads(Composite):
    def run(self, input_message):
        answers = {}
        futures = {key: self.asks(key, of=key) for key in "abc"}

        def wait(key):
            answers[key] = futures[key].get_data()

        threads = [threading.Thread(target=wait, args=(key,)) for key in "abc"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return {"all": [answers[key] for key in "abc"]}


class SendsMuch(Composite):
    def run(self, input_message):
        return self.subflows["a"].call({"text": "x" * 100_000})


class Blocks(Composite):
    async def run(self, input_message):
        return self.subflows["a"].call({"n": 1})


class Current(AtomicFlow):
    default_config = ABOUT

    async def run(self, input_message):
        await asyncio.sleep(0)
        return {"user": current().user}


class Latest(AtomicFlow):
    """Remembers what was used last."""

    default_config = ABOUT

    def set_up_flow_state(self):
        super().set_up_flow_state()
        self.flow_state["recent"] = {"a": 1, "b": 2}

    def run(self, input_message):
        recent = self.flow_state["recent"]
        used = input_message.data["use"]
        if used:
            recent[used] = recent.pop(used)
        return {"order": list(recent)}


class Forwards(CompositeFlow):
    """Shows what a subflow answers to another one."""

    default_config = {**ABOUT, "subflows_config": {
        "Echo": {**ABOUT, "flow_endpoint": "Echo"}, "Notes": {**ABOUT, "flow_endpoint": "Notes"}}}

    def run(self, input_message):
        if input_message.subflow == "Echo":
            self.subflows["Notes"].send_message(input_message)
        else:
            self.subflows["Echo"].get_reply(self.subflows["Echo"].package_input_message(input_message.data))
            return {"asked": True}


class Notes(AtomicFlow):
    """Writes down what it is sent."""

    default_config = ABOUT

    def run(self, input_message):
        with open(input_message.data["echo"]["file"], "w") as file:
            file.write("noted")


class Wordless(CallError):
    """An error that forgets what errors have."""

    kind = "flow_failed"

    def __init__(self):
        pass


class Raises(AtomicFlow):
    default_config = ABOUT

    def run(self, input_message):
        raise {"other": FlowFailed(ValueError("no text")), "wordless": Wordless()}[input_message.data["what"]]
'''


@pytest.fixture(scope="module")
def users(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalUsers]:
    """Alice, with a worker that has one slot."""
    folder = tmp_path_factory.mktemp("flows")
    (folder / "classes.py").write_text(FLOWS)
    with contextlib.chdir(folder), start_local(1) as users:
        worker = run_dispatch_worker_thread(users[0], concurrency=1)
        for name in (
            *("Echo", "SideBySide", "InThreads", "Blocks", "Current", "Latest", "Notes", "Forwards", "Raises"),
        ):
            serving.serve_flow(users[0], f"classes.py:{name}", name)
        yield users
        worker.stop()


@pytest.fixture
def alice(users: LocalUsers) -> LocalUser:
    """The user who serves and calls."""
    return users[0]


def call(alice: LocalUser, endpoint: str, **data: Any) -> Any:
    """The answer of one of alice's flows, within a few seconds."""
    return serving.get_flow_instance(alice, endpoint, timeout=WAIT).call(data, timeout=WAIT)


def open_descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("way", ["SideBySide", "InThreads"])
def test_answers_waited_for_side_by_side(alice: LocalUser, way: str) -> None:
    """While a run waits for several answers, in any way, its only slot is free for the subflows."""
    assert call(alice, way) == {"all": [{"echo": {"of": key}} for key in "abc"]}


def test_an_async_flow_that_blocks_fails(alice: LocalUser) -> None:
    """An async flow that blocks on an answer, and so would block all async flows of its worker, fails with a hint."""
    with pytest.raises(FlowFailed) as caught:
        call(alice, "Blocks")
    assert "stops all async flows" in caught.value.message
    assert "await self.subflows[key].get_reply_future(message)" in caught.value.hint


def test_an_async_class_finds_its_run(alice: LocalUser) -> None:
    """`current` returns the run, even after an await."""
    assert call(alice, "Current") == {"user": alice.user_id}


def test_the_order_of_a_state_is_kept(alice: LocalUser) -> None:
    """A state whose keys change their order is stored as a new state."""
    latest = serving.get_flow_instance(alice, "Latest")
    assert latest.call({"use": "a"}) == {"order": ["b", "a"]}
    assert latest.call({"use": ""}) == {"order": ["b", "a"]}


def test_an_answer_is_sent_on(alice: LocalUser, tmp_path: Path) -> None:
    """A flow can pass an answer of one subflow on to another subflow."""
    file = tmp_path / "noted"
    assert call(alice, "Forwards", file=str(file)) == {"asked": True}
    wait_until(lambda: file.exists() and file.read_text() == "noted")


@pytest.mark.parametrize(("what", "words"), [("other", "no text"), ("wordless", "Wordless")])
def test_an_error_of_any_form(alice: LocalUser, what: str, words: str) -> None:
    """An exception of any form becomes an error of the call, and the process of the flow lives on."""
    with pytest.raises(CallError, match=words):
        call(alice, "Raises", what=what)
    assert call(alice, "Echo", n=1) == {"echo": {"n": 1}}


def test_workers_that_have_ended_leave_nothing(alice: LocalUser) -> None:
    """A worker that has ended leaves no threads and no descriptors."""

    def left() -> tuple[int, int]:
        return threading.active_count(), open_descriptors()

    run_dispatch_worker_thread(alice, "brief").stop()
    before = left()
    for _ in range(5):
        run_dispatch_worker_thread(alice, "brief").stop()
    wait_until(lambda: left() <= (before[0] + 1, before[1] + 1))


def test_calls_of_a_notebook_leave_nothing(alice: LocalUser) -> None:
    """The thread that waits for a call of a notebook closes its connection."""
    echo = serving.get_flow_instance(alice, "Echo")
    assert echo.call({"n": 0}) == {"echo": {"n": 0}}
    before = open_descriptors()
    for n in range(20):
        assert echo.call({"n": n}) == {"echo": {"n": n}}
    wait_until(lambda: open_descriptors() <= before + 2)


def test_a_timeout_of_zero_is_refused(alice: LocalUser) -> None:
    """A timeout of 0 is refused, and does not mean no timeout."""
    echo = serving.get_flow_instance(alice, "Echo")
    with pytest.raises((UsageError, CallError)):
        echo.get_reply_future(echo.package_input_message({}), timeout=0)


def test_a_daemon_restarted_twice_while_a_notebook_waits(users: LocalUsers) -> None:
    """After each restart the daemon has the full time again to come back."""
    alice = users[0]
    future = serving.get_flow_instance(alice, "User").get_reply_future(
        serving.get_flow_instance(alice, "User").package_input_message({"text": "Still there?"})
    )
    for _ in range(2):
        users.restart(alice)
        time.sleep(1.0)
        assert not future.done()
    (prompt,) = alice.inbox()
    alice.answer(prompt["id"], "Yes.")
    assert future.get_data(timeout=WAIT) == {"human_input": "Yes."}


def test_a_call_too_large_for_the_broker(alice: LocalUser, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call that is too large for the broker fails in the flow at once, and not at its deadline."""
    monkeypatch.setattr(SocketLink, "max_packet", 60_000)
    with run_dispatch_worker_thread(alice, "narrow"):
        serving.serve_flow(alice, "classes.py:SendsMuch", "SendsMuch", dispatch_point="narrow")
        with pytest.raises(FlowFailed, match="takes no more than"):
            call(alice, "SendsMuch")


def test_files_of_one_name(alice: LocalUser, tmp_path: Path) -> None:
    """Each flow comes from the file that was named, whatever other files and modules have the same name."""
    for folder, name in (("one", "calendar"), ("two", "calendar")):
        (tmp_path / folder).mkdir()
        code = FLOWS.replace('"description": "d"', f'"description": "From {folder}."')
        (tmp_path / folder / f"{name}.py").write_text(code)
        serving.serve_flow(alice, f"{tmp_path}/{folder}/{name}.py:Echo", f"From-{folder}")
    descriptions = {flow["endpoint"]: flow["description"] for flow in serving.get_served_flows(alice)}
    assert (descriptions["From-one"], descriptions["From-two"]) == ("From one.", "From two.")
    assert call(alice, "From-two", n=2) == {"echo": {"n": 2}}
