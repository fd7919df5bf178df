"""The backend against a local server, through the real `openai` library; its sleeps are recorded."""

from __future__ import annotations

import json
import logging
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import Any

import pytest
from support.model_server import Answers, Drops, Fails, Hangs, ModelServer, Says, Script, Trickles
from support.processes import wait_until

from p2pflows.errors import CallError, Cancelled, DeadlinePassed, UsageError
from p2pflows.models.answers import Delta
from p2pflows.models.api_info import NO_KEY, ApiInfo
from p2pflows.models.backend import Backend
from p2pflows.models.failures import Cause, ModelFailed
from p2pflows.models.keyring import Keyring

KEY, OTHER_KEY = "sk-secret-0123456789", "sk-other-9876543210"
ASK = [{"role": "user", "content": "Hello"}]
SETTINGS = {"model_name": "m"}
STREAM = {"model_name": "m", "stream": True}


class Clock:
    """A clock that advances only when somebody sleeps."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        """Advance the clock at once."""
        self.slept.append(seconds)
        self.now += seconds

    def __call__(self) -> float:
        """Return the time."""
        return self.now


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model server."""
    with ModelServer() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    """A new clock."""
    return Clock()


def key(server: ModelServer, text: str = KEY, **more: Any) -> ApiInfo:
    """Return a key for the server."""
    return ApiInfo(backend_used="openai", api_key=text, api_base=server.url, **more)


def backend(infos: ApiInfo | list[ApiInfo] | Keyring, clock: Clock, **more: Any) -> Backend:
    """Return a backend that never really sleeps, and whose chance is always 1."""
    infos = [infos] if isinstance(infos, ApiInfo) else infos
    return Backend(infos, sleep=clock.sleep, clock=clock, wall=clock, chance=lambda: 1.0, **more)


def complete(server: ModelServer, clock: Clock, settings: dict[str, Any], **more: Any) -> list[str]:
    """Return the answers to ASK."""
    with backend(key(server), clock, **more) as asked:
        return list(asked.complete(ASK, settings).texts)


def failure(server: ModelServer, clock: Clock, settings: dict[str, Any], *script: Script, **more: Any) -> ModelFailed:
    """Return the error that a script leads to, and check that no form of it shows a key."""
    server.script(*script)
    with pytest.raises(ModelFailed) as failed:
        complete(server, clock, settings, **more)
    error = failed.value
    printed = "".join(traceback.TracebackException.from_exception(error, capture_locals=False).format())
    assert KEY not in printed + error.hint + error.details + repr(error.__cause__) + repr(error.__context__)
    assert (error.message, error.hint) == error.cause.value  # callers read nothing else
    return error


def test_answer(server: ModelServer, clock: Clock) -> None:
    """The request has the question, the settings and the key, and the answer is returned."""
    assert complete(server, clock, {**SETTINGS, "temperature": 0.5, "max_tokens": None}) == ["You said: Hello"]
    [asked] = server.requests
    assert asked.path == "/v1/chat/completions"
    assert asked.headers["authorization"] == f"Bearer {KEY}"
    assert asked.body == {"messages": ASK, "model": "m", "temperature": 0.5}
    assert clock.slept == []


@pytest.mark.parametrize("stream", [True, False])
def test_several_answers(server: ModelServer, clock: Clock, stream: bool) -> None:
    """With n over 1, each answer is complete, streamed or not."""
    server.script(Says(("one two three", "four", "five six")))
    assert complete(server, clock, {**SETTINGS, "n": 3, "stream": stream}) == ["one two three", "four", "five six"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_server_that_gives_fewer(server: ModelServer, clock: Clock, stream: bool) -> None:
    """A server that ignores n is asked until there are enough answers."""
    server.script(Says(("a",), at_most=1), Says(("b",), at_most=1), Says(("c",), at_most=1))
    assert complete(server, clock, {**SETTINGS, "n": 3, "stream": stream}) == ["a", "b", "c"]
    assert [asked.body.get("n") for asked in server.requests] == [3, 2, None]


def test_streaming(server: ModelServer, clock: Clock) -> None:
    """Each piece is reported as it arrives, with the index of its answer."""
    server.script(Says(("one two", "é")))
    told: list[Delta] = []
    with backend(key(server), clock) as asked:
        assert asked.complete(ASK, {**STREAM, "n": 2}, told.append).texts == ["one two", "é"]
    assert told == [Delta(0, "one"), Delta(1, "é"), Delta(0, " two")]


@pytest.mark.parametrize("broken", [Says(("one two three",), breaks_after=2), Says(("one two",), unfinished=True)])
def test_a_stream_that_breaks_off(server: ModelServer, clock: Clock, broken: Says) -> None:
    """After a broken stream the question is asked again, and the listener receives a piece with `restart`."""
    server.script(broken, "whole answer")
    told: list[Delta] = []
    with backend(key(server), clock) as asked:
        assert asked.complete(ASK, STREAM, told.append).texts == ["whole answer"]
    assert told == [Delta(0, "one"), Delta(0, " two"), Delta(0, "whole", restart=True), Delta(0, " answer")]


def chunk(**choice: Any) -> dict[str, Any]:
    """Return a chunk of a stream with one choice."""
    return {"id": "c1", "object": "chat.completion.chunk", "created": 0, "model": "m", "choices": [choice]}


def message(**said: Any) -> dict[str, Any]:
    """Return a choice of an answer that is not streamed."""
    return {"message": {"role": "assistant", **said}, "finish_reason": "stop"}


END = chunk(index=0, delta={}, finish_reason="stop")
BAD_ANSWERS = [
    {},
    5,
    None,
    [],
    {"choices": None},
    {"choices": 5},
    {"choices": []},
    {"choices": [message(content="a"), message(content="b")]},
    {"choices": [{"index": 0, "message": None, "finish_reason": "stop"}]},
    {"choices": [{"index": 0, **message(content=[5])}]},
    {"error": {"message": "Overloaded."}},
    {"error": "Overloaded."},
]
BAD_CHUNKS = [
    5,
    [],
    "text",
    {"choices": 5},
    {"choices": ["text"]},
    chunk(delta={"content": "a"}),
    chunk(index="0", delta={"content": "a"}),
    chunk(index=0, delta="a"),
    chunk(index=0, delta={"content": [5]}),
    {"error": {"message": "Overloaded."}},
]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("bad", BAD_ANSWERS, ids=str)
def test_a_bad_answer_with_status_200_is_asked_for_again(
    server: ModelServer, clock: Clock, bad: Any, stream: bool
) -> None:
    """Any document that is not an answer counts as a broken answer, and raises nothing else."""
    server.script(Answers(bad), "At last")
    assert complete(server, clock, {**SETTINGS, "stream": stream}) == ["At last"]
    assert clock.slept == [1]


@pytest.mark.parametrize("bad", BAD_CHUNKS, ids=str)
def test_a_bad_chunk_of_a_stream_is_asked_for_again(server: ModelServer, clock: Clock, bad: Any) -> None:
    """An unreadable chunk counts as a broken answer."""
    server.script(Answers(chunks=(chunk(index=0, delta={"content": "Half"}), bad, END)), "At last")
    assert complete(server, clock, STREAM) == ["At last"]


@pytest.mark.parametrize("settings", [SETTINGS, STREAM])
def test_an_error_with_status_200_has_the_words_of_the_server(
    server: ModelServer, clock: Clock, settings: dict[str, Any]
) -> None:
    """The error has the body's words, without a key or a part of a refused key."""
    error = failure(server, clock, settings, Answers({"error": {"message": f"No room for {KEY}."}}), attempts=1)
    assert error.details.startswith(f"The model gave no answer: No room for [redacted] (from {server.url}).")
    for body in (
        {"detail": "No room."},
        {"object": "error", "message": "No room."},
        [{"error": {"message": "No room."}}],
    ):
        error = failure(server, clock, settings, Answers(body), attempts=1)
        assert error.details.startswith(f"The model gave no answer: No room (from {server.url}).")
    error = failure(server, clock, settings, Answers({"error": "No choices are left."}), attempts=1)
    assert error.details.startswith(f"The model gave no answer: No choices are left (from {server.url}).")
    refused = Answers({"error": {"code": 401, "message": f"Incorrect API key: {KEY[:5]}***{KEY[-4:]}"}})
    error = failure(server, clock, settings, refused, attempts=1)
    assert error.details.startswith("The model gave no answer: the worker's key was refused (401) (from")


def test_an_annotation_in_a_stream_does_not_spoil_the_answer(server: ModelServer, clock: Clock) -> None:
    """A choice without a delta, as some providers send, is skipped; it may end the answer."""
    notes = [chunk(index=0, delta=None), chunk(index=0, content_filter_offsets={}), chunk(note="ok"), {"choices": None}]
    text = chunk(index=0, delta={"content": "Whole"}, finish_reason=None)
    server.script(Answers(chunks=(*notes, text, *notes, chunk(index=0, finish_reason="stop"), *notes)))
    assert complete(server, clock, STREAM) == ["Whole"]
    assert clock.slept == []


HALF = f"data: {json.dumps(chunk(index=0, delta={'content': 'Half '}, finish_reason=None))}\n\n"
REST = f"data: {json.dumps(chunk(index=0, delta={'content': 'and half'}, finish_reason='stop'))}\n\n"
PARTS = [{"type": "thinking", "thinking": []}, {"type": "text", "text": "Half "}, {"type": "text", "text": "and half"}]
DOCUMENT = {"choices": [{"index": 0, **message(content="Half and half")}]}
AS_SENT = {
    "fields without data": f"retry: 3000\n\nid: 7\n\n: hi\n\n{HALF}event: ping\n\ndata:\n\n{REST}data: [DONE]\n\n",
    "ends of lines of Windows": f"{HALF}{REST}data: [DONE]\n\n".replace("\n", "\r\n"),
    "ends of lines of old": f"{HALF}{REST}data: [DONE]\n\n".replace("\n", "\r"),
    "a byte order mark": f"\ufeff{HALF}{REST}",
    "no space, no end": f"{HALF}{REST}".replace("data: ", "data:").strip(),
    "no reason": f"{HALF}{REST}data: [DONE]\n\n".replace('"stop"', "null"),
    "content as parts": f"data: {json.dumps(chunk(index=0, delta={'content': PARTS}, finish_reason='stop'))}\n\n",
    "a document": json.dumps(DOCUMENT),
    "a document with lines": json.dumps(DOCUMENT, indent=2),
    "a document of parts": json.dumps({"choices": [message(content=PARTS)]}),
}


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("text", AS_SENT.values(), ids=AS_SENT)
def test_what_servers_really_send_is_read_at_once(server: ModelServer, clock: Clock, text: str, stream: bool) -> None:
    """Each form is paid once, whichever one was asked for."""
    server.script(Trickles(text, times=1, ends=True))
    assert complete(server, clock, {**SETTINGS, "stream": stream}) == ["Half and half"]
    assert (len(server.requests), clock.slept) == (1, [])


def test_an_unreadable_stream_is_asked_for_as_a_plain_document(server: ModelServer, clock: Clock) -> None:
    """A server that streams in a way of its own is asked once more, without a stream; the listener gets the answer."""
    server.script(Trickles("data: <b>Half</b>\n\n", times=1, ends=True), "Half and half")
    told: list[Delta] = []
    with backend(key(server), clock) as asked:
        assert asked.complete(ASK, {**STREAM, "stream_options": {"include_usage": True}}, told.append).texts == [
            "Half and half"
        ]
    assert [asked.body.get("stream") for asked in server.requests] == [True, None]
    assert "stream_options" not in server.requests[1].body
    assert told == [Delta(0, "Half and half")]


def test_a_long_piece_is_reported_in_parts(server: ModelServer, clock: Clock) -> None:
    """Each part fits into one progress report, whatever its letters are."""
    server.script(Answers(chunks=(chunk(index=0, delta={"content": "\x01" * 5000}), END)))
    told: list[Delta] = []
    with backend(key(server), clock) as asked:
        asked.complete(ASK, STREAM, told.append)
    assert "".join(delta.text for delta in told) == "\x01" * 5000
    assert max(len(json.dumps({"answer": 99, "restart": True, "delta": delta.text})) for delta in told) < 4000


def test_a_stream_that_is_called_json_is_a_stream(server: ModelServer, clock: Clock) -> None:
    """A stream with the content type of JSON is read as a stream."""
    text = chunk(index=0, delta={"content": "Whole"}, finish_reason=None)
    server.script(Answers(chunks=(text, END), content_type="application/json"))
    assert complete(server, clock, STREAM) == ["Whole"]


def test_the_word_none_is_not_taken_for_a_key_in_what_a_server_says(server: ModelServer, clock: Clock) -> None:
    """`none` stands for no key, so it is not removed from a server's words."""
    server.script(Fails(400, "tool_choice must be none."))
    with backend(key(server, NO_KEY), clock) as asked, pytest.raises(ModelFailed) as failed:
        asked.complete(ASK, SETTINGS)
    assert "must be none (400)" in failed.value.details
    assert server.requests[0].key == "none"


def test_a_listener_that_raises_what_a_bad_chunk_raises(server: ModelServer, clock: Clock) -> None:
    """A TypeError of the listener is raised, and nothing is asked again."""

    def raises(_: Delta) -> None:
        raise TypeError("mine")

    with backend(key(server), clock) as asked, pytest.raises(TypeError, match="mine"):
        asked.complete(ASK, STREAM, raises)
    assert len(server.requests) == 1


def test_a_listener_that_raises(server: ModelServer, clock: Clock) -> None:
    """An exception of the listener does not count as a fault of the server."""

    def raises(_: Delta) -> None:
        raise ValueError("mine")

    with backend(key(server), clock) as asked, pytest.raises(ValueError, match="mine"):
        asked.complete(ASK, STREAM, raises)
    assert len(server.requests) == 1


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("trouble", [Fails(500), Fails(503), Fails(429), Fails(409), Fails(408), Drops()])
def test_passing_trouble(server: ModelServer, clock: Clock, trouble: Script, stream: bool) -> None:
    """A failure that may pass is retried, after growing delays."""
    server.script(trouble, trouble, trouble, "At last")
    assert complete(server, clock, {**SETTINGS, "stream": stream}) == ["At last"]
    assert clock.slept == [1, 2, 4]


def test_rests_have_an_end(server: ModelServer, clock: Clock) -> None:
    """The config limits the attempts and the delays, and there is no delay after the last attempt."""
    error = failure(server, clock, SETTINGS, *[Fails(500, "Overloaded")] * 6, attempts=6, max_wait=5)
    assert clock.slept == [1, 2, 4, 5, 5]
    assert len(server.requests) == 6
    assert error.details.startswith("The model gave no answer after 6 attempts: Overloaded (500) (from")
    assert error.details.endswith("Try again later.")


def test_rests_differ(server: ModelServer, clock: Clock) -> None:
    """Chance shortens a delay by up to half, so that clients that failed together do not return together."""
    server.script(Fails(500), Fails(500), "At last")
    chances = iter([0.0, 0.5])
    with Backend([key(server)], sleep=clock.sleep, clock=clock, chance=lambda: next(chances)) as asked:
        asked.complete(ASK, SETTINGS)
    assert clock.slept == [0.5, 1.5]


def test_retry_after(server: ModelServer, clock: Clock) -> None:
    """The delay that a server asks for is kept, as seconds or as a date; an unreadable one is ignored."""
    moment = formatdate(clock.now + 30 + 1, usegmt=True)
    answers = [Fails(429, headers={"Retry-After": text}) for text in ("7", moment, "0.1", "soon")]
    server.script(*answers, "At last")
    assert complete(server, clock, SETTINGS) == ["At last"]
    assert clock.slept[0] == 7
    assert clock.slept[1] == pytest.approx(1031 - 1007, abs=1)
    assert clock.slept[2:] == [4, 8]


def test_retry_after_too_long(server: ModelServer, clock: Clock) -> None:
    """No worker waits for a server that asks for an hour."""
    error = failure(server, clock, SETTINGS, Fails(429, "Slow down.", headers={"Retry-After": "3600"}))
    assert clock.slept == []
    assert error.details.startswith("The model gave no answer: Slow down (429) (from")
    assert "more keys" in error.details
    assert error.cause is Cause.BUSY


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(
    ("refusal", "sentence"),
    [
        (Fails(401, f"Incorrect API key: {KEY[:5]}***{KEY[-4:]}"), "the worker's key was refused (401)"),
        (Fails(403, f"Not allowed: {KEY}"), "the worker's key was refused (403)"),
        (Fails(400, f"What is {KEY}?\nNo."), "What is [redacted]? No (400)"),
        (Fails(404, "No such model."), "No such model (404)"),
        (Fails(422, "Odd."), "Odd (422)"),
        (Fails(429, "Pay first.", code="insufficient_quota"), "Pay first (429)"),
    ],
)
def test_refusals(server: ModelServer, clock: Clock, refusal: Fails, sentence: str, stream: bool) -> None:
    """A failure that will not pass is not retried, and is explained in plain words without a part of a key."""
    error = failure(server, clock, {**SETTINGS, "stream": stream}, refusal)
    assert error.details.startswith(f"The model gave no answer: {sentence} (from")
    assert KEY[-4:] not in error.details
    assert (len(server.requests), clock.slept) == (1, [])


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"error": {"message": "No such model."}}, "No such model"),
        ({"error": "model 'm' not found"}, "model 'm' not found"),
        ({"detail": "Model is loading"}, "Model is loading"),
        (
            {"detail": [{"loc": ["body", "top_p"], "msg": "too high"}]},
            '[{"loc": ["body", "top_p"], "msg": "too high"}]',
        ),
        ({"object": "error", "message": "Context is too long"}, "Context is too long"),
        ([{"error": {"message": "No such model."}}], "No such model"),
        ({"errors": ["Odd", "indeed"]}, '{"errors": ["Odd", "indeed"]}'),
    ],
)
def test_the_words_of_a_server_reach_its_owner(
    server: ModelServer, clock: Clock, caplog: pytest.LogCaptureFixture, body: Any, words: str
) -> None:
    """Each form of an error is read, and stands in the owner's log with the server's address."""
    error = failure(server, clock, SETTINGS, Answers(body, status=422))
    assert error.details.startswith(f"The model gave no answer: {words} (422) (from {server.url}).")
    assert f"The model server {server.url} gave no answer (attempt 1): {words} (422)" in caplog.text


def test_refused_key_hint(server: ModelServer, clock: Clock) -> None:
    """The hint of a refused key says how to give the worker another one."""
    assert "p2pflows worker --api-key-env NAME" in failure(server, clock, SETTINGS, Fails(401)).details


def test_no_server(clock: Clock) -> None:
    """The error names a server that cannot be reached."""
    with ModelServer() as gone:
        info = key(gone)
    with backend(info, clock, attempts=2) as asked, pytest.raises(ModelFailed) as failed:
        asked.complete(ASK, SETTINGS)
    assert "after 2 attempts: nothing listens there" in failed.value.details
    assert gone.url in failed.value.details


def test_silent_server(server: ModelServer, clock: Clock) -> None:
    """A server that does not answer in time counts as failed."""
    error = failure(server, clock, SETTINGS, Hangs(), timeout=0.05, attempts=1)
    assert error.details.startswith("The model gave no answer: it was silent for too long (from")


def test_no_answers_in_the_answer(server: ModelServer, clock: Clock) -> None:
    """An answer without text counts as failed."""
    error = failure(server, clock, SETTINGS, Says((), at_most=0), attempts=1)
    assert "holds no text" in error.details


def test_no_redirect(server: ModelServer, clock: Clock) -> None:
    """A key is not sent along a redirect to another server."""
    with ModelServer() as elsewhere:
        failure(server, clock, SETTINGS, Fails(307, headers={"Location": f"{elsewhere.url}/chat/completions"}))
        assert elsewhere.requests == []


def test_keys_take_turns(server: ModelServer, clock: Clock) -> None:
    """The key that was unused for longest is next, and no key is used again before its interval is over."""
    infos = [key(server, "k1"), key(server, "k2"), key(server, "k3")]
    with backend(infos, clock, wait_time_per_key=6) as asked:
        for _ in range(7):
            asked.complete(ASK, SETTINGS)
            clock.now += 1
    assert [asked.key for asked in server.requests] == ["k1", "k2", "k3", "k1", "k2", "k3", "k1"]
    assert clock.slept == [3, 3]


def test_another_key_after_trouble(server: ModelServer, clock: Clock) -> None:
    """The next attempt uses another key."""
    server.script(Fails(429))
    with backend([key(server, "k1"), key(server, "k2")], clock) as asked:
        asked.complete(ASK, SETTINGS)
    assert [asked.key for asked in server.requests] == ["k1", "k2"]


def test_keys_of_one_object_only(server: ModelServer, clock: Clock) -> None:
    """Two backends share no memory of which key was used."""
    for _ in range(2):
        with backend(key(server), clock, wait_time_per_key=60) as asked:
            asked.complete(ASK, SETTINGS)
    assert clock.slept == []


def test_keyring_over_backends(server: ModelServer, clock: Clock) -> None:
    """A shared keyring remembers over many backends when each key was used."""
    keyring = Keyring([key(server, "k1"), key(server, "k2")], clock=clock)
    for _ in range(4):
        with backend(keyring, clock, wait_time_per_key=60) as asked:
            asked.complete(ASK, SETTINGS)
    assert [asked.key for asked in server.requests] == ["k1", "k2", "k1", "k2"]
    assert clock.slept == [60]


def test_base_of_the_config(server: ModelServer, clock: Clock) -> None:
    """A config chooses among the servers that the worker has keys for."""
    with ModelServer() as second:
        infos = [key(server, KEY), key(second, OTHER_KEY)]
        with backend(infos, clock, api_base=f"{second.url}/") as asked:
            asked.complete(ASK, SETTINGS)
            asked.complete(ASK, SETTINGS)
        assert [asked.key for asked in second.requests] == [OTHER_KEY, OTHER_KEY]
    assert server.requests == []


@pytest.mark.parametrize("path", ["", "/v1", "/v2"])
def test_base_of_the_config_sends_no_key_elsewhere(server: ModelServer, clock: Clock, path: str) -> None:
    """No key is sent to a server that it is not for; a key without a server is for OpenAI's only."""
    with ModelServer() as elsewhere:
        for info in (key(server), ApiInfo(backend_used="openai", api_key=KEY)):
            with (
                backend(info, clock, api_base=f"{elsewhere.host}{path}") as asked,
                pytest.raises(ModelFailed) as failed,
            ):
                asked.complete(ASK, SETTINGS)
            assert "No key of this worker is for" in failed.value.details
            assert failed.value.cause is Cause.NOT_SET_UP
        assert elsewhere.requests == []


@pytest.mark.parametrize("base", ["file:///etc", "http://user@host", "text", "http://h:x"])
def test_base_of_the_config_that_is_none(server: ModelServer, clock: Clock, base: str) -> None:
    """A config with a server that is not a URL fails the flow."""
    with backend(key(server), clock, api_base=base) as asked, pytest.raises(ModelFailed) as failed:
        asked.complete(ASK, SETTINGS)
    assert "backend.api_base cannot be used" in failed.value.details


def test_openai_itself_may_be_named(clock: Clock) -> None:
    """A config may name OpenAI's server for a key without one."""
    info = ApiInfo(backend_used="openai", api_key=KEY)
    with backend(info, clock, api_base="https://api.openai.com/v1/") as asked:
        assert asked is not None


def test_environment_is_not_asked(server: ModelServer, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and servers in the environment are ignored."""
    with ModelServer() as elsewhere:
        monkeypatch.setenv("OPENAI_API_KEY", "sk-environment")
        monkeypatch.setenv("OPENAI_BASE_URL", elsewhere.url)
        complete(server, clock, SETTINGS)
        assert elsewhere.requests == []
    assert server.requests[0].key == KEY


def test_azure(server: ModelServer, clock: Clock) -> None:
    """A request to Azure has its address, version and header."""
    info = ApiInfo(backend_used="azure", api_key=KEY, api_base=server.host, api_version="2024-06-01")
    with backend(info, clock) as asked:
        assert asked.complete(ASK, {"model_name": {"azure": "deployed", "openai": "m"}}).texts == ["You said: Hello"]
    [request] = server.requests
    assert request.path == "/openai/deployments/deployed/chat/completions?api-version=2024-06-01"
    assert request.headers["api-key"] == KEY


def test_model_by_backend(server: ModelServer, clock: Clock) -> None:
    """A key is used only for a model of its backend; its own model takes precedence."""
    other = ApiInfo(backend_used="other", api_key="k2", api_base=server.url)
    with backend([key(server, "k1"), other], clock) as asked:
        asked.complete(ASK, {"model_name": {"other": "o"}})
        asked.complete(ASK, {"model_name": {"other": "o"}})
    with backend(key(server, "k3", model="own"), clock) as asked:
        asked.complete(ASK, SETTINGS)
    assert [(asked.key, asked.body["model"]) for asked in server.requests] == [("k2", "o"), ("k2", "o"), ("k3", "own")]


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"model_name": {"azure": "m"}}, "no model for: openai"),
        ({}, "no model"),
        ({**SETTINGS, "extra_headers": {"a": "b"}}, "unknown keys: extra_headers"),
        ({**SETTINGS, "base_url": "http://a.example"}, "unknown keys: base_url"),
        ({**SETTINGS, "n": 0}, "n must be"),
        ({**SETTINGS, "n": "2"}, "n must be"),
    ],
)
def test_wrong_settings(server: ModelServer, clock: Clock, settings: dict[str, Any], sentence: str) -> None:
    """Wrong settings are refused before anything is sent."""
    with pytest.raises(UsageError, match=sentence):
        complete(server, clock, settings)
    assert server.requests == []


@pytest.mark.parametrize("wrong", [{"attempts": 0}, {"max_wait": -1}])
def test_wrong_numbers(server: ModelServer, clock: Clock, wrong: dict[str, Any]) -> None:
    """Numbers out of range are refused."""
    with pytest.raises(UsageError, match="at least"):
        backend(key(server), clock, **wrong)


def test_half_characters(server: ModelServer, clock: Clock) -> None:
    """Surrogate pairs are joined, and lone surrogates replaced."""
    server.script("\ud83d\ude00 \ud83d!")
    assert complete(server, clock, STREAM) == ["\U0001f600 \ufffd!"]


def test_key_is_in_no_log(server: ModelServer, clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    """No log line shows the key, even at the lowest level of every library."""
    with caplog.at_level(logging.DEBUG):
        server.script(Fails(500, f"Your key {KEY}"), Fails(429), "At last")
        complete(server, clock, STREAM)
        failure(server, clock, SETTINGS, Fails(401, f"Your key {KEY}"))
    assert caplog.records
    assert KEY not in caplog.text
    assert KEY not in "".join(str(vars(record)) for record in caplog.records)


def test_real_clock_and_sleep(server: ModelServer) -> None:
    """By default the backend uses the real clock, and answers at once when no key has to wait."""
    with Backend([key(server)]) as asked:
        assert asked.complete(ASK, SETTINGS).texts == ["You said: Hello"]


# Nobody waits any more.

AT_ONCE_S = 15.0
"""How long something may take that would otherwise take a minute: it ends at once, but the machine may be busy."""


def interrupted(server: ModelServer, script: Script, settings: dict[str, Any]) -> float:
    """Ask, withdraw the question while the server works on it, and return how many seconds that took to end."""
    server.script(script)
    with Backend([key(server)]) as asked, ThreadPoolExecutor(1) as thread:
        asking = thread.submit(asked.complete, ASK, settings)
        while not server.requests:
            time.sleep(0.01)
        time.sleep(0.1)
        began = time.monotonic()
        asked.interrupt()
        with pytest.raises(Cancelled):
            asking.result(60)
        return time.monotonic() - began


@pytest.mark.parametrize("settings", [SETTINGS, STREAM])
def test_a_question_that_is_withdrawn(server: ModelServer, settings: dict[str, Any]) -> None:
    """The connection to a silent server ends at once, and the question is not asked again."""
    assert interrupted(server, Hangs(), settings) < AT_ONCE_S
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    ("script", "texts"),
    [
        pytest.param(Hangs(), [], id="nothing yet"),
        pytest.param(Trickles(f"data: {json.dumps(chunk(index=0, delta={'content': 'and '}))}\n\n", 3), ["and " * 3]),
    ],
)
def test_what_had_come_when_a_question_was_withdrawn_is_known(
    server: ModelServer, script: Script, texts: list[str]
) -> None:
    """The server may count it, so whoever withdraws each question in time has spent all the same."""
    server.script(script)
    heard: list[str] = []
    with Backend([key(server)]) as asked, ThreadPoolExecutor(1) as thread:
        asking = thread.submit(asked.complete, ASK, STREAM, lambda delta: heard.append(delta.text))
        wait_until(lambda: bool(server.requests) and "".join(heard) == "".join(texts))
        asked.interrupt()
        with pytest.raises(Cancelled):
            asking.result(60)
        (unfinished,) = asked.unfinished
        assert unfinished.texts == texts
        assert unfinished.model


def test_only_what_was_begun_counts_of_requests_that_failed(server: ModelServer) -> None:
    """A stream that breaks off was work for the server; a refusal was none."""
    server.script(Fails(503, headers={"retry-after": "0"}), Says(("One two three",), breaks_after=2), "At last")
    with Backend([key(server)]) as asked:
        assert asked.complete(ASK, STREAM).texts == ["At last"]
        (unfinished,) = asked.unfinished
        assert "One two three".startswith(unfinished.texts[0])


def test_a_pause_that_is_withdrawn(server: ModelServer) -> None:
    """A pause before another attempt ends at once."""
    assert interrupted(server, Fails(503, headers={"retry-after": "60"}), SETTINGS) < AT_ONCE_S
    assert len(server.requests) == 1


def test_a_deadline_limits_every_wait(server: ModelServer) -> None:
    """A silent server is left at the deadline, whatever timeout the config sets."""
    server.script(Hangs(), Hangs())
    until = time.monotonic() + 0.5
    with Backend([key(server)], time_left=lambda: until - time.monotonic()) as asked, pytest.raises(CallError):
        asked.complete(ASK, SETTINGS)
    assert time.monotonic() < until + AT_ONCE_S
    assert len(server.requests) == 1


WORD = f"data: {json.dumps(chunk(index=0, delta={'content': 'and '}))}\n\n"
WORKING = [
    pytest.param(Trickles(WORD), STREAM, id="words"),
    pytest.param(Trickles(WORD, times=3), STREAM, id="words and then silence"),
    pytest.param(Trickles(": working\n\n"), STREAM, id="comments"),
    pytest.param(Trickles("\n", content_type="application/json"), SETTINGS, id="blank lines"),
]


@pytest.mark.parametrize(("works", "settings"), WORKING)
def test_a_model_that_works_on_stops_when_the_call_is_withdrawn(
    server: ModelServer, caplog: pytest.LogCaptureFixture, works: Trickles, settings: dict[str, Any]
) -> None:
    """The connection is closed at once, so that the server ends its work, and nothing is asked again."""
    assert interrupted(server, works, settings) < AT_ONCE_S
    assert server.client_gone.wait(AT_ONCE_S)
    assert len(server.requests) == 1
    assert "gave no answer" not in caplog.text  # it is not the server's fault


@pytest.mark.parametrize(("works", "settings"), WORKING)
def test_a_model_that_works_on_stops_at_the_deadline(
    server: ModelServer, works: Trickles, settings: dict[str, Any]
) -> None:
    """What the server sends does not move the deadline, at which the connection is closed."""
    server.script(works)
    until = time.monotonic() + 0.6
    with (
        Backend([key(server)], time_left=lambda: until - time.monotonic()) as asked,
        pytest.raises(DeadlinePassed, match="before the deadline"),
    ):
        asked.complete(ASK, settings)
    assert time.monotonic() < until + AT_ONCE_S
    assert server.client_gone.wait(AT_ONCE_S)
    assert len(server.requests) == 1


def test_a_last_attempt_that_is_withdrawn(server: ModelServer) -> None:
    """A question that was withdrawn is said to be, also when there are no more attempts."""
    server.script(Hangs())
    with Backend([key(server)], attempts=1) as asked, ThreadPoolExecutor(1) as thread:
        asking = thread.submit(asked.complete, ASK, SETTINGS)
        wait_until(lambda: bool(server.requests))
        asked.interrupt()
        with pytest.raises(Cancelled):
            asking.result(60)


def test_no_attempt_that_comes_too_late(server: ModelServer, clock: Clock) -> None:
    """A failure is reported when the time left is too short for the pause before another attempt."""
    error = failure(server, clock, SETTINGS, Fails(503, "busy"), time_left=lambda: 0.5)
    assert "busy (503)" in error.details
    assert clock.slept == []
