"""Steps that run inside the node's next batch, for those who wait for their results."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from p2pflows.errors import P2pflowsError

T = TypeVar("T")
OnOutcome = Callable[[Any], None]
"""Takes the result of a step or a method, or its P2pflowsError."""


class Submit(Protocol):
    """Runs a step inside the node's next batch."""

    def __call__(self, step: Callable[[], Any], on_outcome: OnOutcome, *, reads_only: bool = False) -> None:
        """Call back with the result or P2pflowsError of the step, after the commit."""


async def run_step(submit: Submit, step: Callable[[], T], *, reads_only: bool = False) -> T:
    """Run a step inside the node's next batch, and return its result after the commit.

    Raises:
        P2pflowsError: the step raised it, or the disk failed.
    """
    outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()
    submit(step, settle(outcome), reads_only=reads_only)
    return await outcome


def settle(future: asyncio.Future[Any]) -> OnOutcome:
    """Return a callback that completes a future with the result or P2pflowsError that it is called with."""

    def complete(outcome: Any) -> None:
        if future.done():
            return
        if isinstance(outcome, P2pflowsError):
            future.set_exception(outcome)
        else:
            future.set_result(outcome)

    return complete
