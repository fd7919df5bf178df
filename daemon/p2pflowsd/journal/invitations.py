"""The tables of how people meet: invitations, the users they brought, introductions, and wishes of strangers."""

from __future__ import annotations

import json

from p2pflowsd.journal.rows import IntroductionRow, InvitationRow, MeetingRow, WishRow, columns
from p2pflowsd.journal.sql import insert_into
from p2pflowsd.journal.table import Table

MAX_ENDPOINTS_CHARS = 2_000
_INSERT_INVITATION = insert_into("invitations", columns(InvitationRow)[1:])
_INSERT_MEETING = insert_into("meetings", columns(MeetingRow)[1:]) + " ON CONFLICT (invitation, peer) DO NOTHING"
_INSERT_INTRODUCTION = (
    insert_into("introductions", columns(IntroductionRow)[1:])
    + " ON CONFLICT (peer, by) DO UPDATE SET name = excluded.name, at = excluded.at"
)
_INSERT_WISH = insert_into("wishes", columns(WishRow)[1:])


class InvitationTable(Table[InvitationRow]):
    """Our invitations, in the order in which they were made."""

    name = "invitations"
    row_type = InvitationRow

    def add(self, row: InvitationRow) -> None:
        """Store an invitation."""
        self._db.execute(_INSERT_INVITATION, row[1:])

    def find(self, invitation_id: str) -> InvitationRow | None:
        """Return an invitation."""
        return self._one("WHERE id = ?", invitation_id)

    def matching(self, id_part: str) -> list[InvitationRow]:
        """Return the invitations whose id is written in short as `id_part`."""
        return self._matching(id_part)

    def all(self) -> list[InvitationRow]:
        """Return all invitations, oldest first."""
        return self._many("ORDER BY n")

    def count_open(self, now: int) -> int:
        """Return how many can still be used."""
        count: int = self._value(
            "SELECT count(*) FROM invitations WHERE expires > ? AND revoked = 0 AND used < uses", now
        )
        return count

    def use(self, row_id: int) -> None:
        """Count one use of an invitation."""
        self._db.execute("UPDATE invitations SET used = used + 1 WHERE n = ?", (row_id,))

    def revoke(self, row_id: int, now: int) -> None:
        """Mark an invitation as revoked."""
        self._db.execute("UPDATE invitations SET revoked = ? WHERE n = ?", (now, row_id))


class MeetingTable(Table[MeetingRow]):
    """Users who became contacts through an invitation, ours or theirs."""

    name = "meetings"
    row_type = MeetingRow

    def add(self, row: MeetingRow) -> MeetingRow | None:
        """Store a meeting; return None if the same user has used the same invitation before."""
        changed = self._db.execute(_INSERT_MEETING, row[1:])
        return row._replace(row_id=changed.lastrowid or 0) if changed.rowcount == 1 else None

    def get(self, row_id: int) -> MeetingRow | None:
        """Return one meeting."""
        return self._one("WHERE n = ?", row_id)

    def find(self, invitation_id: str, peer: str) -> MeetingRow | None:
        """Return the use of an invitation by a user."""
        return self._one("WHERE invitation = ? AND peer = ?", invitation_id, peer)

    def of(self, invitation_id: str) -> list[MeetingRow]:
        """Return all uses of an invitation, oldest first."""
        return self._many("WHERE invitation = ? ORDER BY n", invitation_id)

    def unfinished(self) -> list[MeetingRow]:
        """Return the meetings of which the contact is not added, or the owner not told."""
        return self._many("WHERE added = 0 OR words IS NULL ORDER BY n")

    def set_added(self, row_id: int, name: str) -> None:
        """Note that the user is a contact now, under a name."""
        self._db.execute("UPDATE meetings SET added = 1, name = ? WHERE n = ?", (name, row_id))

    def set_words(self, row_id: int, words: str) -> bool:
        """Note the words, and that the owner was told; return False if they were told before."""
        return self._changes_one("UPDATE meetings SET words = ? WHERE n = ? AND words IS NULL", words, row_id)


class IntroductionTable(Table[IntroductionRow]):
    """Users whom contacts have introduced, and who are no contacts yet."""

    name = "introductions"
    row_type = IntroductionRow

    def add(self, row: IntroductionRow, max_of_one: int) -> None:
        """Store an introduction; the oldest ones of the same contact give way to it."""
        self._db.execute(_INSERT_INTRODUCTION, row[1:])
        self._db.execute(
            "DELETE FROM introductions WHERE n IN"
            " (SELECT n FROM introductions WHERE by = ? ORDER BY at DESC, n DESC LIMIT -1 OFFSET ?)",
            (row.by, max_of_one),
        )

    def all(self) -> list[IntroductionRow]:
        """Return all introductions, newest first."""
        return self._many("ORDER BY at DESC, n DESC")

    def remove(self, peer: str) -> None:
        """Remove all introductions of a user."""
        self._db.execute("DELETE FROM introductions WHERE peer = ?", (peer,))


class WishTable(Table[WishRow]):
    """Strangers who asked to be let in, also those whose requests have passed their deadline."""

    name = "wishes"
    row_type = WishRow

    def find(self, peer: str) -> WishRow | None:
        """Return the wish of a stranger."""
        return self._one("WHERE peer = ?", peer)

    def all(self) -> list[WishRow]:
        """Return all wishes, in the order in which they were first made."""
        return self._many("ORDER BY n")

    def peers(self) -> set[str]:
        """Return the strangers who have a wish."""
        return {peer for (peer,) in self._db.execute("SELECT peer FROM wishes")}

    def oldest(self) -> WishRow | None:
        """Return the wish that was repeated least recently."""
        return self._one("ORDER BY last LIMIT 1")

    def note(self, peer: str, endpoint: str, now: int) -> None:
        """Store that a stranger has asked for an endpoint."""
        known = self.find(peer)
        if known is None:
            self._db.execute(_INSERT_WISH, WishRow(0, peer, json.dumps([endpoint]), now, now)[1:])
            return
        endpoints = json.loads(known.endpoints)
        if endpoint not in endpoints and len(known.endpoints) < MAX_ENDPOINTS_CHARS:
            endpoints.append(endpoint)
        self._db.execute(
            "UPDATE wishes SET endpoints = ?, last = ? WHERE n = ?", (json.dumps(endpoints), now, known.row_id)
        )

    def remove(self, peer: str) -> bool:
        """Remove the wish of a stranger; return False if there is none."""
        return self._changes_one("DELETE FROM wishes WHERE peer = ?", peer)
