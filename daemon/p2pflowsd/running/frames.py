"""What dispatch points and workers tell each other, on the daemon's side (docs/PROTOCOL.md, Dispatch); pure."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from p2pflows.errors import P2pflowsError, from_kind
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.channel import BadFrame

_MAX_CALL_INDEX = 2**31


@dataclass(frozen=True, slots=True)
class Frame:
    """What a worker tells (docs/PROTOCOL.md, Dispatch)."""

    worker: str
    boot: int
    n: int
    seen: int
    slots: int
    host: str
    pid: int
    bye: bool
    draining: bool
    held: dict[str, None]
    parked: set[str]
    results: list[tuple[str, Any, bytes]]
    asks: list[tuple[str, int, Any]]
    waits: list[tuple[str, int]]
    progress: list[tuple[str, dict[str, Any]]]

    @classmethod
    def read(cls, header: dict[str, Any], blobs: Sequence[bytes]) -> Self:
        """The frame in an opened header and its blobs; unknown fields are ignored.

        Raises:
            BadFrame: a field is missing, or of a wrong form.
        """
        try:
            frame = cls(
                worker=str(header["worker"]),
                boot=int(header["boot"]),
                n=int(header["n"]),
                seen=int(header["seen"]),
                slots=int(header["slots"]),
                host=str(header.get("host", "")),
                pid=int(header.get("pid", 0)),
                bye=bool(header["bye"]),
                draining=bool(header["draining"]),
                held=dict.fromkeys(str(task) for task in header["held"]),
                parked={str(task) for task in header.get("parked", ())},
                results=[
                    (str(result["task"]), result["error"], blob)
                    for result, blob in zip(header["results"], blobs, strict=True)
                ],
                asks=[(str(ask["task"]), _record_number(ask["k"]), ask) for ask in header.get("asks", ())],
                waits=[(str(task), _record_number(k)) for task, k in header.get("waits", ())],
                progress=[(str(word["task"]), _object(word["data"])) for word in header.get("progress", ())],
            )
        except (KeyError, TypeError, ValueError, OverflowError) as wrong:
            raise BadFrame("a frame without its fields") from wrong
        if not topics.is_name(frame.worker) or frame.slots < 1:
            raise BadFrame("a frame of nobody")
        return frame


def outcome_of(error: dict[str, Any] | None, blob: bytes) -> dict[str, Any] | P2pflowsError:
    """What a task ended in: the data of its result, or an error; also of a worker that sends neither."""
    if isinstance(error, dict):
        # What a flow raised may hold half a character, as file names do, which no message can carry.
        kind, message, hint = (
            str(error.get(key, "")).encode(errors="replace").decode() for key in ("kind", "message", "hint")
        )
        return from_kind(kind or "flow_failed", message, hint)
    try:
        data = strict_json.loads(blob)
    except ValueError:
        data = None
    return (
        data if isinstance(data, dict) else from_kind("flow_failed", "The worker sent a result that is no JSON object.")
    )


def size_of(task: dict[str, Any], data: bytes) -> int:
    """About how many bytes a task takes in a frame; measured only where it may be many."""
    if not task["records"] and not task["target"].get("config"):
        return len(data)
    return len(data) + len(json.dumps(task, ensure_ascii=False).encode(errors="replace"))


def fitting(answers: list[dict[str, Any]], room: int, least: int) -> int:
    """How many answers fit into a frame; at least so many, so that it gets on."""
    count = size = 0
    while count < len(answers):
        size += len(json.dumps(answers[count], ensure_ascii=False).encode(errors="replace"))
        if count >= least and size > room:
            break
        count += 1
    return count


def _object(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise TypeError("no object")
    return value


def _record_number(value: Any) -> int:
    """The number of a call or step in its run; of one that is withdrawn, it is negative."""
    k = int(value)
    if abs(k) > _MAX_CALL_INDEX:
        raise ValueError("no number of a record")
    return k
