"""A real llama.cpp server with a model that is written here, through the daemons of two people.

It runs where `llama-server` is on the PATH and `gguf` is installed.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import pytest
from support.people import Person
from support.processes import free_port, wait_until

import p2pflows

PROGRAM = shutil.which("llama-server")
if PROGRAM is None:
    pytest.skip("llama-server is not installed", allow_module_level=True)
pytest.importorskip("gguf")

from support import small_model  # noqa: E402 - it needs gguf

POINT, ENDLESS = "llama", "endless"
CONTEXT_TOKENS = 2_000


class LlamaServer:
    """A server with one slot, which runs inside `with`.

    Args:
        folder: where the model and the log are written.
        name: the name of both.
        ends: whether the model comes to an end.
        context_tokens: how many tokens it reads.
    """

    def __init__(self, folder: Path, name: str, *, ends: bool, context_tokens: int) -> None:
        model = folder / f"{name}.gguf"
        small_model.write(model, ends=ends)
        port = free_port()
        self._address = f"127.0.0.1:{port}"
        self.url = f"http://{self._address}/v1"
        words: list[object] = ["--model", model, "--port", port, "--ctx-size", context_tokens]
        words += ["--parallel", 1, "--threads", 1]
        with (folder / f"{name}.log").open("wb") as log:
            self._process = subprocess.Popen([str(PROGRAM), *map(str, words)], stdout=log, stderr=log)

    def __enter__(self) -> Self:
        wait_until(self._is_ready, 60)
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(20)

    def is_busy(self) -> bool:
        """Return whether it generates something."""
        return bool(self._get("/slots")[0]["is_processing"])

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return "status" in self._get("/health")
        return False

    def _get(self, path: str) -> Any:
        with contextlib.closing(http.client.HTTPConnection(self._address, timeout=5)) as connection:
            connection.request("GET", path)
            return json.load(connection.getresponse())


@pytest.fixture(scope="module")
def endless(pair: tuple[Person, Person], tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaServer]:
    """Two servers, and bob's workers for them; the one that never ends."""
    bob, folder = pair[1].ready(), tmp_path_factory.mktemp("llama")
    with (
        LlamaServer(folder, POINT, ends=True, context_tokens=CONTEXT_TOKENS) as small,
        LlamaServer(folder, ENDLESS, ends=False, context_tokens=small_model.CONTEXT_TOKENS) as endless,
    ):
        points = {POINT: small, ENDLESS: endless}
        workers = [
            bob.start_worker("--dispatch-point", point, "--api-base", server.url) for point, server in points.items()
        ]
        bob.wait_for_status(lambda now: set(points) <= {each["dispatch_point"] for each in now["workers"]})
        yield endless
        for worker in workers:
            worker.terminate()
            worker.wait(20)


@pytest.fixture
def bob(pair: tuple[Person, Person], endless: LlamaServer) -> Person:
    """The owner of the assistants; unlike elsewhere, his workers go on between tests."""
    del endless
    return pair[1].ready()


def serve(bob: Person, point: str, *options: str) -> None:
    """Serve an assistant."""
    bob.cli("serve", "Assistant", "--chat", "--model", "small", "--dispatch-point", point, *options).ok()


def test_an_answer_comes_in_pieces_and_whole(alice: Person, bob: Person) -> None:
    """Both say the same."""
    serve(bob, POINT, "--system", "You are small.")
    with p2pflows.connect(alice.home) as me:
        pieces = list(me.stream("bob/Assistant", {"query": "Who are you?"}))
    assert len(pieces) > 1
    assert "".join(piece.text for piece in pieces).strip() == small_model.TEXT
    answer = json.loads(alice.cli("call", "bob/Assistant", "query=Who are you?").ok().out)
    assert answer["api_output"].strip() == small_model.TEXT
    assert (answer["finish_reason"], answer["attempts"]) == ("stop", 1)


def test_a_chat_goes_on_until_the_human_ends_it(alice: Person, bob: Person) -> None:
    """Alice's flow lets bob's assistant and herself speak in turn."""
    serve(bob, POINT)
    subflows = {
        "Assistant": {"flow_endpoint": "Assistant", "user_id": bob.user_id},
        "User": {"flow_endpoint": "User", "user_id": alice.user_id},
    }
    bob.cli(
        "serve", "Talk", "--class", "p2pflows.humans.ChatHumanFlow", "--set", f"subflows_config={json.dumps(subflows)}"
    ).ok()
    call = alice.start_command("call", "bob/Talk", "query=Hello")
    for said in ("How are you?", "Thank you <END>"):
        [prompt] = alice.wait_for_prompts()
        assert prompt["text"].strip() == small_model.TEXT
        alice.request("answer", id=prompt["id"], text=said)
        alice.wait_for_status(lambda now: now["prompts_open"] == 0)
    ended = json.loads(call.wait().ok().out)
    assert (ended["reason"], len(ended["assistant_outputs"])) == ("end_word", 2)


def test_an_answer_that_was_cut_is_an_error(alice: Person, bob: Person) -> None:
    """The server says `length`."""
    serve(bob, POINT, "--set", "backend.max_tokens=3")
    assert "cut off (length)" in alice.cli("call", "bob/Assistant", "query=Hello").err


def test_data_that_fits_a_schema(alice: Person, bob: Person) -> None:
    """The server keeps even this model to it."""
    fields = {"properties": {"ok": {"type": "boolean"}}, "required": ["ok"], "additionalProperties": False}
    serve(bob, POINT, "--set", f"output_schema={json.dumps({'type': 'object', **fields})}")
    answer = json.loads(alice.cli("call", "bob/Assistant", "query=Is it?").ok().out)
    assert isinstance(answer["api_output"]["ok"], bool)


def test_a_question_that_the_model_cannot_read(alice: Person, bob: Person) -> None:
    """One that is too long, and one with a picture, each with a sentence that says so."""
    serve(bob, POINT)
    assert "too long for the model" in alice.cli("call", "bob/Assistant", f"query={'x' * 2 * CONTEXT_TOKENS}").err
    picture = alice.folder / "photo.png"
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\xff")
    assert "takes no pictures" in alice.cli("call", "bob/Assistant", "query=See", f"images=@{picture}").err


def test_nothing_is_generated_for_nobody(alice: Person, bob: Person, endless: LlamaServer) -> None:
    """A caller who leaves and withdraws the call ends what the server does, and what was read counts."""
    serve(bob, ENDLESS)
    with (
        p2pflows.connect(alice.home) as me,
        contextlib.closing(me.stream("bob/Assistant", {"query": "Go on"})) as pieces,
    ):
        for _ in range(3):
            next(pieces)
        assert endless.is_busy()
    wait_until(lambda: not endless.is_busy(), 3)
    wait_until(lambda: any(entry["tokens_out"] > 20 for entry in bob.request("usage", by="model")["entries"]))
