"""The methods that serve flows, and show what is served."""

from __future__ import annotations

import asyncio
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError

from p2pflows.config import DEFAULT_POINT
from p2pflows.errors import FlowFailed, NotAllowed, NotServed, UnknownUser, Unreachable, UsageError
from p2pflows.flows.config import with_user_ids
from p2pflows.flows.overrides import check_keyless
from p2pflows.protocol import topics
from p2pflows.protocol.worker_frames import Failure, Outcome, Success
from p2pflows.settings.call_limits import CallLimits
from p2pflowsd.api import peers
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import Flag, JsonObject, MustBe, Parameters, Text
from p2pflowsd.api.replies import DescribeReply, FlowList, LoadedFlow
from p2pflowsd.running.catalog import CONTACTS, HUMAN_SCHEMA, Served, check_allow, strangers_in
from p2pflowsd.steps import settle

WORKER_TIMEOUT_S = 5.0
"""How long `serve` waits for a worker that is just starting."""
WORKER_POLL_INTERVAL_S = 0.1


class ServeParameters(Parameters):
    """A flow, and how to serve it."""

    endpoint: Text
    kind: Annotated[
        Literal["python", "exec", "human", "class"],
        MustBe("python, exec, class or human", "See: p2pflows serve --help"),
    ]
    target: Text = ""
    cwd: Text = ""
    dispatch_point: Text = ""
    allow: Text = CONTACTS
    parallel: Flag = False
    singleton: Flag = False
    interleaved: Flag = False
    subflows: Annotated[dict[str, Any] | None, MustBe("a JSON object")] = None
    config: JsonObject = Field(default_factory=dict)
    errors: Annotated[
        Literal["none", "last-line", "all", ""], MustBe("none, last-line or all", "See: p2pflows serve --help")
    ] = ""
    description: Text = ""
    input_schema: Annotated[dict[str, Any] | None, Field(alias="schema"), MustBe("a JSON object")] = None
    output_schema: Annotated[dict[str, Any] | None, Field(alias="output"), MustBe("a JSON object")] = None
    overridable: Annotated[list[str], MustBe("a list of dotted keys")] = Field(default_factory=list)
    limits: Annotated[dict[str, Any] | None, MustBe("an object of limits")] = None
    limits_per_caller: Annotated[dict[str, Any] | None, MustBe("an object of limits")] = None
    owner_first: Flag = False
    release: Text = ""
    replace: Flag = False


class EndpointParameters(Parameters):
    """An endpoint of the user."""

    endpoint: Text


class LsParameters(Parameters):
    """Whose flows to list."""

    user: Text = ""


class DescribeParameters(Parameters):
    """An address."""

    address: Text


async def serve(daemon: Daemon, params: ServeParameters) -> Any:
    """Serve a flow, in place of what was served under its endpoint.

    Only a class takes `singleton` and `config`. A class with a `schema` is not loaded now. A human is replaced only if
    `replace` is true.

    Returns:
        what is [served](#served-flows), once a worker has loaded it; `replaced`: `kind` and `target` of what was served
        there before, or null
    """
    flow = _checked_flow(daemon, params)
    _check_human_stays(daemon, params)  # here too, so that no worker loads the flow in vain
    found = await _description(daemon, flow, params)
    if found.get("subflows"):
        found["subflows"] = with_user_ids(found["subflows"], daemon.resolve_user)
    served = flow.model_copy(update=found)
    before = await daemon.run(lambda: _publish(daemon, served, params))
    replaced = None if before is None or before.closed else {"kind": before.kind, "target": before.target}
    return {**served.as_json(daemon.node.name_of, daemon.node.user), "replaced": replaced}


async def unserve(daemon: Daemon, params: EndpointParameters) -> Any:
    """Serve nothing under an endpoint any more; existing instances go on.

    Returns:
        nothing
    """
    await daemon.run(lambda: _unserve(daemon, params.endpoint))
    return {}


async def delete_endpoint(daemon: Daemon, params: EndpointParameters) -> Any:
    """Serve nothing under an endpoint any more, and delete its instances.

    Returns:
        `instances`: how many were deleted
    """
    return {"instances": await daemon.run(lambda: _delete_endpoint(daemon, params.endpoint))}


async def ls(daemon: Daemon, params: LsParameters) -> Any:
    """List what you serve, or what another user serves to you.

    Returns:
        `flows`
    """
    user = daemon.resolve_user(params.user)
    if user == daemon.node.user:
        return {"flows": [flow.as_json(daemon.node.name_of, user) for flow in daemon.node.catalog.all()]}
    return await peers.ask(daemon, user, {}, FlowList)


async def describe(daemon: Daemon, params: DescribeParameters) -> Any:
    """Describe a flow.

    Returns:
        `address`, `user`, `endpoint`, `online`, `served`, `allowed` (true, false, or null when not known), and of the
        flow `kind`, `description`, `dispatch_point`, `schema`, `output`; of a class `overridable`, the keys that others
        may set
    """
    user, endpoint = daemon.resolve_address(params.address, daemon.contacts())
    if user == daemon.node.user:
        found, online = _describe_own(daemon, endpoint)
    else:
        found, online = await _describe_theirs(daemon, user, endpoint)
    return {**found, "address": params.address, "user": user, "endpoint": endpoint, "online": online}


def _describe_own(daemon: Daemon, endpoint: str) -> tuple[dict[str, Any], bool | None]:
    flow = daemon.node.catalog.get(endpoint)
    if flow is None:
        raise NotServed(f"You do not serve {endpoint!r}.", "See: p2pflows ls")
    return {"served": True, "allowed": True, **flow.as_json(daemon.node.name_of, daemon.node.user)}, True


async def _describe_theirs(daemon: Daemon, user: str, endpoint: str) -> tuple[dict[str, Any], bool | None]:
    """Return what another user's daemon says of an endpoint, and whether that user is online, as far as known."""
    try:
        return await peers.ask(daemon, user, {"endpoint": endpoint}, DescribeReply), True
    except Unreachable:
        online: bool | None = False
    except (UnknownUser, NotAllowed):
        online = daemon.node.presence.online(user)
    return {"served": None, "allowed": None}, online


def _checked_flow(daemon: Daemon, params: ServeParameters) -> Served:
    """Return the flow to serve, without its description and schema.

    Raises:
        UsageError: parameters do not fit together, or one cannot be used.
    """
    if params.kind != "class" and (params.config or params.singleton):
        raise UsageError("Only a class has a config, and may be a singleton.", "Leave it out.")
    if params.kind != "exec" and params.errors:
        raise UsageError("Only a command has errors of its own to show.", "Leave out `errors`.")
    check_keyless(params.config)
    limits, per_caller = _limits(params.limits), _limits(params.limits_per_caller)
    if params.kind == "human" and (limits or per_caller or params.owner_first):
        raise UsageError("Limits of calls do not hold for humans.", "See questions_per_contact in the settings.")
    if params.kind == "human":
        point, revision = "", 1
    else:
        point = topics.check_name(params.dispatch_point or DEFAULT_POINT, "a dispatch point")
        revision = daemon.node.catalog.next_revision(daemon.node.clock.now())
    allow = check_allow(params.allow, daemon.contacts(), daemon.node.user)
    return Served(
        endpoint=topics.check_endpoint(params.endpoint),
        kind=params.kind,
        target=params.target,
        cwd=params.cwd,
        dispatch_point=point,
        parallel=params.parallel,
        singleton=params.singleton,
        config=params.config,
        errors=params.errors or "last-line",
        allow=allow,
        strangers=strangers_in(allow, daemon.node.contacts.known),
        revision=revision,
        limits=limits,
        limits_per_caller=per_caller,
        owner_first=params.owner_first,
    )


def _limits(fields: dict[str, Any] | None) -> CallLimits | None:
    return CallLimits.read(fields) if fields else None


def _check_human_stays(daemon: Daemon, params: ServeParameters) -> None:
    """Check that serving a flow replaces no human by mistake.

    Raises:
        UsageError: a human is served under its endpoint, and nobody said to replace them.
    """
    before = daemon.node.catalog.get(params.endpoint)
    if before is not None and before.kind == "human" and params.kind != "human" and not params.replace:
        raise UsageError(
            f"{params.endpoint!r} is you in person: nobody could ask you there any more.",
            "Choose another name; or, if you mean it, add: --replace",
        )


async def _description(daemon: Daemon, flow: Served, params: ServeParameters) -> dict[str, Any]:
    """Return what a flow says of itself; a worker loads the flow unless the client has."""
    if flow.kind == "human":
        return {"description": "A human answers.", "input_schema": HUMAN_SCHEMA}
    if flow.kind == "class" and params.input_schema is not None:  # the client has loaded it
        return {
            "description": params.description,
            "input_schema": params.input_schema,
            "output_schema": params.output_schema,
            "interleaved": params.interleaved,
            "overridable": params.overridable,
            "subflows": params.subflows,
            "release": params.release,
        }
    try:
        loaded = LoadedFlow.model_validate(await _load(daemon, flow))
    except ValidationError as error:
        raise FlowFailed(
            f"The worker of {flow.dispatch_point!r} described {flow.endpoint!r} in a form that cannot be read.",
            "Install the same release of p2pflows there as here.",
        ) from error
    return {
        "description": loaded.description or "",
        "input_schema": loaded.input_schema,
        "output_schema": loaded.output_schema,
        "interleaved": loaded.interleaved is True,
        "overridable": loaded.overridable or [],
        "subflows": loaded.subflows,
        "release": loaded.release or "",
    }


async def _load(daemon: Daemon, flow: Served) -> dict[str, Any]:
    """Return what a worker finds in a flow; wait for a worker that is just starting.

    Raises:
        P2pflowsError: the flow cannot be loaded, or there is no worker.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + WORKER_TIMEOUT_S
    while (  # noqa: ASYNC110 - a worker may announce itself in any batch
        not daemon.node.points.has_workers(flow.dispatch_point) and loop.time() < until
    ):
        await asyncio.sleep(WORKER_POLL_INTERVAL_S)
    loaded: asyncio.Future[Outcome] = loop.create_future()
    await daemon.run(lambda: daemon.node.loads.start(flow, settle(loaded)))
    match await loaded:
        case Success(description):
            return description
        case Failure(error):
            raise error


# Inside a batch.


def _publish(daemon: Daemon, flow: Served, params: ServeParameters) -> Served | None:
    """Serve a flow, and return what was served under its endpoint before."""
    _check_human_stays(daemon, params)
    before = daemon.node.catalog.get(flow.endpoint)
    daemon.node.catalog.put(flow)
    if before is not None and (before.allow, before.strangers) != (flow.allow, flow.strangers):
        daemon.node.rights.review_all()
    daemon.node.callbacks.after_commit(daemon.node.publish_card)
    return before


def _unserve(daemon: Daemon, endpoint: str) -> None:
    daemon.node.serving.unserve(endpoint)
    daemon.node.callbacks.after_commit(daemon.node.publish_card)


def _delete_endpoint(daemon: Daemon, endpoint: str) -> int:
    deleted = daemon.node.serving.delete(endpoint)
    daemon.node.callbacks.after_commit(daemon.node.publish_card)
    return deleted
