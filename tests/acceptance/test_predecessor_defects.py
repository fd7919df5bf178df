"""Defects of the predecessor that no other test covers, with real daemons (docs/predecessor.md)."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import flow_classes
import pytest
from support.model_server import ModelServer
from support.processes import wait_until

from p2pflows import ApiInfo, run_dispatch_worker_thread, serving, start_local
from p2pflows.errors import BadInput, FlowFailed, UsageError
from p2pflows.local import LocalUser, LocalUsers

WAIT = 20.0
NOTEBOOK = """
import json
from p2pflows import AtomicFlow, run_dispatch_worker_thread, serving, start_local


class Shout(AtomicFlow):
    default_config = {"name": "Shout", "description": "Shouts."}

    def run(self, input_message):
        return {"text": input_message.data["text"].upper()}


class Nameless(AtomicFlow):
    pass


with start_local(1) as (me,):
    told = {"served": serving.serve_flow(me, "__main__.Shout", "Shout")}
    try:
        serving.serve_flow(me, "__main__.Nameless", "Nameless")
    except Exception as error:
        told["refused"] = error.message
    with run_dispatch_worker_thread(me):
        told["answer"] = serving.get_flow_instance(me, "Shout").call({"text": "hello"}, 20)
    print(json.dumps(told))
"""
"""What somebody types who has no file."""


@pytest.fixture(scope="module")
def users() -> Iterator[LocalUsers]:
    """Alice, who has a worker process, bob and carol."""
    with contextlib.chdir(Path(flow_classes.__file__).parent), start_local(3, workers=1) as users:
        yield users


@pytest.fixture
def alice(users: LocalUsers) -> LocalUser:
    """The user who serves."""
    return users[0]


@pytest.fixture
def bob(users: LocalUsers) -> LocalUser:
    """The user who calls."""
    return users[1]


@pytest.fixture
def carol(users: LocalUsers) -> LocalUser:
    """Another user."""
    return users[2]


@pytest.fixture
def here(request: pytest.FixtureRequest) -> str:
    """An endpoint name that no other test uses."""
    return f"E{abs(hash(request.node.name)) % 1_000_000}"


def serve(user: LocalUser, class_name: str, endpoint: str, **settings: Any) -> None:
    """Serve one of the flow classes."""
    assert serving.serve_flow(user, f"flow_classes.{class_name}", endpoint, **settings)


def shown(user: LocalUser, endpoint: str) -> Mapping[str, Any]:
    """What a user sees of their own served flow."""
    return next(flow for flow in serving.get_served_flows(user) if flow["endpoint"] == endpoint)


def relay(endpoint: str) -> dict[str, Any]:
    """The config of a composite with one subflow."""
    return {"subflows_config": {"next": {"flow_endpoint": endpoint}}}


@pytest.mark.parametrize("name", ["a:b", "a/b", "a+b", "a#", "a" * 65])
def test_names_that_would_steer_are_refused(alice: LocalUser, here: str, name: str) -> None:
    """The name of an endpoint or a dispatch point holds no separator and no wildcard (D10)."""
    with pytest.raises(UsageError, match="endpoint"):
        serving.serve_flow(alice, "flow_classes.Counter", name)
    with pytest.raises(UsageError, match="dispatch point"):
        serving.serve_flow(alice, "flow_classes.Counter", here, dispatch_point=name)
    assert not serving.is_flow_served(alice, here)


def test_serving_anew_takes_live_instances_along(alice: LocalUser, bob: LocalUser, here: str) -> None:
    """Another class and dispatch point take effect at the next message of a live instance, and are shown (D11)."""
    serve(alice, "Counter", here)
    proxy = serving.get_flow_instance(bob, here, alice.user_id, timeout=WAIT)
    before = proxy.call({}, WAIT)
    with run_dispatch_worker_thread(alice, "attic"):
        serve(alice, "Counter", here, dispatch_point="attic")
        after = proxy.call({}, WAIT)
        assert (after["count"], after["instance"]) == (2, before["instance"])
        assert after["pid"] == os.getpid() != before["pid"]
        assert shown(alice, here)["dispatch_point"] == "attic"
    serve(alice, "Keeper", here)
    assert shown(alice, here)["target"] == "flow_classes:Keeper"
    with pytest.raises(FlowFailed, match="KeyError: 'kept'"):
        proxy.call({"answer": ["never kept"]}, WAIT)


def test_serving_anew_as_a_singleton(alice: LocalUser, bob: LocalUser, carol: LocalUser, here: str) -> None:
    """A user who has an instance keeps it; from then on everybody else shares another one (D11)."""
    serve(alice, "Counter", here)
    own = serving.get_flow_instance(bob, here, alice.user_id, timeout=WAIT)
    assert own.call({}, WAIT)["count"] == 1
    serve(alice, "Counter", here, singleton=True)
    shared = [serving.get_flow_instance(user, here, alice.user_id, timeout=WAIT) for user in (bob, carol)]
    assert [proxy.call({}, WAIT)["count"] for proxy in (*shared, own)] == [1, 2, 2]


def test_a_singleton_that_is_made_again(alice: LocalUser, bob: LocalUser, carol: LocalUser, here: str) -> None:
    """When the only instance is gone, the next one again belongs to the owner and is shared by all callers (D17)."""
    serve(alice, "Counter", here, singleton=True)
    first = serving.get_flow_instance(bob, here, alice.user_id, timeout=WAIT)
    assert first.call({}, WAIT)["count"] == 1
    serving.delete_flow_instance(alice, first.flow_config["flow_id"])
    second = serving.get_flow_instance(carol, here, alice.user_id, timeout=WAIT)
    assert second.call({}, WAIT)["count"] == 1
    third = serving.get_flow_instance(bob, here, alice.user_id, timeout=WAIT)
    assert third.call({}, WAIT)["count"] == 2
    (instance,) = serving.get_flow_instances(alice, flow_endpoint=here)
    assert instance["client"] == alice.user_id
    assert instance["instance"] == second.flow_config["flow_id"] == third.flow_config["flow_id"]


def test_a_circle_through_a_singleton_that_is_there(alice: LocalUser, here: str) -> None:
    """A flow that is served again cannot hold the flow that holds it (D9)."""
    upper, lower = f"{here}upper", f"{here}lower"
    serve(alice, "Counter", lower, singleton=True)
    serve(alice, "Relay", upper, singleton=True, config=relay(lower))
    serving.get_flow_instance(alice, upper, timeout=WAIT)
    assert serving.delete_flow_endpoint(alice, lower)
    serve(alice, "Relay", lower, singleton=True, config=relay(upper))
    with pytest.raises(BadInput, match="cycle"):
        serving.get_flow_instance(alice, lower, timeout=WAIT)


def test_a_class_of_a_notebook(tmp_path: Path) -> None:
    """A worker in the same program runs a class that no file holds; an incomplete class is refused (D27)."""
    notebook = tmp_path / "notebook.py"
    notebook.write_text(NOTEBOOK, encoding="utf-8")
    result = subprocess.run([sys.executable, notebook], capture_output=True, text=True, check=True, cwd=tmp_path)
    answer = json.loads(result.stdout)
    assert answer["served"]
    assert answer["answer"] == {"text": "HELLO"}
    assert "Nameless needs the key 'name'" in answer["refused"]


def test_where_an_answer_goes_is_not_the_senders_choice(
    alice: LocalUser, bob: LocalUser, carol: LocalUser, here: str
) -> None:
    """Reply data of the sender is ignored: the answer comes back to bob, and runs nobody's flow (D31)."""
    serve(alice, "Counter", here)
    victim = serving.get_flow_instance(carol, here, alice.user_id, timeout=WAIT)
    proxy = serving.get_flow_instance(bob, here, alice.user_id, timeout=WAIT)
    push = {"mode": "push", "user_id": alice.user_id, "flow_id": victim.flow_config["flow_id"]}
    for reply_data in (push, {"mode": "reply", "message": "0" * 32}, {"mode": "storage"}):
        message = proxy.package_input_message({}, reply_data=reply_data)
        answer = proxy.get_reply_future(message).get_data(WAIT)
        assert answer["sender"] == bob.user_id
        proxy.send_message(message)
    assert proxy.call({}, WAIT)["count"] == 7
    assert victim.call({}, WAIT)["count"] == 1


def test_a_reset_that_is_not_full_forgets_nothing(alice: LocalUser, here: str) -> None:
    """A reset that is not full keeps the state, by the proxy or from within, here and in subflows (D48)."""
    upper = f"{here}upper"
    serve(alice, "Counter", here)
    serve(alice, "Starter", upper, config=relay(here))
    proxy = serving.get_flow_instance(alice, upper, timeout=WAIT)
    counts = []
    for _ in range(2):
        answer = proxy.call({}, WAIT)
        counts.append((answer["count"], answer["below"][0]["count"]))
        proxy.reset(full_reset=False, recursive=True)
    answer = proxy.call({}, WAIT)
    assert [*counts, (answer["count"], answer["below"][0]["count"])] == [(1, 1), (2, 2), (3, 3)]


def test_keys_stay_with_their_worker(alice: LocalUser, here: str) -> None:
    """Two workers of one process have keys of their own, and a worker without keys has none (D43)."""
    points = ["first", "second", "third"]
    for point in points:
        assert serving.serve_flow(alice, "p2pflows.ChatFlow", f"{here}{point}", point)
    with ModelServer() as model, contextlib.ExitStack() as stack:
        for point in points:
            keys = [] if point == "third" else [ApiInfo(api_key=f"sk-{point}", api_base=model.url)]
            stack.enter_context(run_dispatch_worker_thread(alice, point, api_infos=keys))
        proxies = [serving.get_flow_instance(alice, f"{here}{point}", timeout=WAIT) for point in points]
        for proxy in (*proxies[:2], *reversed(proxies[:2])):
            proxy.call({"query": "Hello?"}, WAIT)
        with pytest.raises(FlowFailed, match="no key"):
            proxies[2].call({"query": "Hello?"}, WAIT)
        assert [asked.key for asked in model.requests] == ["sk-first", "sk-second", "sk-second", "sk-first"]


def test_what_a_flow_raised_stands_in_its_owners_log(alice: LocalUser, bob: LocalUser, here: str) -> None:
    """The daemon's stderr has endpoint, message id and traceback of an exception, and `log` has its entry (D51)."""
    serve(alice, "Careless", here)
    sent = bob.request("submit", address=f"alice/{here}", data={"text": "", "raise": "kaboom"})
    with pytest.raises(FlowFailed, match="kaboom"):
        bob.wait(sent["id"], timeout=WAIT)
    log = (alice.home / "daemon.log").read_text(encoding="utf-8")
    line = next(line for line in log.splitlines() if f"{here} raised" in line)
    assert "level=error" in line
    assert sent["id"] in line
    assert 'raise ValueError(data["raise"])' in log
    entry = next(entry for entry in alice.request("log")["entries"] if entry["endpoint"] == here)
    assert (entry["what"], entry["peer"]) == ("flow_failed", bob.user_id)
    assert "kaboom" in entry["detail"]


def test_any_question_can_be_answered(alice: LocalUser, bob: LocalUser) -> None:
    """Each answer reaches its own question, in whatever order they are given (D59)."""
    asked = [bob.request("submit", address="alice/User", data={"api_output": f"{n}?"}) for n in range(3)]
    wait_until(lambda: len(alice.inbox()) == 3, WAIT)
    prompts = {prompt["text"]: prompt for prompt in alice.inbox()}
    for n in (1, 0, 2):
        alice.answer(prompts[f"{n}?"]["id"], f"answer {n}")
    assert [bob.wait(each["id"], timeout=WAIT)["human_input"] for each in asked] == [f"answer {n}" for n in range(3)]


def test_a_human_under_another_name() -> None:
    """The human is served and asked at the endpoint of the settings (D59)."""
    with start_local(2) as users:
        alice, bob = users
        with (alice.home / "config.yaml").open("a", encoding="utf-8") as settings:
            settings.write("human_endpoint: Desk\n")
        users.restart(alice)
        sent = bob.request("submit", address="alice/Desk", data={"api_output": "Anybody there?"})
        wait_until(lambda: len(alice.inbox()) == 1, WAIT)
        (prompt,) = alice.inbox()
        assert (prompt["endpoint"], prompt["text"]) == ("Desk", "Anybody there?")
        alice.answer(prompt["id"], "Yes.")
        assert bob.wait(sent["id"], timeout=WAIT)["human_input"] == "Yes."
        assert [flow["endpoint"] for flow in alice.request("ls")["flows"] if flow["kind"] == "human"] == ["Desk"]
