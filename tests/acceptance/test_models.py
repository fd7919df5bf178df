"""A model that two people use, behind a real worker: what the owner and the caller are told."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.model_server import Fails, ModelServer
from support.people import Person

KEY = "sk-secret-0123456789"
POINT = "assistant"


@pytest.fixture(scope="module")
def server(pair: tuple[Person, Person]) -> Iterator[ModelServer]:
    """A model server, and bob's worker with the key for it."""
    bob = pair[1].ready()
    with ModelServer() as server:
        key = {**bob.environment, "MODEL_KEY": KEY}
        words = ("--dispatch-point", POINT, "--api-key-env", "MODEL_KEY", "--api-base", server.url)
        worker = bob.start_worker(*words, environment=key)
        bob.wait_for_status(lambda now: any(each["dispatch_point"] == POINT for each in now["workers"]))
        yield server
        worker.terminate()
        worker.wait(20)


def serve_assistant(bob: Person, *options: str) -> None:
    """Serve bob's assistant."""
    bob.cli("serve", "Assistant", "--chat", "--dispatch-point", POINT, *options).ok()


@pytest.fixture
def bob(pair: tuple[Person, Person]) -> Person:
    """The owner of the assistant; unlike elsewhere, his worker goes on between tests."""
    return pair[1].ready()


def test_the_owner_reads_the_cause_and_a_caller_a_plain_sentence(
    alice: Person, bob: Person, server: ModelServer
) -> None:
    """The owner finds the provider's words and the address in the error and in the log; a neighbour, neither."""
    serve_assistant(bob, "--model", "m")
    server.script(Fails(404, "model 'm' not found in /srv/models"), Fails(401))
    theirs = alice.cli("call", "bob/Assistant", "query=Hello")
    assert theirs.code == 1
    assert "The model cannot be asked, as its owner has to correct something first." in theirs.err
    for secret in ("/srv/models", server.url, "127.0.0.1", "key"):
        assert secret not in theirs.out + theirs.err
    mine = bob.cli("call", "me/Assistant", "query=Hello")
    assert mine.code == 1
    assert "the worker's key was refused (401)" in mine.err
    assert "p2pflows worker --api-key-env NAME" in mine.err
    log = bob.cli("log").ok().out
    assert f"model 'm' not found in /srv/models (404) (from {server.url})" in " ".join(log.split())
    assert KEY not in log + mine.err + bob.log_text()


def test_the_next_model_answers_and_the_caller_reads_which(alice: Person, bob: Person, server: ModelServer) -> None:
    """`serve --chat --model a --model b` asks b when a is not there, and says so."""
    serve_assistant(bob, "--model", "gone", "--model", "there")
    server.script(Fails(404, "no such model"))
    answer = json.loads(alice.cli("call", "bob/Assistant", "query=Hello").ok().out)
    assert (answer["api_output"], answer["model"], answer["attempts"]) == ("You said: Hello", "there", 2)
    assert f"there at {server.url} answered at attempt 2" in bob.log_text()
