"""The outbox: what it accepts, which receipts and answers count, what is sent again, and in which epoch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from support.lone_daemon import HOUR_MS, LoneDaemon, Peer

from p2pflows.errors import BadInput, NotServed, TooLarge, UnknownUser
from p2pflows.protocol import topics
from p2pflows.protocol.message import MAX_BODY_BYTES, MAX_LIFETIME_MS, Type
from p2pflows.protocol.strict_json import JsonObject
from p2pflowsd.journal.outgoing import MAX_NEW
from p2pflowsd.journal.rows import OutgoingRow
from p2pflowsd.journal.streams import Direction, Position
from p2pflowsd.lifecycle import OutgoingState
from p2pflowsd.node import TICK_S
from p2pflowsd.sending.composer import PACKET_OVERHEAD_BYTES
from p2pflowsd.sending.outbox import MAX_REDATED
from p2pflowsd.sending.send_queue import BACKOFF, MAX_BUNDLE_MESSAGES, MAX_IN_FLIGHT_MESSAGES, PAUSE
from p2pflowsd.sending.stream_repairs import EPOCH_INTERVAL_S

DAY_MS = 24 * HOUR_MS


@pytest.fixture
def bob(tmp_path: Path) -> Iterator[LoneDaemon]:
    """Bob's daemon."""
    daemon = LoneDaemon(tmp_path)
    daemon.serve_human(allow="anyone")
    yield daemon
    daemon.journal.close()


@pytest.fixture
def ann(bob: LoneDaemon) -> Peer:
    """A contact of bob's."""
    return Peer(bob, 65, "ann")


@pytest.fixture
def mallory(bob: LoneDaemon) -> Peer:
    """Another one."""
    return Peer(bob, 66, "mallory")


def accept(bob: LoneDaemon, peer: Peer, kind: Type = Type.CALL, **fields: Any) -> str:
    """Let bob send a message to endpoint `x` of a peer; return its id."""
    expires = fields.pop("expires", bob.clock.now() + HOUR_MS)
    endpoint, data = fields.pop("endpoint", "x"), fields.pop("data", {})
    message = bob.do(lambda: bob.node.outbox.accept(kind, peer.user, endpoint, data, expires=expires, **fields))
    if isinstance(message, Exception):
        raise message
    return str(message.id)


def row_of(bob: LoneDaemon, message_id: str) -> OutgoingRow:
    """Return what the journal has of a message."""
    row = bob.journal.outgoing.find(message_id)
    assert row is not None
    return row


def epoch_to(bob: LoneDaemon, peer: Peer, endpoint: str = "x") -> int:
    """Return the epoch of a stream to a peer."""
    position = bob.journal.streams.get(Direction.OUTGOING, peer.user, endpoint)
    assert position is not None
    return position.epoch


def answer(bob: LoneDaemon, peer: Peer, cause: str, **fields: Any) -> None:
    """Let an answer of a peer arrive."""
    body = peer.message(topics.REPLY, **{"type": "reply", "cause": cause, "data": {"n": 1}, **fields})
    bob.receive(topics.REPLY, peer.bundle(body))


# What is accepted.


def test_no_message_lives_longer_than_a_month(bob: LoneDaemon, ann: Peer) -> None:
    """A deadline that is too late is brought forward, so that the recipient takes the message; others stay."""
    late, early = accept(bob, ann, expires=bob.clock.now() + 60 * DAY_MS), accept(bob, ann)
    assert row_of(bob, late).expires == bob.clock.now() + MAX_LIFETIME_MS
    assert row_of(bob, early).expires == bob.clock.now() + HOUR_MS


def test_a_message_belongs_to_the_conversation_that_is_given(bob: LoneDaemon, ann: Peer) -> None:
    """Without one, it begins one of its own."""
    assert row_of(bob, accept(bob, ann, conversation="c" * 32)).conversation == "c" * 32
    alone = accept(bob, ann)
    assert row_of(bob, alone).conversation == alone


def test_texts_that_were_typed_travel_with_the_message(bob: LoneDaemon, ann: Peer) -> None:
    """The recipient gets them beside the data; most messages have none."""
    accept(bob, ann, data={"n": 1}, typed={"n": "1.0"})
    accept(bob, ann)
    assert [each.get("typed", {}) for each in ann.received("x")] == [{"n": "1.0"}, {}]


def test_an_answer_takes_no_place_in_a_stream(bob: LoneDaemon, ann: Peer) -> None:
    """Requests are numbered, and answers are not."""
    accept(bob, ann)
    before = bob.journal.streams.get(Direction.OUTGOING, ann.user, "x")
    reply = accept(bob, ann, Type.REPLY, in_reply_to="0" * 32)
    assert bob.journal.streams.get(Direction.OUTGOING, ann.user, "x") == before
    assert (row_of(bob, reply).epoch, row_of(bob, reply).seq) == (0, 0)


def test_the_first_deadline_wakes_first(bob: LoneDaemon, ann: Peer) -> None:
    """Each message ends at its own deadline, in whatever order they were accepted."""
    ids = [accept(bob, ann, expires=bob.clock.now() + seconds * 1_000) for seconds in (60, 20, 40)]
    ends: dict[str, int] = {}
    for second in range(1, 70):
        bob.sleep(1)
        for message_id in ids:
            if row_of(bob, message_id).state == OutgoingState.EXPIRED:
                ends.setdefault(message_id, second)
    assert [ends[message_id] for message_id in ids] == [pytest.approx(end, abs=2) for end in (60, 20, 40)]


@pytest.mark.parametrize(
    ("data", "why"),
    [({"a": "\ud800"}, "not Unicode"), ({"a": json.loads("[" * 200 + "]" * 200)}, "nested too deeply")],
    ids=["surrogate", "deep"],
)
def test_what_recipients_cannot_read_is_refused(bob: LoneDaemon, ann: Peer, data: dict[str, Any], why: str) -> None:
    """Data that is no JSON for every reader is refused, and the error says why."""
    with pytest.raises(BadInput, match=why):
        accept(bob, ann, data=data)
    assert bob.node.outbox.pending == 0


def test_a_body_is_as_long_as_broker_and_recipient_take(
    bob: LoneDaemon, ann: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The limit is the smaller one of the protocol's and of what a packet of this broker holds."""
    with pytest.raises(TooLarge, match=f"{MAX_BODY_BYTES:,}"):
        accept(bob, ann, data={"fill": "x" * MAX_BODY_BYTES})
    accept(bob, ann, data={"fill": "x" * (MAX_BODY_BYTES - 1_000)})
    monkeypatch.setattr(bob.link, "max_packet", 20_000)
    with pytest.raises(TooLarge, match=f"{20_000 - PACKET_OVERHEAD_BYTES:,}"):
        accept(bob, ann, data={"fill": "x" * 20_000})


def test_nobody_has_an_id_that_is_no_key(bob: LoneDaemon, ann: Peer) -> None:
    """A message to what is no public key is refused before it is stored."""
    ann.user = "00" * 32
    with pytest.raises(UnknownUser):
        accept(bob, ann)


@pytest.mark.parametrize("endpoint", ["_reply", "_notice", "_daemon", "_files"])
@pytest.mark.parametrize("kind", [Type.CALL, Type.POST])
def test_a_request_that_every_daemon_refuses_is_not_accepted(
    bob: LoneDaemon, ann: Peer, endpoint: str, kind: Type
) -> None:
    """It would be sent again and again until its deadline, as nobody confirms it."""
    with pytest.raises(NotServed, match=endpoint):
        accept(bob, ann, kind, endpoint=endpoint)
    with pytest.raises(NotServed, match=endpoint):
        bob.node.outbox.check(ann.user, endpoint, {})
    assert bob.node.outbox.pending == 0


def test_what_was_read_travels_as_it_was_written(bob: LoneDaemon, ann: Peer) -> None:
    """Data keeps its own text, in which a number may have another form; white space goes if there is no room for it."""
    accept(bob, ann, data=JsonObject.read(b'{"n": 1e2}'))
    wide = JsonObject.read(b'{"n":' + b" " * MAX_BODY_BYTES + b"100}")
    accept(bob, ann, data=wide)
    bundles = bob.link.sent[topics.inbox(ann.user, "x")]
    first, second = (ann.opened(bundle)[0] for bundle in bundles)
    assert b'{"n": 1e2}' in first
    assert b'{"n":100}' in second


def test_an_open_message_is_found_by_a_part_of_its_id(bob: LoneDaemon, ann: Peer) -> None:
    """A call is found as long as it is open, however many came after it; what withdraws a call is no such message."""
    old, ended = accept(bob, ann), accept(bob, ann)
    answer(bob, ann, ended)
    with bob.journal.transaction():
        bob.journal._db.execute("UPDATE outgoing SET n = n + ? WHERE id NOT IN (?, ?)", (MAX_NEW, old, ended))
    newest = accept(bob, ann)
    with bob.journal.transaction():
        bob.journal._db.execute("UPDATE outgoing SET n = n + ? WHERE id = ?", (MAX_NEW, newest))
    withdrawal = accept(bob, ann, Type.CANCEL, in_reply_to=newest)
    found = [bob.node.outbox.matching(each[-12:]) for each in (old, ended, newest, withdrawal)]
    assert [[row.id for row in rows] for rows in found] == [[old], [], [newest], []]


# Receipts and answers.
# Receipts and answers.


def test_a_receipt_settles_what_it_names_and_tells_why_it_waits(bob: LoneDaemon, ann: Peer) -> None:
    """A call is stored until its answer, a post is done, and an answer goes; a note stays until another receipt."""
    call, post, reply = (
        accept(bob, ann),
        accept(bob, ann, Type.POST),
        accept(bob, ann, Type.REPLY, in_reply_to="0" * 32),
    )
    ann.notify(waiting=[call], received=[post, reply])
    assert [row_of(bob, each).state for each in (call, post)] == ["stored", "done"]
    assert bob.journal.outgoing.find(reply) is None
    assert row_of(bob, call).note == "waiting"
    assert bob.node.outbox.pending == 0
    assert bob.node.outbox.awaits(ann.user)
    ann.notify(received=[call])
    assert row_of(bob, call).note == ""
    answer(bob, ann, call)
    assert not bob.node.outbox.awaits(ann.user)
    assert bob.node.outbox.peers() == set()


def test_a_receipt_of_a_stranger_for_our_answer_counts(bob: LoneDaemon) -> None:
    """Whoever has asked something hears no more of the answer once they have it."""
    carol = Peer(bob, 67)
    carol.send(carol.message(type="call"))
    (prompt,) = bob.journal.prompts.open()
    bob.do(lambda: bob.node.inbox.decline(prompt.id, "no"))
    (reply,) = carol.received(topics.REPLY)
    assert bob.node.outbox.pending == 1
    carol.notify(received=[reply["id"]])
    assert bob.node.outbox.pending == 0


def test_an_answer_counts_once_and_only_for_a_request(bob: LoneDaemon, ann: Peer, mallory: Peer) -> None:
    """A second answer, one of somebody else, and one to an answer or to nothing change nothing."""
    call, post, reply = (
        accept(bob, ann),
        accept(bob, ann, Type.POST),
        accept(bob, ann, Type.REPLY, in_reply_to="0" * 32),
    )
    answer(bob, mallory, call, data={"n": 2})
    assert row_of(bob, call).state == "pending"
    answer(bob, ann, call)
    answer(bob, ann, call, data={"n": 3})
    answer(bob, ann, call, type="error", data={"kind": "flow_failed", "message": "no"})
    assert (row_of(bob, call).state, row_of(bob, call).answer) == ("done", b'{"n":1}')
    answer(bob, ann, reply, type="error", data={"kind": "flow_failed", "message": "no"})
    answer(bob, ann, "f" * 32)
    assert row_of(bob, reply).state == "pending"
    answer(bob, ann, post, type="error", data={"kind": "flow_failed", "message": "no"})
    assert row_of(bob, post).state == "failed"
    assert bob.journal.counters["refused.replayed"] == 5


def test_a_post_that_was_stored_may_still_fail(bob: LoneDaemon, ann: Peer) -> None:
    """A recipient can tell later that a post failed there."""
    post = accept(bob, ann, Type.POST)
    ann.notify(received=[post])
    answer(bob, ann, post, type="error", data={"kind": "flow_failed", "message": "no"})
    assert row_of(bob, post).state == "failed"
    assert bob.node.outbox.peers() == set()


def test_a_post_that_fails_later_was_awaited_no_more(bob: LoneDaemon, ann: Peer) -> None:
    """What ends twice is counted once, so a call to the same peer is still awaited."""
    post, _ = accept(bob, ann, Type.POST), accept(bob, ann)
    ann.notify(received=[post])
    answer(bob, ann, post, type="error", data={"kind": "flow_failed", "message": "no"})
    assert bob.node.outbox.awaits(ann.user)


def test_an_answer_after_the_deadline_does_not_count(bob: LoneDaemon, ann: Peer) -> None:
    """A call that nobody has marked as expired yet is over all the same."""
    call = accept(bob, ann, expires=bob.clock.now() + 1_000)
    bob.timeline.sleep(2)
    answer(bob, ann, call, expires=bob.clock.now() + HOUR_MS)
    assert row_of(bob, call).state == "expired"


def test_each_message_is_counted_as_delivered_once(bob: LoneDaemon, ann: Peer) -> None:
    """A receipt or an answer counts, and not both."""
    first, second = accept(bob, ann), accept(bob, ann)
    ann.notify(received=[first])
    answer(bob, ann, first)
    answer(bob, ann, second)
    assert bob.journal.counters["delivered"] == 2


def test_only_known_reasons_for_no_room_are_kept(bob: LoneDaemon, ann: Peer) -> None:
    """A recipient cannot write anything else into what the user reads of a message."""
    call = accept(bob, ann)
    ann.notify(refused=[[call, "you_have_won"], ["f" * 32, "streams_full"]])
    assert row_of(bob, call).note == ""
    ann.notify(refused=[[call, "streams_full"]])
    assert row_of(bob, call).note == "streams_full"


def test_what_has_no_room_is_not_in_the_way_of_other_endpoints(bob: LoneDaemon, ann: Peer) -> None:
    """A recipient has no room for more than may be in flight to it; a call to another endpoint leaves all the same."""
    half = MAX_IN_FLIGHT_MESSAGES // 2
    posts = {endpoint: [accept(bob, ann, Type.POST, endpoint=endpoint) for _ in range(half + 1)] for endpoint in "xz"}
    assert [len(ann.received(endpoint)) for endpoint in "xz"] == [half, half]
    for ids in posts.values():
        for first in range(0, half, MAX_BUNDLE_MESSAGES):
            ann.notify(refused=[[each, "quota_full"] for each in ids[first : first + MAX_BUNDLE_MESSAGES]])
    call = accept(bob, ann, endpoint="y")
    assert [each["id"] for each in ann.received("y")] == [call]
    before = len(ann.received("x"))
    bob.sleep(1)
    assert [each["id"] for each in ann.received("x")[before:]] == posts["x"][:1]


def test_a_stream_without_room_sends_one_message_until_that_is_stored(bob: LoneDaemon, ann: Peer) -> None:
    """It asks ever more seldom, with its first message; a receipt lets all go on, in order."""
    posts = [accept(bob, ann, Type.POST) for _ in range(3)]
    for _ in range(2):  # the second refusal is of a copy that was under way
        ann.notify(refused=[[each, "quota_full"] for each in posts])
    times = []
    for _ in range(240):
        before = len(ann.received("x"))
        bob.sleep(0.5)
        sent = [each["id"] for each in ann.received("x")[before:]]
        if sent:
            assert sent == posts[:1]
            times.append(bob.clock.elapsed())
            ann.notify(refused=[[posts[0], "quota_full"]])
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert waits == sorted(waits)
    assert 12 <= len(waits) <= 18
    before = len(ann.received("x"))
    ann.notify(received=posts[:1])
    assert [each["id"] for each in ann.received("x")[before:]] == posts[1:]


@pytest.mark.parametrize("reason", ["gap", "start"])
def test_a_recipient_that_asks_or_starts_again_has_room(bob: LoneDaemon, ann: Peer, reason: str) -> None:
    """What it has no room for comes at once, and not when the pause ends."""
    ann.show(boot=1, online=True)
    posts = [accept(bob, ann, Type.POST) for _ in range(3)]
    for _ in range(8):
        ann.notify(refused=[[each, "quota_full"] for each in posts])
        bob.sleep(PAUSE.max_s)
    ann.notify(refused=[[each, "quota_full"] for each in posts])
    before = len(ann.received("x"))
    if reason == "gap":
        ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    else:
        ann.show(boot=2, online=True)
    bob.sleep(2 * TICK_S)
    sent = [each["id"] for each in ann.received("x")[before:]]
    assert sent == (posts[:1] if reason == "gap" else posts)


def test_what_others_wait_for_is_sent_while_they_have_no_room(bob: LoneDaemon, ann: Peer) -> None:
    """The first message was lost; the recipient holds as many of the later ones as it can, and asks for the first."""
    posts = [accept(bob, ann, Type.POST) for _ in range(4)]
    ann.notify(refused=[[each, "streams_full"] for each in posts[2:]])
    bob.sleep(0.3)
    before = len(ann.received("x"))
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    assert [each["id"] for each in ann.received("x")[before:]] == posts[:2]
    ann.notify(received=posts[:2])
    assert [each["id"] for each in ann.received("x")[before + 2 :]] == posts[2:]


def test_only_the_recipient_of_a_request_makes_its_stream_pause_or_go_on(
    bob: LoneDaemon, ann: Peer, mallory: Peer
) -> None:
    """A start of another daemon, and a refusal of an answer, which needs no room, change nothing."""
    ann.show(boot=1, online=True)
    post = accept(bob, ann, Type.POST)
    reply = accept(bob, ann, Type.REPLY, in_reply_to="0" * 32)
    ann.notify(refused=[[each, "quota_full"] for each in (post, reply)])
    assert (row_of(bob, post).note, row_of(bob, reply).note) == ("quota_full", "")
    accept(bob, mallory, Type.POST)
    before = len(ann.received("x"))
    mallory.show(boot=2, online=True)
    bob.do(bob.node.resends.resend_due)
    assert len(ann.received("x")) == before


def test_a_pause_that_has_ended_or_was_prolonged_ends_once(bob: LoneDaemon, ann: Peer) -> None:
    """Its time comes all the same, and nothing happens then; after a later refusal, the later time counts."""
    first, second = (accept(bob, ann, Type.POST) for _ in range(2))
    ann.notify(refused=[[first, "quota_full"], [second, "quota_full"]])
    ann.notify(received=[first])
    before = len(ann.received("x"))
    ann.notify(refused=[[second, "quota_full"]])
    ann.notify(gaps=[["x", epoch_to(bob, ann), 1]])  # which lets it send one at once, and pause for longer
    bob.do(bob.node.resends.resend_due)
    assert len(ann.received("x")) == before + 1
    ann.notify(refused=[[second, "quota_full"]])
    bob.sleep(PAUSE.delay_s(0))
    assert len(ann.received("x")) == before + 1
    bob.sleep(PAUSE.delay_s(1))
    assert len(ann.received("x")) == before + 2
    ann.notify(received=[second])
    bob.sleep(PAUSE.max_s)
    assert bob.node.outbox.pending == 0


def test_a_stream_without_room_is_forgotten_with_its_last_message(bob: LoneDaemon, ann: Peer) -> None:
    """Nothing is left of a pause when what it held up has ended; the next message leaves at once."""
    post = accept(bob, ann, Type.POST, expires=bob.clock.now() + 1_000)
    ann.notify(refused=[[post, "quota_full"]])
    bob.sleep(5)
    assert row_of(bob, post).state == "expired"
    following = accept(bob, ann, Type.POST)
    assert ann.received("x")[-1]["id"] == following


def test_a_time_that_was_refused_says_how_the_clocks_differ(bob: LoneDaemon, ann: Peer) -> None:
    """A peer that refuses a message for its times tells its own; nothing is learnt from what was never sent."""
    call = accept(bob, ann)
    theirs = bob.clock.now() + HOUR_MS
    ann.notify(untimely=[[call, theirs], ["f" * 32, theirs]])
    assert bob.node.outbox.peer_clocks.offset_ms(ann.user) == pytest.approx(HOUR_MS, abs=1_000)
    assert bob.node.outbox.is_untimely(call)
    assert not bob.node.outbox.is_untimely("f" * 32)
    answer(bob, ann, call)
    assert bob.node.outbox.peer_clocks.offset_ms(ann.user) == 0


def test_a_message_that_was_not_sent_yet_says_nothing_of_clocks(bob: LoneDaemon, ann: Peer) -> None:
    """While the link is down, no peer can have refused anything."""
    bob.link.connected = False
    call = accept(bob, ann)
    ann.notify(untimely=[[call, bob.clock.now() + HOUR_MS]])
    assert bob.node.outbox.peer_clocks.known() == {}
    assert not bob.node.outbox.is_untimely(call)


def test_a_receipt_without_a_time_leaves_what_is_known_of_clocks(bob: LoneDaemon, ann: Peer) -> None:
    """One of a message that was refused before shows that the clocks agree; so does an answer with our time."""
    refused, other = accept(bob, ann), accept(bob, ann)
    ann.notify(untimely=[[refused, bob.clock.now() + HOUR_MS]])
    answer(bob, ann, other)
    assert bob.node.outbox.peer_clocks.offset_ms(ann.user) == 0
    ann.notify(untimely=[[refused, bob.clock.now() + HOUR_MS]])
    assert bob.node.outbox.peer_clocks.offset_ms(ann.user) > 0
    ann.notify(received=[accept(bob, ann, Type.POST)])
    assert bob.node.outbox.peer_clocks.offset_ms(ann.user) > 0
    ann.notify(received=[refused])
    assert bob.node.outbox.peer_clocks.offset_ms(ann.user) == 0


def test_a_receipt_of_a_message_that_was_sent_twice_may_be_for_either(bob: LoneDaemon, ann: Peer) -> None:
    """A receipt that comes late shows no difference of the clocks if it may be for what was sent first."""
    call = accept(bob, ann)
    theirs = bob.clock.now() + 1
    bob.sleep(BACKOFF.max_s)
    assert len(ann.received("x")) == 2
    ann.notify(received=[call], at=theirs)
    assert bob.node.outbox.peer_clocks.offset_ms(ann.user) == 0


def test_an_answer_to_a_message_that_was_refused_shows_that_clocks_agree(bob: LoneDaemon, ann: Peer) -> None:
    """What was learnt from the refusal is forgotten then, and not with an answer to another message."""
    far = bob.clock.now() + 9 * HOUR_MS
    other, refused = accept(bob, ann, expires=far), accept(bob, ann, expires=far)
    ann.notify(untimely=[[refused, bob.clock.now() + 200_000]])
    assert bob.node.outbox.peer_clocks.offset_ms(ann.user) == 200_000
    bob.sleep(HOUR_MS / 1_000)
    answer(bob, ann, other)
    assert bob.node.outbox.peer_clocks.offset_ms(ann.user) == 200_000
    answer(bob, ann, refused)
    assert bob.node.outbox.peer_clocks.offset_ms(ann.user) == 0


def test_only_so_many_of_the_last_calls_are_in_memory(
    bob: LoneDaemon, ann: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest are read from the journal again when their answers come."""
    monkeypatch.setattr("p2pflowsd.sending.outbox.MAX_RECENT", 3)
    ids = [accept(bob, ann) for _ in range(9)]
    assert len(bob.node.outbox._recent) == 3
    for message_id in ids:
        answer(bob, ann, message_id)
    assert [row_of(bob, message_id).state for message_id in ids] == ["done"] * 9


# Ends.

# Ends.


@pytest.mark.parametrize("end", [OutgoingState.CANCELLED, OutgoingState.EXPIRED, OutgoingState.DONE])
def test_only_who_waits_for_an_ended_message_is_told(bob: LoneDaemon, ann: Peer, end: OutgoingState) -> None:
    """A skip is announced if the first pending message of a stream ends without having arrived."""
    ids = [accept(bob, ann) for _ in range(3)]
    for message_id, skips in ((ids[1], 0), (ids[0], 0 if end is OutgoingState.DONE else 1)):
        step = partial(bob.node.outbox.end, row_of(bob, message_id), end)
        assert bob.do(step)
        assert not bob.do(step)
        bob.sleep(0.03)
        assert len(ann.received_lines("skips")) == skips
    if end is not OutgoingState.DONE:
        assert ann.received_lines("skips") == [["x", epoch_to(bob, ann), 2]]
    assert bob.node.outbox.pending == 1


def test_the_last_message_of_a_stream_ends(bob: LoneDaemon, ann: Peer) -> None:
    """A skip to the next number of the stream says that nothing before it will come."""
    call = accept(bob, ann)
    bob.do(lambda: bob.node.outbox.end(row_of(bob, call), OutgoingState.CANCELLED))
    bob.sleep(0.03)
    assert ann.received_lines("skips") == [["x", epoch_to(bob, ann), 1]]


def test_what_made_a_message_hears_of_its_end(bob: LoneDaemon, ann: Peer) -> None:
    """`on_call_settled` is called for a message with an origin, and for no other."""
    heard: list[str] = []
    bob.node.outbox.on_call_settled = lambda row, _state, _answer: heard.append(row.id)
    with_origin, without = accept(bob, ann, origin="{}"), accept(bob, ann)
    answer(bob, ann, without)
    answer(bob, ann, with_origin)
    assert heard == [with_origin]


def test_an_answer_that_ends_leaves_the_calls_to_its_recipient_awaited(bob: LoneDaemon, ann: Peer) -> None:
    """Nobody waited for a receipt of that answer in order to hear from them."""
    accept(bob, ann)
    reply = accept(bob, ann, Type.REPLY, in_reply_to="0" * 32, expires=bob.clock.now() + 1_000)
    bob.sleep(3)
    assert bob.node.outbox.pending == 1
    assert bob.journal.outgoing.find(reply) is None or row_of(bob, reply).state == "expired"
    assert bob.node.outbox.awaits(ann.user)


def test_whoever_has_answered_everything_is_not_awaited(bob: LoneDaemon, ann: Peer) -> None:
    """A peer is awaited until the last request to them has ended; answers to them await nothing."""
    accept(bob, ann, Type.REPLY, in_reply_to="0" * 32)
    assert not bob.node.outbox.awaits(ann.user)
    first, second = accept(bob, ann), accept(bob, ann, Type.POST)
    ann.notify(received=[second])
    assert bob.node.outbox.awaits(ann.user)
    bob.do(lambda: bob.node.outbox.end(row_of(bob, first), OutgoingState.CANCELLED))
    assert not bob.node.outbox.awaits(ann.user)


# Streams that have to be repaired.


def test_a_gap_in_another_epoch_is_skipped(bob: LoneDaemon, ann: Peer) -> None:
    """What waits in an epoch that is over, or in a stream that never was, waits for nothing."""
    accept(bob, ann)
    end = 2**53 - 1
    ann.notify(gaps=[["x", epoch_to(bob, ann) - 1, 0]])
    bob.sleep(0.03)
    ann.notify(gaps=[["never", 1, 0]])
    bob.sleep(0.03)
    assert ann.received_lines("skips") == [["x", epoch_to(bob, ann) - 1, end], ["never", 1, end]]


def test_a_gap_after_the_last_message_begins_an_epoch(bob: LoneDaemon, ann: Peer) -> None:
    """A recipient that is ahead of us has what our journal lost; the stream goes on in a new epoch, once in 5 s."""
    accept(bob, ann)
    old = epoch_to(bob, ann)
    ann.notify(gaps=[["x", old, 9]])
    bob.sleep(0.03)
    new = epoch_to(bob, ann)
    assert new > old
    assert ann.received_lines("skips") == [["x", old, 2**53 - 1]]
    ann.notify(gaps=[["x", new, 9]])
    bob.sleep(0.03)
    assert epoch_to(bob, ann) == new
    assert len(ann.received_lines("skips")) == 1
    bob.sleep(EPOCH_INTERVAL_S)
    ann.notify(gaps=[["x", new, 9]])
    assert epoch_to(bob, ann) > new


def test_a_new_epoch_is_later_than_the_old_one_though_the_clock_was_set_back(bob: LoneDaemon, ann: Peer) -> None:
    """An epoch is the time, or one more than the last one if that is later."""
    sent = accept(bob, ann, expires=bob.clock.now() + DAY_MS)
    bob.clock.skew_ms -= HOUR_MS
    old = epoch_to(bob, ann)
    ann.notify(rewound=[["x", old, sent]])
    assert epoch_to(bob, ann) == old + 1
    bob.clock.skew_ms += 2 * HOUR_MS
    bob.sleep(EPOCH_INTERVAL_S)
    ann.notify(rewound=[["x", old + 1, sent]], positions=[["x", 5, 0]])
    assert epoch_to(bob, ann) == bob.clock.now()


@pytest.mark.parametrize(
    ("endpoint", "step", "is_ours"), [("x", 1, True), ("x", 0, False), ("y", 0, True), ("never", 0, True)]
)
def test_only_a_pending_message_of_the_stream_is_rewound(
    bob: LoneDaemon, ann: Peer, endpoint: str, step: int, is_ours: bool
) -> None:
    """Another epoch, an unknown message, and a message of another stream begin no epoch."""
    sent, _ = accept(bob, ann), accept(bob, ann, endpoint="y")
    before = [epoch_to(bob, ann, each) for each in ("x", "y")]
    ann.notify(rewound=[[endpoint, before[0] + step, sent if is_ours else "f" * 32]])
    bob.sleep(0.03)
    assert [epoch_to(bob, ann, each) for each in ("x", "y")] == before
    assert ann.received_lines("skips") == []


def test_an_epoch_without_pending_messages_begins_at_the_next_number(bob: LoneDaemon, ann: Peer) -> None:
    """A new epoch goes on with the numbers of the old one, also when nothing waits."""
    sent = accept(bob, ann)
    ann.notify(received=[sent])
    ann.notify(gaps=[["x", epoch_to(bob, ann), 7]])
    assert bob.journal.streams.get(Direction.OUTGOING, ann.user, "x") == Position(epoch_to(bob, ann), 1)


def test_a_stored_call_that_is_missed_comes_first(bob: LoneDaemon, ann: Peer) -> None:
    """A recipient that has lost a stored call gets it again with what was pending, and skips nothing."""
    first, _ = accept(bob, ann), accept(bob, ann)
    ann.notify(received=[first])
    bob.sleep(1)
    sent = len(ann.received("x"))
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    bob.sleep(0.03)
    assert {each.get("seq", 0) for each in ann.received("x")[sent:]} == {0, 1}
    assert ann.received_lines("skips") == []
    assert row_of(bob, first).state == "pending"


def test_a_stored_call_behind_what_is_pending_is_left_alone(bob: LoneDaemon, ann: Peer) -> None:
    """A recipient that waits for a pending message has what it has confirmed behind it."""
    _, second = accept(bob, ann), accept(bob, ann)
    ann.notify(received=[second])
    bob.sleep(1)
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    assert row_of(bob, second).state == "stored"


def test_what_was_sent_a_moment_ago_is_not_sent_again(bob: LoneDaemon, ann: Peer) -> None:
    """A message that its recipient asks for must have been sent longer ago each time."""
    accept(bob, ann)
    counts = []
    for pause in (0.1, 0.2, 0.3, 0.3, 0.6):
        bob.sleep(pause)
        ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
        counts.append(len(ann.received("x")))
    assert counts == [1, 2, 2, 3, 3]


def test_what_is_asked_for_fits_into_one_bundle(bob: LoneDaemon, ann: Peer) -> None:
    """A window of a stream is sent again: so many bytes, or one message that is larger."""
    for fill in (100, 90_000, 90_000):
        accept(bob, ann, data={"fill": "x" * fill})
    bob.sleep(1)
    before = len(ann.received("x"))
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    assert len(ann.received("x")) - before == 2
    big = accept(bob, ann, endpoint="y", data={"fill": "x" * 200_000})
    accept(bob, ann, endpoint="y")
    bob.sleep(1)
    before = len(ann.received("y"))
    ann.notify(gaps=[["y", epoch_to(bob, ann, "y"), 0]])
    assert [each["id"] for each in ann.received("y")[before:]] == [big]


def test_no_more_stored_calls_come_again_than_a_bundle_holds(bob: LoneDaemon, ann: Peer) -> None:
    """A recipient that has lost very many calls asks again for the next ones."""
    ids = [accept(bob, ann) for _ in range(MAX_BUNDLE_MESSAGES + 10)]
    for start in range(0, len(ids), 100):
        ann.notify(received=ids[start : start + 100])
    bob.sleep(1)
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    assert bob.node.outbox.pending == MAX_BUNDLE_MESSAGES


def test_each_message_waits_longer_each_time_for_the_one_before_it(bob: LoneDaemon, ann: Peer) -> None:
    """What comes along with a missing message is held back by how often it came along, and by nothing else."""
    first, second, third = (accept(bob, ann) for _ in range(3))
    ann.notify(received=[first])
    epoch = epoch_to(bob, ann)

    def asked_for(seq: int, pause: float) -> list[str]:
        bob.sleep(pause)
        before = len(ann.received("x"))
        ann.notify(gaps=[["x", epoch, seq]])
        return [each["id"] for each in ann.received("x")[before:]]

    assert asked_for(1, 0.3) == [second, third]
    assert asked_for(1, 0.3) == []
    assert asked_for(1, 0.3) == [second, third]
    assert set(asked_for(0, 0.3)) == {first, second}


# Sending again.

# Sending again.


def test_an_offline_daemon_publishes_nothing_and_everything_later(bob: LoneDaemon, ann: Peer) -> None:
    """Messages and notices wait for the link; messages that could not be published keep their order."""
    bob.link.connected = False
    ids = [accept(bob, ann) for _ in range(3)]
    ann.send(ann.message())
    bob.sleep(0.03)
    assert bob.link.bytes_published == 0
    assert not bob.node.outbox.has_unsent
    bob.link.connected = True
    assert bob.node.outbox.has_unsent
    bob.sleep(0.03)
    assert [each["id"] for each in ann.received("x")] == ids


def test_a_link_that_breaks_while_sending_keeps_the_rest(
    bob: LoneDaemon, ann: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What could not be published because the link broke is published first when it is back."""
    publish = bob.link.publish

    def breaks(topic: str, payload: bytes, **how: Any) -> bool:
        if topic == topics.inbox(ann.user, "y"):
            bob.link.connected = False
            return False
        return publish(topic, payload, **how)

    monkeypatch.setattr(bob.link, "publish", breaks)
    bob.do(
        lambda: [
            bob.node.outbox.accept(Type.POST, ann.user, endpoint, {}, expires=bob.clock.now() + HOUR_MS)
            for endpoint in ("x", "y", "z")
        ]
    )
    assert [len(ann.received(endpoint)) for endpoint in "xyz"] == [1, 0, 0]
    monkeypatch.setattr(bob.link, "publish", publish)
    bob.link.connected = True
    bob.sleep(0.03)
    assert [len(ann.received(endpoint)) for endpoint in "xyz"] == [1, 1, 1]


def test_a_message_too_large_for_the_broker_does_not_hold_up_others(
    bob: LoneDaemon, ann: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the broker does not take ends, and what is behind it is sent."""
    bob.link.connected = False
    large, small = accept(bob, ann, data={"fill": "x" * 50_000}), accept(bob, ann, endpoint="y")
    monkeypatch.setattr(bob.link, "max_packet", 20_000)
    bob.link.connected = True
    bob.sleep(0.03)
    assert [each["id"] for each in ann.received("y")] == [small]
    row = bob.journal.outgoing.find(large)
    assert row is not None
    assert row.state == "failed"


def test_a_message_is_sent_again_until_its_receipt_and_from_the_journal(bob: LoneDaemon, ann: Peer) -> None:
    """Each attempt sends the same body, also after the daemon has let it go."""
    call = accept(bob, ann, data={"n": 1})
    for _ in range(3):
        bob.sleep(BACKOFF.max_s * 1.3)
    bodies = ann.received("x")
    assert len(bodies) >= 3
    assert all(body == bodies[0] for body in bodies)
    ann.notify(received=[call])
    before = len(ann.received("x"))
    bob.sleep(BACKOFF.max_s * 1.3)
    assert len(ann.received("x")) == before


def test_a_recipient_who_is_heard_again_gets_at_once_what_was_lost(bob: LoneDaemon, ann: Peer, mallory: Peer) -> None:
    """After a long silence, the first word of the recipient ends the wait for the next attempt, and of no other."""
    lost, other = accept(bob, ann), accept(bob, mallory)
    for _ in range(60):
        bob.sleep(1.0)
    assert bob.node.outbox.attempts(lost) == 5
    ann.notify(received=["0" * 32])
    bob.sleep(TICK_S)
    assert bob.node.outbox.attempts(lost) == 6
    assert bob.node.outbox.attempts(other) == 5


def test_a_recipient_who_talks_but_confirms_nothing_gets_few_copies(bob: LoneDaemon, ann: Peer, mallory: Peer) -> None:
    """Whatever a recipient sends, a message that they do not confirm is sent about twice as often as to the silent."""
    lost, other = accept(bob, ann), accept(bob, mallory)
    for second in range(600):
        ann.notify(received=[f"{second:032x}"])
        ann.send(ann.message())
        bob.sleep(1.0)
    assert bob.node.outbox.attempts(other) == 8
    assert bob.node.outbox.attempts(lost) <= 2 * 8


def test_a_link_that_was_often_lost_lets_no_message_wait_longer(bob: LoneDaemon, ann: Peer) -> None:
    """A message that was sent again at each of many connections does not wait for minutes when the last one is good."""
    call = accept(bob, ann)
    for _ in range(8):
        bob.node.link_up()
        bob.sleep(TICK_S)
    before = bob.node.outbox.attempts(call)
    bob.sleep(BACKOFF.initial_s * BACKOFF.jitter[1])
    assert bob.node.outbox.attempts(call) == before + 1


def test_a_contact_who_comes_back_gets_only_what_is_theirs(bob: LoneDaemon, ann: Peer, mallory: Peer) -> None:
    """A daemon that comes online is sent what it has not confirmed, and the last call of each stream that it has."""
    stored, _, other = accept(bob, ann), accept(bob, ann, endpoint="y"), accept(bob, mallory)
    ann.notify(received=[stored])
    before = {endpoint: len(ann.received(endpoint)) for endpoint in ("x", "y")}
    ann.show(boot=1, online=True)
    bob.sleep(0.03)
    assert {endpoint: len(ann.received(endpoint)) - before[endpoint] for endpoint in ("x", "y")} == {"x": 1, "y": 1}
    assert bob.node.outbox.attempts(other) == 1
    mallory.show(boot=1, online=True)
    bob.sleep(0.03)
    assert bob.node.outbox.attempts(other) == 2
    cyd = Peer(bob, 69, "cyd")
    last = accept(bob, cyd)
    cyd.notify(received=[last])
    cyd.show(boot=1, online=True)
    bob.sleep(0.03)
    assert [each["id"] for each in cyd.received("x")] == [last, last]
    nobody = Peer(bob, 70, "nobody")
    nobody.show(boot=1, online=True)
    assert nobody.user not in bob.node.resends._came_back


def test_a_call_that_an_older_release_stored_is_not_sent_again(bob: LoneDaemon, ann: Peer) -> None:
    """Earlier releases kept no body of a stored call; the daemon starts with such a journal, and skips the call."""
    call = accept(bob, ann)
    ann.notify(received=[call])
    with bob.journal.transaction():
        bob.journal._db.execute("UPDATE outgoing SET body = NULL")
    bob.restart()
    ann.show(boot=1, online=True)
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    bob.sleep(0.03)
    assert ann.received_lines("skips") == [["x", epoch_to(bob, ann), 1]]
    assert bob.node.outbox.awaits(ann.user)


# A clock that was ahead.


@pytest.mark.parametrize("restarts", [False, True])
def test_times_from_a_clock_that_was_ahead_are_set_right(bob: LoneDaemon, ann: Peer, restarts: bool) -> None:
    """A request keeps its lifetime, an answer its deadline; what was accepted later stays as it is."""
    bob.clock.skew_ms += DAY_MS
    deadline = bob.clock.now() + HOUR_MS
    call, reply = accept(bob, ann), accept(bob, ann, Type.REPLY, in_reply_to="0" * 32)
    bob.clock.skew_ms -= DAY_MS
    later = accept(bob, ann)
    if restarts:
        bob.restart()
    bob.sleep(1.1)
    now = bob.clock.now()
    assert row_of(bob, call).expires == pytest.approx(now + HOUR_MS, abs=2_000)
    assert row_of(bob, reply).expires == deadline
    assert row_of(bob, later).expires == pytest.approx(now + HOUR_MS, abs=5_000)
    assert all(row_of(bob, each).created <= now for each in (call, reply, later))
    times = {body["id"]: body["created"] for body in ann.received("x")}
    assert times[call] <= now
    assert bob.node.outbox.next_expiry is not None
    assert bob.node.outbox.next_expiry <= now + HOUR_MS


def test_a_deadline_from_a_clock_that_was_ahead_comes_in_time(bob: LoneDaemon, ann: Peer) -> None:
    """A call that was accepted with a clock a day ahead ends after the time that it was given."""
    bob.clock.skew_ms += DAY_MS
    call = accept(bob, ann, expires=bob.clock.now() + 10_000)
    bob.clock.skew_ms -= DAY_MS
    for _ in range(14):
        bob.sleep(1.1)
    assert row_of(bob, call).state == "expired"


def test_an_answer_whose_deadline_is_very_far_lives_a_month(bob: LoneDaemon, ann: Peer) -> None:
    """No message gets more than a month, also if its times are set right."""
    bob.clock.skew_ms += 20 * DAY_MS
    reply = accept(bob, ann, Type.REPLY, in_reply_to="0" * 32, expires=bob.clock.now() + 25 * DAY_MS)
    bob.clock.skew_ms -= 20 * DAY_MS
    bob.sleep(1.1)
    assert row_of(bob, reply).expires <= bob.clock.now() + MAX_LIFETIME_MS


def test_many_messages_of_a_clock_that_was_ahead(bob: LoneDaemon, ann: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only some are set right in one batch, and the others in the next ones."""
    monkeypatch.setattr("p2pflowsd.sending.outbox.MAX_REDATED", 5)
    assert MAX_REDATED > 5
    bob.clock.skew_ms += DAY_MS
    ids = [accept(bob, ann) for _ in range(12)]
    bob.clock.skew_ms -= DAY_MS
    right = []
    for _ in range(4):
        bob.sleep(1.1)
        right.append(sum(row_of(bob, each).created <= bob.clock.now() for each in ids))
    assert right == [5, 10, 12, 12]
    with bob.measured() as cost:
        bob.node.outbox.redate()
    assert cost.steps == 0


def test_messages_get_their_own_times_back(bob: LoneDaemon, ann: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the clock was right before it was set back, what is still pending has its old times again, every time."""
    monkeypatch.setattr("p2pflowsd.sending.outbox.MAX_REDATED", 3)
    stored = accept(bob, ann)
    far = bob.clock.now() + 9 * DAY_MS
    ids = accept(bob, ann, Type.POST, expires=far), accept(bob, ann, Type.REPLY, in_reply_to="0" * 32, expires=far)
    own = [(row_of(bob, each).created, row_of(bob, each).expires) for each in ids]
    for back in (DAY_MS, DAY_MS // 2):
        bob.clock.skew_ms -= back
        bob.sleep(1.1)
        bob.sleep(1.1)
        assert all(row_of(bob, each).created <= bob.clock.now() for each in ids)
        ann.notify(received=[stored])
        bob.clock.skew_ms += back // 2  # which is not all of it
        bob.do(lambda: None)
        assert all(row_of(bob, each).created <= bob.clock.now() for each in ids)
        bob.clock.skew_ms += back // 2
        bob.sleep(1.1)
        assert [(row_of(bob, each).created, row_of(bob, each).expires) for each in ids] == own


def test_the_clock_is_set_back_again_after_times_were_restored(bob: LoneDaemon, ann: Peer) -> None:
    """The message with the latest time is the one that counts, wherever it is among the others."""
    bob.clock.skew_ms += 100_000
    latest = accept(bob, ann)
    bob.clock.skew_ms -= 100_000
    accept(bob, ann)
    own = row_of(bob, latest).created
    for step in (-DAY_MS, DAY_MS + 200_000):
        bob.clock.skew_ms += step
        bob.sleep(1.1)
    assert row_of(bob, latest).created == own
    bob.clock.skew_ms -= 150_000
    bob.sleep(1.1)
    assert row_of(bob, latest).created <= bob.clock.now() < own


def test_the_times_of_some_messages_are_remembered(bob: LoneDaemon, ann: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only so many get their own times back; what has ended makes room, and receipts are taken note of meanwhile."""
    monkeypatch.setattr("p2pflowsd.sending.outbox.MAX_REDATED", 5)

    def set_back_and_forth(ids: list[str]) -> int:
        own = [row_of(bob, each).created for each in ids]
        bob.clock.skew_ms -= DAY_MS
        for _ in range(4):
            bob.sleep(1.1)
        bob.clock.skew_ms += DAY_MS
        bob.sleep(1.1)
        return sum(row_of(bob, each).created == created for each, created in zip(ids, own, strict=True))

    first = [accept(bob, ann) for _ in range(8)]
    assert set_back_and_forth(first) == 5
    bob.clock.skew_ms -= DAY_MS
    for _ in range(4):
        bob.sleep(1.1)
    ann.notify(received=first)
    ann.show(boot=2, online=True)
    ann.notify(gaps=[["x", epoch_to(bob, ann), 0]])
    assert len(bob.node.restored.recent()) == 1
    ann.notify(received=first)
    assert set_back_and_forth([accept(bob, ann, endpoint="y") for _ in range(5)]) == 5
