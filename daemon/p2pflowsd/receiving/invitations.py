"""Invitations: ours, which others accept with a message to `_invite`, and those of others, which we accept.

Who is let in is committed to the journal before the address book changes; `add_contacts` makes the change in the next
batch, and after a crash in the first one. So an invitation is never used once more than it may be, and a contact whom
the journal has is never lost.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from p2pflows import petnames
from p2pflows.contacts import Contacts
from p2pflows.errors import CallError, NotAllowed, P2pflowsError, UsageError, from_peer
from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.invitation import SECRET_BYTES, Invitation, proof, proves
from p2pflows.protocol.message import Message, Type
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.clock import Clock, Entropy
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, InvitationRow, MeetingRow, OutgoingRow
from p2pflowsd.lifecycle import OutgoingState
from p2pflowsd.owners_log import OwnersLog
from p2pflowsd.running.catalog import ANYONE, CONTACTS, ME, Catalog
from p2pflowsd.running.origin import AcceptOrigin, read_origin
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.sending.outbox import Outbox
from p2pflowsd.sending.presence import Followed

MAX_OPEN = 100
"""Invitations of ours that can be used at the same time."""
MAX_USES = 1_000
GRACE_MS = 600_000
"""For how long after the end of an invitation its acceptance still travels, to be told that it comes too late."""
RETRY_INTERVAL_S = 10.0
"""How often an address book that cannot be written is tried again."""
UNPROVEN_ANSWER_MS = 900_000
"""How long the answer to a wrong proof travels."""
INVITED, ACCEPTED = "invited", "accepted"


class _NotProven(NotAllowed):
    """The sender has not proved to have seen the line of an invitation."""


class Invitations:
    """Makes invitations, lets in those who prove that they have one, and accepts those of others.

    Args:
        user: the user id of the owner.
        journal: where invitations and meetings are stored.
        clock: the time; it decides whether an invitation has expired.
        entropy: random bytes for secrets.
        contacts: the address book.
        catalog: what is served; invitations may widen its rules.
        followed: gets new contacts, whose status matters.
        outbox: sends acceptances.
        settlement: answers those who accept.
        callbacks: run after the commit.
        log: where the owner reads of it.
        on_met: called after the commit with each meeting whose user has become a contact.
    """

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        entropy: Entropy,
        contacts: Contacts,
        catalog: Catalog,
        followed: Followed,
        outbox: Outbox,
        settlement: Settlement,
        callbacks: Callbacks,
        log: OwnersLog,
        on_met: Callable[[MeetingRow], None],
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._entropy = entropy
        self._contacts = contacts
        self._catalog = catalog
        self._followed = followed
        self._outbox = outbox
        self._settlement = settlement
        self._callbacks = callbacks
        self._log = log
        self._on_met = on_met
        self._listeners: list[Callable[[], None]] = []
        self._to_add: list[MeetingRow] = []
        self._next_try = 0.0
        for meeting in journal.meetings.unfinished():
            if meeting.added:
                self._call_back(meeting)
            else:
                self._to_add.append(meeting)

    # Ours.

    def create(self, *, name: str, allow: list[str], uses: int, life_ms: int, own_name: str, broker: str) -> Invitation:
        """Make an invitation.

        Args:
            name: what we will call the one who uses it; empty for a name made of their user id.
            allow: endpoints that they may call then, beside what we serve to contacts.
            uses: how many users may use it.
            life_ms: how long it can be used, in milliseconds.
            own_name: what we suggest to call us; may be empty.
            broker: where our daemon is, as a line says it.

        Raises:
            UsageError: an argument has a wrong value, or there are too many invitations.
        """
        now = self._clock.now()
        if name:
            name = self._contacts.check_name(name)
            if uses != 1:
                raise UsageError(
                    "Several users cannot have one name.",
                    "Leave out the name; rename them with: p2pflows contacts rename",
                )
        if not 1 <= uses <= MAX_USES:
            raise UsageError(f"An invitation has 1 to {MAX_USES:,} uses.", "Make several invitations.")
        for endpoint in allow:
            if self._catalog.get(endpoint) is None:
                raise UsageError(f"You do not serve {endpoint!r}.", "See: p2pflows ls")
        if self._journal.invitations.count_open(now) >= MAX_OPEN:
            raise UsageError(
                f"You have {MAX_OPEN} invitations that can still be used.",
                "Revoke some: p2pflows invite list, p2pflows invite revoke ID",
            )
        expires_s = (now + life_ms) // 1000
        made = Invitation(self._user, self._entropy(SECRET_BYTES), expires_s, broker, checked_own_name(own_name))
        made.to_text()  # fails if it would be too long
        self._journal.invitations.add(
            InvitationRow(
                row_id=0,
                id=made.id,
                secret=made.secret,
                name=name,
                allow=",".join(dict.fromkeys(allow)),
                uses=uses,
                used=0,
                created=now,
                expires=expires_s * 1000,
                revoked=0,
            )
        )
        return made

    def revoke(self, part: str) -> InvitationRow:
        """Revoke an invitation; who has used it stays a contact.

        Args:
            part: its id, or the beginning or end of it.

        Raises:
            UsageError: no invitation, or more than one, has an id like that; or it cannot be used any more.
        """
        row = self.find(part)
        state = self.state_of(row)
        if state != "open":
            raise UsageError(f"Invitation {row.id[-8:]} is {state} already.", "See: p2pflows invite list")
        self._journal.invitations.revoke(row.row_id, self._clock.now())
        self._tell_listeners()
        return row

    def find(self, part: str) -> InvitationRow:
        """Return the one invitation with an id like that.

        Raises:
            UsageError: there is none, or more than one.
        """
        rows = self._journal.invitations.matching(part)
        if len(rows) != 1:
            found = "Several invitations have" if rows else "No invitation of yours has"
            raise UsageError(f"{found} an id like {part!r}.", "See: p2pflows invite list")
        return rows[0]

    def state_of(self, row: InvitationRow) -> str:
        """Return whether an invitation is `open`, `used`, `revoked` or `expired`."""
        if row.used >= row.uses:
            return "used"
        if row.revoked:
            return "revoked"
        return "expired" if row.expires <= self._clock.now() else "open"

    def receive(self, row: IncomingRow, message: Message) -> None:
        """Let in a user who accepts an invitation of ours, or tell them why not."""
        try:
            found = self._proven(row.peer, message.data)
            if self._journal.meetings.find(found.id, row.peer) is None:
                self._use(found, row.peer, message.data)
        except _NotProven as error:
            # Whoever sends such messages may never take the answer, so it must not wait here for long.
            soon = self._clock.now() + UNPROVEN_ANSWER_MS
            self._settlement.fail(row._replace(expires=min(row.expires, soon)), error)
        except CallError as error:
            self._settlement.fail(row, error)
        else:
            self._settlement.finish(row, {"met": True})

    def _proven(self, peer: str, data: dict[str, Any]) -> InvitationRow:
        """Return the invitation that a user proves to have seen.

        Raises:
            _NotProven: there is none. Nobody learns more who has not seen the line.
        """
        invitation_id, given = data.get("invitation"), data.get("proof")
        if isinstance(invitation_id, str) and isinstance(given, str) and peer != self._user:
            found = self._journal.invitations.find(invitation_id)
            if found is not None and proves(given, proof(found.secret, self._user, peer, found.id)):
                return found
        raise _NotProven("There is no such invitation.", "Ask for another one.")

    def _use(self, found: InvitationRow, peer: str, data: dict[str, Any]) -> None:
        now = self._clock.now()
        match self.state_of(found):
            case "used":
                raise NotAllowed("The invitation was used already.", "Ask for another one.")
            case "revoked":
                raise NotAllowed("The invitation was revoked.", "Ask for another one.")
            case "expired":
                raise NotAllowed(
                    f"The invitation expired at {_utc(found.expires)}, and here it is {_utc(now)} now.",
                    "Ask for another one.",
                )
        suggested = data.get("name")
        suggested = suggested if isinstance(suggested, str) and petnames.has_form(suggested) else ""
        self._journal.invitations.use(found.row_id)
        self._meet(MeetingRow(0, found.id, peer, found.name, suggested, INVITED, now))
        for endpoint in filter(None, found.allow.split(",")):
            self._allow(endpoint, peer)

    def _allow(self, endpoint: str, user: str) -> None:
        """Let a new contact call an endpoint, whatever else its rule says."""
        flow = self._catalog.get(endpoint)
        if flow is None:
            self._log.note(
                "ignored", user, endpoint, f"Their invitation allows {endpoint!r}, which you do not serve now."
            )
        elif flow.allow not in (CONTACTS, ANYONE):
            users = [] if flow.allow == ME else flow.allow.split(",")
            self._catalog.put(flow.model_copy(update={"allow": ",".join(dict.fromkeys([*users, user]))}))

    # Those of others.

    def accept(self, invitation: Invitation, name: str, own_name: str) -> str:
        """Accept an invitation: send the proof; their user becomes a contact when they confirm it.

        Args:
            invitation: what the line says.
            name: what to call its user; empty for the name that they suggest, or one made of their user id.
            own_name: what we suggest to call us; may be empty.

        Returns:
            The id of the message; the same one while it waits for its answer.

        Raises:
            P2pflowsError: the invitation is ours or has expired, or the name cannot be used.
        """
        now = self._clock.now()
        self.check(invitation)
        name = self.name_for(invitation, name)
        for open_row in self._journal.outgoing.open_to(invitation.user, topics.INVITE):
            origin = None if open_row.origin is None else read_origin(open_row.origin)
            if isinstance(origin, AcceptOrigin) and origin.invitation == invitation.id:
                return open_row.id
        data = {"op": "accept", "invitation": invitation.id, "proof": invitation.proof(self._user)}
        if own_name:
            data["name"] = checked_own_name(own_name)
        message = self._outbox.accept(
            Type.CALL,
            invitation.user,
            topics.INVITE,
            data,
            expires=max(invitation.expires * 1000, now) + GRACE_MS,
            origin=AcceptOrigin(invitation.id, name, invitation.name).to_json(),
        )
        return message.id

    def check(self, invitation: Invitation) -> None:
        """Check that an invitation of another user is worth an answer.

        Raises:
            UsageError: it is ours, or has expired.
        """
        now = self._clock.now()
        if invitation.user == self._user:
            raise UsageError("That is your own invitation.", "Give it to the person whom you want to meet.")
        if invitation.expires * 1000 + GRACE_MS <= now:
            raise UsageError(
                f"The invitation expired at {_utc(invitation.expires * 1000)}, and here it is {_utc(now)} now.",
                "Ask for another one.",
            )

    def name_for(self, invitation: Invitation, name: str) -> str:
        """Return what the user of an invitation will be called.

        Args:
            invitation: what the line says.
            name: what the owner wants to call them; may be empty.

        Raises:
            UsageError: the name cannot be used, or they have another one, or are denied.
        """
        book = self._contacts.known
        if invitation.user in book.blocked:
            raise UsageError(
                f"You have denied the user {invitation.user}.",
                f"To let them in, first run: p2pflows contacts add NAME {invitation.user}",
            )
        known = book.by_user.get(invitation.user)
        if known is not None:
            if name and petnames.normalize(name) != known:
                raise UsageError(
                    f"That user is your contact already, as {known!r}.",
                    f"Accept without another name, or first run: p2pflows contacts rename {known} {name}",
                )
            return known
        if name:
            return self._contacts.check_name(name)
        try:
            return self._contacts.check_name(invitation.name)
        except UsageError:
            return default_name(invitation.user)

    def on_settled(self, sent: OutgoingRow, state: OutgoingState, answer: bytes | None) -> bool:
        """Note how an acceptance of ours ended; return False if the message is something else."""
        origin = None if sent.origin is None else read_origin(sent.origin)
        if not isinstance(origin, AcceptOrigin):
            return False
        if state is OutgoingState.DONE:
            now = self._clock.now()
            self._meet(MeetingRow(0, origin.invitation, sent.peer, origin.name, origin.suggested, ACCEPTED, now))
        elif state is not OutgoingState.CANCELLED:
            error = from_peer(strict_json.loads(answer or b"{}"))
            self._log.note(error.kind, sent.peer, topics.INVITE, f"Their invitation came to nothing: {error.message}")
        return True

    # Both.

    @property
    def has_new_contacts(self) -> bool:
        """Whether `add_contacts` has something to do."""
        return bool(self._to_add) and self._next_try <= self._clock.elapsed()

    def add_contacts(self) -> list[str]:
        """Add those who were let in to the address book; called at the beginning of a batch, when that is committed.

        Returns:
            The user ids of the new contacts.
        """
        added = []
        for meeting in self._to_add if self.has_new_contacts else ():
            try:
                name = self._add(meeting)
            except (P2pflowsError, OSError) as error:
                self._next_try = self._clock.elapsed() + RETRY_INTERVAL_S
                self._log.note("ignored", meeting.peer, "", f"They cannot be added to your contacts yet: {error}")
                break
            self._journal.meetings.set_added(meeting.row_id, name)
            self._call_back(meeting._replace(name=name, added=1))
            added.append(meeting.peer)
        self._to_add = self._to_add[len(added) :]
        return added

    def tell(self, row_id: int, words: str) -> None:
        """Tell the owner that a user has become a contact, once the words are computed.

        Args:
            row_id: the number of the meeting.
            words: the words to compare; empty if they could not be computed.
        """
        meeting = self._journal.meetings.get(row_id)
        if meeting is not None and self._journal.meetings.set_words(row_id, words):
            self._log.note("met", meeting.peer, "", story(meeting, words))
            self._tell_listeners()

    def listen(self, listener: Callable[[], None]) -> Callable[[], None]:
        """Call back after each commit that may have ended an invitation; return what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def _tell_listeners(self) -> None:
        for listener in self._listeners:
            self._callbacks.after_commit(listener)

    def _call_back(self, meeting: MeetingRow) -> None:
        self._callbacks.after_commit(lambda: self._on_met(meeting))

    def _meet(self, meeting: MeetingRow) -> None:
        stored = self._journal.meetings.add(meeting)
        if stored is not None:  # to be added once that is committed
            self._callbacks.after_commit(lambda: self._to_add.append(stored))

    def _add(self, meeting: MeetingRow) -> str:
        """Make the user of a meeting a contact, and return their petname."""
        book = self._contacts.book()
        name = book.by_user.get(meeting.peer)
        if name is None:
            try:
                name = self._contacts.add(meeting.name, meeting.peer)
            except UsageError:  # it was taken meanwhile, or there is none
                name = self._contacts.add(default_name(meeting.peer), meeting.peer)
        self._contacts.reload_if_changed()
        self._followed.add(meeting.peer)
        return name


def default_name(user: str) -> str:
    """The petname of a contact for whom nobody has chosen one."""
    return f"user-{user[:8]}"


def checked_own_name(name: str) -> str:
    """Return the name that a user suggests for themselves, in its normal form.

    Raises:
        UsageError: it has not the form of a petname.
    """
    return petnames.check(name) if name else ""


def story(meeting: MeetingRow, words: str) -> str:
    """Return what the owner reads of a meeting."""
    how = "They accepted your invitation" if meeting.way == INVITED else "They confirmed that you accepted theirs"
    compare = (
        f"The words to compare are: {words}."
        if words
        else f"Compare the words: p2pflows contacts verify {meeting.name}"
    )
    suggested = f" They suggest the name {meeting.suggested!r}." if meeting.suggested not in ("", meeting.name) else ""
    return f"{how}: {meeting.name!r} is your contact now.{suggested} {compare}"


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
