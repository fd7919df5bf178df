"""What the journal counts for each peer in memory is what its rows hold, whatever happens to rows and batches."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.usage import check_usage

from p2pflows.protocol.message import Message, Type
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal, JournalError
from p2pflowsd.lifecycle import IncomingState, OutgoingState, PromptState

ME = "b" * 64
PEERS = st.sampled_from((ME, "a" * 64, "c" * 64))
SIZES = st.integers(0, 300)
PICKS = st.integers(0, 10_000)
NOW = 1_800_000_000_000
FOREVER = NOW + 400 * 24 * 3_600_000


class Rows(RuleBasedStateMachine):
    """Rows of all kinds that come, move and go in batches, of which some fail."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "journal.sqlite3"
        self.journal = Journal(self.path, ME, NoFaults())
        self.count = 0

    def teardown(self) -> None:
        """Remove the file."""
        self.journal.close()
        self.folder.cleanup()

    def message(self, peer: str, kind: Type, size: int, *, ours: bool = False) -> Message:
        """Return a new message from or to a peer."""
        self.count += 1
        fields = {
            "id": f"{self.count:032x}", "type": kind, "from": ME if ours else peer, "to": peer if ours else ME,
            "endpoint": "echo", "conversation": "0" * 32, "cause": "0" * 32, "data": {"text": "x" * size},
            "epoch": 1, "seq": self.count, "created": NOW, "expires": NOW + 1,
        }  # fmt: skip
        return Message.model_validate(fields)

    def picked(self, table: str, pick: int, what: str = "n") -> int | str | None:
        """Return the number or id of one of the rows of a table; None if there are none."""
        rows = self.journal._db.execute(f"SELECT {what} FROM {table} ORDER BY n").fetchall()  # noqa: S608 - a test's
        return rows[pick % len(rows)][0] if rows else None

    @rule(
        peer=PEERS,
        requests=st.lists(
            st.tuples(SIZES, st.sampled_from(list(IncomingState)), st.booleans()), min_size=1, max_size=6
        ),
    )
    def receive(self, peer: str, requests: list[tuple[int, IncomingState, bool]]) -> None:
        """Store requests of some size and state, and the questions of some."""
        with self.journal.work():
            for size, state, asks in requests:
                message = self.message(peer, Type.CALL, size)
                row = self.journal.incoming.add(message, message.to_bytes(), 0, NOW, state)
                assert row is not None
                assert self.journal.incoming.add(message, message.to_bytes(), 0, NOW, state) is None
                if asks:
                    self.journal.prompts.add(row, "größe" * size, "{}")

    @rule(pick=PICKS, state=st.sampled_from(list(IncomingState)))
    def move_request(self, pick: int, state: IncomingState) -> None:
        """Move a request, if that is legal."""
        with self.journal.work():
            row_id = self.picked("incoming", pick)
            if isinstance(row_id, int):
                self.journal.incoming.move(row_id, state)
                self.journal.incoming.requeue_dead(row_id, FOREVER)

    @rule(peer=PEERS, size=SIZES, kind=st.sampled_from((Type.CALL, Type.REPLY, Type.ERROR)))
    def send(self, peer: str, size: int, kind: Type) -> None:
        """Store a message of ours."""
        message = self.message(peer, kind, size, ours=True)
        with self.journal.work():
            self.journal.outgoing.add(message, message.to_bytes())

    @rule(pick=PICKS, state=st.sampled_from(list(OutgoingState)), size=SIZES, confirmed=st.booleans())
    def move_message(self, pick: int, state: OutgoingState, size: int, confirmed: bool) -> None:
        """Restamp a message of ours, move it, or let its recipient confirm it."""
        with self.journal.work():
            message_id = self.picked("outgoing", pick, "id")
            if isinstance(message_id, str):
                row = self.journal.outgoing.find(message_id)
                assert row is not None
                longer = self.message(row.peer, Type(row.type), size, ours=True)
                self.journal.outgoing.restamp(row.row_id, longer.model_copy(update={"id": message_id}))
                if confirmed and row.type == Type.REPLY:
                    self.journal.outgoing.mark_stored([], [], [message_id, message_id], NOW)
                else:
                    self.journal.outgoing.move(message_id, state, NOW)

    @rule(pick=PICKS, peer=PEERS)
    def end_question(self, pick: int, peer: str) -> None:
        """End a question, and forget some that have ended."""
        with self.journal.work():
            row_id = self.picked("prompts", pick)
            if isinstance(row_id, int):
                self.journal.prompts.end(row_id, PromptState.DISMISSED, NOW)
            if pick % 3 == 0:
                self.journal.usage.forget_ended_questions(peer, 2)

    @rule(life=st.sampled_from((0, FOREVER - NOW)))
    def prune(self, life: int) -> None:
        """Remove what is not needed any more."""
        with self.journal.work():
            self.journal.prune(NOW + life)
            self.journal.prune(NOW + life)  # every second call finds the end of a short table
            self.journal.usage.forget_idle()

    @rule(how=st.sampled_from(("committed", "committed", "failed", "crashed")))
    def end_batch(self, how: str) -> None:
        """Keep the batch; or undo it, because the disk failed in it or the daemon died, and open the journal anew."""
        if how == "committed":
            self.journal.commit()
            return
        if how == "failed":
            with pytest.raises(JournalError), self.journal.work():
                self.journal._db.execute("SELECT no_such_function()")
        reopened = self.journal.reopened()
        self.journal.close()
        self.journal = reopened

    @invariant()
    def counts_are_right(self) -> None:
        """The counts are the sums over the rows."""
        check_usage(self.journal)


TestUsage = Rows.TestCase
TestUsage.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
