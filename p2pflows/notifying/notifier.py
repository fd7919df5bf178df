"""Follows the daemon, and passes on what the user wants to hear of."""

from __future__ import annotations

import asyncio
import contextlib
import heapq
import logging
import time
from datetime import datetime
from typing import Any, NamedTuple

import p2pflows
from p2pflows.client.async_client import AsyncClient
from p2pflows.errors import P2pflowsError
from p2pflows.home import Home
from p2pflows.notifying.channels import Channel, ChannelFailed, Command, Service
from p2pflows.notifying.news import News, fits, is_wanted, link_to, of_line, of_prompt, of_request, say
from p2pflows.notifying.queue import Queue
from p2pflows.notifying.state import State
from p2pflows.settings.notify import Hook, NotifySettings

RECONNECT_S = 2.0
LOOK_FOR_STRANGERS_S = 10.0
TICK_S = 0.5
MAX_REMINDERS = 10_000
_OPEN = "open"


class _Way(NamedTuple):
    channel: Channel
    queue: Queue


class Notifier:
    """Tells one user.

    Args:
        home: whose daemon it follows.
        settings: what is said, and where.
        hooks: commands to run.
        state: what an earlier process has left; it is kept up to date.
        page: how the user reaches their page; may be empty.
    """

    def __init__(
        self, home: Home, settings: NotifySettings, hooks: list[Hook], state: State, *, page: str = ""
    ) -> None:
        self._page = page
        self._home = home
        self._settings = settings
        self._services = [_Way(Service(url), Queue()) for url in settings.urls]
        self._commands = [_Way(Command(hook), Queue()) for hook in hooks]
        self._state = state
        self._told_before = state.told_until
        """Prompts that came until then were told by an earlier process."""
        self._open: dict[str, dict[str, Any]] = {}
        self._reminders: list[tuple[float, str]] = []
        self._strangers: set[str] | None = None
        self._log = logging.getLogger("p2pflows.notifying")

    async def run(self) -> None:
        """Follow the daemon, again and again, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._send_all())
            while True:
                with contextlib.suppress(P2pflowsError):
                    await self._follow()
                await asyncio.sleep(RECONNECT_S)

    async def _follow(self) -> None:
        async with p2pflows.connect_async(self._home.path) as client:
            for item in (await client.begin("news"))["news_items"]:
                self._take(item)
            looking = asyncio.create_task(self._look_for_strangers(client))
            try:
                async for item in client.news():
                    self._take(item)
            finally:
                looking.cancel()

    async def _look_for_strangers(self, client: AsyncClient) -> None:
        while True:
            found = {each["user"]: each for each in (await client.begin("requests"))["requests"]}
            if self._strangers is not None:
                for user in found.keys() - self._strangers:
                    self._add(of_request(found[user]))
            self._strangers = set(found)
            await asyncio.sleep(LOOK_FOR_STRANGERS_S)

    def _take(self, item: dict[str, Any]) -> None:
        """Take in what the daemon says."""
        if "line" in item:
            if (news := of_line(item["line"])) is not None:
                self._add(news)
            return
        prompt = item["prompt"]
        known = self._open.get(prompt["id"])
        if prompt["status"] == _OPEN:
            self._open[prompt["id"]] = prompt
            if known is None:
                if prompt["received"] > self._told_before:
                    self._add(of_prompt(prompt))
                self._remind(prompt)
                self._state.note_told(prompt["received"])
            return
        self._open.pop(prompt["id"], None)
        for way in (*self._services, *self._commands):
            way.queue.forget(prompt["id"], prompt["from"])
        if known is not None and prompt["status"] == "expired" and prompt["wants_answer"]:
            self._add(of_prompt(prompt, "missed"))

    def _remind(self, prompt: dict[str, Any]) -> None:
        """Name a question again some time before it expires, if there is as much time now."""
        if not prompt["wants_answer"] or len(self._reminders) >= MAX_REMINDERS:
            return
        at = datetime.fromisoformat(prompt["expires"]).timestamp() - self._settings.remind_before
        if at > time.time() + self._settings.remind_before:
            heapq.heappush(self._reminders, (at, prompt["id"]))

    def _add(self, news: News) -> None:
        now = time.monotonic()
        if is_wanted(self._settings, news):
            for way in self._services:
                way.queue.add(news, now)
        for way in self._commands:
            if isinstance(way.channel, Command) and fits(way.channel.hook, news):
                way.queue.add(news, now)

    async def _send_all(self) -> None:
        under_way: dict[int, asyncio.Task[None]] = {}
        while True:
            while self._reminders and self._reminders[0][0] <= time.time():
                _, prompt_id = heapq.heappop(self._reminders)
                if prompt_id in self._open:
                    self._add(of_prompt(self._open[prompt_id], "expiring"))
            is_quiet = self._settings.is_quiet(datetime.now().astimezone().time())
            for number, way in enumerate((*self._services, *self._commands)):
                hushed = is_quiet and isinstance(way.channel, Service)
                is_busy = number in under_way and not under_way[number].done()
                news = [] if is_busy else way.queue.take(time.monotonic(), is_quiet=hushed)
                if news:
                    under_way[number] = asyncio.create_task(self._send(way, news))
            self._state.save()
            await asyncio.sleep(TICK_S)

    async def _send(self, way: _Way, news: list[News]) -> None:
        try:
            link = self._settings.link or link_to(news, self._page)
            await way.channel.send(say(news, self._settings.show, link), news)
        except ChannelFailed as error:
            if not way.queue.problem:
                self._log.warning("%s does not take what it is told: %s", way.channel.name, error)
            way.queue.failed(str(error), time.monotonic())
        else:
            way.queue.sent(news, time.monotonic())
        problems = {each.channel.name: each.queue.problem for each in (*self._services, *self._commands)}
        self._state.note_failing({name: problem for name, problem in problems.items() if problem})
