"""Connections to a real server: kept between questions, used again, and replaced when the server has closed them."""

from __future__ import annotations

import contextlib
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from openai import OpenAI
from support.model_server import Hangs, ModelServer, Says, Trickles
from support.processes import wait_until

from p2pflows.errors import Cancelled
from p2pflows.models import connections
from p2pflows.models.api_info import ApiInfo
from p2pflows.models.backend import Backend
from p2pflows.models.keyring import Keyring

ASK = [{"role": "user", "content": "Hello"}]
BOTH: list[dict[str, Any]] = [{"model_name": "m", "stream": True}, {"model_name": "m"}]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model server."""
    with ModelServer() as running:
        yield running


@pytest.fixture
def keyring(server: ModelServer) -> Iterator[Keyring]:
    """The keys of a worker: one, for the server."""
    with contextlib.closing(Keyring([ApiInfo(api_key="k1", api_base=server.url)])) as keys:
        yield keys


def ask(keyring: Keyring, settings: dict[str, Any] = BOTH[0], base: str | None = None) -> str:
    """Ask as one run does, and return the answer."""
    with Backend(keyring, api_base=base, attempts=1) as backend:
        return backend.complete(ASK, settings).texts[0]


@pytest.mark.parametrize("settings", BOTH)
def test_many_questions_take_one_connection(server: ModelServer, keyring: Keyring, settings: dict[str, Any]) -> None:
    """The worker keeps its connection from run to run, as a new one takes longer than many answers."""
    for _ in range(5):
        assert ask(keyring, settings) == "You said: Hello"
    assert (len(server.requests), server.connections) == (5, 1)


@pytest.mark.skipif(not hasattr(socket, "TCP_QUICKACK"), reason="this system acknowledges as it likes")
@pytest.mark.parametrize("settings", BOTH)
def test_a_server_that_writes_its_answer_in_pieces_answers_at_once(keyring: Keyring, settings: dict[str, Any]) -> None:
    """It does not wait for acknowledgements that the system of the client delays: 40 ms for each answer."""
    ask(keyring, settings)
    took = []
    for _ in range(20):
        began = time.monotonic()
        assert ask(keyring, settings) == "You said: Hello"
        took.append(time.monotonic() - began)
    assert min(took) < 0.03, took  # otherwise each of them takes 0.04


def test_a_stream_that_goes_on_after_its_end(server: ModelServer, keyring: Keyring) -> None:
    """The answer arrives, and the connection is not used again."""
    end = json.dumps({"choices": [{"index": 0, "delta": {"content": "Yes"}, "finish_reason": "stop"}]})
    server.script(Trickles(f"data: {end}\n\ndata: [DONE]\n\n"))
    began = time.monotonic()
    assert ask(keyring) == "Yes"
    assert time.monotonic() - began < 20  # what comes after the end goes on for a minute
    assert ask(keyring) == "You said: Hello"
    assert server.connections == 2


def test_questions_at_once_take_a_connection_each(server: ModelServer, keyring: Keyring) -> None:
    """Those who ask at the same time share none, and all are kept for the next ones."""
    with ThreadPoolExecutor(4) as threads:
        for _ in range(3):
            assert set(threads.map(lambda _: ask(keyring), range(8))) == {"You said: Hello"}
    assert server.connections <= 4


def test_a_connection_carries_one_key_only(server: ModelServer) -> None:
    """Two keys for the same server have connections of their own."""
    infos = [ApiInfo(api_key=key, api_base=server.url) for key in ("k1", "k2")]
    with contextlib.closing(Keyring(infos)) as keyring:
        for _ in range(4):
            ask(keyring)
    assert [asked.key for asked in server.requests] == ["k1", "k2", "k1", "k2"]
    assert server.connections == 2


@pytest.mark.parametrize("settings", BOTH)
def test_a_server_that_closes_unused_connections_is_asked_at_once(
    server: ModelServer, keyring: Keyring, settings: dict[str, Any]
) -> None:
    """The next question does not fail because the server has hung up meanwhile, and takes one attempt."""
    for _ in range(20):
        server.script(Says(("Yes",), hangs_up=True))
        assert ask(keyring, settings) == "Yes"
    assert len(server.requests) == 20


def test_a_withdrawn_question_ends_no_other(server: ModelServer, keyring: Keyring) -> None:
    """Only the connection of the withdrawn question is closed; the others go on, and are used again."""
    server.script(Hangs())
    with Backend(keyring) as withdrawn, ThreadPoolExecutor(1) as thread:
        asking = thread.submit(withdrawn.complete, ASK, BOTH[0])
        wait_until(lambda: bool(server.requests))
        assert ask(keyring) == "You said: Hello"
        withdrawn.interrupt()
        with pytest.raises(Cancelled):
            asking.result(5)
    assert ask(keyring) == "You said: Hello"
    assert server.connections == 2


def test_unused_connections_are_bounded(keyring: Keyring, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker keeps a number of them, and closes those that were unused for longest."""
    monkeypatch.setattr(connections, "MAX_IDLE_CONNECTIONS", 2)
    kept = keyring.connections
    info = keyring.api_infos[0]
    with contextlib.ExitStack() as stack:
        lent = [stack.enter_context(kept.lent(info)) for _ in range(5)]
    with kept.lent(info) as first, kept.lent(info) as second, kept.lent(info) as third:
        assert first in lent
        assert second in lent
        assert third not in lent


def test_the_end_of_the_worker_closes_connections(keyring: Keyring) -> None:
    """What is given back after the end is not kept."""
    info = keyring.api_infos[0]
    with keyring.connections.lent(info) as lent:
        keyring.close()
    with keyring.connections.lent(info) as other:
        assert other is not lent


def test_questions_cost_about_as_much_as_direct_requests(server: ModelServer, keyring: Keyring) -> None:
    """Instant answers, 8 at once, take at most 1.5 times the processor time of the client library alone."""
    direct: Any = OpenAI(api_key="k1", base_url=server.url, max_retries=0)

    def ask_directly(_: int) -> str:
        chunks = direct.chat.completions.create(model="m", messages=ASK, stream=True)
        return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    def seconds(asks: Callable[[int], str]) -> float:
        with ThreadPoolExecutor(8) as threads:
            began = time.process_time()
            assert set(threads.map(asks, range(80))) == {"You said: Hello"}
            return time.process_time() - began

    with contextlib.closing(direct):
        seconds(ask_directly)
        pairs = [(seconds(ask_directly), seconds(lambda _: ask(keyring))) for _ in range(3)]
    assert statistics.median(ours / theirs for theirs, ours in pairs) < 1.5
