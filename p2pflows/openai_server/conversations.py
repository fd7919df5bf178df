"""Which conversation of a flow goes on, found by what was said in it.

The protocol of OpenAI keeps no conversation: each request says all that was said before. A chat flow keeps it, and
takes only what is new. So a request whose history this server has seen goes on in the conversation where it was said.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Sequence

from p2pflows.openai_server.chat_request import Turn

MAX_CONVERSATIONS = 500
"""How many are remembered: fewer than the instances that a flow keeps for one contact."""


class Conversations:
    """The conversations that can go on, the one that was used longest ago first."""

    def __init__(self) -> None:
        self._ids: OrderedDict[bytes, str] = OrderedDict()

    def take(self, model: str, said: Sequence[Turn]) -> str | None:
        """Take the conversation with a model in which exactly this was said; None if there is none.

        Nobody else finds it: what is said next would be part of both.
        """
        return self._ids.pop(_key(model, said), None)

    def put(self, model: str, said: Sequence[Turn], conversation: str) -> None:
        """Remember what was said in a conversation by now; the one that was used longest ago may be forgotten."""
        self._ids[_key(model, said)] = conversation
        if len(self._ids) > MAX_CONVERSATIONS:
            self._ids.popitem(last=False)


def _key(model: str, said: Sequence[Turn]) -> bytes:
    # Clients often trim what they send back.
    content = [model, [[role, text.strip(), pictures] for role, text, pictures in said]]
    return hashlib.sha256(json.dumps(content).encode()).digest()
