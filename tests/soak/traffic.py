"""What the users of a soak do: each sends messages of all kinds, and answers as a human by a script."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
from collections.abc import Coroutine
from dataclasses import dataclass
from random import Random
from typing import Any

from simulation.history import Fact
from soak.history_log import HistoryLog
from soak.participant import Participant

from p2pflows import connect_async
from p2pflows.client.async_client import AsyncClient
from p2pflows.errors import DaemonNotRunning, P2pflowsError

KINDS = {
    "post": 40, "call": 20, "large": 1, "clerk": 6, "relay": 6, "human": 8, "note": 5, "withdrawn": 5, "denied": 5,
    "brief": 4,
}  # fmt: skip
"""Each kind of message, and how often it is sent."""
ENDPOINTS = {
    "post": "record",
    "call": "record",
    "large": "weigh",
    "clerk": "clerk",
    "relay": "relay",
    "human": "User",
    "note": "User",
    "denied": "private",
}
_TIMEOUT_S = 7_200.0
"""More than clocks jump, so that no such call expires."""
_MAX_BRIEF_TIMEOUT_S = 15.0
_LARGE_BYTES = 100_000
_RETRY_S = 0.2
_MAX_OPEN_CALLS = 300
"""A user who waits for so many answers sends nothing new."""


@dataclass(slots=True)
class Asked:
    """A message that a daemon has accepted.

    Attributes:
        id: its id.
        kind: one of `KINDS`.
        to: the name of its recipient.
        data: what was sent.
        withdrawn: whether its sender has asked to withdraw it.
        end: how it ended for its sender: `done`, or the kind of an error; None as long as it is not known.
        answer: the data of the answer.
    """

    id: str
    kind: str
    to: str
    data: dict[str, Any]
    withdrawn: bool = False
    end: str | None = None
    answer: dict[str, Any] | None = None

    @property
    def token(self) -> str:
        """What tells this message from all others."""
        return str(self.data["token"])

    @property
    def wants_answer(self) -> bool:
        """Whether it is a call."""
        return self.kind not in ("post", "note")


@dataclass(slots=True)
class Pace:
    """How much one user sends.

    Attributes:
        rate: messages a second.
        count: how many messages in all, at least; None if time alone decides.
    """

    rate: float
    count: int | None = None


class User:
    """A user who sends and answers.

    Args:
        me: the daemon.
        others: those to whom messages go.
        private_to: for each user the one who may call what is private there.
        pace: how much is sent.
        random: decides what is sent.
        log: gets a line for everything that is asked and answered.

    Attributes:
        asked: all messages that the daemon has accepted, by id.
        unsure: tokens of messages of which the daemon died before it answered.
        facts: what this client has observed, for the checker.
        problems: errors that a client should never get.
    """

    def __init__(
        self, me: Participant, others: list[Participant], private_to: dict[str, str], *, pace: Pace, random: Random,
        log: HistoryLog,
    ) -> None:  # fmt: skip
        self.me = me
        self.asked: dict[str, Asked] = {}
        self.unsure: set[str] = set()
        self.facts: list[Fact] = []
        self.sent = 0
        self.problems: list[str] = []
        self._others = others
        self._private_to = private_to
        self._pace = pace
        self._random = random
        self._log = log
        self._sending = True
        self._answering: set[str] = set()
        self._open_calls: set[str] = set()
        self._running: set[asyncio.Task[None]] = set()
        self._client: AsyncClient | None = None

    @property
    def name(self) -> str:
        """The petname."""
        return self.me.name

    @property
    def is_done(self) -> bool:
        """Whether as much is sent as was wanted."""
        return self._pace.count is None or self.sent >= self._pace.count

    def stop_sending(self) -> None:
        """Send nothing more; go on to answer and to wait."""
        self._sending = False

    async def run(self) -> None:
        """Send, answer and wait until cancelled; connect again whenever the daemon has died."""
        sending = asyncio.create_task(self._send_forever())
        try:
            while True:
                with contextlib.suppress(DaemonNotRunning):
                    async with connect_async(self.me.person.home) as client:
                        await self._use(client)
                self._client = None
                await asyncio.sleep(_RETRY_S)
        finally:
            for task in (sending, *self._running):
                task.cancel()
            await asyncio.gather(sending, *self._running, return_exceptions=True)

    async def _use(self, client: AsyncClient) -> None:
        """Use a connection until it is lost."""
        self._client = client
        self._answering.clear()
        for message_id in list(self._open_calls):
            self._spawn(self._wait(client, self.asked[message_id]))
        async for prompt in client.watch():
            if prompt["status"] == "open" and prompt["id"] not in self._answering:
                self._answering.add(prompt["id"])
                self._spawn(self._answer(client, prompt))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._running.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, DaemonNotRunning):
            self.problems.append(f"the client of {self.name}: {error!r}")

    # Sending.

    async def _send_forever(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            due += self._random.expovariate(self._pace.rate)
            await asyncio.sleep(max(0.0, due - loop.time()))
            while self._client is None or len(self._open_calls) >= _MAX_OPEN_CALLS:  # noqa: ASYNC110 - many conditions
                await asyncio.sleep(0.05)
            if self._sending and (self._pace.count is None or self.sent < self._pace.count):
                self.sent += 1
                self._begin(self._client)

    def _begin(self, client: AsyncClient) -> None:
        """Give a message to the daemon now, so that it has them in this order."""
        kind = self._random.choices(list(KINDS), list(KINDS.values()))[0]
        to = self._random.choice(self._others)
        if kind == "denied":
            to = self._random.choice(
                [each for each in self._others if self._private_to[each.name] != self.name] or [to]
            )
            if self._private_to[to.name] == self.name:
                kind = "call"
        endpoint = ENDPOINTS.get(kind) or self._random.choice(("record", "User", "clerk", "relay"))
        data: dict[str, Any] = {"token": f"{self.name}-{self.sent}"}
        if endpoint == "User":
            data["text"] = data["token"]
        if kind == "large":
            data["text"] = self._random.randbytes(_LARGE_BYTES // 2).hex()
        message = Asked("", kind, to.name, data)
        method = "submit" if message.wants_answer else "send"
        address = f"{to.name}/{endpoint}"
        timeout = _TIMEOUT_S if message.wants_answer else None
        if kind == "brief":
            timeout = self._random.uniform(0.5, _MAX_BRIEF_TIMEOUT_S)
        accepted = client.begin(method, address=address, data=data, timeout=timeout)
        self._spawn(self._accepted(client, message, endpoint, accepted))

    async def _accepted(
        self, client: AsyncClient, message: Asked, endpoint: str, accepted: asyncio.Future[dict[str, Any]]
    ) -> None:
        try:
            message.id = (await accepted)["id"]
        except DaemonNotRunning:
            self.unsure.add(message.token)
            self._log.write("unsure", self.name, token=message.token, kind=message.kind, to=message.to)
            return
        self.asked[message.id] = message
        self.facts.append(self._fact("confirmed", message.id))
        self._log.write(
            "asked", self.name, id=message.id, token=message.token, kind=message.kind, to=message.to, at=endpoint
        )
        if message.wants_answer:
            self._open_calls.add(message.id)
            self._spawn(self._wait(client, message))
        if message.kind == "withdrawn":
            await asyncio.sleep(self._random.random() ** 3)
            message.withdrawn = True
            with contextlib.suppress(P2pflowsError):  # it has ended, or the daemon has died
                await client.request("cancel", id=message.id)

    async def _wait(self, client: AsyncClient, message: Asked) -> None:
        """Wait for the end of a call, and note it."""
        try:
            result = await client.request("wait", id=message.id)
        except DaemonNotRunning:
            return  # asked again on the next connection
        except P2pflowsError as error:
            self._note_end(message, error.kind, None, str(error))
        else:
            self._note_end(message, "done", result["data"], "")
            self.facts.append(self._fact("reported", message.id, state="done", answer=result["data"]))

    def _note_end(self, message: Asked, end: str, answer: dict[str, Any] | None, why: str) -> None:
        self._open_calls.discard(message.id)
        message.end, message.answer = end, answer
        about = {"error": why} if why else {"sha256": hashlib.sha256(repr(answer).encode()).hexdigest()[:16]}
        self._log.write("ended", self.name, id=message.id, token=message.token, end=end, **about)

    # Answering.

    async def _answer(self, client: AsyncClient, prompt: dict[str, Any]) -> None:
        """Answer a prompt as the human; decline some, put notes away, and answer some twice."""
        prompt_id, token = prompt["id"], prompt["data"]["token"]
        choice = hash_share(token)
        await asyncio.sleep(choice * 1.5)
        text = f"yes, {token}"
        self._log.write("shown", self.name, id=prompt_id, token=token)
        try:
            if not prompt["wants_answer"]:
                await client.request("dismiss", ids=[prompt_id])
                return
            if choice < 0.1:
                await client.decline(prompt_id, "no time")
                return
            answers = [client.begin("answer", id=prompt_id, text=text) for _ in range(2 if choice > 0.9 else 1)]
            for answer in answers:
                counts = await _succeeds(answer)
                self.facts.append(self._fact("answered", prompt_id, text=text, counts=counts))
                self._log.write("answered", self.name, id=prompt_id, token=token, counts=counts)
        except DaemonNotRunning:
            self._answering.discard(prompt_id)
        except P2pflowsError as error:  # it was withdrawn meanwhile
            self._log.write("not answered", self.name, id=prompt_id, token=token, error=str(error))

    def _fact(self, kind: str, message_id: str, **about: Any) -> Fact:
        return Fact(0, self.me.person.user_id, kind, message_id, about)


async def _succeeds(request: asyncio.Future[Any]) -> bool:
    try:
        await request
    except DaemonNotRunning:
        raise
    except P2pflowsError:
        return False
    return True


def hash_share(token: str) -> float:
    """Return a number from 0 to 1 that depends on a token alone, so that a human who is asked again acts the same."""
    return int.from_bytes(hashlib.sha256(token.encode()).digest()[:4]) / 2**32
