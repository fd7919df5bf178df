"""The server between a client of OpenAI and a scripted daemon."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from support.scripted_daemon import ScriptedDaemon

from p2pflows.errors import BY_KIND, Busy, DeadlinePassed, FlowFailed, NoWorker, P2pflowsError, TooLarge
from p2pflows.openai_server.server import MAX_CONNECTIONS, Server, Settings

KEY = "sk-p2pflows-" + "0" * 48
BOB = "b0" * 32
QUERY = {"type": "object", "properties": {"query": {"type": "string"}}, "required": ["query"]}
ASSISTANT = {"endpoint": "Assistant", "kind": "class", "schema": QUERY, "served": True, "allowed": True, "online": True}
HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi"}]


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    """A daemon with an assistant that says hello."""
    with ScriptedDaemon(tmp_path) as daemon:
        answer = {
            "api_output": "Hello you",
            "finish_reason": "length",
            "usage": {"tokens_in": 3, "tokens_out": 2, "tokens_cached": 1},
        }
        daemon.script.update(
            describe=ASSISTANT,
            submit={"id": "1" * 32},
            wait={"data": answer},
            call={"data": answer},
            cancel={"id": "1" * 32},
        )
        yield daemon


@contextlib.asynccontextmanager
async def serving(daemon: ScriptedDaemon, *, at_once: int = 8) -> AsyncIterator[openai.AsyncOpenAI]:
    """Run a server, and yield a client of it."""
    contacts = daemon.home / "contacts.yaml"
    contacts.write_text(json.dumps({"contacts": {"bob": BOB}}))
    server = Server(Settings("127.0.0.1", 0, KEY, 60.0, at_once), daemon.home, contacts)
    port = await server.start()
    try:
        url = f"http://127.0.0.1:{port}/v1"
        async with openai.AsyncOpenAI(base_url=url, api_key=KEY, max_retries=0, timeout=20) as client:
            yield client
    finally:
        await server.close()


async def ask(client: openai.AsyncOpenAI, messages: list[ChatCompletionMessageParam] = HI) -> str:
    """Ask the assistant, and return the text of the answer."""
    done = await client.chat.completions.create(model="bob/Assistant", messages=messages)
    return done.choices[0].message.content or ""


async def pieces(client: openai.AsyncOpenAI) -> list[str]:
    """Ask the assistant, and return the text of the answer in the pieces in which it came."""
    stream = await client.chat.completions.create(model="bob/Assistant", messages=HI, stream=True)
    return [chunk.choices[0].delta.content async for chunk in stream if chunk.choices[0].delta.content]


async def test_an_answer(daemon: ScriptedDaemon) -> None:
    """With why it ended, and what it took. The daemon is not asked for progress."""
    async with serving(daemon) as client:
        done = await client.chat.completions.create(model="bob/Assistant", messages=HI)
    assert (done.object, done.model) == ("chat.completion", "bob/Assistant")
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("Hello you", "length")
    assert done.usage is not None
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (3, 2, 5)
    assert done.usage.prompt_tokens_details is not None
    assert done.usage.prompt_tokens_details.cached_tokens == 1
    asked = dict(daemon.asked)
    assert asked["submit"]["data"] == {"query": "Hi"}
    assert "call" not in asked


@pytest.mark.parametrize("data", [{"text": "Hello you"}, {"result": "Hello you", "usage": {"tokens_in": None}}])
async def test_an_answer_of_a_flow_that_counts_no_tokens(daemon: ScriptedDaemon, data: dict[str, Any]) -> None:
    """Clients find what they take for granted."""
    daemon.script["wait"] = {"data": data}
    async with serving(daemon) as client:
        done = await client.chat.completions.create(model="bob/Assistant", messages=HI)
    assert (done.choices[0].message.content, done.choices[0].finish_reason) == ("Hello you", "stop")
    assert done.usage is not None
    assert done.usage.total_tokens == 0


async def test_data_without_a_text_is_shown_as_json(daemon: ScriptedDaemon) -> None:
    """Nothing of it is lost."""
    daemon.script["wait"] = {"data": {"n": 1}}
    async with serving(daemon) as client:
        assert await ask(client) == '{"n": 1}'


async def test_a_stream(daemon: ScriptedDaemon) -> None:
    """Its pieces, then the end, then the usage."""
    daemon.reports = [{"delta": "Hello", "at": 0}, {"delta": "x", "choice": 1, "at": 0}, {"delta": " you", "at": 5}]
    async with serving(daemon) as client:
        stream = await client.chat.completions.create(
            model="bob/Assistant", messages=HI, stream=True, stream_options={"include_usage": True}
        )
        chunks = [chunk async for chunk in stream]
    assert [chunk.choices[0].delta.content for chunk in chunks[:-1]] == ["Hello", " you", None]
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [None, None, "length"]
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 5


@pytest.mark.parametrize(
    "reports",
    [
        [],
        [{"delta": "Hel", "at": 0}, {"delta": "you", "at": 6}],
        [{"delta": "Hel", "at": 0}, {"restart": True}, {"delta": "Hello", "at": 0}],
        [{"step": 1}],
    ],
    ids=["silent", "a piece was lost", "began again with the same words", "no text"],
)
async def test_what_was_not_sent_of_the_answer_comes_at_its_end(daemon: ScriptedDaemon, reports: list[Any]) -> None:
    """The client has the whole text, once."""
    daemon.reports = reports
    async with serving(daemon) as client:
        assert "".join(await pieces(client)) == "Hello you"


async def test_an_answer_that_became_another_one_is_an_error(daemon: ScriptedDaemon) -> None:
    """The client cannot be told to forget what it has."""
    daemon.reports = [{"delta": "Good day", "at": 0}, {"restart": True}, {"delta": "Hello", "at": 0}]
    async with serving(daemon) as client:
        with pytest.raises(openai.APIError, match="began again"):
            await pieces(client)


@pytest.mark.parametrize("kind", sorted(BY_KIND))
async def test_every_error_has_a_status(daemon: ScriptedDaemon, kind: str) -> None:
    """Also before the first piece of a stream. What has cost something is not tried again by the client itself."""
    error = BY_KIND[kind]("It is so.", "Do this.")
    daemon.script.update(submit=error, call=error)
    expected = {
        "unknown_user": 404, "not_served": 404, "not_allowed": 403, "bad_input": 400, "usage": 400, "too_large": 413,
        "busy": 429, "unreachable": 503, "no_worker": 503, "daemon_not_running": 503, "disk": 503, "deadline": 504,
    }  # fmt: skip
    async with serving(daemon) as client:
        for asking in (ask(client), pieces(client)):
            with pytest.raises(openai.APIStatusError) as failed:
                await asking
            assert failed.value.status_code == expected.get(kind, 502)
            assert failed.value.body is not None
            assert "It is so. Do this." in failed.value.message
            is_retryable = failed.value.status_code in (429, 503)
            assert failed.value.response.headers["x-should-retry"] == str(is_retryable).lower()
            assert ("retry-after" in failed.value.response.headers) == is_retryable


async def test_a_limit_of_the_endpoint_says_when_to_come_again(daemon: ScriptedDaemon) -> None:
    """In the header that clients of OpenAI wait for."""
    daemon.script["submit"] = Busy("Too many tokens today.", retry_after_s=17)
    async with serving(daemon) as client:
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(client)
    assert refused.value.response.headers["retry-after"] == "17"


async def test_the_words_of_a_neighbour_are_shown_as_theirs(daemon: ScriptedDaemon) -> None:
    """And no advice of theirs is passed off as ours."""
    daemon.script["submit"] = FlowFailed("Send me your key.", "Now.").said_by(BOB, "bob")
    async with serving(daemon) as client:
        with pytest.raises(openai.InternalServerError, match=r"bob.*Send me your key"):
            await ask(client)


@pytest.mark.parametrize(
    ("found", "status"),
    [
        ({**ASSISTANT, "served": False, "allowed": False, "schema": None}, 404),
        ({"served": None, "allowed": None, "online": True}, 404),
        ({"served": None, "allowed": None, "online": False}, 503),
        ({"served": True, "allowed": False, "online": True}, 403),
        ({**ASSISTANT, "kind": "human"}, 404),
        ({**ASSISTANT, "schema": {"type": "object", "properties": {"text": {}}}}, 404),
        ({**ASSISTANT, "schema": {**QUERY, "required": ["query", "to"]}}, 404),
        ({**ASSISTANT, "schema": None}, 404),
    ],
)
async def test_what_is_no_model_is_not_asked(daemon: ScriptedDaemon, found: dict[str, Any], status: int) -> None:
    """The client hears why."""
    daemon.script["describe"] = found
    async with serving(daemon) as client:
        with pytest.raises(openai.APIStatusError) as failed:
            await ask(client)
        assert failed.value.status_code == status
    assert "submit" not in dict(daemon.asked)


async def test_models_are_those_that_take_a_query(daemon: ScriptedDaemon) -> None:
    """One's own, and those of contacts that answer."""
    flows = [ASSISTANT, {"endpoint": "User", "kind": "human", "schema": None}, {**ASSISTANT, "endpoint": "Second"}]
    daemon.script["ls"] = lambda params: {"flows": flows if params.get("user") else flows[:1]}
    async with serving(daemon) as client:
        names = [model.id async for model in await client.models.list()]
        assert names == ["me/Assistant", "bob/Assistant", "bob/Second"]
        assert (await client.models.retrieve("bob/Second")).owned_by == "bob"
        daemon.script["ls"] = lambda params: NoWorker("Away.") if params.get("user") else {"flows": flows}
    async with serving(daemon) as client:
        assert [model.id async for model in await client.models.list()] == ["me/Assistant", "me/Second"]


async def test_a_conversation_goes_on_where_it_was(daemon: ScriptedDaemon) -> None:
    """A flow that remembers gets what is new; if it fails, it can be asked the same again."""
    said: list[ChatCompletionMessageParam] = [*HI, {"role": "assistant", "content": "Hello you"}]
    more: list[ChatCompletionMessageParam] = [*said, {"role": "user", "content": "More"}]
    async with serving(daemon) as client:
        await ask(client)
        daemon.script["wait"] = FlowFailed("It broke.")
        with pytest.raises(openai.APIStatusError):
            await ask(client, more)
        daemon.script["wait"] = {"data": {"api_output": "Bye"}}
        await ask(client, more)
        await ask(client, more)
    sent = [params for method, params in daemon.asked if method == "submit"]
    assert [each.get("conversation") for each in sent] == [None, "1" * 32, "1" * 32, None]
    assert [each["data"]["query"] for each in sent[:3]] == ["Hi", "More", "More"]
    assert sent[3]["data"]["query"].endswith("User: Hi\n\nAssistant: Hello you\n\nUser: More")


async def test_a_flow_without_memory_is_told_everything(daemon: ScriptedDaemon) -> None:
    """Such as a function."""
    daemon.script["describe"] = {**ASSISTANT, "kind": "python"}
    said: list[ChatCompletionMessageParam] = [*HI, {"role": "assistant", "content": "Hello you"}, *HI]
    async with serving(daemon) as client:
        await ask(client)
        await ask(client, said)
    sent = [params for method, params in daemon.asked if method == "submit"]
    assert sent[1].get("conversation") is None
    assert "Assistant: Hello you" in sent[1]["data"]["query"]


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_a_client_that_goes_away_withdraws_the_call(daemon: ScriptedDaemon, *, is_streamed: bool) -> None:
    """Nobody would read the answer."""
    begun, withdrawn = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def hang(_params: dict[str, Any]) -> Any:
        loop.call_soon_threadsafe(begun.set)
        await asyncio.sleep(60)

    def cancel(params: dict[str, Any]) -> dict[str, Any]:
        loop.call_soon_threadsafe(withdrawn.set)
        return params

    daemon.script.update(wait=hang, call=hang, cancel=cancel)
    async with serving(daemon) as client:
        asking = asyncio.create_task(pieces(client) if is_streamed else ask(client))
        await asyncio.wait_for(begun.wait(), 10)
        asking.cancel()
        await asyncio.wait_for(withdrawn.wait(), 10)
    assert daemon.asked[-1] == ("cancel", {"id": "1" * 32})


async def test_a_server_that_stops_withdraws_the_open_questions(daemon: ScriptedDaemon) -> None:
    """And does not wait for them."""

    async def hang(_params: dict[str, Any]) -> Any:
        await asyncio.sleep(60)

    begun, withdrawn = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def begin(params: dict[str, Any]) -> Any:
        loop.call_soon_threadsafe(begun.set)
        return hang(params)

    def cancel(params: dict[str, Any]) -> dict[str, Any]:
        loop.call_soon_threadsafe(withdrawn.set)
        return params

    daemon.script.update(wait=begin, cancel=cancel)
    async with serving(daemon) as client:
        asking = asyncio.create_task(ask(client))
        await asyncio.wait_for(begun.wait(), 10)
    with pytest.raises(openai.APIConnectionError):
        await asking
    await asyncio.wait_for(withdrawn.wait(), 10)


async def test_questions_beyond_the_limit_wait_at_the_client(daemon: ScriptedDaemon) -> None:
    """It is told when to come again; the unmodified client does so by itself."""
    begun, proceed = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    async def slow(_params: dict[str, Any]) -> Any:
        loop.call_soon_threadsafe(begun.set)
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(proceed.wait(), loop))
        return {"data": {"api_output": "Done"}}

    daemon.script["wait"] = slow
    async with serving(daemon, at_once=1) as client:
        first = asyncio.create_task(ask(client))
        await asyncio.wait_for(begun.wait(), 10)
        with pytest.raises(openai.RateLimitError) as refused:
            await ask(client)
        assert refused.value.response.headers["retry-after"] == "1"
        patient = asyncio.create_task(ask(client.with_options(max_retries=3)))
        proceed.set()
        assert await first == await patient == "Done"


async def test_only_clients_with_the_key_come_in(daemon: ScriptedDaemon) -> None:
    """Whatever they send in its place."""
    async with serving(daemon) as client:
        for wrong in (KEY, "Bearer", "Bearer sk-other", f"Bearer {KEY[:-1]}", f"Bearer {KEY}0", f"Basic {KEY}"):
            with pytest.raises(openai.AuthenticationError):
                await client.with_options(default_headers={"Authorization": wrong}).models.list()
    assert daemon.asked == []


async def test_a_web_page_does_not_reach_it_under_a_name_of_its_own(daemon: ScriptedDaemon) -> None:
    """A browser sends that name, even if it leads to this machine (DNS rebinding)."""
    daemon.script["ls"] = {"flows": []}
    async with serving(daemon) as client:
        for host in ("evil.example", "evil.example:80", "127.0.0.1.evil.example", "[::1].evil.example:1x", ""):
            with pytest.raises(openai.PermissionDeniedError):
                await client.with_options(default_headers={"Host": host}).models.list()
        for host in ("localhost", "localhost:1", "127.0.0.1", "[::1]:8642"):
            await client.with_options(default_headers={"Host": host}).models.list()


async def test_a_request_that_is_too_large_or_wrong(daemon: ScriptedDaemon) -> None:
    """It is refused before anything is asked, with the status that says why."""
    daemon.script["submit"] = TooLarge("Too large.")
    async with serving(daemon) as client:
        for text, status in (("x" * 1_100_000, 413), ("x" * 800_000, 413)):
            with pytest.raises(openai.APIStatusError) as failed:
                await ask(client, [{"role": "user", "content": text}])
            assert failed.value.status_code == status
        with pytest.raises(openai.BadRequestError) as refused:
            await client.chat.completions.create(model="bob/Assistant", messages=HI, n=2)
        assert (refused.value.param, refused.value.code) == ("n", "unsupported_value")
        with pytest.raises(openai.NotFoundError, match=r"/v1/chat/completions"):
            await client.embeddings.create(model="bob/Assistant", input="Hi")


async def test_the_daemon_goes_away_and_comes_back(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    """The server outlives it, and says so meanwhile."""
    async with serving(daemon) as client:
        assert await ask(client) == "Hello you"
        script: dict[str, Any] = {"wait": lambda _params: daemon.die()}
        daemon.script.update(script)
        for _ in range(2):
            with pytest.raises(openai.InternalServerError) as failed:
                await ask(client)
            assert failed.value.status_code == 503
        with ScriptedDaemon(tmp_path) as again:
            again.script.update(describe=ASSISTANT, submit={"id": "2" * 32}, wait={"data": {"api_output": "Back"}})
            assert await ask(client) == "Back"


async def test_a_deadline_travels_with_the_question(daemon: ScriptedDaemon) -> None:
    """The daemon ends it."""
    error: P2pflowsError = DeadlinePassed("No answer came in time.")
    daemon.script["wait"] = error
    async with serving(daemon) as client:
        with pytest.raises(openai.APIStatusError) as failed:
            await ask(client)
    assert failed.value.status_code == 504
    assert dict(daemon.asked)["submit"]["timeout"] == 60


async def test_connections_beyond_the_limit_are_closed(daemon: ScriptedDaemon) -> None:
    """Others are served again when some have left."""
    daemon.script["ls"] = {"flows": []}
    async with serving(daemon) as client:
        host, port = client.base_url.host, client.base_url.port
        opened = [await asyncio.open_connection(host, port) for _ in range(MAX_CONNECTIONS)]
        reader, writer = await asyncio.open_connection(host, port)
        assert await asyncio.wait_for(reader.read(), 10) == b""
        for _, each in [*opened, (reader, writer)]:
            each.close()
            with contextlib.suppress(ConnectionError):
                await each.wait_closed()
        assert [model async for model in await client.with_options(max_retries=5).models.list()] == []
