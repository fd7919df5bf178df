"""p2pflows: serve flows to your neighbours and invoke theirs, their humans included, by user id.

    from p2pflows import connect, flow

    @flow
    def shout(text: str) -> str:
        return text.upper()

    with connect() as me:
        print(me.call("bob/User", {"api_output": "Neighbor, are you there?"}))

Nothing is imported before it is asked for, so that commands start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2pflows.client import AsyncClient, Client, connect, connect_async
    from p2pflows.errors import (
        BadInput,
        CallError,
        Cancelled,
        DaemonNotRunning,
        DeadlinePassed,
        Declined,
        FlowFailed,
        JournalFailed,
        NotAllowed,
        NotServed,
        NoWorker,
        P2pflowsError,
        TooLarge,
        UnknownUser,
        Unreachable,
        UsageError,
        WorkerLost,
    )
    from p2pflows.function import flow

__version__ = "0.1.0"

__all__ = [
    "AsyncClient",
    "BadInput",
    "CallError",
    "Cancelled",
    "Client",
    "DaemonNotRunning",
    "DeadlinePassed",
    "Declined",
    "FlowFailed",
    "JournalFailed",
    "NoWorker",
    "NotAllowed",
    "NotServed",
    "P2pflowsError",
    "TooLarge",
    "UnknownUser",
    "Unreachable",
    "UsageError",
    "WorkerLost",
    "connect",
    "connect_async",
    "flow",
]

_ELSEWHERE = {
    "AsyncClient": "p2pflows.client",
    "Client": "p2pflows.client",
    "connect": "p2pflows.client",
    "connect_async": "p2pflows.client",
    "flow": "p2pflows.function",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_ELSEWHERE.get(name, "p2pflows.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
