"""Which journals were replaced by older copies, as far as this daemon has noticed: its own, and those of others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.last_change import OlderCopy
from p2pflowsd.owners_log import OwnersLog

SHOWN_FOR_MS = 24 * 3_600_000
"""How long a restored journal is shown in `status`."""
MAX_SHOWN = 20
REPEAT_AFTER_MS = 3_600_000
"""How long the same is not remembered again."""
_KEY = "restored"


@dataclass(frozen=True, slots=True)
class Restored:
    """A journal that was replaced by an older copy.

    Attributes:
        user: the user id of its owner.
        at: when this daemon noticed it, in milliseconds since the Unix epoch.
        detail: what follows from it, as sentences.
    """

    user: str
    at: int
    detail: str


class RestoredJournals:
    """Writes what is noticed into the owner's log, and remembers it for `status`.

    Args:
        user: the user id of the owner.
        journal: the owner's journal.
        clock: the time.
        log: the owner's log.
    """

    def __init__(self, user: str, journal: Journal, clock: Clock, log: OwnersLog) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._log = log
        known = json.loads(journal.meta.get(_KEY) or "[]")
        self._found = {each.user: each for each in (Restored(*fields) for fields in known)}

    def note_own(self, copy: OlderCopy) -> None:
        """Note that the owner's journal is an older copy, as the file beside it shows."""
        if copy.until:
            what = (
                f"an older copy, which ends at {_time(copy.until)}. What came and went after that, until "
                f"{_time(copy.changed)}, is not in it"
            )
        else:
            what = f"an empty one. What the one before had, until {_time(copy.changed)}, is gone"
        self._note(
            self._user,
            "",
            f"Your journal was replaced by {what}: calls of others that are still open come again, and notes do not; "
            "questions that you have answered may be asked again. What you have sent is not listed, and answers to it "
            "are dropped.",
        )

    def note_own_by_peer(self, peer: str, endpoint: str) -> None:
        """Note that the owner's journal is an older copy, as a peer has received what is not in it."""
        self._note(
            self._user,
            endpoint,
            "By what they say, your journal was replaced by an older copy: they have received messages that are not "
            "in it. Your messages to them go on under new numbers.",
            peer,
        )

    def note_lost_messages(self, peer: str, endpoint: str, calls: int) -> None:
        """Note that the journal of a peer is an older copy, as it misses messages that the peer has confirmed.

        Args:
            peer: the user id of the peer.
            endpoint: the endpoint of the stream that has shown it.
            calls: how many calls are sent again.
        """
        again = "" if not calls else "1 call is sent again. " if calls == 1 else f"{calls} calls are sent again. "
        self._note(
            peer,
            endpoint,
            "Their journal was replaced by an older copy: messages of yours that they had confirmed are missing there. "
            f"{again}Notes are not sent again.",
            peer,
        )

    def note_new_epoch(self, peer: str, endpoint: str) -> None:
        """Note that the journal of a peer is an older copy, as the peer numbers its messages anew."""
        self._note(
            peer,
            endpoint,
            "Their journal was replaced by an older copy, or by an empty one: they number their messages anew. What "
            "they have sent before may be unknown there, and answers to it dropped.",
            peer,
        )

    def recent(self) -> list[Restored]:
        """Return what was noticed within the last day, newest first."""
        since = self._clock.now() - SHOWN_FOR_MS
        return [each for each in reversed(self._found.values()) if each.at >= since]

    def _note(self, user: str, endpoint: str, detail: str, peer: str = "") -> None:
        now = self._clock.now()
        self._log.note("restored", peer, endpoint, detail)
        before = self._found.pop(user, None)
        self._found[user] = Restored(user, now, detail)
        if before is not None and before.detail == detail and 0 <= now - before.at < REPEAT_AFTER_MS:
            self._found[user] = before
            return
        while len(self._found) > MAX_SHOWN:
            self._found.pop(next(iter(self._found)))
        found = [(each.user, each.at, each.detail) for each in self._found.values()]
        self._journal.meta.set(_KEY, json.dumps(found))


def _time(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
