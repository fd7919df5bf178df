"""Served classes and their instances: who may use them, what may be changed of them, and how they end."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flow_classes
import pytest
from flow_classes import notes
from support.processes import wait_until

from p2pflows import ApiInfo, FlowMessage, FlowProxy, run_dispatch_worker_thread, serving, start_local
from p2pflows.errors import (
    BadInput,
    CallError,
    FlowFailed,
    NotAllowed,
    NotServed,
    NoWorker,
    UnknownUser,
    Unreachable,
    UsageError,
)
from p2pflows.local import LocalUser, LocalUsers
from p2pflows.protocol import identity
from p2pflows.protocol.ids import new_id

WAIT = 20.0


@pytest.fixture(scope="module")
def users() -> Iterator[LocalUsers]:
    """Alice, bob, carol and dave; the first two have a worker each."""
    with contextlib.chdir(Path(flow_classes.__file__).parent), start_local(4) as users:
        workers = [run_dispatch_worker_thread(user) for user in users[:2]]
        for user in users[:2]:
            serve(user, "ReverseNumber", "ReverseNumber")
            serve(user, "Counter", "Counter")
        yield users
        for worker in workers:
            worker.stop()


@pytest.fixture
def alice(users: LocalUsers) -> LocalUser:
    """The user who mostly calls."""
    return users[0]


@pytest.fixture
def bob(users: LocalUsers) -> LocalUser:
    """The user who mostly serves."""
    return users[1]


@pytest.fixture
def carol(users: LocalUsers) -> LocalUser:
    """Another user."""
    return users[2]


@pytest.fixture
def names(request: pytest.FixtureRequest) -> Callable[[str], str]:
    """A function that makes endpoint names which no other test uses."""
    return lambda name: f"{name}{abs(hash(request.node.name)) % 1_000_000}"


def serve(user: LocalUser, class_name: str, endpoint: str, **settings: Any) -> None:
    """Serve one of the flow classes."""
    assert serving.serve_flow(user, f"flow_classes.{class_name}", endpoint, **settings)


def get(user: LocalUser, endpoint: str, owner: LocalUser | None = None, **settings: Any) -> FlowProxy:
    """Mount an instance of a user's flow, by default of one's own."""
    settings = {"timeout": WAIT, **settings}
    return serving.get_flow_instance(user, endpoint, user_id=(owner or user).user_id, **settings)


def relay(**subflows: Mapping[str, Any]) -> dict[str, Any]:
    """The config of a composite with these subflows."""
    return {"subflows_config": subflows}


def mounted(user: LocalUser, *endpoints: str) -> list[str]:
    """The endpoints of all instances of a user's flows; given names, only those."""
    return sorted(
        each["endpoint"] for each in serving.get_flow_instances(user) if not endpoints or each["endpoint"] in endpoints
    )


def served(user: LocalUser, endpoint: str) -> dict[str, Any]:
    """What a user serves under an endpoint."""
    return next(flow for flow in serving.get_served_flows(user) if flow["endpoint"] == endpoint)


def instance_of(proxy: FlowProxy) -> str:
    """The id of the instance that a proxy stands for."""
    assert proxy.target is not None
    assert proxy.target.instance is not None
    return proxy.target.instance


# Serving.


def test_serving_the_same_twice_changes_nothing(bob: LocalUser, names: Callable[[str], str]) -> None:
    """Serving the same again returns False and keeps the revision; other settings replace what was served."""
    here = names("Counter")
    serve(bob, "Counter", here)
    before = served(bob, here)
    assert serving.is_flow_served(bob, here)
    assert not serving.serve_flow(bob, "flow_classes.Counter", here)
    assert served(bob, here) == before
    serve(bob, "Counter", here, singleton=True)
    serve(bob, "ReverseNumber", here)
    after = served(bob, here)
    assert (after["target"], after["singleton"]) == ("flow_classes:ReverseNumber", False)
    assert after["revision"] > before["revision"]


@pytest.mark.parametrize(
    ("class_name", "word"),
    [
        ("flow_classes.Nobody", "Nobody"),
        ("no_such_module.Counter", "no_such_module"),
        ("flow_classes.note", "no class of flows"),
        ("flow_classes.Incomplete", "'name'"),
        ("Counter", "does not name a class"),
    ],
)
def test_what_cannot_be_mounted_is_not_served(bob: LocalUser, class_name: str, word: str) -> None:
    """A class that is missing, or whose config is incomplete, is refused at once with the reason (D8)."""
    with pytest.raises(UsageError, match=word):
        serving.serve_flow(bob, class_name, "Refused")
    assert not serving.is_flow_served(bob, "Refused")


def test_serving_a_tree(alice: LocalUser, bob: LocalUser) -> None:
    """Subflows are served before the flows that need them, as the config says; a served endpoint stays as it is."""
    serve(bob, "Counter", "TreeLeaf", config={"step": 3})
    assert serving.recursive_serve_flow(bob, "flow_classes.Tree", "Tree")
    leaf, branch, tree = (served(bob, name) for name in ("TreeLeaf", "TreeBranch", "Tree"))
    assert leaf["revision"] < branch["revision"] < tree["revision"]
    assert (leaf["singleton"], leaf["config"]) == (False, {"step": 3})
    assert branch["target"] == "flow_classes:Branch"
    assert get(alice, "Tree", bob).call({}, WAIT)["branch"]["count"] == 3
    assert not serving.recursive_serve_flow(bob, "flow_classes.Tree", "Tree")
    assert serving.delete_flow_endpoint(bob, "TreeLeaf")
    assert serving.recursive_serve_flow(bob, "flow_classes.Tree", "Tree")
    assert served(bob, "TreeLeaf")["singleton"]
    assert not serving.delete_flow_endpoint(bob, "NeverServed")


def test_a_circle_of_classes_is_named(bob: LocalUser) -> None:
    """Serving classes that hold each other fails with the cycle named, and serves none of them (D9)."""
    with pytest.raises(UsageError, match="Head -> Tail -> Head"):
        serving.recursive_serve_flow(bob, "flow_classes.Head", "Head")
    assert not serving.is_flow_served(bob, "Head")
    assert not serving.is_flow_served(bob, "Tail")


# Getting instances.


@pytest.mark.parametrize("class_name", ["ReverseTwice", "ReverseTwiceBlocking"])
def test_the_tutorials_composites(
    alice: LocalUser, bob: LocalUser, names: Callable[[str], str], class_name: str
) -> None:
    """Both styles of composite answer their own user and a neighbour, again and again."""
    here = names("Twice")
    serve(bob, class_name, here)
    for user in (bob, alice):
        proxy = get(user, here, bob)
        for number, result in ((1234, 2234), (55, 65)):
            future = proxy.get_reply_future(proxy.package_input_message({"number": number}))
            assert future.get_data(WAIT) == {"output_number": result}
            assert future.get_message(WAIT).data == {"output_number": result}
    assert mounted(bob, here) == [here, here]


def test_what_a_proxy_tells(alice: LocalUser, bob: LocalUser) -> None:
    """A proxy names the user and the flow that it stands for; its instance belongs to the user who mounted it."""
    proxy = get(alice, "Counter", bob)
    assert proxy.name == "Proxy_Counter"
    assert set(proxy.flow_config) == {"name", "description", "user_id", "flow_id", "flow_endpoint"}
    assert (proxy.flow_config["user_id"], proxy.flow_config["flow_endpoint"]) == (bob.user_id, "Counter")
    answer = proxy.call({}, WAIT)
    assert (answer["instance"], answer["user"]) == (proxy.flow_config["flow_id"], bob.user_id)
    assert answer["sender"] == alice.user_id
    (shown,) = [each for each in serving.get_flow_instances(bob) if each["instance"] == answer["instance"]]
    assert shown["client"] == alice.user_id


def test_the_ways_to_write_a_user(alice: LocalUser, bob: LocalUser) -> None:
    """One's own id means `local`, a user id may be in upper case, and the name of a contact stands for its id (D23)."""
    for user_id in ("local", alice.user_id, alice.user_id.upper(), "me"):
        proxy = serving.get_flow_instance(alice, "Counter", user_id=user_id, timeout=WAIT)
        assert proxy.call({}, WAIT)["user"] == alice.user_id
    for user_id in (bob.user_id.upper(), "bob"):
        proxy = serving.get_flow_instance(alice, "Counter", user_id=user_id, timeout=WAIT)
        assert proxy.call({}, WAIT) == {**proxy.call({}, WAIT), "user": bob.user_id, "count": 1}


def test_a_subflow_of_a_user_in_upper_case(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """In a config, too, a user id may be in upper case, and one's own id means local (D7, D23)."""
    here = names("Relay")
    serve(
        alice,
        "Relay",
        here,
        config=relay(
            far={"flow_endpoint": "Counter", "user_id": bob.user_id.upper()},
            near={"flow_endpoint": "Counter", "user_id": alice.user_id.upper()},
            here={"flow_endpoint": "Counter"},
        ),
    )
    proxy = get(alice, here)
    users = [proxy.call({"path": [key]}, WAIT)["user"] for key in ("far", "near", "here")]
    assert users == [bob.user_id, alice.user_id, alice.user_id]


@pytest.mark.parametrize(
    ("user_id", "endpoint", "error", "word"),
    [
        ("0" * 64, "Counter", UnknownUser, "user id"),
        ("nobody", "Counter", UnknownUser, "nobody"),
        ("???", "Counter", UsageError, "filled in"),
        ("bob", "Missing", NotServed, "Missing"),
        ("bob", "a/b", UsageError, "a/b"),
        ("local", "Missing", NotServed, "Missing"),
    ],
)
def test_a_user_or_endpoint_that_is_wrong(
    alice: LocalUser, user_id: str, endpoint: str, error: type[Exception], word: str
) -> None:
    """A wrong user or endpoint fails before any deadline, with the reason."""
    with pytest.raises(error, match=word):
        serving.get_flow_instance(alice, endpoint, user_id=user_id, timeout=60)


def test_users_who_do_not_answer(users: LocalUsers, tmp_path: Path) -> None:
    """At the deadline, a user whom nobody has seen and a user who is offline are different errors (D15)."""
    alice, dave = users[0], users[3]
    stranger = identity.create(tmp_path / "key").user_id
    with pytest.raises(UnknownUser, match=stranger):
        serving.get_flow_instance(alice, "Counter", user_id=stranger, timeout=0.5)
    with pytest.raises(NotServed):
        serving.get_flow_instance(alice, "Counter", user_id=dave.user_id, timeout=WAIT)
    users._processes[3].send_signal(signal.SIGINT)
    users._processes[3].wait(WAIT)
    with pytest.raises(Unreachable, match="offline"):
        serving.get_flow_instance(alice, "Counter", user_id=dave.user_id, timeout=1.0)


def test_what_is_not_for_everybody(
    alice: LocalUser, bob: LocalUser, carol: LocalUser, names: Callable[[str], str]
) -> None:
    """A user whom the allow rule excludes gets no instance, and learns nothing more."""
    here = names("Private")
    serve(bob, "Counter", here, allow="carol")
    assert get(carol, here, bob).call({}, WAIT)["count"] == 1
    with pytest.raises(NotAllowed):
        get(alice, here, bob)
    with pytest.raises(NotAllowed):
        alice.call(f"bob/{here}", {}, timeout=WAIT)


def test_a_human_or_a_function_needs_no_instance(bob: LocalUser, alice: LocalUser) -> None:
    """The proxy of a human or a function stands for the endpoint; a config or state for it is refused."""
    proxy = get(alice, "User", bob)
    assert proxy.flow_config["flow_id"] is None
    with pytest.raises(BadInput, match="neither config nor state"):
        get(alice, "User", bob, config_overrides={"tone": "kind"})
    with pytest.raises(NotAllowed, match="no instance"):
        alice.call("bob/Counter", {}, instance="0" * 32, timeout=WAIT)


# Configs.


def test_overrides_reach_the_depth(alice: LocalUser, names: Callable[[str], str]) -> None:
    """An override under `subflows_config` reaches the instances of the subflows, at any depth."""
    top, middle = names("Top"), names("Middle")
    serve(alice, "Relay", middle, config=relay(B={"flow_endpoint": "Counter", "name": "Bee", "step": 2}))
    serve(alice, "Relay", top, config=relay(A={"flow_endpoint": middle}, C={"flow_endpoint": middle}))
    below = {"subflows_config": {"B": {"step": 5, "name": "Wasp"}}}
    proxy = get(alice, top, config_overrides=relay(A=below))
    assert (proxy.call({"path": ["A", "B"]}, WAIT)["count"], proxy.call({"path": ["A", "B"]}, WAIT)["count"]) == (5, 10)
    assert proxy.call({"path": ["A", "B"]}, WAIT)["name"] == "Wasp"
    answer = proxy.call({"path": ["C", "B"]}, WAIT)
    assert (answer["count"], answer["name"], answer["levels"]) == (2, "Bee", 2)
    assert get(alice, top).call({"path": ["A", "B"]}, WAIT)["count"] == 2


def test_a_neighbour_changes_what_is_overridable(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """A neighbour may set the keys that the class names, and never a key that selects code or people (D19, D20)."""
    assert get(alice, "Counter", bob, config_overrides={"step": 4}).call({}, WAIT)["count"] == 4
    here = names("Relay")
    serve(bob, "Relay", here, config=relay(leaf={"flow_endpoint": "Counter"}))
    for endpoint, overrides in (
        ("Counter", {"owner_note": "mine"}),
        ("Counter", {"name": "other"}),
        ("Counter", {"_target_": "os.system"}),
        ("Counter", {"step": {"_target_": "os.system"}}),
        ("Counter", {"overridable": ["owner_note"]}),
        (here, relay(leaf={"flow_endpoint": "Tree"})),
        (here, relay(leaf={"user_id": alice.user_id})),
        (here, relay(more={"flow_endpoint": "Counter"})),
    ):
        with pytest.raises(NotAllowed):
            get(alice, endpoint, bob, config_overrides=overrides)
    with pytest.raises(NotAllowed, match="_target_"):
        get(bob, "Counter", config_overrides={"_target_": "os.system"})


def test_a_neighbour_sees_what_they_may_set(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """`describe` shows both sides what others may set; a class without a list lets them set nothing."""
    for who, address in ((alice, "bob/Counter"), (bob, "me/Counter")):
        assert who.request("describe", address=address)["overridable"] == ["step", "initial_state"]
    here = names("Open")
    serve(bob, "Open", here)
    assert alice.request("describe", address=f"bob/{here}")["overridable"] == []
    for overrides in ({"name": "other"}, {"description": "other"}, {"new": 1}):
        with pytest.raises(NotAllowed, match="cannot be overridden by you") as caught:
            get(alice, here, bob, config_overrides=overrides)
        assert caught.value.hint == "You may override: nothing."
    listed = names("Listed")
    serve(bob, "Open", listed, config={"overridable": ["name", "private_keys"]})
    assert alice.request("describe", address=f"bob/{listed}")["overridable"] == ["name"]
    get(alice, listed, bob, config_overrides={"name": "other"})


def test_a_composite_gives_nobody_its_owners_rights(
    alice: LocalUser, bob: LocalUser, names: Callable[[str], str]
) -> None:
    """A key that a neighbour may not set of a flow cannot be set through a composite of its owner either."""
    here = names("Relay")
    open_config = {**relay(leaf={"flow_endpoint": "Counter"}), "overridable": ["subflows_config.leaf.owner_note"]}
    serve(bob, "Relay", here, config=open_config)
    overrides = relay(leaf={"owner_note": "mine"})
    with pytest.raises(NotAllowed, match="subflows_config"):
        get(alice, here, bob, config_overrides=overrides)
    assert get(bob, here, config_overrides=overrides).call({"path": ["leaf"]}, WAIT)["count"] == 1


def test_a_subflow_is_set_to_a_neighbour(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """A mount can set an open user id of a subflow; that neighbour's daemon sees who calls."""
    here = names("Relay")
    serve(alice, "Relay", here, config=relay(far={"flow_endpoint": "Counter", "user_id": "???", "step": 7}))
    with pytest.raises(BadInput, match=r"far\.user_id"):
        get(alice, here)
    proxy = get(alice, here, config_overrides=relay(far={"user_id": bob.user_id}))
    answer = proxy.call({"path": ["far"]}, WAIT)
    assert (answer["user"], answer["sender"], answer["count"]) == (bob.user_id, alice.user_id, 7)


def test_a_subflow_that_is_there_already(alice: LocalUser, names: Callable[[str], str]) -> None:
    """A subflow with a `flow_id` is that instance; deleting the composite does not delete it."""
    here = names("Relay")
    counter = get(alice, "Counter")
    assert counter.call({}, WAIT)["count"] == 1
    bound = {"flow_endpoint": "Counter", "flow_id": counter.flow_config["flow_id"]}
    serve(alice, "Relay", here, config=relay(counter=bound))
    proxy = get(alice, here)
    assert proxy.call({"path": ["counter"]}, WAIT)["count"] == 2
    serving.recursive_delete_flow_instance(alice, instance_of(proxy))
    assert counter.call({}, WAIT)["count"] == 3


def test_an_instance_keeps_its_config(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """Serving again changes the config of new instances only (D22)."""
    here = names("Counter")
    serve(bob, "Counter", here, config={"step": 2})
    old = get(alice, here, bob)
    assert old.call({}, WAIT)["count"] == 2
    serve(bob, "Counter", here, config={"step": 10})
    assert old.call({}, WAIT)["count"] == 4
    assert get(alice, here, bob).call({}, WAIT)["count"] == 10
    assert old.call({}, WAIT)["count"] == 6


# States.


def test_an_initial_state(alice: LocalUser, bob: LocalUser) -> None:
    """An instance starts with the state that it is given, messages included; the constructor fills the rest."""
    begun = get(bob, "Counter", initial_state={"count": 41})
    assert begun.call({}, WAIT)["count"] == 42
    serving.serve_flow(bob, "flow_classes.Keeper", "Keeper")
    kept = FlowMessage(data={"question": "Why?"})
    for user in (bob, alice):
        keeper = get(user, "Keeper", bob, initial_state={"kept": kept})
        assert keeper.call({"answer": []}, WAIT) == {"kept": {"question": "Why?"}}
    with pytest.raises(FlowFailed, match="handle"):
        get(bob, "Counter", initial_state={"handle": threading.Lock()})


def test_an_initial_state_is_not_for_everybody(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """A neighbour may give an initial state only where the class allows it; subflows never get their composite's."""
    here = names("Relay")
    serve(bob, "Relay", here, config=relay(leaf={"flow_endpoint": "Counter"}))
    with pytest.raises(NotAllowed, match="state"):
        get(alice, here, bob, initial_state={"count": 41})
    assert get(bob, here, initial_state={"count": 41}).call({"path": ["leaf"]}, WAIT)["count"] == 1


def test_who_calls_without_an_instance(
    alice: LocalUser, bob: LocalUser, carol: LocalUser, names: Callable[[str], str]
) -> None:
    """Each caller has one instance for each conversation, and none of another caller."""
    here = names("Counter")
    serve(bob, "Counter", here)
    first, second = (new_id(1, bytes(10)), new_id(2, bytes(10)))
    counts = [
        user.call(f"{bob.user_id}/{here}", {}, conversation=conversation, timeout=WAIT)["count"]
        for user in (alice, alice, carol, bob, alice)
        for conversation in (first, second)
    ]
    assert counts == [1, 1, 2, 2, 1, 1, 1, 1, 3, 3]
    assert len(mounted(bob, here)) == 6
    proxies = [get(user, here, bob) for user in (alice, alice, carol)]
    assert [proxy.call({}, WAIT)["count"] for proxy in (*proxies, *proxies)] == [1, 1, 1, 2, 2, 2]


def test_a_singleton_is_one(alice: LocalUser, bob: LocalUser, carol: LocalUser, names: Callable[[str], str]) -> None:
    """Simultaneous first calls and mounts of several users reach one instance, with one of each subflow (D16)."""
    here, leaf = names("Relay"), names("Leaf")
    serve(bob, "Counter", leaf)
    serve(bob, "Relay", here, singleton=True, config=relay(a={"flow_endpoint": leaf}, b={"flow_endpoint": leaf}))
    counts: list[int] = []

    def mount(user: LocalUser) -> None:
        counts.append(get(user, here, bob).call({"path": ["a"]}, WAIT)["count"])

    def call(user: LocalUser) -> None:
        counts.append(user.call(f"{bob.user_id}/{here}", {"path": ["a"]}, timeout=WAIT)["count"])

    everybody = [threading.Thread(target=do, args=(user,)) for user in (alice, bob, carol) for do in (mount, call)]
    for each in everybody:
        each.start()
    for each in everybody:
        each.join(WAIT)
    assert sorted(counts) == [1, 2, 3, 4, 5, 6]
    assert mounted(bob, here, leaf) == sorted([here, leaf, leaf])
    assert get(alice, here, bob).flow_config["flow_id"] == get(carol, here, bob).flow_config["flow_id"]


def test_two_subflows_on_one_singleton(bob: LocalUser, names: Callable[[str], str]) -> None:
    """Subflows of a singleton endpoint share its instance, which outlives the composite."""
    here, leaf = names("Relay"), names("Leaf")
    serve(bob, "Counter", leaf, singleton=True)
    serve(bob, "Relay", here, config=relay(a={"flow_endpoint": leaf}, b={"flow_endpoint": leaf}))
    proxy = get(bob, here)
    assert [proxy.call({"path": [key]}, WAIT)["count"] for key in "aba"] == [1, 2, 3]
    serving.recursive_delete_flow_instance(bob, instance_of(proxy))
    assert mounted(bob, here, leaf) == [leaf]


def test_a_parallel_flow(alice: LocalUser, bob: LocalUser, names: Callable[[str], str], tmp_path: Path) -> None:
    """The messages of a parallel flow run side by side, each on the initial state, which never changes."""
    here, file = names("Meeting"), str(tmp_path / "notes")
    serve(bob, "Meeting", here, parallel_dispatch=True)
    proxy = get(bob, here, initial_state={"count": 10})
    futures = [proxy.get_reply_future(proxy.package_input_message({"file": file, "people": 2})) for _ in range(2)]
    assert [future.get_data(WAIT) for future in futures] == [{"met": True, "count": 11}] * 2
    assert proxy.call({"file": file, "people": 3}, WAIT) == {"met": True, "count": 11}
    several = [
        alice.request("submit", address=f"bob/{here}", data={"file": f"{file}2", "people": n}, conversation="a" * 32)
        for n in (1, 3, 3)
    ]
    assert [alice.wait(sent["id"], timeout=WAIT)["met"] for sent in several] == [True] * 3


def test_a_parallel_composite_is_mounted_once(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """Simultaneous first messages of a parallel composite mount one instance, with one of each subflow."""
    here, leaf = names("Relay"), names("Leaf")
    serve(bob, "Counter", leaf)
    serve(bob, "Relay", here, parallel_dispatch=True, config=relay(leaf={"flow_endpoint": leaf}))
    sent = [
        alice.request("submit", address=f"bob/{here}", data={"path": ["leaf"]}, conversation="b" * 32) for _ in range(4)
    ]
    assert sorted(alice.wait(each["id"], timeout=WAIT)["count"] for each in sent) == [1, 2, 3, 4]
    assert mounted(bob, here, leaf) == sorted([here, leaf])


def test_many_answers_find_their_questions(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """A composite that asks several subflows at once knows which one answered, and may handle their errors (D30)."""
    here = names("Survey")
    reverse = {"flow_endpoint": "ReverseNumber"}
    serve(
        bob,
        "Survey",
        here,
        config=relay(
            near=reverse,
            far={**reverse, "user_id": alice.user_id},
            keeper={"flow_endpoint": "Counter", "user_id": alice.user_id},
            broken={"flow_endpoint": here + "broken"},
        ),
    )
    serve(bob, "Careless", here + "broken")
    future = get(alice, here, bob)
    answer = future.call({"number": 123, "text": "", "raise": "It broke."}, WAIT)
    assert answer["answers"]["near"] == answer["answers"]["far"] == {"output_number": 321}
    assert answer["answers"]["keeper"]["user"] == alice.user_id
    assert answer["failed"] == {"broken": "flow_failed"}


def test_an_error_of_a_subflow_passes_up(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """In both styles, an unhandled error of a subflow reaches the caller of the composite (D38)."""
    below = relay(broken={"flow_endpoint": names("Broken")})
    serve(alice, "Careless", names("Broken"))
    serve(alice, "Strict", names("Strict"), config=below)
    serve(alice, "Relay", names("Relay"), config=below)
    for endpoint in (names("Strict"), names("Relay")):
        with pytest.raises(FlowFailed, match=r"ValueError: It broke\."):
            get(alice, endpoint).call({"path": ["broken"], "text": "", "raise": "It broke."}, WAIT)
    del bob


# Dispatch points.


def test_any_name_of_a_dispatch_point(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """Messages run at a dispatch point of any name (D41); without a worker the call fails."""
    here = names("Counter")
    serve(bob, "Counter", here, dispatch_point="gpu")
    with pytest.raises(NoWorker, match="worker"):
        get(alice, here, bob, timeout=0.5)
    with run_dispatch_worker_thread(bob, dispatch_point="gpu"):
        proxy = get(alice, here, bob)
        assert [proxy.call({}, WAIT)["count"] for _ in range(3)] == [1, 2, 3]


def test_the_dispatch_point_of_one_instance(alice: LocalUser, bob: LocalUser) -> None:
    """An owner can choose where an instance runs; it is mounted there, and gets all its messages there."""
    with run_dispatch_worker_thread(bob, dispatch_point="attic"):
        proxy = get(bob, "Counter", dispatch_point_override="attic")
        assert [proxy.call({}, WAIT)["count"] for _ in range(3)] == [1, 2, 3]
    with pytest.raises(NoWorker):
        proxy.call({}, 0.5)
    assert get(bob, "Counter").call({}, WAIT)["count"] == 1
    with run_dispatch_worker_thread(bob, dispatch_point="attic"):
        assert proxy.call({}, WAIT)["count"] == 4
    with pytest.raises(NotAllowed, match="owner"):
        get(alice, "Counter", bob, dispatch_point_override="attic")


# What does not come about.


def test_a_circle_of_two_users(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """Flows of two users that hold each other are refused with the cycle named, and leave nothing behind (D9)."""
    ping, pong = names("Ping"), names("Pong")
    serve(alice, "Relay", ping, config=relay(next={"flow_endpoint": pong, "user_id": bob.user_id}))
    serve(bob, "Relay", pong, config=relay(next={"flow_endpoint": ping, "user_id": alice.user_id}))
    with pytest.raises(BadInput, match=f"{ping} -> {pong} -> {ping}"):
        get(alice, ping)
    assert mounted(alice, ping, pong) == mounted(bob, ping, pong) == []


def test_a_tree_that_fails_is_taken_back(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """When the third subflow cannot be mounted, the others are released, on both sides and at every depth (D18)."""
    one, two, deep, top = (names(name) for name in ("One", "Two", "Deep", "Top"))
    serve(bob, "Counter", one)
    serve(alice, "Counter", two)
    serve(alice, "Relay", deep, config=relay(back={"flow_endpoint": one, "user_id": bob.user_id}))
    at_alice = {"user_id": alice.user_id}
    config = relay(
        first={"flow_endpoint": one},
        second={"flow_endpoint": two, **at_alice},
        deep={"flow_endpoint": deep, **at_alice},
        third={"flow_endpoint": "Missing", **at_alice},
    )
    serve(bob, "Relay", top, config=config)
    for _ in range(2):
        with pytest.raises(NotServed, match=r"'third'.*Missing"):
            get(alice, top, bob)
        wait_until(lambda: not mounted(bob, one, top) and not mounted(alice, two, deep))
    with pytest.raises(NotServed, match=r"'third'.*Missing"):
        alice.call(f"bob/{top}", {"path": ["first"]}, timeout=WAIT)
    wait_until(lambda: not mounted(bob, one, top) and not mounted(alice, two, deep))


def test_a_tree_that_takes_too_long_is_taken_back(
    alice: LocalUser, bob: LocalUser, names: Callable[[str], str], tmp_path: Path
) -> None:
    """When a subflow does not answer before the deadline, the others are released, too."""
    one, two, top = (names(name) for name in ("One", "Two", "Top"))
    stranger = identity.create(tmp_path / "key").user_id
    serve(bob, "Counter", one)
    serve(alice, "Counter", two)
    config = relay(
        first={"flow_endpoint": one},
        second={"flow_endpoint": two, "user_id": alice.user_id},
        third={"flow_endpoint": two, "user_id": stranger},
    )
    serve(bob, "Relay", top, config=config)
    with pytest.raises(CallError):
        get(alice, top, bob, timeout=1.5)
    wait_until(lambda: not mounted(bob, one, top) and not mounted(alice, two))


def test_a_constructor_that_fails(bob: LocalUser, names: Callable[[str], str]) -> None:
    """A class whose constructor fails is refused when an instance is mounted, and leaves none (D38)."""
    here = names("Open")
    serve(bob, "Open", here)
    with pytest.raises(FlowFailed, match="that is a wrong name"):
        get(bob, here, config_overrides={"name": "wrong"})
    assert mounted(bob, here) == []


# Ends.


def test_instances_of_an_unserved_flow_go_on(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """Unserving stops new instances only; serving again finds the old ones unchanged."""
    here = names("Counter")
    serve(bob, "Counter", here)
    proxy = get(alice, here, bob)
    conversation = new_id(3, bytes(10))
    proxy.call({}, WAIT)
    alice.call(f"bob/{here}", {}, conversation=conversation, timeout=WAIT)
    assert serving.unserve_flow(bob, here)
    assert not serving.is_flow_served(bob, here)
    assert proxy.call({}, WAIT)["count"] == 2
    assert alice.call(f"bob/{here}", {}, conversation=conversation, timeout=WAIT)["count"] == 2
    with pytest.raises(NotServed):
        get(alice, here, bob)
    with pytest.raises(NotServed):
        alice.call(f"bob/{here}", {}, timeout=WAIT)
    assert here not in [flow["endpoint"] for flow in alice.request("ls", user="bob")["flows"]]
    serve(bob, "Counter", here)
    assert (proxy.call({}, WAIT)["count"], get(alice, here, bob).call({}, WAIT)["count"]) == (3, 1)


def test_deleting_an_endpoint(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """Deleting an endpoint deletes its instances, and those mounted for them at neighbours; nothing stays (D12)."""
    here, leaf = names("Relay"), names("Leaf")
    serve(alice, "Counter", leaf)
    serve(bob, "Relay", here, config=relay(leaf={"flow_endpoint": leaf, "user_id": alice.user_id}))
    proxies = [get(user, here, bob) for user in (alice, bob)]
    assert [proxy.call({"path": ["leaf"]}, WAIT)["count"] for proxy in proxies] == [1, 1]
    assert mounted(alice, leaf) == [leaf, leaf]
    assert serving.delete_flow_endpoint(bob, here)
    assert here not in [flow["endpoint"] for flow in serving.get_served_flows(bob)]
    assert mounted(bob, here) == []
    wait_until(lambda: not mounted(alice, leaf))
    with pytest.raises(NotServed):
        proxies[0].call({"path": ["leaf"]}, WAIT)


@pytest.mark.parametrize("recursive", [True, False])
def test_deleting_an_instance(alice: LocalUser, bob: LocalUser, names: Callable[[str], str], recursive: bool) -> None:
    """A client can delete its instance from afar; the subflows go with it only if asked for."""
    here, leaf = names("Relay"), names("Leaf")
    serve(alice, "Counter", leaf)
    serve(bob, "Relay", here, config=relay(leaf={"flow_endpoint": leaf, "user_id": alice.user_id}))
    proxy, other = get(alice, here, bob), get(alice, here, bob)
    serving.delete_flow_instance(alice, instance_of(proxy), bob.user_id, recursive=recursive)
    with pytest.raises(NotAllowed, match="no instance"):
        proxy.call({"path": ["leaf"]}, WAIT)
    assert mounted(bob, here) == [here]
    assert other.call({"path": ["leaf"]}, WAIT)["count"] == 1
    wait_until(lambda: len(mounted(alice, leaf)) == (1 if recursive else 2))
    with pytest.raises(NotAllowed):
        serving.delete_flow_instance(alice, instance_of(proxy), bob.user_id)


def test_what_waits_for_a_deleted_instance(
    alice: LocalUser, bob: LocalUser, names: Callable[[str], str], tmp_path: Path
) -> None:
    """When an instance is deleted, the running message, the waiting ones and the kept ones all fail (D47)."""
    meeting, keeper, file = names("Meeting"), names("Keeper"), tmp_path / "notes"
    serve(bob, "Meeting", meeting)
    serve(bob, "Keeper", keeper)
    proxy, kept = get(alice, meeting, bob), get(alice, keeper, bob)
    kept_future = kept.get_reply_future(kept.package_input_message({"question": "Why?"}))
    order = {"file": str(file), "people": 2}
    futures = [proxy.get_reply_future(proxy.package_input_message(order)) for _ in range(3)]
    try:
        wait_until(lambda: notes(file) == ["here"])
        wait_until(lambda: [each["open"] for each in serving.get_flow_instances(alice, "bob", keeper)] == [1])
        serving.delete_flow_instance(alice, instance_of(kept), "bob")
        serving.delete_flow_instance(bob, instance_of(proxy))
        for future in (*futures, kept_future):
            with pytest.raises(FlowFailed, match="was deleted"):
                future.get_data(WAIT)
    finally:
        flow_classes.note(str(file), "over")
    assert get(alice, meeting, bob).call(order, WAIT)["count"] == 1
    assert notes(file) == ["here", "over", "here"]


def test_a_reset_reaches_the_depth(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """A proxy's reset resets the state where it is kept; a recursive one does so at all depths and all users (D48)."""
    leaf, middle, top = (names(name) for name in ("Leaf", "Middle", "Top"))
    serve(alice, "Counter", leaf)
    serve(bob, "Starter", middle, config=relay(leaf={"flow_endpoint": leaf, "user_id": alice.user_id}))
    serve(bob, "Starter", top, config=relay(middle={"flow_endpoint": middle}))

    def counts(answer: dict[str, Any]) -> list[int]:
        return [answer["count"], *(count for below in answer.get("below", []) for count in counts(below))]

    proxy = get(alice, top, bob)
    assert [counts(proxy.call({}, WAIT)) for _ in range(2)] == [[1, 1, 1], [2, 2, 2]]
    proxy.reset(full_reset=True, recursive=False)
    assert counts(proxy.call({}, WAIT)) == [1, 3, 3]
    for reset in (lambda: proxy.reset(full_reset=True, recursive=True), lambda: proxy.call({"reset": True}, WAIT)):
        for _ in range(9):
            proxy.call({}, WAIT)
        reset()
        wait_until(lambda: max(counts(proxy.call({}, WAIT))[1:]) < 9)


def test_a_reset_begins_with_the_initial_state(bob: LocalUser) -> None:
    """After a reset, an instance has the initial state that it was given."""
    proxy = get(bob, "Counter", initial_state={"count": 10})
    assert [proxy.call({}, WAIT)["count"] for _ in range(2)] == [11, 12]
    proxy.reset(full_reset=True, recursive=False)
    assert proxy.call({}, WAIT)["count"] == 11


def test_a_reset_waits_its_turn(bob: LocalUser, names: Callable[[str], str], tmp_path: Path) -> None:
    """A reset takes effect after the message that was sent before it and still runs."""
    here, file = names("Meeting"), tmp_path / "notes"
    serve(bob, "Meeting", here)
    proxy = get(bob, here)
    future = proxy.get_reply_future(proxy.package_input_message({"file": str(file), "people": 2}))
    try:
        wait_until(lambda: notes(file) == ["here"])
        proxy.reset(full_reset=True, recursive=False)
    finally:
        flow_classes.note(str(file), "over")
    assert future.get_data(WAIT)["count"] == 1
    assert proxy.call({"file": str(file), "people": 1}, WAIT)["count"] == 1


def test_a_failed_request_leaves_the_state_as_it_was(bob: LocalUser, names: Callable[[str], str]) -> None:
    """After a subflow fails, the waiting composite has its earlier state, and takes the next message as a new one."""
    serve(bob, "ReverseTwice", names("Twice"))
    proxy = get(bob, names("Twice"))
    assert proxy.call({"number": 12}, WAIT) == {"output_number": 22}
    for _ in range(2):
        with pytest.raises(FlowFailed):
            proxy.call({"number": "x"}, WAIT)
        assert proxy.call({"number": 34}, WAIT) == {"output_number": 44}


def test_a_config_takes_no_keys(bob: LocalUser) -> None:
    """An API key in overrides is refused before it is stored or sent, and the error does not repeat it (P8)."""
    for place in ([{"api_key": "sk-secret"}], "sk-secret"):
        with pytest.raises(UsageError) as refused:
            get(bob, "Counter", config_overrides={"backend": {"api_infos": place}})
        assert "worker" in refused.value.hint
        assert "sk-secret" not in str(refused.value)
    assert b"sk-secret" not in b"".join(file.read_bytes() for file in bob.home.glob("journal*"))


# What others see and may.


def test_instances_of_others(alice: LocalUser, bob: LocalUser, carol: LocalUser) -> None:
    """The id of another user's instance is not enough to use, delete, reset or see it (D21)."""
    proxy = get(alice, "Counter", bob)
    assert proxy.call({}, WAIT)["count"] == 1
    stolen = instance_of(proxy)
    for attempt in (
        lambda: carol.call("bob/Counter", {}, instance=stolen, timeout=WAIT),
        lambda: carol.call("bob/ReverseNumber", {"number": 1}, instance=stolen, timeout=WAIT),
        lambda: serving.delete_flow_instance(carol, stolen, bob.user_id),
        lambda: carol.request("reset_instance", user="bob", instance=stolen),
    ):
        with pytest.raises(NotAllowed):
            attempt()
    with pytest.raises(NotAllowed):
        alice.call("bob/ReverseNumber", {"number": 1}, instance=stolen, timeout=WAIT)
    assert stolen not in [each["instance"] for each in serving.get_flow_instances(carol, bob.user_id)]
    assert proxy.call({}, WAIT)["count"] == 2
    serving.delete_flow_instance(bob, stolen)
    with pytest.raises(NotAllowed):
        proxy.call({}, WAIT)


def test_nobody_takes_a_singleton_away(alice: LocalUser, bob: LocalUser, names: Callable[[str], str]) -> None:
    """Everybody may use a singleton; only its owner may delete or reset it."""
    here = names("Counter")
    serve(bob, "Counter", here, singleton=True)
    proxy = get(alice, here, bob)
    proxy.call({}, WAIT)
    for method in ("delete_instance", "reset_instance"):
        with pytest.raises(NotAllowed):
            alice.request(method, user="bob", instance=instance_of(proxy))
    assert proxy.call({}, WAIT)["count"] == 2


def test_listings_show_no_secrets(
    alice: LocalUser, bob: LocalUser, capsys: pytest.CaptureFixture[str], names: Callable[[str], str]
) -> None:
    """A list of instances shows no config and no state, and shows a neighbour no path of code (D62)."""
    here = names("Counter")
    serve(bob, "Counter", here, config={"plan": "very-secret"})
    get(bob, here, initial_state={"note": "state-secret"})
    proxy = get(alice, here, bob)
    proxy.call({}, WAIT)
    serving.print_served_flows(bob)
    serving.print_flow_instances(bob)
    serving.print_flow_instances(alice, bob.user_id)
    shown = [
        capsys.readouterr().out,
        *map(str, (serving.get_flow_instances(bob), serving.get_flow_instances(alice, bob.user_id))),
        *map(str, (alice.request("ls", user="bob"), alice.request("describe", address=f"bob/{here}"))),
        str(bob.request("log")),
    ]
    for text in shown:
        assert "secret" not in text
        assert "hunter2" not in text
    assert instance_of(proxy) in shown[0]
    for text in shown[3:5]:
        assert "flow_classes" not in text
        assert str(Path.cwd()) not in text


def test_two_projects_in_one_worker(
    alice: LocalUser, bob: LocalUser, names: Callable[[str], str], tmp_path: Path
) -> None:
    """Classes of one name in two folders keep their own YAML and modules; after an edit, serving again is enough."""
    source = (
        "from helpers import WHO\nfrom p2pflows import AtomicFlow\nclass Assistant(AtomicFlow):\n"
        "    def run(self, m):\n        import late\n"
        "        return {'who': [self.flow_config['system'], WHO, late.WHO]}\n"
    )
    endpoints = {name: names(name) for name in ("one", "two")}

    def serve_from(name: str) -> bool:
        with contextlib.chdir(tmp_path / name):
            return serving.serve_flow(bob, "flows.Assistant", endpoints[name])

    for name, endpoint in endpoints.items():
        folder = tmp_path / name
        folder.mkdir()
        (folder / "flows.py").write_text(source)
        (folder / "Assistant.yaml").write_text(f"name: {name}\ndescription: d\nsystem: {name}\n")
        for module in ("helpers", "late"):
            (folder / f"{module}.py").write_text(f"WHO = {name!r}\n")
        assert serve_from(name)
        assert bob.call(f"me/{endpoint}", {}) == {"who": [name] * 3}
    for name, endpoint in endpoints.items():
        assert alice.call(f"{bob.user_id}/{endpoint}", {}) == {"who": [name] * 3}
    release = bob.request("describe", address=f"me/{endpoints['one']}")["release"]
    assert not serve_from("one")
    (tmp_path / "one" / "helpers.py").write_text("WHO = 'edited'\n")
    assert serve_from("one")
    assert alice.call(f"{bob.user_id}/{endpoints['one']}", {}) == {"who": ["one", "edited", "one"]}
    assert alice.call(f"{bob.user_id}/{endpoints['two']}", {}) == {"who": ["two"] * 3}
    assert bob.request("describe", address=f"me/{endpoints['one']}")["release"] != release
    assert {each["release"] for each in serving.get_flow_instances(bob, flow_endpoint=endpoints["one"])} != {release}


def test_errors_say_who_and_what(alice: LocalUser, bob: LocalUser, names: Callable[[str], str], tmp_path: Path) -> None:
    """An error names the endpoint and the instance that failed, and one's own flows are not "theirs"."""
    (tmp_path / "failing.py").write_text(
        "from p2pflows import AtomicFlow\nclass Failing(AtomicFlow):\n"
        "    default_config = {'name': 'n', 'description': 'd'}\n"
        "    def run(self, m):\n        return {'x': 'y' * 2_000_000} if m.data else 1 / 0\n"
    )
    endpoint = names("failing")
    with contextlib.chdir(tmp_path):
        serving.serve_flow(bob, "failing.Failing", endpoint)
    proxy = get(alice, endpoint, bob)
    instance = proxy.flow_config["flow_id"]
    for data, said in (({}, "ZeroDivisionError"), ({"a": 1}, "The answer is too large")):
        with pytest.raises(FlowFailed, match=said) as failed:
            proxy.get_reply_future(proxy.package_input_message(data)).get_data(timeout=WAIT)
        assert f"instance {instance[:8]}… of {endpoint!r}" in failed.value.hint
    entries = [entry for entry in bob.request("log")["entries"] if entry["endpoint"] == endpoint]
    assert any(instance[:8] in entry["detail"] for entry in entries)
    for missing in (lambda: bob.call("me/nothing", {}), lambda: get(bob, "nothing")):
        with pytest.raises(NotServed) as refused:
            missing()
        assert refused.value.message == "'nothing' is not served."
        assert "p2pflows.serving.get_served_flows(cl)" in refused.value.hint
    serving.serve_flow(bob, f"{tmp_path}/failing.py:Failing", endpoint, dispatch_point="empty-point")
    with pytest.raises(NoWorker, match=r"dispatch point 'empty-point' has no free worker") as waiting:
        bob.call(f"me/{endpoint}", {}, timeout=2)
    assert "run_dispatch_worker_thread(cl, dispatch_point='empty-point')" in waiting.value.hint


def test_a_user_is_named_in_the_same_way_everywhere(
    alice: LocalUser, bob: LocalUser, names: Callable[[str], str], tmp_path: Path
) -> None:
    """A petname, `me`, `local` and a user id name the user of a subflow, in a YAML, at serve, and at mount."""
    caller, called = names("caller"), names("called")
    (tmp_path / "who.py").write_text(
        "from p2pflows import AtomicFlow, CompositeFlow\n"
        "class Called(AtomicFlow):\n    default_config = {'name': 'n', 'description': 'd', 'who': '?'}\n"
        "    def run(self, m):\n        return {'who': self.flow_config['who']}\n"
        "class Caller(CompositeFlow):\n"
        "    default_config = {'name': 'n', 'description': 'd', 'subflows_config': {'A': {'user_id': 'bob', "
        f"'flow_endpoint': {called!r}, 'name': 'A', 'description': 'd'}}}}}}\n"
        "    def run(self, m):\n"
        "        a = self.subflows['A']\n"
        "        return a.get_reply_future(self.package_input_message({})).get_data()\n"
    )
    with contextlib.chdir(tmp_path):
        for user, who in ((alice, "alice"), (bob, "bob")):
            serving.serve_flow(user, "who.Called", called, config={"who": who})
        assert serving.serve_flow(alice, "who.Caller", caller)
        assert not serving.serve_flow(alice, "who.Caller", caller)
        for given, answers in (
            (None, "bob"), ("bob", "bob"), (bob.user_id, "bob"), ("me", "alice"), ("local", "alice"),
            (alice.user_id, "alice"),
        ):  # fmt: skip
            overrides = {"subflows_config": {"A": {"user_id": given}}} if given else None
            proxy = get(alice, caller, config_overrides=overrides)
            assert proxy.get_reply_future(proxy.package_input_message({})).get_data(timeout=WAIT) == {"who": answers}
            serving.serve_flow(alice, "who.Caller", f"{caller}-{answers}", config=overrides or {})
            assert alice.call(f"me/{caller}-{answers}", {}) == {"who": answers}
    with pytest.raises(UnknownUser):
        get(alice, caller, config_overrides={"subflows_config": {"A": {"user_id": "nobody-of-that-name"}}})


def test_settings_of_a_singleton_that_exists(alice: LocalUser, names: Callable[[str], str]) -> None:
    """Settings that would have no effect are refused; the same ones as before are not."""
    endpoint = names("Single")
    serve(alice, "Counter", endpoint, singleton=True)
    first = get(alice, endpoint, config_overrides={"description": "first"})
    again = get(alice, endpoint, config_overrides={"description": "first"})
    assert again.flow_config["flow_id"] == first.flow_config["flow_id"]
    for settings in ({"config_overrides": {"description": "second"}}, {"initial_state": {"count": 5}}):
        with pytest.raises(BadInput, match="It exists, and keeps its config"):
            get(alice, endpoint, **settings)
    assert get(alice, endpoint).flow_config["flow_id"] == first.flow_config["flow_id"]


def test_keys_for_a_class_of_its_own(bob: LocalUser, names: Callable[[str], str], tmp_path: Path) -> None:
    """A class that is no ChatFlow gets the keys of its worker, in memory; no other worker, and no listing, has them."""
    endpoint, secret = names("keyed"), "sk-of-this-worker-0123456789"
    (tmp_path / "keyed.py").write_text(
        "from p2pflows import AtomicFlow\nclass Keyed(AtomicFlow):\n"
        "    default_config = {'name': 'n', 'description': 'd', 'deep': [{'backend': {'api_infos': '???'}}]}\n"
        "    def __init__(self, **config):\n        super().__init__(**config)\n"
        "        self.found = self.flow_config['deep'][0]['backend']['api_infos']\n"
        "    def run(self, m):\n"
        "        return {'key': [info.api_key[-4:] for info in self.found] if self.found != '???' else None}\n"
    )
    with contextlib.chdir(tmp_path):
        serving.serve_flow(bob, "keyed.Keyed", endpoint, dispatch_point=endpoint)
        serving.serve_flow(bob, "keyed.Keyed", f"{endpoint}-none")
    with run_dispatch_worker_thread(bob, endpoint, api_infos=[ApiInfo(api_key=secret)]):
        assert bob.call(f"me/{endpoint}", {}) == {"key": ["6789"]}
        assert bob.call(f"me/{endpoint}-none", {}) == {"key": None}
    assert secret.encode() not in b"".join(path.read_bytes() for path in bob.home.glob("journal*"))
