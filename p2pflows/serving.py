"""Serve flows and mount instances of them, with the function names of the predecessor's tutorials.

    serving.serve_flow(cl, flow_class_name="my_flows.Assistant", flow_endpoint="Assistant")
    assistant = serving.get_flow_instance(cl, flow_endpoint="Assistant")
    assistant.get_reply_future(assistant.package_input_message({"query": "Hello?"})).get_data()

`cl` is the client of the local daemon, from `p2pflows.connect()`. A flow is served until it is unserved, also after a
restart of the daemon.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2pflows.client import Client
from p2pflows.config import DEFAULT_POINT
from p2pflows.contacts import Contacts, resolve
from p2pflows.errors import NotServed, UsageError
from p2pflows.flows import state as codec
from p2pflows.flows.client_run import ClientRun
from p2pflows.flows.config import LOCAL, OPEN, SUBFLOWS, effective_config, subflow_specs, with_user_ids
from p2pflows.flows.overrides import check_keyless, open_keys
from p2pflows.flows.proxy import FlowProxy
from p2pflows.flows.run import Target
from p2pflows.protocol import topics
from p2pflows.protocol.worker_frames import ClassTarget
from p2pflows.settings.call_limits import CallLimits
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
    limits: Mapping[str, Any] | None = None,
    limits_per_caller: Mapping[str, Any] | None = None,
    owner_first: bool = False,
) -> bool:
    """Serve a flow class under an endpoint.

    This imports the class, so that an error in it is raised here. Serving another class, changed code or other
    settings replaces what the endpoint serves: existing instances keep their config, and run the new code.

    Args:
        cl: the client of the local daemon.
        flow_class_name: `package.module.Class`, or `file.py:Class`.
        flow_endpoint: the name of the endpoint.
        dispatch_point: the dispatch point whose workers run it.
        parallel_dispatch: run all messages at the same time, each from the initial state, which then never changes.
        singleton: whether all callers share one instance.
        allow: who may call it: `me`, `contacts`, `anyone`, or petnames separated by commas.
        config: settings merged over the class's config, for all instances.
        limits: how much all callers together may call it, such as `{"at_once": 2, "rate": "30/min"}`.
        limits_per_caller: how much each user but its owner may.
        owner_first: whether its owner's calls come before those of others that wait.

    Returns:
        False if the endpoint served exactly this already.

    Raises:
        UsageError: the class cannot be imported or is not a flow, or its config is incomplete.
    """
    loaded, target = _load(flow_class_name)
    flow_class = loaded.flow_class
    settings = dict(config or {})
    effective = effective_config(flow_class, settings, complete=False)
    check_keyless(effective)
    flow_class.check_config(effective)
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
        "schema": flow_class.describe_input(effective),
        "output": flow_class.describe_output(effective),
        "interleaved": flow_class.interleaves,
        "subflows": with_user_ids(
            effective.get(SUBFLOWS) or {}, lambda name: resolve(name, Contacts(cl.contacts_file).book(), cl.user_id)
        ),
        "overridable": open_keys(effective),
        "release": loaded.release,
        "limits": CallLimits.read(dict(limits)).model_dump() if limits else None,
        "limits_per_caller": CallLimits.read(dict(limits_per_caller)).model_dump() if limits_per_caller else None,
        "owner_first": owner_first,
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
    """Serve a flow class after those of its subflows that this user must serve, with the settings of its config.

    Subflows whose endpoints are served already stay as they are. If there is any error, nothing is served. The
    arguments are those of `serve_flow`.

    Returns:
        False if everything was served already.

    Raises:
        UsageError: a class cannot be loaded, a subflow names no class, or the subflows form a cycle.
    """
    found: dict[str, dict[str, Any]] = {}
    about = {"dispatch_point": dispatch_point, "parallel_dispatch": parallel_dispatch, "singleton": singleton}
    _collect(cl, flow_class_name, flow_endpoint, about, found=found)
    results = [serve_flow(cl, flow_endpoint=endpoint, allow=allow, **what) for endpoint, what in found.items()]
    return any(results)


def is_flow_served(cl: Client, flow_endpoint: str) -> bool:
    """Whether an endpoint is served."""
    return flow_endpoint in _served(cl)


def unserve_flow(cl: Client, flow_endpoint: str) -> bool:
    """Stop serving an endpoint; existing instances continue. Return False if it was not served."""
    try:
        cl.request("unserve", endpoint=flow_endpoint)
    except NotServed:
        return False
    return True


def delete_flow_endpoint(cl: Client, flow_endpoint: str) -> bool:
    """Stop serving an endpoint, and delete its instances with their subflows. Return False if there was nothing."""
    try:
        cl.request("delete_endpoint", endpoint=flow_endpoint)
    except NotServed:
        return False
    return True


def delete_all_flow_endpoints(cl: Client) -> int:
    """Delete every endpoint of a flow class with its instances, but no others. Return the number of endpoints."""
    classes = {flow["endpoint"] for flow in _served(cl).values() if flow["kind"] == "class"}
    left = {instance["endpoint"] for instance in cl.request("instances")["instances"]}
    return sum(delete_flow_endpoint(cl, endpoint) for endpoint in sorted(classes | left))


def delete_flow_instance(cl: Client, flow_id: str, user_id: str = LOCAL, *, recursive: bool = False) -> None:
    """Delete an instance at this user or another; with `recursive`, also the instances of its subflows.

    Raises:
        NotAllowed: there is no such instance, or it belongs to another user.
    """
    cl.request("delete_instance", instance=flow_id, user=_user(cl, user_id), recursive=recursive)


def recursive_delete_flow_instance(cl: Client, flow_id: str, user_id: str = LOCAL) -> None:
    """Delete an instance and the instances of its subflows, at all users."""
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
    """Mount an instance of a flow: a new one, or that of a singleton.

    Args:
        cl: the client of the local daemon.
        flow_endpoint: the name of the endpoint.
        user_id: the user who serves it: `local`, a user id, or a petname.
        config_overrides: settings merged over the config; of another user's flow, only keys that its owner permits.
        initial_state: the initial state of the instance.
        dispatch_point_override: the dispatch point whose workers run it; only for a flow of this user.
        timeout: seconds; a minute by default.

    Returns:
        A proxy for the instance; for humans, functions and shell commands, which have no instances, for the endpoint.

    Raises:
        CallError: the instance could not be mounted; the kind says why: `not_served`, `unreachable`, ...
        UsageError: the user id has a wrong form, or the overrides or the state are not JSON.
    """
    user, flow_endpoint = _user(cl, user_id), topics.check_name(flow_endpoint, "an endpoint")
    check_keyless(config_overrides)
    check_keyless(initial_state)
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
    config = {"name": f"Proxy_{flow_endpoint}", "description": f"Stands for {flow_endpoint}."}
    return FlowProxy(f"Proxy_{flow_endpoint}", target, config=config, run=ClientRun(cl))


def get_served_flows(cl: Client) -> list[dict[str, Any]]:
    """Return the flows that this user serves."""
    return list(_served(cl).values())


def get_flow_instances(cl: Client, user_id: str = LOCAL, flow_endpoint: str | None = None) -> list[dict[str, Any]]:
    """Return the instances of this user's flows; or this user's instances at another user."""
    return list(cl.request("instances", user=_user(cl, user_id), endpoint=flow_endpoint)["instances"])


def print_served_flows(cl: Client) -> None:
    """Print the flows that this user serves, one per line."""
    for flow in get_served_flows(cl):
        sys.stdout.write(f"{flow['endpoint']}  {flow['kind']}  {flow['dispatch_point']}  {flow['description']}\n")


def print_flow_instances(cl: Client, user_id: str = LOCAL) -> None:
    """Print instances, one per line, without their config and state, which may be private."""
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
    """Collect into `found` the endpoints to serve and their settings, subflows before the flows that need them."""
    if endpoint in above:
        raise UsageError(
            f"The subflows form a cycle: {' -> '.join([*above[above.index(endpoint) :], endpoint])}.",
            "Let one of them use another endpoint.",
        )
    loaded, _ = _load(class_name)
    served = _served(cl)
    for spec in subflow_specs(
        effective_config(loaded.flow_class, {}, complete=False), me=cl.user_id, complete=False
    ).values():
        if spec.user != LOCAL or spec.endpoint in (*served, OPEN) or spec.endpoint in found:
            continue
        if spec.class_name is None:
            raise UsageError(
                f"The subflow {spec.key!r} of {class_name} names no class to serve.",
                f"Give it a flow_class_name, or serve {spec.endpoint} first.",
            )
        inner = {
            "dispatch_point": spec.dispatch_point or DEFAULT_POINT,
            "parallel_dispatch": spec.parallel_dispatch,
            "singleton": spec.singleton,
        }
        _collect(cl, spec.class_name, spec.endpoint, inner, found=found, above=(*above, endpoint))
    found[endpoint] = {"flow_class_name": class_name, **about}


def _load(class_name: str) -> tuple[FlowClass, str]:
    """Return what was loaded of a flow class, and the target by which workers load it."""
    module, separator, attribute = class_name.rpartition(":" if ":" in class_name else ".")
    if not module or not attribute:
        raise UsageError(f"{class_name!r} does not name a class.", "Write package.module.Class or file.py:Class.")
    if separator == ":" and module.endswith(".py"):
        module = str(Path(module).absolute())
    target = f"{module}:{attribute}"
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))  # this program may want to import the modules of its flows too
    loaded = _LOADER.examine(ClassTarget(target, str(Path.cwd()), config={}))
    assert isinstance(loaded, FlowClass)  # noqa: S101 - the loader refuses anything else for this target
    return loaded, target


def _served(cl: Client) -> dict[str, dict[str, Any]]:
    return {flow["endpoint"]: flow for flow in cl.request("ls")["flows"]}


def _user(cl: Client, user_id: str) -> str:
    if user_id == OPEN or not isinstance(user_id, str):
        raise UsageError("The user id is not filled in.", "Its owner can print it with: p2pflows id")
    return cl.user_id if user_id in (LOCAL, "me") else user_id
