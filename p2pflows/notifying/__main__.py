"""`python -m p2pflows.notifying`: tells the user of a home what waits for them, until stdin ends."""

from __future__ import annotations

import asyncio
import sys

from p2pflows import config, logs, strict_modes
from p2pflows.errors import P2pflowsError
from p2pflows.home import home
from p2pflows.notifying import hooks
from p2pflows.notifying.notifier import Notifier
from p2pflows.notifying.state import State

UNUSABLE_SETTINGS = 2


def main() -> int:
    """Run until the daemon that has started this process closes its stdin; return the exit code."""
    where = home()
    logs.to_stderr("info")
    state = State(where)
    try:
        strict_modes.check_home(where)
        settings = config.load(where)
        page = "" if settings.web is None else settings.web.address
        notifier = Notifier(where, settings.notify, hooks.read(where), state, page=page)
    except P2pflowsError as error:
        state.note_failing({"notify": f"{error.message} {error.hint}"})
        state.save()
        sys.stderr.write(f"Error [{error.kind}]: {error.message}\n  {error.hint}\n")
        return UNUSABLE_SETTINGS
    asyncio.run(_run(notifier))
    return 0


async def _run(notifier: Notifier) -> None:
    telling = asyncio.create_task(notifier.run())
    parent = asyncio.create_task(asyncio.to_thread(sys.stdin.read))
    await asyncio.wait({telling, parent}, return_when=asyncio.FIRST_COMPLETED)
    telling.cancel()


if __name__ == "__main__":
    sys.exit(main())
