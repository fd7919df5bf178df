"""p2pflows: call what other users serve, flows and the users in person, by user id; and serve flows to them.

    from p2pflows import connect, flow

    @flow
    def shout(text: str) -> str:
        return text.upper()

    with connect() as me:
        print(me.call("bob/User", {"api_output": "Neighbor, are you there?"}))

Each name is imported when it is first used, so that commands start fast.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from p2pflows.client import Client, connect
    from p2pflows.client.async_client import AsyncClient, connect_async
    from p2pflows.errors import (
        BadAnswer,
        BadInput,
        Busy,
        CallError,
        Cancelled,
        DaemonNotRunning,
        DeadlinePassed,
        Declined,
        Delegated,
        FileLost,
        FlowFailed,
        JournalFailed,
        NotAllowed,
        NotServed,
        NoWorker,
        OverQuota,
        P2pflowsError,
        TooLarge,
        Undecided,
        UnknownUser,
        Unreachable,
        UsageError,
        WorkerLost,
    )
    from p2pflows.flows.flow import AtomicFlow, CompositeFlow, Flow
    from p2pflows.flows.function import flow
    from p2pflows.flows.future import FlowFuture
    from p2pflows.flows.interfaces import KeyInterface
    from p2pflows.flows.message import FlowMessage
    from p2pflows.flows.proxy import FlowProxy
    from p2pflows.forms.python import Answer
    from p2pflows.local import start_local
    from p2pflows.models.api_info import ApiInfo
    from p2pflows.models.flow import ChatAtomicFlow, ChatFlow
    from p2pflows.sent_files import File
    from p2pflows.worker.thread import run_dispatch_worker_thread, run_dispatch_worker_threads

__version__ = "0.1.0"

__all__ = [
    "Answer",
    "ApiInfo",
    "AsyncClient",
    "AtomicFlow",
    "BadAnswer",
    "BadInput",
    "Busy",
    "CallError",
    "Cancelled",
    "ChatAtomicFlow",
    "ChatFlow",
    "Client",
    "CompositeFlow",
    "DaemonNotRunning",
    "DeadlinePassed",
    "Declined",
    "Delegated",
    "File",
    "FileLost",
    "Flow",
    "FlowFailed",
    "FlowFuture",
    "FlowMessage",
    "FlowProxy",
    "JournalFailed",
    "KeyInterface",
    "NoWorker",
    "NotAllowed",
    "NotServed",
    "OverQuota",
    "P2pflowsError",
    "TooLarge",
    "Undecided",
    "UnknownUser",
    "Unreachable",
    "UsageError",
    "WorkerLost",
    "connect",
    "connect_async",
    "flow",
    "run_dispatch_worker_thread",
    "run_dispatch_worker_threads",
    "start_local",
]

_MODULES = {
    "Answer": "p2pflows.forms.python",
    "ApiInfo": "p2pflows.models.api_info",
    "AsyncClient": "p2pflows.client.async_client",
    "AtomicFlow": "p2pflows.flows.flow",
    "ChatAtomicFlow": "p2pflows.models.flow",
    "ChatFlow": "p2pflows.models.flow",
    "Client": "p2pflows.client",
    "CompositeFlow": "p2pflows.flows.flow",
    "File": "p2pflows.sent_files",
    "Flow": "p2pflows.flows.flow",
    "FlowFuture": "p2pflows.flows.future",
    "FlowMessage": "p2pflows.flows.message",
    "FlowProxy": "p2pflows.flows.proxy",
    "KeyInterface": "p2pflows.flows.interfaces",
    "connect": "p2pflows.client",
    "connect_async": "p2pflows.client.async_client",
    "flow": "p2pflows.flows.function",
    "run_dispatch_worker_thread": "p2pflows.worker.thread",
    "run_dispatch_worker_threads": "p2pflows.worker.thread",
    "start_local": "p2pflows.local",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULES.get(name, "p2pflows.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
