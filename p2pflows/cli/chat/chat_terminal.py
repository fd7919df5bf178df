"""Where a chat is typed and shown: a terminal, with a line that is edited while others arrive above it, or pipes.

`prompt_toolkit` edits the line: it knows wide characters, bracketed paste and narrow windows, and redraws the line
below what is printed meanwhile. Only a chat on a terminal imports it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from p2pflows.cli.chat.dialogue import Dialogue
from p2pflows.cli.input.arguments import decode
from p2pflows.cli.printing.speech import aside

if TYPE_CHECKING:
    from prompt_toolkit.key_binding import KeyBindings, KeyPressEvent

PAUSE_S = 0.7
"""How long nobody must type, after a text was discarded, until keys count again: fingers do not stop at once."""
MAX_WAITING_LINES = 1_000
"""How many lines from a pipe may wait to be sent; until there are fewer, no more are read."""

OnEnter = Callable[[str | None], None]
"""Takes a text as soon as it is entered; None at the end of the input."""


class Pipes:
    """Reads each line of stdin as one text, and prints to stdout."""

    def __init__(self, on_enter: OnEnter) -> None:
        self._on_enter = on_enter
        self._loop = asyncio.get_running_loop()
        self._ended = asyncio.Event()
        self._room = threading.Semaphore(MAX_WAITING_LINES)
        # At once: what is in the pipe already answers no question that is shown later.
        threading.Thread(target=self._read, name="input", daemon=True).start()

    def show(self, text: str) -> None:
        """Print some lines."""
        click.echo(text)

    def discard(self) -> None:
        """Do nothing: a line from a pipe is entered as soon as it comes."""

    def pause(self) -> None:
        """Do nothing: no fingers are on their way."""

    def put_back(self, text: str) -> None:
        """Do nothing: a line from a pipe cannot be typed on."""

    async def run(self) -> None:
        """Take lines until the end of the input."""
        await self._ended.wait()

    def close(self) -> None:
        """End `run`."""
        self._ended.set()

    def done(self) -> None:
        """A line has been handled, so another one may be read."""
        self._room.release()

    def _read(self) -> None:
        # Not the buffered stream: a thread blocked in a read holds its lock, which the process needs to end.
        stream = None if sys.stdin is None else getattr(sys.stdin.buffer, "raw", sys.stdin.buffer)
        while True:
            self._room.acquire()
            line = b"" if stream is None else stream.readline()
            if self._loop.is_closed():
                return
            self._loop.call_soon_threadsafe(self._take, line)
            if not line:
                return

    def _take(self, line: bytes) -> None:
        if not line:
            self._on_enter(None)
            return
        try:
            text = decode(line).rstrip("\r\n")
        except Exception as error:  # noqa: BLE001 - shown, and the line is left out
            click.echo(f"A line was left out: {error}", err=True)
            self.done()
            return
        self._on_enter(text)


class Terminal:
    """A line that is edited at the bottom of the terminal, and everything else above it."""

    def __init__(self, dialogue: Dialogue, on_enter: OnEnter, label: Callable[[], str]) -> None:
        from prompt_toolkit import PromptSession
        from prompt_toolkit.history import InMemoryHistory

        self._dialogue = dialogue
        self._on_enter = on_enter
        self._paused_until = 0.0
        self._says_ignored = False
        self._session: PromptSession[str] = PromptSession(
            message=label,
            key_bindings=self._keys(),
            history=InMemoryHistory(),
            erase_when_done=True,
        )
        self._session.default_buffer.on_text_changed += lambda buffer: self._dialogue.typed(buffer.text)

    def show(self, text: str) -> None:
        """Show some lines above the one that is edited."""
        app = self._session.app
        if app.is_running:
            # Not `print_formatted_text`: it hands the keyboard back to the terminal meanwhile, which loses keys.
            app.renderer.erase()
        app.output.write_raw(text.replace("\n", "\r\n") + "\r\n")
        app.output.flush()
        app.invalidate()

    def discard(self) -> None:
        """Remove the text that is being typed, and take no keys until there is a pause."""
        self._session.default_buffer.reset()
        self.pause()

    def pause(self) -> None:
        """Take no keys until there is a pause, as they were meant for what was shown before."""
        self._paused_until = time.monotonic() + PAUSE_S
        self._says_ignored = True

    def put_back(self, text: str) -> None:
        """Put a text back that was not sent, unless another one is being typed."""
        from prompt_toolkit.document import Document

        if not self._session.default_buffer.text:
            self._session.default_buffer.document = Document(text)

    async def run(self) -> None:
        """Take input until Ctrl-D, or `close`.

        Raises:
            KeyboardInterrupt: the user pressed Ctrl-C.
        """
        try:
            await self._session.prompt_async()
        except EOFError:
            self._on_enter(None)

    def close(self) -> None:
        """End `run`."""
        if self._session.app.is_running:
            self._session.app.exit(result="")

    def done(self) -> None:
        """Do nothing: nothing is read ahead of what is typed."""

    def _keys(self) -> KeyBindings:
        from prompt_toolkit.filters import Condition
        from prompt_toolkit.key_binding import KeyBindings
        from prompt_toolkit.keys import Keys

        keys = KeyBindings()
        is_paused = Condition(lambda: time.monotonic() < self._paused_until)

        @keys.add("enter")
        def enter(event: KeyPressEvent) -> None:
            text = event.current_buffer.text
            if text.strip():
                event.current_buffer.append_to_history()
                self._on_enter(text)
            event.current_buffer.reset()

        @keys.add(Keys.Any, filter=is_paused, eager=True)
        @keys.add(Keys.BracketedPaste, filter=is_paused, eager=True)
        def wait_on(_event: KeyPressEvent) -> None:
            self._paused_until = time.monotonic() + PAUSE_S
            if self._says_ignored:
                self._says_ignored = False
                self.show(aside("Keys are ignored until you pause, as they were meant for what was shown before."))

        @keys.add("enter", filter=is_paused, eager=True)
        def end_pause(_event: KeyPressEvent) -> None:
            self._paused_until = 0.0

        @keys.add("c-c", filter=is_paused, eager=True)
        def interrupt(event: KeyPressEvent) -> None:
            event.app.exit(exception=KeyboardInterrupt)

        @keys.add("c-d", filter=is_paused, eager=True)
        def end(event: KeyPressEvent) -> None:
            event.app.exit(exception=EOFError)

        return keys


def new_front(
    dialogue: Dialogue, on_enter: OnEnter, label: Callable[[], str], *, on_terminal: bool
) -> Pipes | Terminal:
    """Return a terminal if a person sits there, else pipes."""
    return Terminal(dialogue, on_enter, label) if on_terminal else Pipes(on_enter)
