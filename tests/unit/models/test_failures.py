"""Each cause of a failure, on real sockets: what its owner and the caller are told, and how often it is tried."""

from __future__ import annotations

import logging
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.model_server import Answers, Fails, ModelServer

from p2pflows.models.api_info import ApiInfo
from p2pflows.models.backend import Backend
from p2pflows.models.failures import Cause, ModelFailed

KEY = "sk-secret-0123456789"
ASK: list[dict[str, Any]] = [{"role": "user", "content": "Hello"}]
PICTURE: list[dict[str, Any]] = [
    {"role": "user", "content": [{"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {}}]}
]


@pytest.fixture
def server() -> Iterator[ModelServer]:
    """A model server."""
    with ModelServer() as running:
        yield running


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate that nobody trusts, and its key, in one file."""
    path = tmp_path_factory.mktemp("tls") / "server.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"),
            *("-keyout", str(path), "-out", str(path.with_suffix(".crt")), "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    path.write_text(path.read_text() + path.with_suffix(".crt").read_text())
    return path


def fail(base: str, messages: Any = ASK, slept: list[float] | None = None, **more: Any) -> ModelFailed:
    """Ask a server that does not answer, without real pauses, and return the error."""
    sleep = (slept if slept is not None else []).append
    info = ApiInfo(api_key=KEY, api_base=base, **more)
    with Backend([info], sleep=sleep, chance=lambda: 1.0) as backend, pytest.raises(ModelFailed) as failed:
        backend.complete(messages, {"model_name": "m"})
    return failed.value


def check_plain(error: ModelFailed, *secrets: str) -> None:
    """Check that a caller reads a plain sentence: no address, no advice about keys, no words of the provider."""
    read = f"{error.message} {error.hint}"
    for secret in ("://", "127.0.0.1", "localhost", "key", KEY, *secrets):
        assert secret not in read


def test_a_certificate_that_nobody_trusts(certificate: Path) -> None:
    """It is named, with what to do, after one attempt; with the certificate of its authority, the server is asked."""
    with ModelServer(certificate) as server:
        slept: list[float] = []
        error = fail(server.url, slept=slept)
        assert "its certificate is not trusted (self-signed certificate)" in error.details
        assert "ca_file" in error.details
        assert (error.cause, slept, server.requests) == (Cause.UNREACHABLE, [], [])
        check_plain(error)
        trusted = ApiInfo(api_key=KEY, api_base=server.url, ca_file=str(certificate))
        with Backend([trusted]) as backend:
            assert backend.complete(ASK, {"model_name": "m"}).texts == ["You said: Hello"]


def test_http_to_a_server_with_tls(certificate: Path) -> None:
    """The owner reads that the address needs https."""
    with ModelServer(certificate) as server:
        error = fail(server.url.replace("https:", "http:"))
    assert "write https:// in place of http://" in error.details
    check_plain(error)


def test_https_to_a_server_without(server: ModelServer) -> None:
    """The owner reads that the address needs http, after one attempt."""
    slept: list[float] = []
    error = fail(server.url.replace("http:", "https:"), slept=slept)
    assert "it does not answer in TLS" in error.details
    assert "write http:// in place of https://" in error.details
    assert (error.cause, slept) == (Cause.UNREACHABLE, [])
    check_plain(error)


def test_a_closed_port() -> None:
    """A server that may be restarting is tried for some seconds, and then named."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        base = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        slept: list[float] = []
        error = fail(base, slept=slept)
    assert "after 3 attempts: nothing listens there (connection refused)" in error.details
    assert base in error.details
    assert (error.cause, slept) == (Cause.UNREACHABLE, [1, 2])
    check_plain(error)


def test_a_host_that_does_not_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong name is named, after one attempt; a name server that does not answer is asked again."""

    def refuse(number: int) -> None:
        def look_up(*_: object, **__: object) -> None:
            raise socket.gaierror(number, "no")

        monkeypatch.setattr(socket, "getaddrinfo", look_up)

    slept: list[float] = []
    refuse(socket.EAI_NONAME)
    error = fail("http://nowhere.invalid/v1", slept=slept)
    assert "there is no host of that name" in error.details
    assert (error.cause, slept) == (Cause.UNREACHABLE, [])
    check_plain(error, "nowhere")
    refuse(socket.EAI_AGAIN)
    assert "cannot be looked up now" in fail("http://nowhere.invalid/v1", slept=slept).details
    assert slept == [1, 2]


OVERFLOWS = {
    "llama.cpp": {
        "error": {
            "code": 400,
            "message": "the request exceeds the available context size, try increasing it",
            "type": "exceed_context_size_error",
            "n_prompt_tokens": 9000,
            "n_ctx": 4096,
        }
    },
    "vllm": {
        "object": "error",
        "message": "This model's maximum context length is 4096 tokens. However, you requested 9000 tokens.",
        "type": "BadRequestError",
        "code": 400,
    },
    "openai": {
        "error": {
            "code": "context_length_exceeded",
            "message": "This model's maximum context length is 4096 tokens. However, your messages had 9000 tokens.",
            "type": "invalid_request_error",
            "param": "messages",
        }
    },
    "vllm, of a prompt": {
        "object": "error",
        "message": "The decoder prompt (length 9000) is longer than the maximum model length of 4096.",
        "type": "BadRequestError",
        "code": 400,
    },
    "xai": {
        "code": "Client specified an invalid argument",
        "error": "This model's maximum prompt length is 4096 but the request contains 9000 tokens.",
    },
    "google": [
        {
            "error": {
                "code": 400,
                "message": "The input token count (9000) exceeds the maximum number of tokens allowed (4096).",
                "status": "INVALID_ARGUMENT",
            }
        }
    ],
    "tgi": {
        "error": {
            "message": "Input validation error: `inputs` tokens + `max_new_tokens` must be <= 4096. Given: 9000",
            "http_status_code": 422,
        }
    },
}


@pytest.mark.parametrize("status", [400, 413, 500])
@pytest.mark.parametrize("body", OVERFLOWS.values(), ids=OVERFLOWS)
def test_a_conversation_that_is_too_long(server: ModelServer, body: Any, status: int) -> None:
    """Each server's way to say it is understood; the caller reads what they can do, and it is not tried again."""
    server.script(Answers(body, status=status))
    error = fail(server.url)
    assert (error.cause, error.max_tokens, len(server.requests)) == (Cause.TOO_LONG, 4096, 1)
    assert "previous_messages" in error.details
    assert "reset the instance" in error.hint
    check_plain(error, "4096")


def test_a_request_that_is_too_large_is_shortened_and_one_too_many_is_not(server: ModelServer) -> None:
    """A proxy that takes no such body says so by its status; a limit of a rate says nothing about the conversation."""
    server.script(Fails(413, "Go away."))
    assert fail(server.url).cause is Cause.TOO_LONG
    server.script(*[Fails(429, "Too many tokens, please wait before trying again.")] * 6)
    assert fail(server.url, slept=[]).cause is Cause.BUSY


NO_EYES = {
    "llama.cpp": Fails(500, "image input is not supported - hint: if this is unexpected, you may need the mmproj"),
    "ollama": Fails(400, "this model is missing data required for image input"),
    "vllm": Fails(400, "m is not a multimodal model"),
    "a text only": Fails(422, "messages.0.content: Input should be a valid string"),
}


@pytest.mark.parametrize("says", NO_EYES.values(), ids=NO_EYES)
def test_a_picture_for_a_model_that_reads_text(server: ModelServer, says: Fails) -> None:
    """It is not tried again, and the caller reads that the model takes no pictures."""
    server.script(says)
    error = fail(server.url, PICTURE)
    assert (error.cause, len(server.requests)) == (Cause.NO_PICTURES, 1)
    assert says.message[:20] in error.details
    check_plain(error, says.message[:20])


@pytest.mark.parametrize(
    ("says", "cause", "named"),
    [
        (Fails(401, f"Incorrect API key: {KEY[:6]}***"), Cause.NOT_SET_UP, "the worker's key was refused (401)"),
        (Fails(404, "model 'm' not found"), Cause.NOT_SET_UP, "model 'm' not found (404)"),
        (Fails(404, "Not Found"), Cause.NOT_SET_UP, "most end in /v1"),
        (Fails(402, "Insufficient balance"), Cause.BUSY, "Pay, or raise the quota"),
        (Fails(429, "You exceeded your quota", code="insufficient_quota"), Cause.BUSY, "raise the quota"),
        (Fails(400, "The response was filtered", code="content_filter"), Cause.WITHHELD, "was filtered"),
        (Fails(400, "'temperature' is too high"), Cause.NOT_SET_UP, "the settings in the flow's config"),
        (Fails(308, headers={"Location": "https://elsewhere.invalid"}), Cause.NOT_SET_UP, "redirects"),
    ],
)
def test_what_cannot_get_better_is_not_tried_again(server: ModelServer, says: Fails, cause: Cause, named: str) -> None:
    """Its owner reads the cause with the server's address, and a caller a plain sentence."""
    server.script(says)
    slept: list[float] = []
    error = fail(server.url, slept=slept)
    assert (error.cause, len(server.requests), slept) == (cause, 1, [])
    assert named in error.details
    assert server.url in error.details
    assert KEY[:6] not in error.details
    check_plain(error, says.message)


def test_what_a_server_says_controls_no_terminal(server: ModelServer, caplog: pytest.LogCaptureFixture) -> None:
    """It is shown on one line, with visible escapes, and bounded, wherever its owner reads it."""
    server.script(Fails(400, "\x1b[31mred\n\u202eevil " + "x" * 5000))
    error = fail(server.url)
    assert r"\x1b[31mred \u202eevil xxx" in error.details
    for shown in (error.details, caplog.text):
        assert "\x1b" not in shown
        assert len(shown) < 1000


def test_the_log_of_the_worker_has_the_words_of_the_server(
    server: ModelServer, caplog: pytest.LogCaptureFixture
) -> None:
    """Each failed attempt is logged with the address and what was said, also if a later one is answered."""
    server.script(Fails(503, "Loading model"))
    with (
        caplog.at_level(logging.INFO),
        Backend([ApiInfo(api_key=KEY, api_base=server.url)], sleep=lambda _: None) as backend,
    ):
        completion = backend.complete(ASK, {"model_name": "m"})
    assert completion.attempts == 2
    assert f"The model server {server.url} gave no answer (attempt 1): Loading model (503)" in caplog.text
    assert f"m at {server.url} answered at attempt 2." in caplog.text
