"""The Python clients, against a scripted control socket."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.scripted_daemon import ScriptedDaemon

import p2pflows
from p2pflows.client import Client
from p2pflows.errors import (
    BadInput,
    CallError,
    DaemonNotRunning,
    Declined,
    NotAllowed,
    P2pflowsError,
    TooLarge,
    UsageError,
)


def test_a_call_gives_the_data_of_the_reply(daemon: ScriptedDaemon) -> None:
    """`call` sends address, data and what else is given, and nothing that is not."""
    daemon.script["call"] = {"id": "1", "data": {"human_input": "Hey"}, "from": "b"}
    with p2pflows.connect(daemon.home) as me:
        assert me.call("bob/User", {"api_output": "Hi"}, timeout=5) == {"human_input": "Hey"}
        assert me.call("bob/User") == {"human_input": "Hey"}
    assert daemon.asked == [
        ("call", {"address": "bob/User", "data": {"api_output": "Hi"}, "timeout": 5}),
        ("call", {"address": "bob/User", "data": {}}),
    ]


def test_every_method_has_its_typed_form(daemon: ScriptedDaemon) -> None:
    """send, wait, inbox, answer and decline speak the control API."""
    daemon.script.update(
        send={"id": "s"},
        wait=lambda params: {"id": "s", "state": "delivered"} if params["id"] == "s" else {"id": "c", "data": {"x": 1}},
        inbox={"prompts": [{"id": "p"}]},
        answer={"id": "p"},
        decline={"id": "p"},
    )
    with p2pflows.connect(daemon.home) as me:
        assert me.send("bob/log", {"text": "x"}, conversation="c") == "s"
        assert me.wait("s") == {"id": "s", "state": "delivered"}
        assert me.wait("c", timeout=1) == {"x": 1}
        assert me.inbox(all=True) == [{"id": "p"}]
        assert me.answer("p", "yes") == "p"
        assert me.decline("p", "no") == "p"
    assert daemon.asked[-3:] == [
        ("inbox", {"all": True}),
        ("answer", {"id": "p", "text": "yes"}),
        ("decline", {"id": "p", "reason": "no"}),
    ]


def test_the_environment_names_the_home(daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a home given, it is the one of P2PFLOWS_HOME."""
    monkeypatch.setenv("P2PFLOWS_HOME", str(daemon.home))
    daemon.script["id"] = {"user_id": "me"}
    with Client() as me:
        assert me.request("id") == {"user_id": "me"}


def test_errors_keep_their_kind(daemon: ScriptedDaemon) -> None:
    """An error of the daemon is raised as its own class with message and hint; a new kind is a CallError."""
    daemon.script["call"] = Declined("They said no.", "Ask later.")
    with p2pflows.connect(daemon.home) as me:
        with pytest.raises(Declined) as caught:
            me.call("bob/User")
        assert (caught.value.message, caught.value.hint) == ("They said no.", "Ask later.")
        with pytest.raises(UsageError):
            me.request("no_such_method")


def test_no_daemon_is_said_plainly(tmp_path: Path) -> None:
    """A home without a daemon, or not there at all, raises DaemonNotRunning with what to do."""
    for home in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DaemonNotRunning) as caught, p2pflows.connect(home) as me:
            me.request("status")
        assert str(home) in caught.value.message
        assert caught.value.hint == "Start it with: p2pflows up"


def test_a_socket_left_behind_is_no_daemon(tmp_path: Path) -> None:
    """The socket file of a killed daemon is not taken for one that runs."""
    with ScriptedDaemon(tmp_path) as daemon:
        os.link(daemon.home / "daemon.sock", tmp_path / "kept")
    (tmp_path / "daemon.sock").unlink(missing_ok=True)
    (tmp_path / "kept").rename(tmp_path / "daemon.sock")
    with pytest.raises(DaemonNotRunning), p2pflows.connect(tmp_path) as me:
        me.request("status")


def test_a_path_too_long_for_a_socket_is_said_so(tmp_path: Path) -> None:
    """The limit of the operating system is named, not a daemon that would not run."""
    with pytest.raises(UsageError, match="too long"), p2pflows.connect(tmp_path / ("x" * 120)) as me:
        me.request("status")


async def test_a_path_too_long_is_said_so_to_tasks_too(tmp_path: Path) -> None:
    """The asynchronous form finds the same words."""
    with pytest.raises(UsageError, match="too long"):
        async with p2pflows.connect_async(tmp_path / ("x" * 120)):
            pass


def test_data_that_is_no_json_is_refused_here(daemon: ScriptedDaemon) -> None:
    """Nothing reaches the daemon that JSON cannot say, or that no message can hold."""
    wrong: list[tuple[type[P2pflowsError], Any]] = [
        (BadInput, float("nan")),
        (BadInput, object()),
        (BadInput, "\ud800"),
        (TooLarge, "x" * 1_000_001),
    ]
    with p2pflows.connect(daemon.home) as me:
        for kind, value in wrong:
            with pytest.raises(kind):
                me.call("bob/x", {"value": value})
    assert daemon.asked == []


def test_a_daemon_that_dies_is_said_to_have_gone(daemon: ScriptedDaemon) -> None:
    """A request that is under way when the daemon dies raises, and says that calls are kept."""
    daemon.script["call"] = lambda _: daemon.die()
    with p2pflows.connect(daemon.home) as me, pytest.raises(DaemonNotRunning, match="went away") as caught:
        me.call("bob/User")
    assert "p2pflows wait" in caught.value.hint


def test_a_restarted_daemon_is_found_again(tmp_path: Path) -> None:
    """A kept connection that the daemon has closed is replaced, and the request is made once."""
    with p2pflows.connect(tmp_path) as me:
        for _ in range(2):
            with ScriptedDaemon(tmp_path) as daemon:
                daemon.script["id"] = {"user_id": "me"}
                assert me.request("id") == {"user_id": "me"}
                assert me.request("id") == {"user_id": "me"}
                assert len(daemon.asked) == 2


def test_patience_ends(daemon: ScriptedDaemon) -> None:
    """With a patience set, a daemon that hangs is reported and not waited for."""
    daemon.script["status"] = lambda _: asyncio.sleep(60)
    with Client(daemon.home, patience=0.2) as me, pytest.raises(DaemonNotRunning, match="does not answer"):
        me.request("status")


def test_an_answer_that_nobody_understands_is_an_error(daemon: ScriptedDaemon) -> None:
    """Something else on the socket gives a plain error."""
    with p2pflows.connect(daemon.home) as me, pytest.raises(CallError, match="cannot read"):
        me.request("no/such/path")


def test_threads_share_a_client(daemon: ScriptedDaemon) -> None:
    """Calls of many threads run side by side, and each gets its own answer."""

    async def echo(params: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.1)
        return {"data": params["data"]}

    daemon.script["call"] = echo
    found: dict[int, Any] = {}
    with p2pflows.connect(daemon.home) as me:
        threads = [
            threading.Thread(target=lambda n=n: found.__setitem__(n, me.call("bob/x", {"n": n}))) for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert found == {n: {"n": n} for n in range(8)}


async def test_async_answers_find_their_calls(daemon: ScriptedDaemon) -> None:
    """Replies that come out of order reach who asked, and what one pass asks leaves in few frames."""

    async def later(params: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(params["data"]["n"] % 7 / 100)
        return {"data": params["data"]}

    daemon.script["call"] = later
    async with p2pflows.connect_async(daemon.home) as me:
        answers = await asyncio.gather(*(me.call("bob/x", {"n": n}) for n in range(500)))
    assert answers == [{"n": n} for n in range(500)]
    assert [params["data"]["n"] for _, params in daemon.asked] == list(range(500))
    assert daemon.frames == 1


async def test_async_has_the_same_methods(daemon: ScriptedDaemon) -> None:
    """The asynchronous form speaks the same API as the synchronous one."""
    daemon.script.update(
        send={"id": "s"},
        wait={"id": "s", "state": "delivered"},
        inbox={"prompts": []},
        answer={"id": "p"},
        decline=NotAllowed("No."),
    )
    async with p2pflows.connect_async(daemon.home) as me:
        assert await me.send("bob/log") == "s"
        assert await me.wait("s") == {"id": "s", "state": "delivered"}
        assert await me.inbox() == []
        assert await me.answer("p", "yes") == "p"
        with pytest.raises(NotAllowed):
            await me.decline("p")
        with pytest.raises(TooLarge):
            await me.call("bob/x", {"text": "x" * 1_000_001})


async def test_big_requests_leave_in_several_frames(daemon: ScriptedDaemon) -> None:
    """What is asked at once never makes a frame that the daemon would refuse."""
    daemon.script["send"] = {"id": "s"}
    async with p2pflows.connect_async(daemon.home) as me:
        await asyncio.gather(*(me.send("bob/x", {"text": "x" * 200_000}) for _ in range(30)))
    assert daemon.frames == 30


async def test_async_without_daemon_is_said_plainly(tmp_path: Path) -> None:
    """Connecting to nothing raises DaemonNotRunning."""
    with pytest.raises(DaemonNotRunning, match="No daemon runs"):
        async with p2pflows.connect_async(tmp_path):
            pass


async def test_pending_calls_fail_when_the_daemon_goes(daemon: ScriptedDaemon) -> None:
    """All that wait are told, and so is who asks afterwards."""
    daemon.script["call"] = lambda params: daemon.die() if params["data"] else asyncio.sleep(60)
    async with p2pflows.connect_async(daemon.home) as me:
        waiting = [asyncio.create_task(me.call("bob/x")) for _ in range(3)]
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*waiting, me.call("bob/x", {"die": True}), return_exceptions=True)
        assert [type(answer) for answer in answers] == [DaemonNotRunning] * 4
        assert me.is_closed
        with pytest.raises(DaemonNotRunning, match="went away"):
            await me.call("bob/x")


async def test_watching_gives_what_is_open_and_what_comes(daemon: ScriptedDaemon) -> None:
    """`watch` yields the open prompts and then every change, until the daemon goes."""
    daemon.script["watch"] = {"prompts": [{"id": "1"}]}
    daemon.script["die"] = lambda _: daemon.die()
    async with p2pflows.connect_async(daemon.home) as me:
        prompts = me.watch()
        assert await anext(prompts) == {"id": "1"}
        daemon.tell("prompt", {"id": "2"})
        assert await anext(prompts) == {"id": "2"}
        me.begin("die")
        with pytest.raises(DaemonNotRunning):
            await anext(prompts)


async def test_a_cancelled_call_harms_nobody(daemon: ScriptedDaemon) -> None:
    """Who stops waiting is forgotten, and a late answer is dropped."""

    async def slow(params: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.2)
        return {"data": params["data"]}

    daemon.script["call"] = slow
    async with p2pflows.connect_async(daemon.home) as me:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(me.call("bob/x", {"n": 1}), 0.05)
        assert await me.call("bob/x", {"n": 2}) == {"n": 2}


async def test_what_a_listener_raises_ends_its_own_call(daemon: ScriptedDaemon) -> None:
    """It comes out of the call that listens; others go on."""

    async def slow(params: dict[str, Any]) -> dict[str, Any]:
        daemon.progress({"text": "w"})
        await asyncio.sleep(0.1)
        return {"data": params["data"]}

    def listen(told: dict[str, Any]) -> None:
        raise KeyError(told["text"])

    daemon.script["call"] = slow
    async with p2pflows.connect_async(daemon.home) as me:
        quiet = asyncio.create_task(me.call("bob/x", {"n": 2}))
        with pytest.raises(KeyError, match="w"):
            await me.call("bob/x", {"n": 1}, on_progress=listen)
        assert await quiet == {"n": 2}
        assert await me.call("bob/x", {"n": 3}) == {"n": 3}


async def test_async_something_else_on_the_socket(tmp_path: Path) -> None:
    """A daemon of another release, say, that answers with HTTP."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    listening = await asyncio.start_unix_server(answer, str(tmp_path / "daemon.sock"))
    async with listening, p2pflows.connect_async(tmp_path) as me:
        with pytest.raises(CallError, match="cannot read"):
            await me.call("bob/x")


async def test_async_a_daemon_that_does_not_read_is_not_waited_for(tmp_path: Path) -> None:
    """Closing takes a moment, no more."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.listen()
        async with p2pflows.connect_async(tmp_path) as me:
            calls = [me.begin("call", address="bob/x", data={"text": "x" * 900_000}) for _ in range(20)]
            await asyncio.sleep(0.1)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        assert all(isinstance(call.exception(), DaemonNotRunning) for call in calls)


async def test_async_a_long_answer_comes_whole(daemon: ScriptedDaemon) -> None:
    """Whatever pieces it comes in."""
    prompts = [{"id": str(n), "text": "ü\n" * 1_000} for n in range(3_000)]
    daemon.script["inbox"] = {"prompts": prompts}
    async with p2pflows.connect_async(daemon.home) as me:
        assert await me.inbox() == prompts
