"""What a run may do in its owner's name: what its flow declares, and nothing else, whatever its worker says."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk
from support.lone_daemon import HOUR_MS

from p2pflows.errors import NotAllowed
from p2pflows.flows.config import SUBFLOWS
from p2pflows.protocol import topics
from p2pflows.protocol.asks import FlowRequest
from p2pflows.protocol.message import Message, Type
from p2pflows.protocol.run_result import Mounted, Subflow
from p2pflowsd.journal.rows import IncomingRow, InstanceRow
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.running.authority import Authority
from p2pflowsd.running.origin import AskOrigin, CallBackOrigin

ALICE, CAROL = "a" * 64, "c" * 64
TREE, PART, OTHER = "1" * 32, "2" * 32, "3" * 32
DECLARED = {"one": {"flow_endpoint": "part", "tone": "dry"}, "far": {"user_id": ALICE, "flow_endpoint": "echo"}}


class Scene(Desk):
    """Bob's daemon with a class that declares one flow of his and one of alice's."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.numbers = itertools.count(1)
        self.serves("tree", subflows=DECLARED)
        self.serves("old", subflows=None)
        self.authority = Authority(
            user=self.user, journal=self.journal, catalog=self.node.catalog, instances=self.node.instances
        )

    def request(
        self,
        endpoint: str = "tree",
        data: dict[str, Any] | None = None,
        *,
        by: str = ALICE,
        instance: str | None = TREE,
    ) -> IncomingRow:
        """A request that runs."""
        name, now = f"{next(self.numbers):032x}", self.clock.now()
        message = Message.model_validate(
            {
                "id": name, "type": "call", "from": by, "to": self.user, "endpoint": endpoint, "conversation": name,
                "created": now, "expires": now + HOUR_MS, "data": data or {},
            }
        )  # fmt: skip
        with self.journal.transaction():
            row = self.journal.incoming.add(message, message.to_bytes(), 0, now, IncomingState.READY)
        assert row is not None
        return row._replace(instance=instance)

    def mount(self, *, by: str = ALICE, endpoint: str = "tree", **order: Any) -> IncomingRow:
        """A request for an instance."""
        return self.request(topics.INSTANCES, {"op": "mount", "endpoint": endpoint, **order}, by=by)

    def instance(self, subflows: dict[str, Subflow]) -> None:
        """Let the instance be there, with these subflows."""
        parts = json.dumps({key: part.as_json() for key, part in subflows.items()})
        with self.journal.transaction():
            self.journal.instances.add(InstanceRow(TREE, "tree", ALICE, 1, "{}", parts, None, None, None, 1, 1))

    def may(self, row: IncomingRow, request: FlowRequest, mounted: Mounted | None = None) -> str:
        """Return why a run may not send a request; "" if it may."""
        try:
            self.authority.check_call(row, request, mounted)
        except NotAllowed as error:
            return error.message
        return ""


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[Scene]:
    """The scene."""
    scene = Scene(tmp_path)
    yield scene
    scene.journal.close()


def call(user: str, endpoint: str, instance: str | None = None, data: dict[str, Any] | None = None) -> FlowRequest:
    """A request of a run."""
    return FlowRequest(user=user, endpoint=endpoint, instance=instance, data=data or {})


def to_instances(user: str, op: str, **data: Any) -> FlowRequest:
    """A request of a run about an instance."""
    return call(user, topics.INSTANCES, data={"op": op, **data})


def test_before_its_instance_is_there_a_run_may_call_what_is_declared(bob: Scene) -> None:
    """A flow of the owner, and one of another user; neither another endpoint nor the same one of another user."""
    for row in (bob.request(), bob.mount()):
        for allowed in (
            call(bob.user, "part"), call(ALICE, "echo"), to_instances(bob.user, "mount", endpoint="part"),
            to_instances(ALICE, "mount", endpoint="echo"),
        ):  # fmt: skip
            assert bob.may(row, allowed) == ""
        for refused in (
            call(bob.user, "echo"), call(ALICE, "part"), call(CAROL, "echo"), call(bob.user, "tree"),
            to_instances(bob.user, "mount", endpoint="echo"), to_instances(CAROL, "mount", endpoint="echo"),
            call(bob.user, "User", data={"op": "mount", "endpoint": "part"}),
        ):  # fmt: skip
            assert "declares no subflow" in bob.may(row, refused)
    assert "no subflow 'echo'" in bob.may(row, to_instances(CAROL, "mount", endpoint="echo"))
    assert "no subflow 'User'" in bob.may(row, call(bob.user, "User", data={"op": "mount", "endpoint": "part"}))


def test_what_is_no_instance_calls_nobody(bob: Scene) -> None:
    """A function has no subflows, and no instance in which there could be any."""
    assert "Functions and commands" in bob.may(bob.request(instance=None), call(ALICE, "echo"))


def test_a_flow_that_nobody_serves_any_more_calls_nobody(bob: Scene) -> None:
    """A worker that still runs it has lost the right, as one whose flow was served by an earlier release has none."""
    assert "earlier release" in bob.may(bob.request("old"), call(ALICE, "echo"))
    row = bob.request()
    bob.do(lambda: bob.node.catalog.remove("tree"))
    assert "declares no subflow" in bob.may(row, call(ALICE, "echo"))


def test_an_instance_has_the_subflows_with_which_it_was_made(bob: Scene) -> None:
    """Those count, and not what its flow declares now; of a subflow with an instance, only that one."""
    bob.instance({"a": Subflow(bob.user, "part", PART), "b": Subflow(CAROL, "mail")})
    row = bob.request()
    for allowed in (
        call(bob.user, "part", PART), call(CAROL, "mail"), to_instances(bob.user, "mount", endpoint="part"),
        to_instances(bob.user, "reset", instance=PART),
    ):  # fmt: skip
        assert bob.may(row, allowed) == ""
    for refused in (
        call(bob.user, "part", OTHER), call(bob.user, "part"), call(CAROL, "mail", PART), call(ALICE, "echo"),
        to_instances(ALICE, "mount", endpoint="echo"),
    ):  # fmt: skip
        assert "declares no subflow" in bob.may(row, refused)
    for refused in (
        to_instances(bob.user, "delete", instance=PART), to_instances(bob.user, "reset", instance=OTHER),
        to_instances(ALICE, "reset", instance=PART), to_instances(bob.user, "list"),
    ):  # fmt: skip
        assert "can only mount and reset its own" in bob.may(row, refused)


def test_a_run_that_makes_its_instance_calls_what_it_has_mounted(bob: Scene) -> None:
    """Nothing is its own before."""
    row = bob.request()
    mounted = Mounted({}, {"a": Subflow(bob.user, "part", PART)})
    assert bob.may(row, call(bob.user, "part", PART), mounted) == ""
    assert bob.may(row, to_instances(bob.user, "reset", instance=PART), mounted) == ""
    assert "declares no subflow" in bob.may(row, call(ALICE, "echo"), mounted)
    assert "can only mount and reset" in bob.may(row, to_instances(bob.user, "reset", instance=PART))


@pytest.mark.parametrize(
    ("request_data", "declares"),
    [
        ({"endpoint": "part", "config_overrides": {"tone": "dry"}}, True),
        ({"endpoint": "part", "config_overrides": {"tone": "wet"}}, False),
        ({"endpoint": "part"}, False),
        ({"endpoint": "other", "config_overrides": {"tone": "dry"}}, False),
    ],
)
def test_a_mount_speaks_for_the_owner_if_it_is_just_what_is_declared(
    bob: Scene, request_data: dict[str, Any], declares: bool
) -> None:
    """The owner has decided what a subflow gets, and nobody else."""
    mount = to_instances(bob.user, "mount", **request_data)
    assert bob.authority.declares(bob.request(), mount) is declares
    assert not bob.authority.declares(bob.request("old"), mount)
    assert not bob.authority.declares(bob.request("gone"), mount)


def test_the_owner_declares_subflows_of_what_an_earlier_release_served(bob: Scene) -> None:
    """With the mount, as with that of any flow; another user does not."""
    for by, declares in ((bob.user, True), (ALICE, False)):
        row = bob.mount(by=by, endpoint="old", config_overrides={SUBFLOWS: {"one": {"flow_endpoint": "part"}}})
        assert bob.authority.declares(row, to_instances(bob.user, "mount", endpoint="part")) is declares


def test_a_mount_without_overrides_is_what_is_declared_without_them(bob: Scene) -> None:
    """Whether it says that there are none, or says nothing."""
    bob.serves("plain", subflows={"one": {"flow_endpoint": "part"}})
    order: dict[str, Any]
    for order in ({}, {"config_overrides": {}}, {"config_overrides": None}):
        assert bob.authority.declares(bob.request("plain"), to_instances(bob.user, "mount", endpoint="part", **order))


def test_who_speaks_for_the_owner(bob: Scene) -> None:
    """A command of the owner does, and a run that mounts what is declared; no other run, and no other user."""
    origins = {
        None: True, AskOrigin(1, 0, is_declared=True).to_json(): True, AskOrigin(1, 0).to_json(): False,
        CallBackOrigin(TREE, "tree", None, "one", "p").to_json(): False,
    }  # fmt: skip
    assert not bob.authority.is_owners_wish(bob.mount(by=ALICE))
    assert bob.authority.is_owners_wish(bob.mount(by=bob.user))
    for origin, is_owners in origins.items():
        row = bob.mount(by=bob.user)
        accept = partial(
            bob.node.outbox.accept, Type.CALL, bob.user, topics.INSTANCES, {}, expires=row.expires, message_id=row.id
        )
        bob.do(partial(accept, origin=origin))
        assert bob.authority.is_owners_wish(row) is is_owners


def test_an_instance_gets_the_subflows_that_its_flow_declares(bob: Scene) -> None:
    """The worker that makes it says which they are; one that is not declared is refused."""
    tree, old = bob.node.catalog.get("tree"), bob.node.catalog.get("old")
    assert tree is not None
    assert old is not None
    row = bob.mount()
    bob.authority.check_mounted(
        row, tree, Mounted({}, {"a": Subflow(bob.user, "part", PART), "b": Subflow(ALICE, "echo")})
    )
    bob.authority.check_mounted(row, old, Mounted({}, {}))
    with pytest.raises(NotAllowed, match="earlier release"):
        bob.authority.check_mounted(row, old, Mounted({}, {"a": Subflow(ALICE, "echo")}))
    for part in (Subflow(bob.user, "echo"), Subflow(CAROL, "part"), Subflow(CAROL, "echo")):
        with pytest.raises(NotAllowed, match="does not declare the subflow 'b'"):
            bob.authority.check_mounted(row, tree, Mounted({}, {"a": Subflow(ALICE, "echo"), "b": part}))


OVERRIDE = {SUBFLOWS: {"one": {"flow_endpoint": "other"}}}


@pytest.mark.parametrize(
    ("who", "overridable", "overrides", "works"),
    [
        ("bob", [], OVERRIDE, True), ("alice", [], OVERRIDE, False), ("alice", ["tone"], OVERRIDE, False),
        ("alice", [f"{SUBFLOWS}.one"], OVERRIDE, True), ("alice", [f"{SUBFLOWS}_of_mine"], OVERRIDE, False),
        ("bob", [], {"tone": "dry"}, False), ("bob", [], None, False),
        ("bob", [], {SUBFLOWS: {"one": "nonsense"}}, False),
    ],
)  # fmt: skip
def test_who_mounts_may_change_the_subflows_if_the_owner_lets_them(
    bob: Scene, who: str, overridable: list[str], overrides: dict[str, Any] | None, works: bool
) -> None:
    """The owner may always; in another request, the same data means nothing."""
    bob.serves("open", subflows=DECLARED, overridable=overridable)
    by = bob.user if who == "bob" else ALICE
    other, part = call(bob.user, "other"), call(bob.user, "part")
    row = bob.mount(by=by, endpoint="open", config_overrides=overrides)
    assert (bob.may(row, other) == "") is works
    if overrides in (OVERRIDE, None):
        assert (bob.may(row, part) == "") is not works
    plain = bob.request("open", {"config_overrides": overrides}, by=by)
    assert bob.may(plain, other) != ""
    assert bob.may(plain, part) == ""
