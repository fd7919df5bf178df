"""`python -m p2pflows.web`: the page of a home, for a daemon whose `config.yaml` has `web`; ends when stdin does."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading

from p2pflows import config, strict_modes
from p2pflows.errors import P2pflowsError
from p2pflows.home import home
from p2pflows.settings.web import WebSettings
from p2pflows.web.page_state import PageState
from p2pflows.web.place import Place
from p2pflows.web.server import serve

UNUSABLE_SETTINGS = 2


def main() -> int:
    """Serve the page until the daemon that has started this process closes its stdin; return the exit code."""
    where = home()
    try:
        strict_modes.check_home(where)
        place = Place.of(config.load(where).web or WebSettings())
        asyncio.run(serve(place, where, _say_start, _end_of_stdin))
    except P2pflowsError as error:
        sys.stderr.write(f"Error [{error.kind}]: {error.message}\n  {error.hint}\n")
        _report(PageState(problem=error.message, next=error.hint))
        return UNUSABLE_SETTINGS
    return 0


async def _end_of_stdin() -> None:
    """Wait until stdin ends; the thread that reads it does not hold up the end of this process."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()

    def read() -> None:
        while os.read(sys.stdin.fileno(), 4096):
            pass
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=read, daemon=True).start()
    await ended.wait()


def _say_start(url: str) -> None:
    sys.stderr.write(f"Your page is at {url}. Log in with: p2pflows web --link\n")
    sys.stderr.flush()
    _report(PageState(url=url))


def _report(state: PageState) -> None:
    """Tell the daemon; if it is gone, this process ends anyway."""
    with contextlib.suppress(BrokenPipeError):
        sys.stdout.write(state.line())
        sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
