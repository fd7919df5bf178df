"""Asks a flow what a client asks a model, and yields the answer whole or as it grows."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Iterator
from typing import Any

from p2pflows.client.async_client import AsyncClient
from p2pflows.errors import FlowFailed, P2pflowsError
from p2pflows.openai_server.chat_request import ChatRequest, Turn
from p2pflows.openai_server.conversations import Conversations
from p2pflows.openai_server.documents import Answer
from p2pflows.openai_server.offered import Offer
from p2pflows.protocol.progress import Piece


class Question:
    """One question to one flow.

    Args:
        me: the client of the daemon.
        request: what the client wants.
        offer: the flow.
        conversations: those that can go on; this one is put back into them with what was said, or as it was when the
            flow has failed and so forgotten the question.
        timeout: seconds until the deadline.

    Attributes:
        answer: what the flow has answered, once it has.
    """

    def __init__(
        self, me: AsyncClient, request: ChatRequest, offer: Offer, conversations: Conversations, timeout: float
    ) -> None:
        self.answer: Answer | None = None
        self._me = me
        self._request = request
        self._offer = offer
        self._conversations = conversations
        self._conversation = conversations.take(offer.address, request.before) if offer.remembers else None
        goes_on = self._conversation is not None
        self._call: dict[str, Any] = {
            "address": offer.address,
            "data": request.continuation() if goes_on else request.beginning(),
            "timeout": timeout,
            "conversation": self._conversation,
        }

    async def whole(self) -> Answer:
        """Return the answer; the call is withdrawn if the task is cancelled.

        Raises:
            P2pflowsError: there is none.
        """
        sent = self._me.begin("submit", **self._call)
        with self._keeping_conversation():
            try:
                message_id = (await asyncio.shield(sent))["id"]
                data = (await self._me.request("wait", id=message_id))["data"]
            except asyncio.CancelledError:
                with contextlib.suppress(P2pflowsError):
                    await self._me.request("cancel", id=(await sent)["id"])
                raise
        return self._on_answer(data, message_id)

    async def pieces(self) -> AsyncGenerator[str, None]:
        """Yield the text of the answer as it grows; the call is withdrawn if the task is cancelled.

        The client cannot be told to forget what it has. So when the answer begins again, or a piece was lost, the rest
        comes at the end, if what was sent is the beginning of the answer.

        Raises:
            P2pflowsError: there is no answer, or another one than what was sent.
        """
        sent = ""
        is_broken = False
        with self._keeping_conversation():
            async with self._me.stream(**self._call) as call:
                async for piece in call:
                    is_broken |= piece.restarts or (piece.skips and not piece.choice)
                    if _is_next(piece) and not is_broken:
                        sent += piece.text
                        yield piece.text
                data = await call.answer()
        answer = self._on_answer(data, call.id)
        if not answer.text.startswith(sent):
            raise FlowFailed(
                "The answer began again after a part of it was sent, and became another one.", "Ask again."
            )
        if rest := answer.text[len(sent) :]:
            yield rest

    @contextlib.contextmanager
    def _keeping_conversation(self) -> Iterator[None]:
        """Keep the conversation as it was if the flow fails: then its state is as it was, too."""
        try:
            yield
        except P2pflowsError:
            if self._conversation is not None:
                self._conversations.put(self._offer.address, self._request.before, self._conversation)
            raise

    def _on_answer(self, data: dict[str, Any], message_id: str) -> Answer:
        answer = self.answer = Answer.of(data)
        if self._offer.remembers:
            said = [*self._request.before, self._request.question, Turn("assistant", answer.text)]
            # A conversation that begins has the id of its first message.
            self._conversations.put(self._offer.address, said, self._conversation or message_id)
        return answer


def _is_next(piece: Piece) -> bool:
    return bool(piece.text) and not piece.choice
