"""The methods about instances of flows, the user's own and those that others have for them."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from p2pflows.flows.config import SUBFLOWS, with_user_ids
from p2pflows.flows.overrides import check_keyless
from p2pflows.protocol import topics
from p2pflowsd.api import peers, views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import Flag, JsonObject, MustBe, Parameters, Seconds, Text
from p2pflowsd.api.replies import ChangeReply, InstanceList, MountReply

MOUNT_TIMEOUT_S = 60


class MountParameters(Parameters):
    """What to mount, and how it differs from what its owner set."""

    address: Text
    config_overrides: JsonObject = Field(default_factory=dict)
    initial_state: JsonObject = Field(default_factory=dict)
    dispatch_point: Text = ""
    timeout: Seconds = MOUNT_TIMEOUT_S


class InstancesParameters(Parameters):
    """Whose instances to list, and of which endpoint."""

    user: Text = ""
    endpoint: Text = ""


class ChangeParameters(Parameters):
    """An instance, and whether the change goes on to the instances that were mounted for it."""

    instance: Annotated[str, Field(pattern="^[0-9a-f]{32}$"), MustBe("32 hex digits", "See: p2pflows instances")]
    user: Text = ""
    recursive: Flag = True


async def mount(daemon: Daemon, params: MountParameters) -> Any:
    """Mount a flow: make an instance with a config and state of its own.

    Returns:
        `user`, `endpoint`, `kind`, `instance` (null where there are none), `shared`
    """
    user, endpoint = daemon.resolve_address(params.address, daemon.contacts())
    check_keyless(params.config_overrides)
    check_keyless(params.initial_state)
    settings = params.model_dump(include={"config_overrides", "initial_state", "dispatch_point"})
    subflows = settings["config_overrides"].get(SUBFLOWS)
    if subflows:
        named = with_user_ids(subflows, daemon.resolve_user)
        settings["config_overrides"] = {**settings["config_overrides"], SUBFLOWS: named}
    order = {"op": "mount", "endpoint": endpoint, **{name: value for name, value in settings.items() if value}}
    reply = await peers.ask(daemon, user, order, MountReply, endpoint=topics.INSTANCES, timeout_s=params.timeout)
    return {**reply, "instance": reply.get("instance"), "user": user}


async def instances(daemon: Daemon, params: InstancesParameters) -> Any:
    """List the instances of your flows, or those that another user has for you.

    Returns:
        `instances`: list of [instances](#instances)
    """
    user = daemon.resolve_user(params.user)
    if user == daemon.node.user:
        found = await daemon.read(lambda: views.own_instances(daemon.node, params.endpoint or None))
    else:
        reply = await peers.ask(daemon, user, {"op": "list"}, InstanceList, endpoint=topics.INSTANCES)
        of_endpoint = [each for each in reply["instances"] if params.endpoint in ("", each["endpoint"])]
        found = list(map(views.with_dates, of_endpoint))
    return {"instances": found}


async def delete_instance(daemon: Daemon, params: ChangeParameters) -> Any:
    """Delete an instance.

    Returns:
        `instance`
    """
    return await _change(daemon, "delete", params)


async def reset_instance(daemon: Daemon, params: ChangeParameters) -> Any:
    """Forget the state of an instance.

    Returns:
        `instance`
    """
    return await _change(daemon, "reset", params)


async def _change(daemon: Daemon, op: Literal["delete", "reset"], params: ChangeParameters) -> Any:
    user = daemon.resolve_user(params.user)
    order = {"op": op, "instance": params.instance, "recursive": params.recursive}
    return await peers.ask(daemon, user, order, ChangeReply, endpoint=topics.INSTANCES)
