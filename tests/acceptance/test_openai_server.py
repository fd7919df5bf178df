"""A neighbour's assistant as a model for programs that speak the OpenAI protocol: the `openai` package, and curl."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import openai
import pytest
from openai.types.chat import ChatCompletionMessageParam
from support.model_server import ModelServer, Trickles
from support.network import Network
from support.people import Person

HI: list[ChatCompletionMessageParam] = [{"role": "user", "content": "Hi there"}]


@dataclass(frozen=True)
class Scene:
    """Bob serves an assistant with a model; alice offers it on her machine."""

    alice: Person
    bob: Person
    model: ModelServer
    url: str
    key: str

    def client(self) -> openai.OpenAI:
        """Return a client that does not try again."""
        return openai.OpenAI(base_url=self.url, api_key=self.key, max_retries=0, timeout=20)

    def curl(self, path: str, *options: str, key: str = "") -> tuple[int, str]:
        """Return the status and the text that curl gets."""
        words = ["curl", "-sS", "-w", "\n%{http_code}", "-H", f"Authorization: Bearer {key or self.key}", *options]
        ended = subprocess.run([*words, f"{self.url}{path}"], capture_output=True, text=True, timeout=20, check=True)
        text, _, status = ended.stdout.rpartition("\n")
        return int(status), text


def start_server(person: Person) -> str:
    """Start the server, and return what it says."""
    server = person.start_command("openai", "--listen", "127.0.0.1:0")
    assert server.process.stderr is not None
    said = ""
    while "API_KEY" not in said:
        line = server.process.stderr.readline()
        assert line, said
        said += line
    return said


@pytest.fixture(scope="module")
def scene() -> Iterator[Scene]:
    """Start all of it."""
    network = Network()
    with ModelServer() as model:
        try:
            alice, bob = network.person("alice").without_workers(), network.person("bob")
            for one, other in ((alice, bob), (bob, alice)):
                one.add_contact(other)
            keys = [{"api_key_env": "MODEL_KEY", "api_base": model.url}]
            (bob.home / "config.yaml").write_text(json.dumps({"workers": [{"api_infos": keys}]}))
            bob.environment["MODEL_KEY"] = "sk-0123456789"
            for person in (alice, bob):
                person.start(wait=False)
            alice.ready()
            bob.ready()
            options = ("--chat", "--model", "m", "--api-base", model.url)
            system = "system_message_prompt_template.template=You belong to bob."
            bob.cli("serve", "Assistant", *options, "--set", system).ok()
            said = start_server(alice)
            url = said.partition("OPENAI_BASE_URL=")[2].partition(" ")[0]
            key = said.partition("OPENAI_API_KEY=")[2].partition("\n")[0]
            assert key == (alice.home / "openai.key").read_text().strip()
            yield Scene(alice, bob, model, url, key)
        finally:
            network.close()


def asked(scene: Scene) -> list[tuple[str, str]]:
    """The messages that the model got last."""
    return [(message["role"], message["content"]) for message in scene.model.requests[-1].body["messages"]]


def test_a_neighbours_assistant_is_a_model(scene: Scene) -> None:
    """The client's history goes on in the conversation that the assistant keeps, after its owner's system message."""
    with scene.client() as client:
        assert [model.id for model in client.models.list()] == ["bob/Assistant"]
        assert client.models.retrieve("bob/Assistant").owned_by == "bob"
        said = [*HI]
        for text in ("And now?", "And then?"):
            done = client.chat.completions.create(model="bob/Assistant", messages=said)
            answer = done.choices[0].message.content
            assert (answer, done.choices[0].finish_reason) == (f"You said: {said[-1]['content']}", "stop")
            said += [{"role": "assistant", "content": answer}, {"role": "user", "content": text}]
    assert asked(scene) == [
        ("system", "You belong to bob."),
        ("user", "Hi there"),
        ("assistant", "You said: Hi there"),
        ("user", "And now?"),
    ]


async def test_the_answer_streams(scene: Scene) -> None:
    """To the synchronous client and the asynchronous one."""
    with scene.client() as client:
        scene.model.script("a b c")
        stream = client.chat.completions.create(model="bob/Assistant", messages=HI, stream=True)
        assert "".join(chunk.choices[0].delta.content or "" for chunk in stream) == "a b c"
    async with openai.AsyncOpenAI(base_url=scene.url, api_key=scene.key) as later:
        scene.model.script("d e f")
        chunks = await later.chat.completions.create(model="bob/Assistant", messages=HI, stream=True)
        assert "".join([chunk.choices[0].delta.content or "" async for chunk in chunks]) == "d e f"


def test_a_client_that_leaves_a_stream_frees_the_model(scene: Scene) -> None:
    """The call is withdrawn at the neighbour's."""
    chunk = {"choices": [{"index": 0, "delta": {"content": "ha "}, "finish_reason": None}]}
    scene.model.client_gone.clear()
    scene.model.script(Trickles(f"data: {json.dumps(chunk)}\n\n"))
    with scene.client() as client:
        stream = client.chat.completions.create(model="bob/Assistant", messages=HI, stream=True)
        assert next(iter(stream)).choices[0].delta.content
        stream.close()
    assert scene.model.client_gone.wait(10)


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl_is_a_client_too(scene: Scene) -> None:
    """Documents, a stream of events, and errors in the form that clients of OpenAI read."""
    status, text = scene.curl("/chat/completions", "-d", json.dumps({"model": "bob/Assistant", "messages": HI}))
    assert (status, json.loads(text)["choices"][0]["message"]["content"]) == (200, "You said: Hi there")
    body = {"model": "bob/Assistant", "messages": HI, "stream": True}
    status, text = scene.curl("/chat/completions", "-N", "-d", json.dumps(body))
    events = text.strip().split("\n\n")
    assert (status, events[-1]) == (200, "data: [DONE]")
    pieces = [json.loads(event.removeprefix("data: "))["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(piece.get("content", "") for piece in pieces) == "You said: Hi there"
    status, text = scene.curl("/models/bob/Nothing")
    assert (status, json.loads(text)["error"]["code"]) == (404, "model_not_found")
    status, text = scene.curl("/models", key="wrong")
    assert (status, json.loads(text)["error"]["code"]) == (401, "invalid_api_key")


def test_ctrl_c_ends_the_server_cleanly(scene: Scene) -> None:
    """The key is the same at the next start, and is not shown again."""
    second = scene.alice.start_command("openai", "--listen", "127.0.0.1:0")
    assert second.process.stderr is not None
    said = second.process.stderr.readline()
    assert "Ctrl-C stops it" in said
    second.process.send_signal(signal.SIGINT)
    result = second.wait()
    assert (result.code, result.out) == (0, "")
    assert scene.key not in said + result.err
