"""What both clients write to the daemon's control socket and read from it (docs/CONTROL.md), and their errors."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from p2pflows.errors import BadInput, CallError, DaemonNotRunning, P2pflowsError, TooLarge, UsageError, from_kind
from p2pflows.hints import for_reader
from p2pflows.home import Home, expand_user, home

if TYPE_CHECKING:
    from p2pflows.forms.python import TypedForm

NO_DEFAULT: Any = object()
"""Stands for a default that was not given, since None may be one."""
MAX_REQUEST_BYTES = 1_000_000
"""More than any message may hold; below it, the daemon checks the exact limit."""
MAX_PAGE = 1_000
"""The most prompts that the daemon returns at once."""
MAX_INBOX = 10_000
"""The most prompts that `inbox` returns, unless it is asked for more or fewer."""


def home_of(path: str | os.PathLike[str] | None) -> Home:
    """Return the home at a path, by default the one that `P2PFLOWS_HOME` names."""
    return home() if path is None else Home(expand_user(str(path)).absolute())


def message_params(
    address: str, data: dict[str, Any] | None, timeout: float | None, conversation: str | None, instance: str | None
) -> dict[str, Any]:
    """Return the parameters of `call` and `send`."""
    return {
        "address": address,
        "data": data or {},
        "timeout": timeout,
        "conversation": conversation,
        "instance": instance,
    }


def human_of(who: str) -> str:
    """Return the address of a contact's human.

    Raises:
        UsageError: nobody is named; before a '/', that would mean oneself.
    """
    if not who:
        raise UsageError("'' names nobody.", "Name a contact; you are: me")
    return who if "/" in who else f"{who}/User"


def default_of(typed: TypedForm, default: Any) -> dict[str, Any]:
    """Return the parameter with what holds if nobody answers in time."""
    return {} if default is NO_DEFAULT else {"default": typed.to_json(default)}


def write_params(params: dict[str, Any]) -> bytes:
    """Return the parameters of a request as JSON, without those that are None.

    Raises:
        BadInput: they cannot be written as JSON.
        TooLarge: no message can hold them.
    """
    given = {name: value for name, value in params.items() if value is not None}
    if "data" in given:
        given["data"] = given.pop("data")  # last, where the daemon passes it on as it is
    try:
        body = json.dumps(given, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise BadInput(
            f"The data cannot be written as JSON: {error}.", "Send objects, lists, texts and numbers."
        ) from error
    if len(body) > MAX_REQUEST_BYTES:
        raise TooLarge(
            f"The data has {len(body):,} bytes, more than one message can hold.",
            "Send it in parts, or send where it can be found.",
        )
    return body


def read_items(line: bytes) -> list[dict[str, Any]]:
    """Return what a line of the daemon says; a line may hold several objects.

    Raises:
        CallError: it is not of this protocol.
    """
    try:
        content = json.loads(line)
        items = content if isinstance(content, list) else [content]
        if all(isinstance(item, dict) for item in items):
            return items
    except ValueError:
        pass
    raise unreadable("no JSON")


def read_error(content: dict[str, Any]) -> P2pflowsError:
    """Return the error that a response holds."""
    error = from_kind(
        str(content["code"]),
        str(content["message"]),
        for_reader(str(content.get("hint") or "")),
        content.get("retry_after_s"),
    )
    return error.said_by(str(content["from"]), content.get("name")) if content.get("from") else error


def data_or_state(result: dict[str, Any]) -> dict[str, Any]:
    """Return the data of an answer, or what is known instead if there is none yet."""
    return dict(result.get("data", result))


def cannot_connect(home: Home, error: BaseException) -> P2pflowsError:
    """Return the error to raise if there is no connection to the daemon on a home."""
    if isinstance(error, PermissionError):
        return UsageError(
            f"The daemon on {home.path} belongs to another user.", "Set P2PFLOWS_HOME to a home of your own."
        )
    if isinstance(error, OSError) and error.errno is None:
        return UsageError(f"The path {home.path} is too long for a socket.", "Set P2PFLOWS_HOME to a shorter path.")
    return DaemonNotRunning(f"No daemon runs on {home.path}.", "Start it with: p2pflows up")


def went_away(home: Home) -> DaemonNotRunning:
    """Return the error to raise if the daemon on a home has closed the connection."""
    return DaemonNotRunning(
        f"The daemon on {home.path} went away.",
        "Start it with: p2pflows up. Calls that it had accepted were kept: p2pflows wait ID",
    )


def unreadable(what: str) -> CallError:
    """Return the error to raise if a response is not of this protocol."""
    return CallError(
        f"The daemon sent a response that this version cannot read ({what}).",
        "Use the same release for the daemon and the client.",
    )
