"""FlowMessage: what a flow receives in `run`, and what it sends."""

from __future__ import annotations

import dataclasses
import json
import logging
import secrets
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from typing import Any, Self

from pydantic_core import PydanticSerializationError, to_jsonable_python

from p2pflows.errors import CallError, FlowFailed, UsageError, from_kind
from p2pflows.flows.copies import copied

HIDDEN = "<private>"
"""What a log shows in place of a private value."""

_log = logging.getLogger("p2pflows.flows")


def new_id() -> str:
    """Return a new random message id, 32 hex digits."""
    return secrets.token_hex(16)


def now() -> str:
    """Return the current time in UTC, in the form of RFC 3339."""
    return datetime.now(UTC).replace(tzinfo=None).isoformat() + "Z"


@dataclass(kw_only=True)
class FlowMessage:
    """One message between two flows. No two messages share a list or dict.

    Args:
        data: the content, JSON values under text keys.
        message_id: the id of this message, 32 hex digits.
        created_at: when the message was created (RFC 3339, UTC).
        created_by: the name of the flow that created it.
        message_type: any text that helps a flow to tell messages apart.
        private_keys: keys of the data, or dotted paths, that are sent, and that logs hide.
        unsent_keys: keys of the data, or dotted paths, that never leave this process.
        src_flow: the name of the sending flow.
        src_flow_id: the id of the sending instance, if the sender has instances.
        dst_flow: the name of the receiving flow.
        reply_data: how to answer: `{"mode": "reply", "message": wire id}` or `{"mode": "no_reply"}`.
        input_message_id: the id of the message that this one answers; its own id when it answers none.
        is_reply: whether this message is an answer.
        user_id: the user who sent it, authenticated by the daemon.
        error: why a subflow gave no answer.
        subflow: the key of the subflow that answered.
        conversation: the id that a first message and all messages it led to have in common.
    """

    data: dict[str, Any] = field(default_factory=dict)
    message_id: str = field(default_factory=new_id)
    created_at: str = field(default_factory=now)
    created_by: str = "unknown"
    message_type: str = "message"
    private_keys: list[str] = field(default_factory=list)
    unsent_keys: list[str] = field(default_factory=list)
    src_flow: str = "unknown"
    src_flow_id: str | None = None
    dst_flow: str = "unknown"
    reply_data: dict[str, Any] = field(default_factory=lambda: {"mode": "no_reply"})
    input_message_id: str = ""
    is_reply: bool = False
    user_id: str | None = None
    error: CallError | None = field(default=None, compare=False)
    subflow: str | None = None
    conversation: str | None = None

    def __post_init__(self) -> None:
        if not self.input_message_id:
            self.input_message_id = self.message_id

    @property
    def request(self) -> str | None:
        """The wire id of the request that awaits an answer to this message; None when there is none."""
        wire_id = self.reply_data.get("message")
        return wire_id if self.reply_data.get("mode") == "reply" and isinstance(wire_id, str) else None

    def to_dict(self) -> dict[str, Any]:
        """Return every field as plain data, copied; `from_dict` reads it, the error included."""
        plain = {each.name: copied(getattr(self, each.name)) for each in fields(self) if each.name != "error"}
        plain["error"] = self.error and self.error.as_wire()
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Self:
        """Return the message that `to_dict` wrote; unknown fields are ignored.

        Raises:
            UsageError: a field has a wrong type.
        """
        known = {each.name: plain[each.name] for each in fields(cls) if each.name in plain}
        for name, value in known.items():
            if not isinstance(value, _TYPES[name]):
                raise UsageError(
                    f"The message field {name!r} cannot be a {type(value).__name__}.", "Use the form of to_dict()."
                )
        known = copied(known)
        if known.get("error") is not None:
            known["error"] = _error(known["error"])
        return cls(**known)

    def without_data(self) -> Self:
        """Return a copy without data, to answer to; `dataclasses.replace` takes ten times as long."""
        copy = object.__new__(type(self))
        vars(copy).update(vars(self), data={}, reply_data=dict(self.reply_data))
        return copy

    def sendable(self) -> dict[str, Any]:
        """Return the data to send: a JSON copy without `unsent_keys`.

        Raises:
            FlowFailed: JSON cannot hold a value; the error names its key.
        """
        kept = _without(self.data, set(self.unsent_keys)) if self.unsent_keys else self.data
        return {str(key): _as_json(key, value) for key, value in kept.items()}

    def redacted(self, more: Collection[str] = ()) -> dict[str, Any]:
        """Return `to_dict` for a log: private and unsent values are hidden, at every depth.

        Args:
            more: further private keys.
        """
        secret = {*self.private_keys, *self.unsent_keys, *more}
        return {**dataclasses.replace(self, data={}).to_dict(), "data": redact(self.data, secret)}

    def __str__(self) -> str:
        return f"FlowMessage {self.message_id} from {self.src_flow} to {self.dst_flow}"


_TEXT, _MAYBE = (str,), (str, type(None))
_TYPES: dict[str, tuple[type, ...]] = {
    **dict.fromkeys(("message_id", "created_at", "created_by", "message_type", "input_message_id"), _TEXT),
    **dict.fromkeys(("src_flow", "dst_flow"), _TEXT),
    **dict.fromkeys(("src_flow_id", "user_id", "subflow", "conversation"), _MAYBE),
    **dict.fromkeys(("data", "reply_data"), (dict,)),
    **dict.fromkeys(("private_keys", "unsent_keys"), (list,)),
    "is_reply": (bool,),
    "error": (dict, type(None)),
}


def redact(value: Any, secret: Collection[str], path: str = "") -> Any:
    """Return a plain copy of data for a log, with the values of secret keys hidden.

    Args:
        value: the data.
        secret: keys, or dotted paths, whose values are hidden.
        path: the dotted path of the value.
    """
    if isinstance(value, Mapping):
        shown = {}
        for key, inner in value.items():
            here = f"{path}.{key}" if path else str(key)
            shown[str(key)] = HIDDEN if key in secret or here in secret else redact(inner, secret, here)
        return shown
    if isinstance(value, (list, tuple)):
        return [redact(item, secret, path) for item in value]
    # The text of any other object may show a secret.
    return value if isinstance(value, (str, int, float, type(None))) else f"<{type(value).__name__}>"


def log(what: str, message: FlowMessage, private: Collection[str] = ()) -> None:
    """Log a message at DEBUG, with private values hidden."""
    if _log.isEnabledFor(logging.DEBUG):
        data = json.dumps(redact(message.data, {*message.private_keys, *message.unsent_keys, *private}))
        _log.debug("%s message %s from %s: %s", what, message.message_id, message.src_flow, data)


def _without(data: Mapping[str, Any], dropped: Collection[str], path: str = "") -> dict[str, Any]:
    kept = {}
    for key, value in data.items():
        here = f"{path}.{key}" if path else str(key)
        if here not in dropped:
            kept[key] = _without(value, dropped, here) if isinstance(value, dict) else value
    return kept


def _as_json(key: str, value: Any) -> Any:
    try:
        return to_jsonable_python(value)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise FlowFailed(f"The data under {key!r} cannot be sent, because JSON cannot hold it: {reason}.") from error


def _error(plain: dict[str, Any]) -> CallError:
    kind, message, hint = (str(plain.get(name, "")) for name in ("kind", "message", "hint"))
    error = from_kind(kind, message, hint)
    return error if isinstance(error, CallError) else CallError(message, hint)
