"""Several models in the order of preference: who is asked after whom, and what the answer says of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from support.model_server import Fails, ModelServer, Says, Script

from p2pflows.errors import UsageError
from p2pflows.models.answer import Completion
from p2pflows.models.answers import Delta
from p2pflows.models.api_info import ApiInfo
from p2pflows.models.backend import ASIDE_S, Backend
from p2pflows.models.failures import Cause, ModelFailed
from p2pflows.models.keyring import Keyring
from p2pflows.models.routes import read_choices

ASK = [{"role": "user", "content": "Hello"}]


class Desk:
    """Two servers, the worker's keys for them, and a clock that moves only in pauses."""

    def __init__(self, first: ModelServer, second: ModelServer) -> None:
        self.first, self.second = first, second
        self.now = 0.0
        self.slept: list[float] = []
        self.keyring = Keyring(
            [ApiInfo(api_key="k1", api_base=first.url), ApiInfo(api_key="k2", api_base=second.url)],
            clock=lambda: self.now,
        )
        self.models: Any = [
            {"model_name": "big", "api_base": first.url},
            {"model_name": "small", "api_base": second.url},
        ]

    def sleep(self, seconds: float) -> None:
        """Pause."""
        self.slept.append(seconds)
        self.now += seconds

    def ask(self, told: list[Delta] | None = None, **settings: Any) -> Completion:
        """Ask the first model that answers."""
        with Backend(self.keyring, sleep=self.sleep, chance=lambda: 1.0) as backend:
            on_delta = None if told is None else told.append
            return backend.complete(ASK, {"model_name": self.models, **settings}, on_delta)

    @property
    def asked(self) -> list[tuple[str, str]]:
        """The model and the key of each request, of the first server and then of the second."""
        return [(each.body["model"], each.key) for each in [*self.first.requests, *self.second.requests]]


@pytest.fixture
def desk() -> Iterator[Desk]:
    """Two servers."""
    with ModelServer() as first, ModelServer() as second:
        desk = Desk(first, second)
        with contextlib.closing(desk.keyring):
            yield desk


def test_the_first_model_is_preferred(desk: Desk) -> None:
    """While it answers, no other one is asked."""
    for _ in range(3):
        completion = desk.ask()
        assert (completion.model, completion.attempts) == ("big", 1)
    assert desk.asked == [("big", "k1")] * 3


GONE = {
    "refused key": Fails(401),
    "no such model": Fails(404, "model 'big' not found"),
    "long pause": Fails(429, headers={"Retry-After": "3600"}),
    "quota": Fails(429, code="insufficient_quota"),
    "unpaid": Fails(402),
}


@pytest.mark.parametrize("trouble", GONE.values(), ids=GONE)
def test_what_will_not_pass_leads_to_the_next_model_at_once(desk: Desk, trouble: Script) -> None:
    """The answer says which model gave it, and how many requests it took; the failed one is left alone for a while."""
    desk.first.script(trouble)
    completion = desk.ask()
    assert (completion.texts, completion.model, completion.attempts) == (["You said: Hello"], "small", 2)
    assert desk.slept == []
    assert desk.ask().attempts == 1
    assert desk.asked == [("big", "k1"), ("small", "k2"), ("small", "k2")]


def test_a_dead_server_leads_to_the_next_model_at_once(desk: Desk) -> None:
    """Nobody waits for a server that is gone, and later questions do not even try it for some time."""
    with ModelServer() as gone:
        base = gone.url
    desk.keyring = Keyring([ApiInfo(api_key="k0", api_base=base), *desk.keyring.api_infos], clock=lambda: desk.now)
    desk.models = [{"model_name": "dead", "api_base": base}, *desk.models]
    with contextlib.closing(desk.keyring):
        assert [desk.ask().attempts for _ in range(2)] == [2, 1]
        assert desk.slept == []


def test_a_model_that_failed_is_asked_again_later(desk: Desk) -> None:
    """Once its key works again, the preferred model is back."""
    desk.first.script(Fails(401))
    assert desk.ask().model == "small"
    desk.now += ASIDE_S + 1
    assert desk.ask().model == "big"


def test_a_passing_fault_is_tried_twice_before_the_next(desk: Desk) -> None:
    """A server that is busy for a moment keeps its turn."""
    desk.first.script(Fails(503))
    assert desk.ask().model == "big"
    desk.first.script(Fails(503), Fails(500))
    completion = desk.ask()
    assert (completion.model, completion.attempts) == ("small", 3)
    assert desk.ask().model == "big"  # it was no fault that lasts


def test_one_of_two_keys_is_refused(desk: Desk) -> None:
    """A bad key costs one request in all, and no answer."""
    infos = [ApiInfo(api_key=key, api_base=desk.first.url) for key in ("bad", "good")]
    desk.models = "m"
    desk.first.script(Fails(401))
    with contextlib.closing(Keyring(infos, clock=lambda: desk.now)) as desk.keyring:
        assert [desk.ask().attempts for _ in range(5)] == [2, 1, 1, 1, 1]
    assert [key for _, key in desk.asked] == ["bad", *["good"] * 5]


def test_all_fail(desk: Desk) -> None:
    """The owner reads what each server said; the caller, the sentence that says most."""
    desk.first.script(Fails(400, "maximum context length is 100 tokens"))
    desk.second.script(Fails(401))
    with pytest.raises(ModelFailed) as failed:
        desk.ask()
    assert f"is 100 tokens (400) (from {desk.first.url}); the worker's key was refused" in failed.value.details
    assert "after 2 attempts" in failed.value.details
    assert failed.value.cause is Cause.TOO_LONG


def test_a_stream_that_another_model_goes_on_with_begins_again(desk: Desk) -> None:
    """Who follows the answer is told that the first pieces count for nothing."""
    desk.first.script(Says(("one two",), unfinished=True), Fails(404))
    told: list[Delta] = []
    assert desk.ask(told, stream=True).texts == ["You said: Hello"]
    assert [delta.text for delta in told] == ["one", " two", "You", " said:", " Hello"]
    assert [delta.restart for delta in told] == [False, False, True, False, False]


def test_models_at_one_server(desk: Desk) -> None:
    """Names alone stand for models at any server that the worker has a key for."""
    desk.models = ["one", "two"]
    desk.first.script(Fails(404))
    desk.second.script(Fails(404))
    assert desk.ask().model == "two"
    assert sorted(desk.asked) == [("one", "k1"), ("one", "k2"), ("two", "k1")]


def test_a_model_that_the_worker_has_no_key_for_is_left_out(desk: Desk) -> None:
    """The others are asked; if none is left, the owner reads what is missing."""
    desk.models = [{"model_name": "far", "api_base": "https://far.invalid/v1"}, "near"]
    assert desk.ask().model == "near"
    desk.models = desk.models[:1]
    with pytest.raises(ModelFailed) as failed:
        desk.ask()
    assert "No key of this worker is for the model server https://far.invalid:443/v1." in failed.value.details


def test_a_backend_chooses_among_keys_of_one_server() -> None:
    """An entry may name the backend of its keys."""
    with ModelServer() as server:
        infos = [ApiInfo(name, api_key=name, api_base=server.url) for name in ("cheap", "dear")]
        with Backend(infos) as backend:
            backend.complete(ASK, {"model_name": [{"model_name": "m", "backend_used": "dear"}]})
        assert [asked.key for asked in server.requests] == ["dear"]


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["m"] * 21,
        [5],
        [{}],
        [{"model": "m"}],
        [{"model_name": "m", "api_base": 5}],
        [{"model_name": "m", "api_key": "k"}],
        5,
        "",
        {"openai": 5},
    ],
)
def test_lists_of_other_forms(wrong: Any) -> None:
    """They are refused with the form that is known."""
    with pytest.raises(UsageError, match=r"backend\.model_name"):
        read_choices(wrong)
