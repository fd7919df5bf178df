"""The options of `serve --chat` that let its model call other flows and people."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import p2pflows
from p2pflows.errors import UsageError

_NO_NAME = re.compile(r"[^A-Za-z0-9_-]")
_MAX_NAME_CHARS = 60
_QUESTION = {
    "type": "object",
    "properties": {"text": {"type": "string", "description": "the question, in words that say all that they need"}},
    "required": ["text"],
}
"""What a person takes."""


def add_tools(me: p2pflows.Client, config: dict[str, Any], tools: Iterable[str], confirmed: Iterable[str]) -> None:
    """Add tools to the config of a chat.

    Args:
        me: the client of the daemon, which is asked what each of them takes.
        config: the config; it is changed.
        tools: addresses of flows and people.
        confirmed: addresses of those before whose use the owner is asked.

    Raises:
        UsageError: one is not known, so that the model could not be told what it takes.
    """
    subflows, about = config.setdefault("subflows_config", {}), config.setdefault("tools", {})
    if not isinstance(subflows, dict) or not isinstance(about, dict):
        raise UsageError("'tools' and 'subflows_config' are groups of settings.", "Leave them out of --set.")
    wanted = dict.fromkeys(tools, False) | dict.fromkeys(confirmed, True)
    for address, is_confirmed in wanted.items():
        flow = me.request("describe", address=address)
        if not flow.get("kind"):
            raise UsageError(
                f"Nobody says what {address!r} takes.",
                "It must be served to you now, and its daemon reachable. See: p2pflows describe ADDRESS",
            )
        name = _name(address, flow, subflows)
        subflows[name] = {"user_id": flow["user"], "flow_endpoint": flow["endpoint"]}
        about[name] = {**_seen(address, flow), **({"confirm": "owner"} if is_confirmed else {})}
    if any(wanted.values()):
        subflows.setdefault("owner", {"user_id": "local", "flow_endpoint": "User"})


def _name(address: str, flow: dict[str, Any], taken: dict[str, Any]) -> str:
    """Return the name under which the model knows a tool."""
    contact = address.partition("/")[0]
    name = f"ask_{contact}" if flow["kind"] == "human" else str(flow["endpoint"])
    name = _NO_NAME.sub("_", name)[:_MAX_NAME_CHARS]
    if name not in taken and name != "owner":
        return name
    return next(f"{name}_{number}" for number in range(2, len(taken) + 4) if f"{name}_{number}" not in taken)


def _seen(address: str, flow: dict[str, Any]) -> dict[str, Any]:
    """Return what the model is told of a tool."""
    if flow["kind"] == "human":
        who = address.partition("/")[0]
        said = f"Ask the person {who}. They answer in their own words, maybe after a while."
        return {"description": said, "parameters": _QUESTION}
    parameters = flow.get("schema") or {"type": "object"}
    return {
        "description": flow.get("description") or f"The flow {flow['endpoint']}.",
        "parameters": {"type": "object", "properties": {}, **parameters},
    }
