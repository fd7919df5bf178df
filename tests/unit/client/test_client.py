"""The Python clients, against a scripted daemon."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
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


def test_a_call_returns_the_data_of_the_reply(daemon: ScriptedDaemon) -> None:
    """`call` sends address and data, and of the rest only what is given."""
    daemon.script["call"] = {"id": "1", "data": {"human_input": "Hey"}, "from": "b"}
    with p2pflows.connect(daemon.home) as me:
        assert me.call("bob/User", {"api_output": "Hi"}, timeout=5) == {"human_input": "Hey"}
        assert me.call("bob/User") == {"human_input": "Hey"}
    assert daemon.asked == [
        ("call", {"address": "bob/User", "data": {"api_output": "Hi"}, "timeout": 5}),
        ("call", {"address": "bob/User", "data": {}}),
    ]


def test_every_method_has_its_typed_form(daemon: ScriptedDaemon) -> None:
    """send, wait, inbox, answer and decline use the methods of the control API."""
    daemon.script.update(
        send={"id": "s"},
        wait=lambda params: {"id": "s", "state": "delivered"} if params["id"] == "s" else {"id": "c", "data": {"x": 1}},
        inbox={"prompts": [{"id": "p"}]},
        answer={"id": "p"},
        decline={"id": "p"},
        dismiss={"ids": ["n"]},
    )
    with p2pflows.connect(daemon.home) as me:
        assert me.send("bob/log", {"text": "x"}, conversation="c") == "s"
        assert me.wait("s") == {"id": "s", "state": "delivered"}
        assert me.wait("c", timeout=1) == {"x": 1}
        assert me.inbox(all=True) == [{"id": "p"}]
        assert me.answer("p", "yes") == "p"
        assert me.decline("p", "no") == "p"
        assert me.dismiss("n") == ["n"]
    assert daemon.asked[-4:] == [
        ("inbox", {"all": True, "limit": 1000}),
        ("answer", {"id": "p", "text": "yes"}),
        ("decline", {"id": "p", "reason": "no"}),
        ("dismiss", {"ids": ["n"]}),
    ]


def test_an_empty_name_is_nobody(daemon: ScriptedDaemon) -> None:
    """A note to it would be one to oneself."""
    with Client(daemon.home) as client, pytest.raises(UsageError, match="names nobody"):
        client.tell("", "Hi")
    assert daemon.asked == []


def test_the_environment_names_the_home(daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an argument, the home is that of P2PFLOWS_HOME."""
    monkeypatch.setenv("P2PFLOWS_HOME", str(daemon.home))
    daemon.script["id"] = {"user_id": "me"}
    with Client() as me:
        assert me.request("id") == {"user_id": "me"}


def test_errors_keep_their_kind(daemon: ScriptedDaemon) -> None:
    """An error of the daemon is raised as the class of its kind, with message and hint."""
    daemon.script["call"] = Declined("They said no.", "Ask later.")
    with p2pflows.connect(daemon.home) as me:
        with pytest.raises(Declined) as caught:
            me.call("bob/User")
        assert (caught.value.message, caught.value.hint) == ("They said no.", "Ask later.")
        with pytest.raises(UsageError):
            me.request("no_such_method")


def test_a_missing_daemon_is_an_error_with_a_hint(tmp_path: Path) -> None:
    """A home without a daemon, or no home at all, raises DaemonNotRunning and says what to do."""
    for home in (tmp_path / "nowhere", tmp_path):
        with pytest.raises(DaemonNotRunning) as caught, p2pflows.connect(home) as me:
            me.request("status")
        assert str(home) in caught.value.message
        assert caught.value.hint == "Start it with: p2pflows up"


def test_a_socket_left_behind_is_no_daemon(tmp_path: Path) -> None:
    """The socket file of a killed daemon is not taken for a running daemon."""
    with ScriptedDaemon(tmp_path) as daemon:
        os.link(daemon.home / "daemon.sock", tmp_path / "kept")
    (tmp_path / "daemon.sock").unlink(missing_ok=True)
    (tmp_path / "kept").rename(tmp_path / "daemon.sock")
    with pytest.raises(DaemonNotRunning), p2pflows.connect(tmp_path) as me:
        me.request("status")


def test_a_path_too_long_for_a_socket_is_an_error(tmp_path: Path) -> None:
    """The error names the limit of the operating system, and does not say that no daemon runs."""
    with pytest.raises(UsageError, match="too long"), p2pflows.connect(tmp_path / ("x" * 120)) as me:
        me.request("status")


async def test_async_a_path_too_long_for_a_socket_is_an_error(tmp_path: Path) -> None:
    """The asynchronous client raises the same error."""
    with pytest.raises(UsageError, match="too long"):
        async with p2pflows.connect_async(tmp_path / ("x" * 120)):
            pass


def test_data_that_is_no_json_is_refused_by_the_client(daemon: ScriptedDaemon) -> None:
    """The daemon gets nothing that JSON cannot express, or that no message can hold."""
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


def test_a_daemon_that_dies_during_a_request_is_an_error(daemon: ScriptedDaemon) -> None:
    """The error says that accepted calls are kept."""
    daemon.script["call"] = lambda _: daemon.die()
    with p2pflows.connect(daemon.home) as me, pytest.raises(DaemonNotRunning, match="went away") as caught:
        me.call("bob/User")
    assert "p2pflows wait" in caught.value.hint


def test_a_client_works_after_a_failed_request(tmp_path: Path) -> None:
    """A request that fails closes its connection; the next request opens another."""
    with p2pflows.connect(tmp_path) as me:
        with ScriptedDaemon(tmp_path) as daemon:
            daemon.script["id"] = lambda _: daemon.die()
            with pytest.raises(DaemonNotRunning):
                me.request("id")
        with pytest.raises(DaemonNotRunning):
            me.request("id")
        with ScriptedDaemon(tmp_path) as daemon:
            daemon.script["id"] = {"user_id": "me"}
            assert me.request("id") == {"user_id": "me"}


def test_a_restarted_daemon_is_found_again(tmp_path: Path) -> None:
    """A kept connection that the daemon has closed is replaced, and the request is sent once."""
    with p2pflows.connect(tmp_path) as me:
        for _ in range(2):
            with ScriptedDaemon(tmp_path) as daemon:
                daemon.script["id"] = {"user_id": "me"}
                assert me.request("id") == {"user_id": "me"}
                assert me.request("id") == {"user_id": "me"}
                assert len(daemon.asked) == 2


def test_a_timeout_ends_a_request(daemon: ScriptedDaemon) -> None:
    """With a timeout, a daemon that hangs is an error."""
    daemon.script["status"] = lambda _: asyncio.sleep(60)
    with Client(daemon.home, timeout=0.2) as me, pytest.raises(DaemonNotRunning, match="does not answer"):
        me.request("status")


@pytest.mark.parametrize("response", [b"HTTP/1.1 400 Bad Request\r\n\r\n", b"5\n", b"[5]\n"])
def test_an_unreadable_response_is_an_error(tmp_path: Path, response: bytes) -> None:
    """The error says so if something else listens on the socket."""
    with socket.socket(socket.AF_UNIX) as listener, ThreadPoolExecutor() as pool:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.listen()

        def respond() -> None:
            connection, _ = listener.accept()
            with connection:
                assert connection.recv(1000) == b'{"id":1,"method":"status","params":{}}\n'
                connection.sendall(response)

        responded = pool.submit(respond)
        with p2pflows.connect(tmp_path) as me, pytest.raises(CallError, match="cannot read"):
            me.request("status")
        responded.result()


def test_closing_a_client_ends_the_requests_of_other_threads(daemon: ScriptedDaemon) -> None:
    """A thread that waits for a response gets an error at once."""
    arrived = threading.Event()

    async def hang(_: dict[str, Any]) -> None:
        arrived.set()
        await asyncio.sleep(60)

    daemon.script["call"] = hang
    with ThreadPoolExecutor() as pool, p2pflows.connect(daemon.home) as me:
        call = pool.submit(me.call, "bob/x")
        assert arrived.wait(10)
        me.close()
        with pytest.raises(DaemonNotRunning):
            call.result(10)


def test_threads_share_a_client(daemon: ScriptedDaemon) -> None:
    """Calls of many threads run side by side, and each thread gets its own answer."""

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


async def test_async_each_call_gets_its_own_reply(daemon: ScriptedDaemon) -> None:
    """Replies may come out of order; requests of one pass of the event loop are sent in one line."""

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
    """The asynchronous client has the methods of the synchronous one."""
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


async def test_async_large_requests_are_sent_in_several_lines(daemon: ScriptedDaemon) -> None:
    """Many requests at once never make a line that the daemon refuses."""
    daemon.script["send"] = {"id": "s"}
    async with p2pflows.connect_async(daemon.home) as me:
        await asyncio.gather(*(me.send("bob/x", {"text": "x" * 200_000}) for _ in range(30)))
    assert daemon.frames == 30


async def test_async_a_missing_daemon_is_an_error(tmp_path: Path) -> None:
    """Connecting raises DaemonNotRunning."""
    with pytest.raises(DaemonNotRunning, match="No daemon runs"):
        async with p2pflows.connect_async(tmp_path):
            pass


async def test_pending_calls_fail_when_the_daemon_goes(daemon: ScriptedDaemon) -> None:
    """All calls that wait fail, and so do later ones."""
    daemon.script["call"] = lambda params: daemon.die() if params["data"] else asyncio.sleep(60)
    async with p2pflows.connect_async(daemon.home) as me:
        waiting = [asyncio.create_task(me.call("bob/x")) for _ in range(3)]
        await asyncio.sleep(0.1)
        answers = await asyncio.gather(*waiting, me.call("bob/x", {"die": True}), return_exceptions=True)
        assert [type(answer) for answer in answers] == [DaemonNotRunning] * 4
        assert me.is_closed
        with pytest.raises(DaemonNotRunning, match="went away"):
            await me.call("bob/x")


async def test_watch_yields_open_prompts_and_then_changes(daemon: ScriptedDaemon) -> None:
    """It ends with an error when the daemon goes away."""
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


async def test_watch_reads_further_pages(daemon: ScriptedDaemon) -> None:
    """A prompt that comes while they are read is yielded once, and a change of it is not lost."""

    async def second_page(_: dict[str, Any]) -> dict[str, Any]:
        daemon.tell("prompt", {"id": "2"})
        daemon.tell("prompt", {"id": "1", "status": "answered"})
        await asyncio.sleep(0.1)
        return {"prompts": [{"id": "2"}], "next": None}

    daemon.script.update(watch={"prompts": [{"id": "1"}], "next": "1"}, inbox=second_page)
    async with p2pflows.connect_async(daemon.home) as me:
        prompts = me.watch()
        found = [await anext(prompts) for _ in range(3)]
    assert found == [{"id": "1"}, {"id": "2"}, {"id": "1", "status": "answered"}]


def test_the_inbox_is_read_page_by_page(daemon: ScriptedDaemon) -> None:
    """Until there is no more, or as many as wanted are there."""
    pages = {None: ["1", "2"], "2": ["3", "4"], "4": ["5"]}

    def page(params: dict[str, Any]) -> dict[str, Any]:
        found = pages[params.get("page")]
        return {"prompts": [{"id": each} for each in found], "next": found[-1] if found != ["5"] else None}

    daemon.script["inbox"] = page
    with p2pflows.connect(daemon.home) as me:
        assert [each["id"] for each in me.inbox()] == ["1", "2", "3", "4", "5"]
        assert [each["id"] for each in me.inbox(limit=4)] == ["1", "2", "3", "4"]
    assert [params["limit"] for _, params in daemon.asked] == [1000, 1000, 1000, 4, 2]


async def test_a_cancelled_call_does_not_disturb_others(daemon: ScriptedDaemon) -> None:
    """Its late answer is dropped."""

    async def slow(params: dict[str, Any]) -> dict[str, Any]:
        await asyncio.sleep(0.2)
        return {"data": params["data"]}

    daemon.script["call"] = slow
    async with p2pflows.connect_async(daemon.home) as me:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(me.call("bob/x", {"n": 1}), 0.05)
        assert await me.call("bob/x", {"n": 2}) == {"n": 2}


async def test_an_error_of_on_progress_ends_its_own_call(daemon: ScriptedDaemon) -> None:
    """The call raises it; other calls go on."""

    async def slow(params: dict[str, Any]) -> dict[str, Any]:
        daemon.progress({"text": "w"})
        await asyncio.sleep(0.1)
        return {"data": params["data"]}

    def on_progress(data: dict[str, Any]) -> None:
        raise KeyError(data["text"])

    daemon.script["call"] = slow
    async with p2pflows.connect_async(daemon.home) as me:
        quiet = asyncio.create_task(me.call("bob/x", {"n": 2}))
        with pytest.raises(KeyError, match="w"):
            await me.call("bob/x", {"n": 1}, on_progress=on_progress)
        assert await quiet == {"n": 2}
        assert await me.call("bob/x", {"n": 3}) == {"n": 3}


async def test_async_an_unreadable_response_is_an_error(tmp_path: Path) -> None:
    """Such as HTTP, from a daemon of another release."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    listening = await asyncio.start_unix_server(answer, str(tmp_path / "daemon.sock"))
    async with listening, p2pflows.connect_async(tmp_path) as me:
        with pytest.raises(CallError, match="cannot read"):
            await me.call("bob/x")


async def test_async_closing_does_not_wait_for_a_daemon_that_does_not_read(tmp_path: Path) -> None:
    """It takes a second or so."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "daemon.sock"))
        listener.listen()
        async with p2pflows.connect_async(tmp_path) as me:
            calls = [me.begin("call", address="bob/x", data={"text": "x" * 900_000}) for _ in range(20)]
            await asyncio.sleep(0.1)
            began = time.monotonic()
        assert time.monotonic() - began < 5
        assert all(isinstance(call.exception(), DaemonNotRunning) for call in calls)


async def test_async_a_long_answer_arrives_whole(daemon: ScriptedDaemon) -> None:
    """It may come in many pieces."""
    prompts = [{"id": str(n), "text": "ü\n" * 1_000} for n in range(3_000)]
    daemon.script["inbox"] = {"prompts": prompts}
    async with p2pflows.connect_async(daemon.home) as me:
        assert await me.inbox() == prompts
