"""Packets that try to make a daemon work long: each costs little, whatever is in it and however much waits."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.lone_daemon import LoneDaemon, Peer

from p2pflows.protocol import topics
from p2pflows.protocol.envelope import BundleKind
from p2pflows.protocol.message import Type
from p2pflows.protocol.notice import MAX_NOTICE_BYTES, MAX_RECEIPTS, MAX_STREAM_LINES
from p2pflows.settings.limits import Limits
from p2pflowsd.api import views
from p2pflowsd.journal import streams
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.receiving import held
from p2pflowsd.receiving.blocked import MAX_RELEASED
from p2pflowsd.sending.resends import RESEND_INTERVAL_S
from p2pflowsd.sending.send_queue import MAX_BUNDLE_BYTES, MAX_BUNDLE_MESSAGES
from p2pflowsd.sending.stream_repairs import EPOCH_INTERVAL_S

EPOCH = 5
LIMITS = Limits()
LARGEST = 2**62
"""The largest number that a reader takes."""
STEPS_OF_A_STATEMENT = 300
"""Instructions of SQLite's virtual machine that one statement takes which finds or changes a row, rounded up."""
STEPS_OF_A_MESSAGE = 20 * STEPS_OF_A_STATEMENT
STEPS_OF_A_NOTICE = (MAX_RECEIPTS + 4 * MAX_STREAM_LINES) * STEPS_OF_A_STATEMENT
STEPS_OF_A_RELEASE = MAX_RELEASED * STEPS_OF_A_MESSAGE


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[LoneDaemon]:
    """Bob's daemon, which serves him to his contacts."""
    daemon = LoneDaemon(tmp_path)
    daemon.serve_human()
    yield daemon
    daemon.journal.close()


@pytest.fixture
def mallory(bob: LoneDaemon) -> Peer:
    """A contact of bob's that means harm."""
    return Peer(bob, 66, name="mallory")


def block(peer: Peer, count: int) -> None:
    """Send posts to every second position of a stream, so that each waits for the one before it."""
    peer.send(*(peer.message(epoch=EPOCH, seq=2 * n, data={"text": str(n)}) for n in range(1, count + 1)))


def in_state(daemon: LoneDaemon, state: IncomingState) -> int:
    """Return how many requests are in a state."""
    return len(daemon.journal.incoming.in_state(state))


def send_posts(daemon: LoneDaemon, peer: Peer, count: int, *, fill: int = 0) -> list[str]:
    """Let the daemon send posts to endpoint `x` of a peer; return their ids."""

    def send() -> list[str]:
        send_one = daemon.node.messages.send
        return [send_one(Type.POST, peer.user, "x", {"fill": "x" * fill}, life_ms=600_000) for _ in range(count)]

    ids: list[str] = daemon.do(send)
    return ids


def epoch_to(daemon: LoneDaemon, peer: Peer) -> int:
    """Return the epoch of the daemon's stream to endpoint `x` of a peer."""
    position = daemon.journal.streams.get(Direction.OUTGOING, peer.user, "x")
    assert position is not None
    return position.epoch


def test_many_skips_over_many_blocked_requests(bob: LoneDaemon, mallory: Peer) -> None:
    """A notice with a skip for each of 900 blocked requests lets no batch release more than a few of them."""
    block(mallory, 900)
    assert in_state(bob, IncomingState.BLOCKED) == 900
    costs = [mallory.notify(skips=[["User", EPOCH, 2 * n + 2] for n in range(900)])]
    costs += bob.sleep(0.01)
    assert len(costs) >= 900 // MAX_RELEASED
    assert max(cost.steps for cost in costs) < STEPS_OF_A_RELEASE
    assert in_state(bob, IncomingState.ASKED) == 900


def test_many_blocked_requests_are_released_in_order_across_a_restart(bob: LoneDaemon) -> None:
    """A daemon that restarts goes on with releasing, and later requests of the stream wait until it has finished."""
    ann = Peer(bob, 67, name="ann")
    block(ann, 300)
    ann.notify(skips=[["User", EPOCH, 601]])
    assert bob.has_work
    ann.send(ann.message(epoch=EPOCH, seq=601, data={"text": "301"}))
    bob.restart()
    assert bob.has_work
    ann.send(ann.message(epoch=EPOCH, seq=602, data={"text": "302"}))
    bob.sleep(0.01)
    assert [prompt.text for prompt in bob.journal.prompts.open()] == [str(n) for n in range(1, 303)]


def test_a_request_in_order_reads_no_blocked_request(bob: LoneDaemon) -> None:
    """A request that unblocks nothing costs the same however many later ones wait."""
    ann = Peer(bob, 67, name="ann")
    ann.send(*(ann.message(epoch=EPOCH, seq=5_000 + 2 * n) for n in range(2_000)))
    bob.sleep(0.01)
    cyd = Peer(bob, 68, name="cyd")
    costs = {peer: sum(peer.send(peer.message(epoch=EPOCH, seq=n)).steps for n in range(3)) for peer in (cyd, ann)}
    assert costs[ann] <= costs[cyd] + 600


def test_a_new_epoch_releases_the_requests_of_the_earlier_one_first(bob: LoneDaemon) -> None:
    """The first request of a new epoch waits until all stored requests of the earlier epoch have had their turn."""
    ann = Peer(bob, 67, name="ann")
    block(ann, 200)
    ann.send(*(ann.message(epoch=EPOCH + 1, seq=n, data={"text": str(201 + n)}) for n in range(3)))
    bob.sleep(0.01)
    assert [prompt.text for prompt in bob.journal.prompts.open()] == [str(n) for n in range(1, 204)]


def test_a_notice_of_a_stranger_who_exchanges_no_messages(bob: LoneDaemon) -> None:
    """A stranger to whom bob sends nothing, and from whom he misses nothing, costs him no decryption and no line."""
    cost = Peer(bob, 66).notify(gaps=[[f"e{n}", 1, 1] for n in range(60_000)])
    assert (cost.steps, cost.changes, cost.published) == (0, 0, 0)
    assert bob.journal.counters["refused.unrelated"] == 1


def test_a_receipt_of_a_stranger_for_our_request_counts(bob: LoneDaemon) -> None:
    """A stranger to whom bob sends something can confirm it, and can ask for what is missing."""
    carol = Peer(bob, 67)
    (sent,) = send_posts(bob, carol, 1)
    carol.notify(received=[sent])
    assert bob.node.outbox.pending == 0
    carol.notify(gaps=[["x", epoch_to(bob, carol), 0]])
    bob.sleep(0.03)
    assert carol.received_lines("skips") == [["x", epoch_to(bob, carol), 1]]


def test_a_notice_full_of_gaps(bob: LoneDaemon, mallory: Peer) -> None:
    """A megabyte of gaps is read up to a limit, and answered with no more lines than that."""
    cost = mallory.notify(gaps=[[f"e{n}", 1, 1] for n in range(60_000)])
    bob.sleep(0.03)
    assert cost.steps < STEPS_OF_A_NOTICE
    assert len(mallory.received_lines("skips")) == MAX_STREAM_LINES


def test_many_lines_about_one_stream(bob: LoneDaemon, mallory: Peer) -> None:
    """Lines that repeat a stream are read as one."""
    send_posts(bob, mallory, 300)
    cost = mallory.notify(gaps=[["x", epoch_to(bob, mallory), 0]] * 2_000)
    assert cost.steps < 20 * STEPS_OF_A_STATEMENT


def test_a_notice_that_is_too_long_keeps_its_first_lines(bob: LoneDaemon) -> None:
    """The first lines of a notice have their effect, also if it is longer than what is read."""
    ann = Peer(bob, 67, name="ann")
    (sent,) = send_posts(bob, ann, 1)
    ann.notify(received=[sent, *(f"{n:032x}" for n in range(20_000))])
    assert bob.node.outbox.pending == 0


def test_what_comes_late_in_a_notice_is_not_read(bob: LoneDaemon) -> None:
    """Lines beyond the bytes that are read have no effect, in one notice or in several of one bundle."""
    ann = Peer(bob, 67, name="ann")
    (sent,) = send_posts(bob, ann, 1)
    ann.notify(fill="x" * MAX_NOTICE_BYTES, received=[sent])
    notices = (ann.notice(fill="x" * MAX_NOTICE_BYTES), ann.notice(received=[sent]))
    bob.receive(topics.NOTICE, ann.bundle(*notices, kind=BundleKind.NOTICE))
    assert bob.node.outbox.pending == 1


def test_own_notices_stay_within_what_is_read(bob: LoneDaemon) -> None:
    """A daemon that has much to confirm at once says it in several notices, each within the limits of the reader."""
    ann = Peer(bob, 67, name="ann")
    ann.send(*(ann.message(epoch=EPOCH, seq=n) for n in range(1, 2_501)))
    bob.sleep(0.03)
    assert len(ann.received_lines("received")) == 2_500
    assert all(len(notice["received"]) <= MAX_RECEIPTS for notice in ann.received("_notice"))


def test_a_stream_is_called_rewound_again_and_again(bob: LoneDaemon, mallory: Peer) -> None:
    """A recipient that asks for one epoch after the other gets neither all pending messages rewritten nor resent."""
    ids = send_posts(bob, mallory, 3_000, fill=900)
    costs = []
    for _ in range(40):
        costs.append(mallory.notify(rewound=[["x", epoch_to(bob, mallory), ids[-1]]]))
        costs += bob.sleep(0.02)
    assert max(cost.changes for cost in costs) < 10
    assert sum(cost.published for cost in costs) < 2 * MAX_BUNDLE_MESSAGES * 1_500


def test_messages_of_an_old_epoch_are_sent_in_the_new_one(bob: LoneDaemon) -> None:
    """A new epoch goes on with the numbers of the one before, and says which comes first."""
    ann = Peer(bob, 67, name="ann")
    first, second = send_posts(bob, ann, 2)
    old = epoch_to(bob, ann)
    ann.notify(received=[first], rewound=[["x", old, second]])
    new = epoch_to(bob, ann)
    send_posts(bob, ann, 1)
    bob.restart()
    bob.sleep(0.03)
    sent = [(each["epoch"], each.get("seq", 0)) for each in ann.received("x")]
    assert sent == [(old, 0), (old, 1), (new, 1), (new, 2), (new, 1), (new, 2)]
    ann.notify(gaps=[["x", new, 0]])
    bob.sleep(0.03)
    assert ann.received_lines("skips")[-1] == ["x", new, 1]


def test_a_sender_whose_clock_is_behind_begins_one_epoch(bob: LoneDaemon) -> None:
    """A recipient that names its position gets an epoch that is later, at the first try; but not the last one."""
    ann = Peer(bob, 67, name="ann")
    (sent,) = send_posts(bob, ann, 1)
    ahead = epoch_to(bob, ann) + 86_400_000
    ann.notify(rewound=[["x", epoch_to(bob, ann), sent]], positions=[["x", ahead, 7]])
    assert epoch_to(bob, ann) == ahead + 1
    bob.sleep(EPOCH_INTERVAL_S)
    ann.notify(rewound=[["x", ahead + 1, sent]], positions=[["x", LARGEST, 7]])
    assert epoch_to(bob, ann) == ahead + 2


def test_a_rewound_line_names_our_position(bob: LoneDaemon, mallory: Peer) -> None:
    """Ten messages at a position that is taken are answered with one line, and with the position of the stream."""
    for _ in range(10):
        mallory.send(mallory.message(epoch=EPOCH, seq=0))
        bob.sleep(0.03)
    assert len(mallory.received_lines("rewound")) == 1
    assert mallory.received_lines("positions") == [["User", EPOCH, 1]]


def test_a_stream_at_its_very_end(bob: LoneDaemon, mallory: Peer) -> None:
    """The position after the largest number is none that a notice can name; the daemon survives it."""
    mallory.send(mallory.message(epoch=LARGEST, seq=LARGEST))
    mallory.notify(skips=[["User", LARGEST, LARGEST]])
    mallory.send(mallory.message(epoch=LARGEST, seq=0))
    mallory.send(mallory.message(epoch=LARGEST, seq=LARGEST))
    bob.sleep(2)
    assert bob.journal.streams.get(Direction.INCOMING, mallory.user, "User") == Position(LARGEST, LARGEST + 1)


def test_many_streams_with_gaps_cost_nothing_while_they_wait(bob: LoneDaemon, mallory: Peer) -> None:
    """Every missing message is asked for, and no batch in between reads the streams that wait."""
    for n in range(1_000):
        mallory.send(mallory.message(f"e{n}", epoch=EPOCH, seq=1), endpoint=f"e{n}")
    bob.sleep(0.6)
    (cost,) = bob.sleep(0.1)
    assert cost.steps < STEPS_OF_A_MESSAGE
    assert len(mallory.received_lines("gaps")) == 1_000


def test_a_gap_ends_with_the_requests_that_wait_for_it(bob: LoneDaemon) -> None:
    """Nothing is asked for any more once all blocked requests of a stream have expired."""
    ann = Peer(bob, 67, name="ann")
    ann.send(ann.message(epoch=EPOCH, seq=3, expires=bob.clock.now() + 5_000))
    assert bob.node.notices.is_requesting_from(ann.user)
    bob.sleep(6)
    assert not bob.node.notices.is_requesting_from(ann.user)
    assert bob.node.blocked.counts() == {}


def test_a_gap_is_asked_for_soon_after_progress(bob: LoneDaemon) -> None:
    """The delay of a stream that has waited long is short again once something has arrived."""
    ann = Peer(bob, 67, name="ann")
    ann.send(*(ann.message(epoch=EPOCH, seq=n) for n in (1, 3)))
    for _ in range(100):
        bob.sleep(10)
    asked = len(ann.received_lines("gaps"))
    ann.send(ann.message(epoch=EPOCH, seq=0))
    bob.sleep(0.01)
    bob.sleep(0.6)
    assert ann.received_lines("gaps")[asked:] == [["User", EPOCH, 2]]


def test_a_recipient_asks_for_one_message_a_hundred_times(bob: LoneDaemon, mallory: Peer) -> None:
    """Each time a recipient asks for the same message, it must have been sent longer ago."""
    send_posts(bob, mallory, 1, fill=90_000)
    for _ in range(100):
        mallory.notify(gaps=[["x", epoch_to(bob, mallory), 0]])
        bob.sleep(0.02)
    assert len(mallory.received("x")) <= 4


def test_a_recipient_that_lost_much_gets_a_window(bob: LoneDaemon) -> None:
    """One line about a gap is answered with as many pending requests of the stream as one bundle holds."""
    ann = Peer(bob, 67, name="ann")
    send_posts(bob, ann, 300)
    bob.sleep(0.5)
    before = len(ann.received("x"))
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    assert len(ann.received("x")) - before == MAX_BUNDLE_MESSAGES


def test_a_recipient_that_says_again_and_again_that_it_is_online(bob: LoneDaemon, mallory: Peer) -> None:
    """A status that says nothing new sends nothing again, and one that changes all the time does so once in 5 s."""
    send_posts(bob, mallory, 10, fill=50_000)
    once = sum(len(bundle) for bundle in bob.link.sent[topics.inbox(mallory.user, "x")])
    bob.sleep(0.1)
    with bob.measured() as cost:
        for _ in range(40):
            mallory.show(boot=1, online=True)
    assert cost.published <= once
    with bob.measured() as cost:
        for boot in range(2, 42):
            mallory.show(boot=boot, online=boot % 2 == 0)
            mallory.show(boot=boot, online=True)
    assert cost.published == 0
    with bob.measured() as cost:
        bob.timeline.sleep(RESEND_INTERVAL_S)
        bob.node.process_batch([])
    assert once * 0.9 < cost.published <= once * 1.1


def test_a_contact_with_many_gaps_does_not_lock_strangers_out(bob: LoneDaemon, mallory: Peer) -> None:
    """Blocked requests of a contact take no room of strangers, and the owner sees whose they are."""
    block(mallory, 250)
    carol = Peer(bob, 67)
    carol.send(carol.message())
    assert in_state(bob, IncomingState.HELD) == 1
    assert views.counts(bob.node)["blocked"] == [{"user": mallory.user, "name": "mallory", "messages": 250}]
    assert [each["user"] for each in views.requests(bob.node)] == [carol.user]


def test_a_contact_with_more_gaps_than_there_is_room_for(bob: LoneDaemon) -> None:
    """Requests beyond the bound are refused with a reason, and taken once the gap is closed."""
    bob.limits = Limits(blocked_per_contact=10)
    bob.restart()
    ann = Peer(bob, 67, name="ann")
    late = [ann.message(epoch=EPOCH, seq=n, data={"text": str(n)}) for n in range(1, 15)]
    ann.send(*late)
    bob.sleep(0.03)
    assert [reason for _, reason in ann.received_lines("refused")] == ["streams_full"] * 4
    assert len(ann.received_lines("received")) == 10
    ann.send(ann.message(epoch=EPOCH, seq=0, data={"text": "0"}))
    bob.sleep(0.01)
    ann.send(*late)
    assert [prompt.text for prompt in bob.journal.prompts.open()] == [str(n) for n in range(15)]


def test_strangers_with_gaps_are_shown_and_can_be_denied(bob: LoneDaemon) -> None:
    """A stranger who has sent only what waits for an earlier request is in the list, and `deny` clears it."""
    mallory = Peer(bob, 66)
    block(mallory, 30)
    (shown,) = views.requests(bob.node)
    assert (shown["user"], shown["messages"]) == (mallory.user, LIMITS.requests_per_stranger)
    bob.do(lambda: bob.node.admission.deny(mallory.user))
    bob.sleep(0.1)
    assert views.requests(bob.node) == []
    assert bob.node.blocked.counts() == {}
    assert not bob.node.notices.is_requesting_from(mallory.user)


def test_a_refused_sender_says_why(bob: LoneDaemon) -> None:
    """A message for which its recipient has no room ends at its deadline with that reason."""
    carol = Peer(bob, 67)
    (sent,) = send_posts(bob, carol, 1)
    carol.notify(refused=[[sent, "requests_full"]])
    assert bob.node.outbox.pending == 1
    bob.sleep(601)
    row = bob.journal.outgoing.find(sent)
    assert row is not None
    assert "no room" in json.loads(row.answer or b"")["message"]


def test_ten_strangers_do_not_take_all_places(bob: LoneDaemon) -> None:
    """A stranger who holds nothing has a place though ten others hold all: the oldest of theirs gives way."""
    hoarders = [Peer(bob, seed) for seed in range(70, 80)]
    for hoarder in hoarders:
        hoarder.send(*(hoarder.message(epoch=EPOCH, seq=n) for n in range(LIMITS.requests_per_stranger)))
        bob.sleep(2)
    assert in_state(bob, IncomingState.HELD) == LIMITS.requests_of_strangers
    carol = Peer(bob, 90)
    carol.send(carol.message())
    bob.sleep(0.03)
    most = LIMITS.requests_of_strangers
    assert views.counts(bob.node)["held"] == {"messages": most, "most": most}
    assert len(carol.received_lines("held")) == 1
    (error,) = hoarders[0].received("_reply")
    assert error["data"]["kind"] == "not_allowed"


def test_two_hundred_strangers_take_all_places_for_a_day(bob: LoneDaemon) -> None:
    """Nobody gives way to one who would hold as many, and the refused one is told; after a day, the oldest does."""
    bob.limits = Limits(requests_of_strangers=5)
    bob.restart()
    for seed in range(70, 75):
        peer = Peer(bob, seed)
        peer.send(peer.message(expires=bob.clock.now() + 2 * held.MIN_HELD_MS))
    carol = Peer(bob, 90)
    carol.send(carol.message(epoch=EPOCH))
    bob.sleep(0.03)
    assert [reason for _, reason in carol.received_lines("refused")] == ["requests_full"]
    bob.sleep(held.MIN_HELD_MS / 1000)
    carol.send(carol.message(epoch=EPOCH))
    bob.sleep(0.03)
    assert len(carol.received_lines("held")) == 1


def test_a_stranger_without_a_place_may_still_call_what_is_for_anyone(bob: LoneDaemon) -> None:
    """Held requests take no room of those that wait for nobody's decision."""
    bob.serve_human("Open", allow="anyone")
    carol = Peer(bob, 67)
    carol.send(*(carol.message(epoch=EPOCH, seq=n) for n in range(LIMITS.requests_per_stranger + 1)))
    carol.send(carol.message("Open"), endpoint="Open")
    assert in_state(bob, IncomingState.HELD) == LIMITS.requests_per_stranger
    assert in_state(bob, IncomingState.ASKED) == 1


def test_garbage_of_one_claimed_sender_leaves_room_for_strangers(bob: LoneDaemon) -> None:
    """A flood of packets that claim to be from one sender is stopped by that sender's bucket."""
    mallory, carol = Peer(bob, 66), Peer(bob, 67)
    garbage = mallory.bundle(b"x" * 100)[:-1] + b"x"
    bob.receive("User", *[garbage] * 5_000)
    carol.send(carol.message())
    assert in_state(bob, IncomingState.HELD) == 1
    assert bob.journal.counters["refused.rate_limited"] > 4_000


def test_garbage_under_ever_new_keys_leaves_turns_for_strangers(bob: LoneDaemon) -> None:
    """Among a thousand packets a second that claim ever new senders, a stranger who repeats theirs has a turn."""
    carol = Peer(bob, 67)
    wanted = carol.bundle(carol.message())
    sample = bytearray(Peer(bob, 66).bundle(b"x"))
    for second in range(30):
        for tenth in range(10):
            garbage = []
            for _ in range(100):
                sample[2:34] = bob.random.randbytes(32)
                garbage.append(bytes(sample))
            if tenth == 5 and second in (0, 3, 9, 21):
                garbage.insert(bob.random.randrange(100), wanted)
            bob.receive("User", *garbage)
            bob.timeline.sleep(0.1)
    assert in_state(bob, IncomingState.HELD) == 1


_NAMES = st.sampled_from(["User", "x", "e1", "_reply", "_instances", "a" * 64])
_COUNTS = st.sampled_from([0, 1, 2, EPOCH, 600, 2**53, LARGEST])
_IDS = st.integers(0, 40).map(lambda number: f"{number:032x}")
_LINES: dict[str, st.SearchStrategy[Any]] = {
    "received": _IDS,
    "held": _IDS,
    "waiting": _IDS,
    "refused": st.tuples(_IDS, st.sampled_from(["requests_full", "streams_full", "x"])),
    "gaps": st.tuples(_NAMES, _COUNTS, _COUNTS),
    "skips": st.tuples(_NAMES, _COUNTS, _COUNTS),
    "rewound": st.tuples(_NAMES, _COUNTS, _IDS),
    "positions": st.tuples(_NAMES, _COUNTS, _COUNTS),
    "progress": st.tuples(_IDS, st.dictionaries(st.text(max_size=3), st.integers(), max_size=2)),
}
_NOTICES = st.fixed_dictionaries(
    {}, optional={name: st.lists(lines, min_size=1, max_size=8) for name, lines in _LINES.items()}
)
_MESSAGES = st.lists(
    st.fixed_dictionaries(
        {
            "type": st.sampled_from(["call", "post", "cancel"]),
            "id": _IDS,
            "cause": _IDS,
            "epoch": _COUNTS,
            "seq": _COUNTS,
        }
    ),
    min_size=1,
    max_size=60,
)


def accept_calls(daemon: LoneDaemon, peer: Peer) -> None:
    """Let the daemon send 30 calls, with the ids that the packets name, in three streams."""
    for number in range(30):
        daemon.node.outbox.accept(
            Type.CALL,
            peer.user,
            ("x", "e1", "User")[number % 3],
            {"fill": "x" * 1_000},
            expires=daemon.clock.now() + 600_000,
            message_id=f"{number:032x}",
        )


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(
    packets=st.lists(st.tuples(st.one_of(_NOTICES, _MESSAGES), st.sampled_from([1, 3_000])), min_size=1, max_size=4),
    name=st.sampled_from([None, "mallory"]),
)
def test_no_packet_costs_much(tmp_path: Path, packets: list[tuple[Any, int]], name: str | None) -> None:
    """Well-formed notices and bundles of every form, over much that waits, touch few rows and publish little."""
    folder = tmp_path / str(len(list(tmp_path.iterdir())))
    folder.mkdir()
    bob = LoneDaemon(folder)
    bob.serve_human()
    peer = Peer(bob, 66, name)
    block(peer, 300)
    bob.do(lambda: accept_calls(bob, peer))
    bob.sleep(0.6)
    for content, times in packets:
        if isinstance(content, dict):
            costs = [peer.notify(**{field: lines * times for field, lines in content.items()})]
            allowed = STEPS_OF_A_NOTICE
        else:
            costs = [peer.send(*(peer.message(**fields) for fields in content))]
            allowed = len(content) * STEPS_OF_A_MESSAGE
        costs += bob.sleep(0.03)
        assert max(cost.steps for cost in costs) < allowed + STEPS_OF_A_RELEASE
        assert max(cost.published for cost in costs) < MAX_BUNDLE_BYTES + len(content) * 1_000
    bob.restart()
    bob.sleep(0.01)
    bob.journal.close()


HOUR_S = 3_600 + 600 + 1
"""How long the posts of a peer are remembered, see `Pruner`."""


def test_old_rows_go_as_fast_as_new_ones_come(bob: LoneDaemon, mallory: Peer) -> None:
    """However much arrives in a short time, the journal does not grow: no time has to pass for old rows to go."""

    def send(first: int, count: int) -> None:
        for start in range(first, first + count, 50):
            posts = [mallory.message("nothing", epoch=EPOCH, seq=start + n) for n in range(50)]
            mallory.send(*posts, endpoint="nothing")

    def rows() -> int:
        counts = "SELECT (SELECT count(*) FROM incoming) + (SELECT count(*) FROM remembered)"
        return int(bob.journal._db.execute(counts).fetchone()[0])

    send(0, 2_000)
    assert rows() == 2_000
    bob.timeline.sleep(HOUR_S)
    send(2_000, 2_000)
    assert rows() <= 2_000


# What has no effect, and who is named for it.


def names_in_log(bob: LoneDaemon, reason: str) -> set[str]:
    """Return the users whom the log names for much that was refused for a reason."""
    rows = bob.journal.log.newest(1000)
    return {row.peer for row in rows if row.detail.endswith(f"were refused, the last one as {reason}.")}


def ids(bob: LoneDaemon, count: int) -> list[str]:
    """Return ids of no message."""
    return [bob.random.randbytes(16).hex() for _ in range(count)]


USELESS: dict[str, Callable[[LoneDaemon], dict[str, Any]]] = {
    "receipts": lambda bob: {"received": ids(bob, 1_000)},
    "refusals": lambda bob: {"refused": [[each, "quota_full"] for each in ids(bob, 1_000)]},
    "gaps": lambda bob: {"gaps": [[f"e{each[:20]}", 1, 1] for each in ids(bob, 100)]},
    "rewound streams": lambda bob: {"rewound": [[f"e{each[:20]}", 1, each] for each in ids(bob, 100)]},
    "progress": lambda bob: {"progress": [[each, {"text": "."}] for each in ids(bob, 100)]},
    "nonsense": lambda _bob: {"received": ["x"] * 10_000},
    "words for another": lambda _bob: {"to": "ab" * 32},
}


@pytest.mark.parametrize("what", USELESS)
def test_a_contact_floods_with_notices_for_nothing(bob: LoneDaemon, mallory: Peer, what: str) -> None:
    """A flood without any effect is soon not opened any more, its sender is named, and others are heard as before."""
    ann = Peer(bob, 65, name="ann")
    for _ in range(301):
        mallory.notify(**USELESS[what](bob))
    assert bob.journal.counters["refused.rate_limited"] >= 99
    assert mallory.user in {row.peer for row in bob.journal.log.newest(1000)}
    ann.send(ann.message())
    assert in_state(bob, IncomingState.ASKED) == 1
    bob.timeline.sleep(10.0)
    mallory.send(mallory.message())
    assert in_state(bob, IncomingState.ASKED) == 2


def test_a_contact_floods_with_malformed_messages(bob: LoneDaemon, mallory: Peer) -> None:
    """Bundles full of what is no message are soon not opened any more."""
    for _ in range(200):
        mallory.send(*[b"x"] * 256)
    assert bob.journal.counters["refused.rate_limited"] > 100
    assert mallory.user in {row.peer for row in bob.journal.log.newest(1000)}


def test_a_contact_floods_with_new_connections(bob: LoneDaemon, mallory: Peer) -> None:
    """A contact whose status says again and again that it has connected is soon not read any more."""
    bob.sleep(0.0)
    bob.node.subscriptions()
    for connection in range(2_000):
        mallory.show(boot=1, online=True, connection=connection + 1)
    assert bob.journal.counters["refused.rate_limited"] > 500
    assert names_in_log(bob, "rate_limited") == {mallory.user}


def test_recorded_packets_of_a_contact_do_not_shut_them_out(bob: LoneDaemon) -> None:
    """Whoever repeats what a contact has sent, or forges their name, changes nothing for the contact."""
    ann = Peer(bob, 65, name="ann")
    post = ann.bundle(*(ann.message(epoch=EPOCH, seq=n) for n in range(200)))
    notice = ann.bundle(ann.notice(received=ids(bob, 1_000)), kind=BundleKind.NOTICE)
    forged = ann.bundle(b"x")[:-1] + b"x"
    for _ in range(1_100):
        bob.receive("User", post, forged)
        bob.receive(topics.NOTICE, notice, notice)
    assert "refused.rate_limited" not in bob.journal.counters
    ann.send(ann.message(epoch=EPOCH, seq=200))
    assert bob.journal.counters["received"] == 201
    assert names_in_log(bob, "replayed") == {ann.user}


def test_receipts_that_settle_something_cost_nothing(bob: LoneDaemon) -> None:
    """A contact who confirms many messages is never refused."""
    ann = Peer(bob, 65, name="ann")
    for _ in range(3):
        asked = bob.do(
            lambda: [bob.node.messages.send(Type.POST, ann.user, "x", {}, life_ms=60_000) for _ in range(9_000)]
        )
        for start in range(0, 9_000, 1_000):
            ann.notify(received=asked[start : start + 1_000])
    assert "refused.rate_limited" not in bob.journal.counters


def test_a_stranger_who_is_refused_a_hundred_times_is_named(bob: LoneDaemon) -> None:
    """A flood of requests of one stranger is in the log, and a few refusals are not."""
    mallory, carol = Peer(bob, 66), Peer(bob, 67)
    for _ in range(250):
        mallory.send(mallory.message())
    for _ in range(30):
        carol.notify(received=["0" * 32])
    assert mallory.user in names_in_log(bob, "rate_limited") | names_in_log(bob, "streams_full")
    assert names_in_log(bob, "unrelated") == set()


def test_a_flood_under_ever_new_names_is_told_once_in_a_minute(bob: LoneDaemon) -> None:
    """Whoever claims to be somebody else with each packet is told of together."""
    sample = bytearray(Peer(bob, 66).bundle(b"x", kind=BundleKind.NOTICE))
    for _ in range(3):
        for _ in range(3_000):
            sample[2:34] = bob.random.randbytes(32)
            bob.receive(topics.NOTICE, bytes(sample))
        bob.timeline.sleep(61.0)
    rows = [row for row in bob.journal.log.newest(1000) if "under ever other names" in row.detail]
    assert len(rows) == 3


def test_a_broker_delivers_statuses_that_nobody_asked_for(bob: LoneDaemon) -> None:
    """Statuses of users whom nobody here knows are refused, and fill no memory."""
    for seed in range(100):
        Peer(bob, seed).show(boot=1, online=True)
    assert bob.journal.counters["refused.unrelated"] == 100
    assert bob.node.presence._known == {}


def test_a_contact_writes_to_ever_other_endpoints(
    bob: LoneDaemon, mallory: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The streams of one sender are remembered up to a limit; those that are known go on, and others have theirs."""
    monkeypatch.setattr(streams, "MAX_STREAMS_OF_PEER", 20)
    for n in range(15):
        mallory.send(mallory.message(f"e{n}"), endpoint=f"e{n}")
    bob.restart()
    for n in range(15, 30):
        mallory.send(mallory.message(f"e{n}"), endpoint=f"e{n}")
    assert bob.journal.counters["refused.streams_full"] == 10
    assert bob.journal._db.execute("SELECT count(*) FROM streams WHERE way = 'in'").fetchone() == (20,)
    mallory.send(mallory.message("e3"), endpoint="e3")
    assert bob.journal.counters["refused.streams_full"] == 10
    ann = Peer(bob, 65, name="ann")
    ann.send(ann.message())
    assert in_state(bob, IncomingState.ASKED) == 1
