"""Clients of the control API that wait for the end of a message, or listen to its progress."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from p2pflows.errors import CallError
from p2pflows.protocol import strict_json
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import OutgoingRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState

OnSettled = Callable[[OutgoingState, bytes | None], None]
"""Takes how a message ended, and the answer as JSON if it has one."""
OnProgress = Callable[[dict[str, Any]], None]
_LOST = strict_json.dumps(
    CallError(
        "The journal was replaced by an older copy, which does not have this message.",
        "See what is lost: p2pflows log",
    ).as_wire()
)


class Waiters:
    """The clients that wait for messages of ours, and what to call when one ends or progresses."""

    def __init__(self, journal: Journal, callbacks: Callbacks) -> None:
        self._journal = journal
        self._callbacks = callbacks
        self._waiting: dict[str, list[OnSettled]] = {}
        self._listening: dict[str, OnProgress] = {}

    def expect(self, message_id: str, on_settled: OnSettled, on_progress: OnProgress | None = None) -> None:
        """Call back when a message that was accepted just now ends, and at each progress before."""
        self._waiting[message_id] = [on_settled]
        if on_progress is not None:
            self._listening[message_id] = on_progress

    def wait(self, row: OutgoingRow, on_settled: OnSettled) -> None:
        """Call back when a message ends; after this batch if it has ended already."""
        state = OutgoingState(row.state)
        if state in OPEN_OUTGOING:
            self._waiting.setdefault(row.id, []).append(on_settled)
        else:
            self._callbacks.after_commit(lambda: on_settled(state, row.answer))

    def stop(self, message_id: str, on_settled: OnSettled) -> None:
        """Forget a client that has left."""
        waiting = self._waiting.get(message_id, [])
        if on_settled in waiting:
            waiting.remove(on_settled)
        if not waiting:
            self._waiting.pop(message_id, None)
            self._listening.pop(message_id, None)

    def are_there_for(self, message_id: str) -> bool:
        """Return whether a client waits for the end of a message."""
        return message_id in self._waiting

    def message_ids(self) -> list[str]:
        """The messages that clients wait for."""
        return list(self._waiting)

    def take_over(self, other: Waiters) -> None:
        """Go on for the clients of a node that failed.

        A client whose message the journal does not have, because an older copy is in its place, gets an error.
        """
        for message_id, waiting in other._waiting.items():
            row = self._journal.outgoing.find(message_id)
            for on_settled in waiting:
                if row is not None:
                    self.wait(row, on_settled)
                else:
                    self._callbacks.after_commit(partial(on_settled, OutgoingState.FAILED, _LOST))
        self._listening |= {name: heard for name, heard in other._listening.items() if name in self._waiting}

    def on_settled(self, message_id: str, state: OutgoingState, answer: bytes | None) -> None:
        """Pass the end of a message on to its clients."""
        # A peer sends its answer again if a crash forgets it; an end of our own making must be committed first.
        comes_again = state in (OutgoingState.DONE, OutgoingState.FAILED)
        call_back = self._callbacks.before_commit if comes_again else self._callbacks.after_commit
        self._listening.pop(message_id, None)
        for on_settled in self._waiting.pop(message_id, ()):
            call_back(lambda on_settled=on_settled: on_settled(state, answer))  # type: ignore[misc]

    def on_progress(self, message_id: str, data: dict[str, Any]) -> None:
        """Pass the progress of a call on to the client that listens."""
        on_progress = self._listening.get(message_id)
        if on_progress is not None:
            self._callbacks.before_commit(lambda: on_progress(data))
