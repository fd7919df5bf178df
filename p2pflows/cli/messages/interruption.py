"""What a command says when the wait for a message ends before the message does."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from p2pflows.cli.printing.output import Interrupted
from p2pflows.errors import DaemonNotRunning


@contextlib.contextmanager
def saying_how_to_go_on(message_id: Callable[[], str]) -> Iterator[None]:
    """Say in the error how to wait again for a message, if the user or the daemon ends the wait.

    Args:
        message_id: returns its id; empty if it was not accepted.
    """
    try:
        yield
    except (KeyboardInterrupt, DaemonNotRunning) as error:
        if not message_id():
            raise
        command = f"p2pflows wait {message_id()}"
        if isinstance(error, DaemonNotRunning):
            raise DaemonNotRunning(
                error.message, f"The message is kept. Start the daemon with: p2pflows up. Then wait again: {command}"
            ) from error
        raise Interrupted("You stopped waiting; the message continues.", f"Wait for it again with: {command}") from None
