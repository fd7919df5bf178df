"""Where news go: services that apprise knows, and commands."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Sequence
from typing import Protocol

from p2pflows.errors import UsageError
from p2pflows.notifying.news import News, Said
from p2pflows.settings.notify import Hook

TIMEOUT_S = 30.0
MAX_OUTPUT_CHARS = 300


class ChannelFailed(Exception):
    """A service or command did not take the news; the text says why."""


class Channel(Protocol):
    """One way to the user."""

    name: str

    async def send(self, said: Said, news: Sequence[News]) -> None:
        """Pass news on.

        Raises:
            ChannelFailed: they were not taken.
        """


class Service:
    """A service that apprise knows.

    Raises:
        UsageError: apprise is not installed, or does not know the address.
    """

    def __init__(self, url: str) -> None:
        try:
            import apprise
        except ImportError:
            raise UsageError("notify.urls needs apprise.", "Run: pip install 'p2pflows[notify]'") from None
        self.name = url.partition(":")[0]
        """The kind of service; the rest of the address may be secret."""
        self._service = apprise.Apprise()
        if not self._service.add(url):
            raise UsageError(
                f"The address {self.name}://... in notify.urls is none that apprise knows.",
                "See https://github.com/caronc/apprise/wiki",
            )

    async def send(self, said: Said, news: Sequence[News]) -> None:
        """Pass news on.

        Raises:
            ChannelFailed: the service cannot be reached, or refuses them.
        """
        del news
        try:
            async with asyncio.timeout(TIMEOUT_S):
                taken = await asyncio.to_thread(self._service.notify, body=said.body or said.title, title=said.title)
        except TimeoutError:
            raise ChannelFailed(f"no answer within {TIMEOUT_S:.0f} s") from None
        if not taken:
            raise ChannelFailed("the service cannot be reached, or refuses it")


class Command:
    """A hook: a command that is run for each of the news that it is for."""

    def __init__(self, hook: Hook) -> None:
        self.hook = hook
        self.name = hook.run[0]

    async def send(self, said: Said, news: Sequence[News]) -> None:
        """Run the command for each, with the news as JSON on its stdin and in its environment.

        Raises:
            ChannelFailed: it cannot be run, fails, or takes too long.
        """
        del said
        for each in news:
            await self._run(each)

    async def _run(self, news: News) -> None:
        fields = news.as_json()
        variables = {f"P2PFLOWS_{name.upper()}": str(value or "").replace("\0", "") for name, value in fields.items()}
        try:
            process = await asyncio.create_subprocess_exec(
                *self.hook.run,
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, **variables},
            )
        except OSError as error:
            raise ChannelFailed(f"it cannot be run: {error.strerror}") from error
        try:
            async with asyncio.timeout(TIMEOUT_S):
                _, err = await process.communicate(json.dumps(fields).encode() + b"\n")
        except TimeoutError:
            process.kill()
            await process.wait()
            raise ChannelFailed(f"it did not end within {TIMEOUT_S:.0f} s") from None
        if process.returncode:
            said = " ".join(err.decode(errors="replace").split())[-MAX_OUTPUT_CHARS:]
            raise ChannelFailed(f"it ended with {process.returncode}" + (f": {said}" if said else ""))
