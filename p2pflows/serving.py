"""Serving flows and getting instances of them, by the names that the predecessor's tutorials use.

    serving.serve_flow(cl, flow_class_name="my_flows.Assistant", flow_endpoint="Assistant")
    assistant = serving.get_flow_instance(cl, flow_endpoint="Assistant")
    assistant.get_reply_future(assistant.package_input_message({"query": "Hello?"})).get_data()

`cl` is the client of the local daemon, from `p2pflows.connect()`. What is served stays served until it is unserved.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2pflows.client import Client
from p2pflows.config import DEFAULT_POINT
from p2pflows.errors import NotServed, UsageError
from p2pflows.flows import state as codec
from p2pflows.flows.client_run import ClientRun
from p2pflows.flows.config import LOCAL, OPEN, effective_config, input_schema, subflow_specs
from p2pflows.flows.flow import Flow
from p2pflows.flows.overrides import check_keyless
from p2pflows.flows.proxy import FlowProxy
from p2pflows.flows.run import Target
from p2pflows.protocol import topics
from p2pflows.protocol.worker_frames import ClassTarget
from p2pflows.worker.loading import FlowClass, Loader

CONTACTS = "contacts"

_LOADER = Loader()


def serve_flow(  # noqa: PLR0917 - the predecessor's order
    cl: Client,
    flow_class_name: str,
    flow_endpoint: str,
    dispatch_point: str = DEFAULT_POINT,
    parallel_dispatch: bool = False,
    singleton: bool = False,
    *,
    allow: str = CONTACTS,
    config: Mapping[str, Any] | None = None,
) -> bool:
    """Serve a class of flows under an endpoint; gives False if just this was served already.

    The class is imported here, once, so that what cannot be loaded is refused at once. Serving another class, or the
    same with other settings, replaces what was served: instances that exist keep their config, and run the new code.
    After a change of the code alone, unserve it first.

    Args:
        cl: the client of the local daemon.
        flow_class_name: `package.module.Class`, or `file.py:Class`.
        flow_endpoint: under which name.
        dispatch_point: which workers run it.
        parallel_dispatch: run all messages side by side, each from the initial state, which is never changed.
        singleton: all callers share one instance.
        allow: who may call it: me, contacts, anyone, or names of contacts.
        config: what is laid over the class's defaults for every instance.

    Raises:
        UsageError: the class cannot be imported, is no flow, or its config is incomplete.
    """
    flow_class, target = _load(flow_class_name)
    settings = dict(config or {})
    check_keyless(settings)
    effective = effective_config(flow_class, settings, complete=False)
    wanted = {
        "kind": "class",
        "target": target,
        "cwd": str(Path.cwd()),
        "dispatch_point": dispatch_point,
        "parallel": parallel_dispatch,
        "singleton": singleton,
        "allow": allow,
        "config": settings,
        "description": str(effective.get("description") or ""),
        "schema": input_schema(effective),
        "interleaved": flow_class.interleaves,
    }
    served = _served(cl).get(flow_endpoint)
    if served is not None and all(served.get(name) == value for name, value in wanted.items()):
        return False
    cl.request("serve", endpoint=flow_endpoint, **wanted)
    return True


def recursive_serve_flow(  # noqa: PLR0917 - the predecessor's order
    cl: Client,
    flow_class_name: str,
    flow_endpoint: str,
    dispatch_point: str = DEFAULT_POINT,
    parallel_dispatch: bool = False,
    singleton: bool = False,
    *,
    allow: str = CONTACTS,
) -> bool:
    """Serve a class and, first, its own subflows, as their part of the config says; gives False if all were served.

    A subflow of this user whose endpoint is served already is left as it is. Nothing is served if a part is wrong.

    Raises:
        UsageError: a class cannot be loaded, a subflow names none, or they lead in a circle.
    """
    found: dict[str, dict[str, Any]] = {}
    about = {"dispatch_point": dispatch_point, "parallel_dispatch": parallel_dispatch, "singleton": singleton}
    _collect(cl, flow_class_name, flow_endpoint, about, found=found)
    results = [serve_flow(cl, flow_endpoint=endpoint, allow=allow, **what) for endpoint, what in found.items()]
    return any(results)


def is_flow_served(cl: Client, flow_endpoint: str) -> bool:
    """Whether anything is served under an endpoint."""
    return flow_endpoint in _served(cl)


def unserve_flow(cl: Client, flow_endpoint: str) -> bool:
    """Make no new instances; those that exist go on. Gives False if nothing was served."""
    try:
        cl.request("unserve", endpoint=flow_endpoint)
    except NotServed:
        return False
    return True


def delete_flow_endpoint(cl: Client, flow_endpoint: str) -> bool:
    """Unserve, and delete all instances with their subflows'. Gives False if there was nothing."""
    try:
        cl.request("delete_endpoint", endpoint=flow_endpoint)
    except NotServed:
        return False
    return True


def delete_all_flow_endpoints(cl: Client) -> int:
    """Delete every endpoint of a class with its instances; humans, functions and commands stay. Gives how many."""
    classes = {flow["endpoint"] for flow in _served(cl).values() if flow["kind"] == "class"}
    left = {instance["endpoint"] for instance in cl.request("instances")["instances"]}
    return sum(delete_flow_endpoint(cl, endpoint) for endpoint in sorted(classes | left))


def delete_flow_instance(cl: Client, flow_id: str, user_id: str = LOCAL, *, recursive: bool = False) -> None:
    """Delete one instance, of this user or of another; with `recursive`, those that were made for it, too.

    Raises:
        NotAllowed: there is none, or it is not ours.
    """
    cl.request("delete_instance", instance=flow_id, user=_user(cl, user_id), recursive=recursive)


def recursive_delete_flow_instance(cl: Client, flow_id: str, user_id: str = LOCAL) -> None:
    """Delete an instance and those of its subflows, wherever they are."""
    delete_flow_instance(cl, flow_id, user_id, recursive=True)


def get_flow_instance(  # noqa: PLR0917 - the predecessor's order
    cl: Client,
    flow_endpoint: str,
    user_id: str = LOCAL,
    config_overrides: Mapping[str, Any] | None = None,
    initial_state: Mapping[str, Any] | None = None,
    dispatch_point_override: str | None = None,
    *,
    timeout: float | None = None,
) -> FlowProxy:
    """A new instance of a flow, or the one of a singleton; gives the proxy that stands for it.

    Humans, functions and shell commands have no instances: their proxy stands for the endpoint.

    Args:
        cl: the client of the local daemon.
        flow_endpoint: under which name it is served.
        user_id: by whom: `local`, a user id, or the name of a contact.
        config_overrides: what is laid over the config of the class, at any depth; its owner says what others may set.
        initial_state: the state to begin with.
        dispatch_point_override: which workers run it; only its owner may say.
        timeout: seconds; a minute by default.

    Raises:
        CallError: there is none to be had, and why: `not_served`, `not_allowed`, `unreachable`, `deadline`, ...
        UsageError: the user id is none, or the overrides or the state are no JSON.
    """
    user, flow_endpoint = _user(cl, user_id), topics.check_name(flow_endpoint, "an endpoint")
    check_keyless(config_overrides)
    state = None if initial_state is None else json.loads(codec.dumps(dict(initial_state)))
    mounted = cl.request(
        "mount",
        address=f"{user}/{flow_endpoint}",
        config_overrides=dict(config_overrides) if config_overrides else None,
        initial_state=state,
        dispatch_point=dispatch_point_override,
        timeout=timeout,
    )
    target = Target(mounted["user"], flow_endpoint, mounted["instance"])
    about = {"name": f"Proxy_{flow_endpoint}", "description": f"Stands for {flow_endpoint}."}
    return FlowProxy(f"Proxy_{flow_endpoint}", target, config=about, run=ClientRun(cl))


def get_served_flows(cl: Client) -> list[dict[str, Any]]:
    """What this user serves."""
    return list(_served(cl).values())


def get_flow_instances(cl: Client, user_id: str = LOCAL, flow_endpoint: str | None = None) -> list[dict[str, Any]]:
    """The instances of this user's flows, or those that another user has for us."""
    return list(cl.request("instances", user=_user(cl, user_id), endpoint=flow_endpoint)["instances"])


def print_served_flows(cl: Client) -> None:
    """Print what this user serves, a line each."""
    for flow in get_served_flows(cl):
        sys.stdout.write(f"{flow['endpoint']}  {flow['kind']}  {flow['dispatch_point']}  {flow['description']}\n")


def print_flow_instances(cl: Client, user_id: str = LOCAL) -> None:
    """Print instances, a line each; never their config or state, which may hold what is private."""
    for instance in get_flow_instances(cl, user_id):
        sys.stdout.write(f"{instance['endpoint']}  {instance['instance']}  {instance['used']}\n")


def _collect(
    cl: Client,
    class_name: str,
    endpoint: str,
    about: dict[str, Any],
    *,
    found: dict[str, dict[str, Any]],
    above: tuple[str, ...] = (),
) -> None:
    """Find what has to be served, subflows before those that need them."""
    if endpoint in above:
        raise UsageError(
            f"The subflows lead in a circle: {' -> '.join([*above[above.index(endpoint) :], endpoint])}.",
            "Let one of them use another endpoint.",
        )
    flow_class, _ = _load(class_name)
    served = _served(cl)
    for spec in subflow_specs(effective_config(flow_class, {}, complete=False), me=cl.user_id, complete=False).values():
        if spec.user != LOCAL or spec.endpoint in (*served, OPEN) or spec.endpoint in found:
            continue
        if spec.class_name is None:
            raise UsageError(
                f"The subflow {spec.key!r} of {class_name} names no class to serve.",
                f"Give it a flow_class_name, or first serve {spec.endpoint}.",
            )
        inner = {
            "dispatch_point": spec.dispatch_point or DEFAULT_POINT,
            "parallel_dispatch": spec.parallel_dispatch,
            "singleton": spec.singleton,
        }
        _collect(cl, spec.class_name, spec.endpoint, inner, found=found, above=(*above, endpoint))
    found[endpoint] = {"flow_class_name": class_name, **about}


def _load(class_name: str) -> tuple[type[Flow], str]:
    """The class, and how workers find it."""
    place, colon, attribute = class_name.rpartition(":" if ":" in class_name else ".")
    if not place or not attribute:
        raise UsageError(f"{class_name!r} names no class.", "Write package.module.Class or file.py:Class.")
    if colon == ":" and place.endswith(".py"):
        place = str(Path(place).absolute())
    target = f"{place}:{attribute}"
    loaded = _LOADER.examine(ClassTarget(target, str(Path.cwd()), config={}))
    assert isinstance(loaded, FlowClass)  # noqa: S101 - a target of kind class is one, or is refused
    return loaded.flow_class, target


def _served(cl: Client) -> dict[str, dict[str, Any]]:
    return {flow["endpoint"]: flow for flow in cl.request("ls")["flows"]}


def _user(cl: Client, user_id: str) -> str:
    if user_id == OPEN or not isinstance(user_id, str):
        raise UsageError("The user id is still to be filled in.", "Ask the owner for it: p2pflows id")
    return cl.user_id if user_id in (LOCAL, "me") else user_id
