"""A model that two people use, behind a real worker: what the owner and the caller are told."""

from __future__ import annotations

import base64
import contextlib
import json
from collections.abc import Iterator

import pytest
from support.model_server import Answers, Fails, ModelServer, Trickles
from support.people import Person
from support.processes import wait_until

import p2pflows

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
    assert theirs.err.rstrip().endswith("of 'Assistant'. Its owner finds the cause in: p2pflows log")
    for secret in ("/srv/models", server.url, "127.0.0.1", "key"):
        assert secret not in theirs.out + theirs.err
    mine = bob.cli("call", "me/Assistant", "query=Hello")
    assert mine.code == 1
    assert "the worker's key was refused (401)" in mine.err
    assert "p2pflows worker --api-key-env NAME" in mine.err
    log = bob.cli("log").ok().out
    assert f"model 'm' not found in /srv/models (404) (from {server.url})" in " ".join(log.split())
    assert KEY not in log + mine.err + bob.log_text()


def test_what_only_the_owner_can_do_is_told_to_the_owner(alice: Person, bob: Person, server: ModelServer) -> None:
    """A neighbour whose answer was cut reads what they can do; the owner, also which setting to raise."""
    serve_assistant(bob, "--model", "m", "--set", "backend.stream=false")
    choice = {"index": 0, "message": {"role": "assistant", "content": "It is"}, "finish_reason": "length"}
    server.script(*[Answers({"choices": [choice]})] * 2)
    theirs = alice.cli("call", "bob/Assistant", "query=Hello")
    assert "cut off (length). It failed in instance" in theirs.err
    assert "Ask for less." in theirs.err
    assert "max_tokens" not in theirs.err
    assert "raise backend.max_tokens" in bob.cli("call", "me/Assistant", "query=Hello").err


def test_the_next_model_answers_and_the_caller_reads_which(alice: Person, bob: Person, server: ModelServer) -> None:
    """`serve --chat --model a --model b` asks b when a is not there, and says so."""
    serve_assistant(bob, "--model", "gone", "--model", "there")
    server.script(Fails(404, "no such model"))
    answer = json.loads(alice.cli("call", "bob/Assistant", "query=Hello").ok().out)
    assert (answer["api_output"], answer["model"], answer["attempts"]) == ("You said: Hello", "there", 2)
    assert f"there at {server.url} answered at attempt 2" in bob.log_text()


def test_a_neighbour_who_withdraws_each_call_reaches_the_limit(alice: Person, bob: Person, server: ModelServer) -> None:
    """What streamed until then counts, so nobody reads answers for nothing by leaving before their end."""
    serve_assistant(bob, "--model", "m", "--set", "backend.stream=true", "--limit-per-caller", "tokens_per_day=20")
    piece = {"choices": [{"index": 0, "delta": {"content": "word by word "}}]}
    server.script(Trickles(f"data: {json.dumps(piece)}\n\n"))
    with (
        p2pflows.connect(alice.home) as me,
        contextlib.closing(me.stream("bob/Assistant", {"query": "Go on"})) as pieces,
    ):
        for _ in range(10):
            next(pieces)
    wait_until(lambda: any(entry["tokens_out"] > 20 for entry in bob.request("usage")["entries"]))
    assert alice.cli("call", "bob/Assistant", "query=And more").code == 6


def test_what_a_chat_takes_and_answers_is_described(alice: Person, bob: Person, server: ModelServer) -> None:
    """A neighbour sees pictures and demonstrations beside the query, and the fields of the answer."""
    serve_assistant(bob, "--model", "m", "--system", "Never say no.")
    shown = alice.cli("describe", "bob/Assistant").ok().out
    for field in ("query", "images", "demonstrations", "api_output", "finish_reason", "attempts"):
        assert field in shown
    assert "Never say no." not in shown
    alice.cli("call", "bob/Assistant", "query=Hello").ok()
    assert server.requests[-1].body["messages"][0] == {"role": "system", "content": "Never say no."}


def test_a_picture_is_sent_as_other_files_are(alice: Person, bob: Person, server: ModelServer) -> None:
    """`images=@photo.png` reaches the model as a picture."""
    serve_assistant(bob, "--model", "m")
    picture = b"\x89PNG\r\n\x1a\n\x00\xff"
    path = alice.folder / "photo.png"
    path.write_bytes(picture)
    alice.cli("call", "bob/Assistant", "query=What is this?", f"images=@{path}").ok()
    text, image = server.requests[-1].body["messages"][-1]["content"]
    assert text == {"type": "text", "text": "What is this?"}
    assert image["image_url"]["url"] == f"data:image/png;base64,{base64.b64encode(picture).decode()}"


def test_settings_that_mean_nothing_are_refused_when_they_are_set(bob: Person, server: ModelServer) -> None:
    """`serve` of a class, and `mount`, name the key, and nothing is asked of the model."""
    asked = len(server.requests)
    serve_assistant(bob, "--model", "m")
    refused = bob.cli("mount", "me/Assistant", "--set", "previous_messages.last_k=-1")
    assert (refused.code, "'previous_messages.last_k' is wrong" in refused.err) == (2, True)
    bob.write_file("talkers.py", "from p2pflows import ChatFlow\n\nclass Talker(ChatFlow):\n    pass\n")
    words = ("--class", "talkers.py:Talker", "--set", "backend.max_token=5")
    refused = bob.cli("serve", "Talker", *words)
    assert refused.code == 2
    assert "'backend.max_token'" in refused.err
    assert "Do you mean 'backend.max_tokens'?" in refused.err
    assert len(server.requests) == asked


def test_who_serves_a_chat_reads_what_its_point_lacks(bob: Person, server: ModelServer) -> None:
    """A point without workers, one whose worker has no key, and one that has all."""
    del server
    said = bob.cli("serve", "Assistant", "--chat", "--model", "m", "--dispatch-point", "nowhere").ok().err
    assert "No worker of 'nowhere' runs yet." in said
    said = bob.cli("serve", "Assistant", "--chat", "--model", "m").ok().err
    assert "No worker of 'default' has a key of a model server." in said
    said = bob.cli("serve", "Assistant", "--chat", "--model", "m", "--dispatch-point", POINT).ok().err
    assert "No worker" not in said
