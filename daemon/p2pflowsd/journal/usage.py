"""The table of how much of the journal each peer fills; triggers keep it, so it is always right."""

from __future__ import annotations

from p2pflowsd.journal.rows import UsageRow
from p2pflowsd.journal.table import Table

_FORGET = (
    "DELETE FROM prompts WHERE n IN (SELECT n FROM prompts INDEXED BY prompts_ended_of_peer"
    " WHERE peer = ? AND state != 'open' ORDER BY n LIMIT ?)"
)


class UsageTable(Table[UsageRow]):
    """How many rows and bytes the messages of each peer take."""

    name = "usage"
    row_type = UsageRow

    def of(self, peer: str) -> UsageRow:
        """Return what one peer fills."""
        return self._one("WHERE peer = ?", peer) or UsageRow(peer)

    def all(self) -> list[UsageRow]:
        """Return what each peer fills, those with most bytes first."""
        return self._many("ORDER BY bytes DESC, peer")

    def forget_ended_questions(self, peer: str, limit: int) -> int:
        """Remove the oldest questions of a peer that have ended, to make room; return how many."""
        return self._db.execute(_FORGET, (peer, limit)).rowcount

    def forget_idle(self) -> None:
        """Forget the peers that fill nothing."""
        self._db.execute(
            "DELETE FROM usage WHERE blocked + held + tasks + dead + questions + answers + remembered = 0 AND bytes = 0"
        )
