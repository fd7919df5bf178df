"""Two daemons of one user, as with a copied home: they find each other, and one of them steps back.

Each daemon asks on its user's own topic before it says or sends anything (docs/PROTOCOL.md, section 10), and again at
each connection. Whoever runs already answers, and the new one ends; a new one that is to take over says so, and the old
one ends. Of two that both run, as after a partition, the earlier one goes on. An answer repeats the number of the
question, so that a recorded one has no effect. A question proves nothing, since anyone can repeat a recorded one: who
hears from one that the other daemon goes on asks back, and ends only when that is answered.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any

from p2pflows.protocol import topics
from p2pflows.protocol.identity import Identity
from p2pflowsd.clock import Entropy
from p2pflowsd.sending.presence import open_signed, seal

_NONCE_BYTES = 16


class Standing(StrEnum):
    """What a daemon knows of others with its identity."""

    UNKNOWN = "unknown"
    """It has not asked, or has no answer yet; it says and sends nothing."""
    ALONE = "alone"
    """It runs, and no other does."""
    BACK = "back"
    """Another one runs, and this one has to end."""


class Twins:
    """What one daemon says to others with its identity, and what it learns from them.

    Args:
        identity: signs what is said.
        boot: when this daemon started, in milliseconds since the Unix epoch.
        take_over: whether another one has to give way.
        entropy: makes the number of the question.

    Attributes:
        standing: what it knows.
        other: when the other one started; 0 if there is none.
        is_seen: whether the last status of this user is that another daemon is online.
        is_heard: whether the question has come back from the broker, so that another daemon has it, too.
    """

    def __init__(self, identity: Identity, *, boot: int, take_over: bool, entropy: Entropy) -> None:
        self._identity = identity
        self._boot = boot
        self._take_over = take_over
        self._entropy = entropy
        self._nonce = entropy(_NONCE_BYTES).hex()
        self.topic = topics.inbox(identity.user_id, topics.DAEMON)
        self.standing = Standing.UNKNOWN
        self.other = 0
        self.is_seen = False
        self.is_heard = False

    def question(self) -> bytes:
        """Return what a daemon publishes as soon as it is connected."""
        runs = self.standing is Standing.ALONE
        return self._seal({"asks": self._nonce, "runs": runs, "takes_over": self._take_over and not runs})

    def settle(self) -> None:
        """Run: no other daemon has answered in time."""
        if self.standing is Standing.UNKNOWN:
            self.standing = Standing.ALONE
            self._nonce = self._entropy(_NONCE_BYTES).hex()  # the one that was taken over has answered the other

    def note_status(self, payload: bytes) -> None:
        """Take note of a status of this user, which may be that of another daemon."""
        fact = open_signed(self._identity.user_id, topics.status(self._identity.user_id), payload)
        if fact is not None:
            self.is_seen = fact.get("online") is True and fact.get("boot") != self._boot

    def receive(self, payload: bytes) -> bytes | None:
        """Take in what came on the topic; return the answer or question that is to be published, if there is one."""
        fact = open_signed(self._identity.user_id, self.topic, payload)
        if fact is None or type(boot := fact.get("boot")) is not int:
            return None
        if fact.get("answers") == self._nonce and boot != self._boot:
            self._heard_of(boot)
        elif fact.get("asks") == self._nonce:
            self.is_heard = True
        elif isinstance(asked := fact.get("asks"), str) and boot != self._boot:
            return self._asked(boot, asked, runs=fact.get("runs") is True, takes_over=fact.get("takes_over") is True)
        return None

    def _heard_of(self, boot: int) -> None:
        if self._take_over and self.standing is Standing.UNKNOWN:
            self.settle()
        else:
            self.standing, self.other = Standing.BACK, boot

    def _asked(self, boot: int, asked: str, *, runs: bool, takes_over: bool) -> bytes | None:
        """Answer another daemon if it has to end, or if this one ends because the other takes over; or ask it back."""
        if self.standing is Standing.BACK:
            return None
        is_earlier, is_running = self._boot < boot, self.standing is Standing.ALONE
        if takes_over and is_earlier:
            self.standing, self.other = Standing.BACK, boot
        elif runs and not (is_running and is_earlier):
            return self.question()
        elif not is_running and not is_earlier:
            return None
        return self._seal({"answers": asked})

    def _seal(self, fact: dict[str, Any]) -> bytes:
        return seal(self._identity, self.topic, {"boot": self._boot, **fact})
