"""A flow's state as JSON: types that JSON lacks are written as tagged objects, and nothing is pickled.

| value                   | written as                                                    |
|-------------------------|---------------------------------------------------------------|
| text, number, bool, None| itself                                                        |
| list, tuple             | a list (a tuple is read back as a list, as on the wire)       |
| dict with text keys     | an object                                                     |
| FlowMessage             | `{"$p2pflows": "message", "fields": {...}}`                   |
| bytes                   | `{"$p2pflows": "bytes", "base64": "..."}`                     |
| datetime, date          | `{"$p2pflows": "datetime", "iso": "..."}`, likewise "date"    |
| pydantic model          | `{"$p2pflows": "model", "class": "module.Name", "data": ...}` |
| dict with key $p2pflows | `{"$p2pflows": "dict", "items": {...}}`                       |

A stored class name is never imported: a model is read back as its class if the flow lists that class in
`state_models`, and as a dict of its fields otherwise. Any other value is refused, and the error names its path.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable
from datetime import date, datetime
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import PydanticSerializationError

from p2pflows.errors import FlowFailed, UsageError
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.project import public_name
from p2pflows.protocol import strict_json

MAX_STATE_BYTES = 250_000
"""Most bytes of one instance's state, as JSON."""
MAX_STATE_DEPTH = 64
"""How deeply values may be nested; the limit also stops a value that contains itself."""

TAG = "$p2pflows"
_HINT = "Keep JSON values, bytes, dates, messages or pydantic models in flow_state; create the rest in __init__."
_MAX_SHOWN_PATH = 6
_NESTED = frozenset({list, dict})
"""The types of JSON values that hold others."""
_SMALL_INT = 2**62
_MAX_INT_BITS = 10_000
"""About 3,000 decimal digits; Python reads at most 4,300."""


def dumps(state: dict[str, Any]) -> bytes:
    """Return a state as JSON.

    Raises:
        FlowFailed: a value cannot be stored, and the error names its path; or the state is over MAX_STATE_BYTES, and
            the error names its largest key.
    """
    if not isinstance(state, dict):
        raise FlowFailed(f"flow_state is a {type(state).__name__}, not a dict.", "Set its keys; do not replace it.")
    written = _to_bytes(_encode(state, ("flow_state",)))
    if len(written) > MAX_STATE_BYTES:
        sizes = {key: len(_to_bytes(_encode(value, (key,)))) for key, value in state.items()}
        largest = max(sizes, key=lambda key: sizes[key])
        raise FlowFailed(
            f"flow_state takes {len(written)} bytes, over the limit of {MAX_STATE_BYTES}; "
            f"its largest key is {largest!r} with {sizes[largest]} bytes.",
            "Store less, or write it to a file and store the path in flow_state.",
        )
    return written


def loads(written: bytes, models: Iterable[type[BaseModel]] = ()) -> dict[str, Any]:
    """Read a state that `dumps` wrote.

    Args:
        written: the JSON.
        models: the pydantic classes that stored models may be read back as.

    Raises:
        FlowFailed: the bytes are not a state, or a stored model no longer fits its class.
    """
    return read(parse(written), models)


def parse(written: bytes) -> Any:
    """Return the value of the JSON that `dumps` wrote, for `read`.

    Raises:
        FlowFailed: the bytes are not JSON.
    """
    try:
        return strict_json.loads(written)
    except ValueError as error:
        raise FlowFailed(f"The stored state is not JSON: {error}.", "Reset the instance.") from error


def read(plain: Any, models: Iterable[type[BaseModel]] = ()) -> dict[str, Any]:
    """Read a state that `dumps` wrote, and that was read as JSON.

    Args:
        plain: the value of the JSON.
        models: the pydantic classes that stored models may be read back as.

    Raises:
        FlowFailed: the value is not a state, or a stored model no longer fits its class.
    """
    try:
        state = _decode(plain, {_name(model): model for model in models})
    except ValidationError as error:
        reason = f"a stored {error.title} no longer fits its class"
        raise FlowFailed(f"The stored state cannot be read: {reason}.", "Reset the instance.") from error
    except (LookupError, TypeError, ValueError, AttributeError, UsageError) as error:
        reason = f"a stored value has a form that this version does not know ({error})"
        raise FlowFailed(f"The stored state cannot be read: {reason}.", "Reset the instance.") from error
    if not isinstance(state, dict):
        raise FlowFailed("The stored state is not a JSON object.", "Reset the instance.")
    return state


def _to_bytes(plain: Any) -> bytes:
    return strict_json.compact_finite(plain).encode()


def _encode(value: Any, path: tuple[str, ...]) -> Any:
    if len(path) > MAX_STATE_DEPTH:
        raise _refusal(path, f"is nested deeper than {MAX_STATE_DEPTH} levels, or contains itself")
    may_go_deeper = len(path) < MAX_STATE_DEPTH
    match value:
        case None | bool():
            return value
        case int() | float() | str():
            return _checked(value, path)
        case dict():
            items = {
                _key(key, path): inner if may_go_deeper and _is_plain(inner) else _encode(inner, (*path, str(key)))
                for key, inner in value.items()
            }
            return {TAG: "dict", "items": items} if TAG in items else items
        case list() | tuple():
            return [
                inner if may_go_deeper and _is_plain(inner) else _encode(inner, (*path, str(number)))
                for number, inner in enumerate(value)
            ]
        case _:
            return _tagged(value, path)


def _is_plain(value: Any) -> bool:
    """Whether a value is written as it is, without a further look: most values are."""
    kind = type(value)
    return (
        value is None
        or kind is bool
        or (kind is str and value.isascii())
        or (kind is int and -_SMALL_INT < value < _SMALL_INT)
    )


def _tagged(value: Any, path: tuple[str, ...]) -> dict[str, Any]:
    match value:
        case FlowMessage():
            return {TAG: "message", "fields": _encode(_fields(value, path), path)}
        case bytes() | bytearray():
            return {TAG: "bytes", "base64": base64.b64encode(value).decode()}
        case datetime():
            return {TAG: "datetime", "iso": value.isoformat()}
        case date():
            return {TAG: "date", "iso": value.isoformat()}
        case BaseModel():
            return {TAG: "model", "class": _name(type(value)), "data": _encode(_dump(value, path), path)}
        case _:
            raise _refusal(path, f"is of type {type(value).__name__}, which cannot be stored")


def _checked(value: float | str, path: tuple[str, ...]) -> float | str:
    """Return a number or text if JSON can hold it; json writes subclasses, such as enums, as the plain value."""
    if isinstance(value, float) and not math.isfinite(value):
        raise _refusal(path, f"is {value}, which JSON cannot hold")
    if isinstance(value, int) and value.bit_length() > _MAX_INT_BITS:
        raise _refusal(path, "is too large a number")
    if isinstance(value, str):
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _refusal(path, "holds a lone surrogate, which JSON cannot hold") from error
    return value


def _key(key: object, path: tuple[str, ...]) -> str:
    if type(key) is str and key.isascii():
        return key
    if not isinstance(key, str):
        raise _refusal(path, f"has the key {key!r} of type {type(key).__name__}; keys must be text")
    _checked(key, path)
    return key


def _fields(message: FlowMessage, path: tuple[str, ...]) -> dict[str, Any]:
    try:
        return message.to_dict()
    except (TypeError, ValueError, RecursionError) as error:
        raise _refusal(path, f"is a message that cannot be copied: {error}") from error


def _dump(model: BaseModel, path: tuple[str, ...]) -> Any:
    try:
        return model.model_dump(mode="json", by_alias=True, round_trip=True)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        raise _refusal(path, f"is of type {type(model).__name__}, and JSON cannot hold it: {error}") from error


def _decode(plain: Any, models: dict[str, type[BaseModel]]) -> Any:
    if isinstance(plain, list):
        return [_decode(inner, models) if type(inner) in _NESTED else inner for inner in plain]
    if not isinstance(plain, dict):
        return plain
    if TAG not in plain:
        return {key: _decode(inner, models) if type(inner) in _NESTED else inner for key, inner in plain.items()}
    return _DECODERS[plain[TAG]](plain, models)


def _decode_message(plain: dict[str, Any], models: dict[str, type[BaseModel]]) -> FlowMessage:
    return FlowMessage.from_dict(_decode(plain["fields"], models))


def _decode_dict(plain: dict[str, Any], models: dict[str, type[BaseModel]]) -> dict[str, Any]:
    return {key: _decode(inner, models) for key, inner in plain["items"].items()}


def _decode_model(plain: dict[str, Any], models: dict[str, type[BaseModel]]) -> Any:
    data, model = _decode(plain["data"], models), models.get(plain["class"])
    return data if model is None else model.model_validate(data)


_DECODERS: dict[str, Callable[[dict[str, Any], dict[str, type[BaseModel]]], Any]] = {
    "message": _decode_message,
    "dict": _decode_dict,
    "model": _decode_model,
    "bytes": lambda plain, _: base64.b64decode(plain["base64"], validate=True),
    "datetime": lambda plain, _: datetime.fromisoformat(plain["iso"]),
    "date": lambda plain, _: date.fromisoformat(plain["iso"]),
}


def _name(model: type[BaseModel]) -> str:
    return f"{public_name(model.__module__)}.{model.__qualname__}"


def _refusal(path: tuple[str, ...], what: str) -> FlowFailed:
    shown = ".".join(path[:_MAX_SHOWN_PATH]) + ("..." if len(path) > _MAX_SHOWN_PATH else "")
    return FlowFailed(f"{shown} {what}.", _HINT)
