"""The send queue: order, bundles, the window of bytes in flight, and cached bodies."""

from __future__ import annotations

import pytest

from p2pflows.protocol.message import Type
from p2pflowsd.sending import send_queue
from p2pflowsd.sending.send_queue import MAX_BUNDLE_BYTES, MAX_BUNDLE_MESSAGES, OutboxEntry, SendQueue

ANN, BOB = "a" * 64, "b" * 64


@pytest.fixture
def queue() -> SendQueue:
    """An empty queue."""
    return SendQueue()


def add(queue: SendQueue, number: int, *, size: int = 10, endpoint: str = "echo", peer: str = ANN) -> OutboxEntry:
    """Add a call with a body; return its entry."""
    entry = OutboxEntry(number, f"{number:032x}", Type.CALL, peer, endpoint, size)
    queue.add(entry, b"x" * size)
    return entry


def answer(queue: SendQueue, number: int, answerer: str) -> OutboxEntry:
    """Add the answer of an endpoint of ours; return its entry."""
    entry = OutboxEntry(number, f"{number:032x}", Type.REPLY, ANN, "_reply", 10, answerer)
    queue.add(entry, b"x" * 10)
    return entry


def send(queue: SendQueue, peer: str = ANN) -> list[OutboxEntry]:
    """Send the next bundle to a recipient; return its messages."""
    bundle = queue.next_bundle(peer)
    for entry in bundle:
        queue.mark_sent([entry], at=0.0, due=1.0)
    return bundle


def test_messages_are_sent_in_order(queue: SendQueue) -> None:
    """A recipient's messages share a bundle, in the order in which they were added."""
    entries = [add(queue, number) for number in range(3)]
    add(queue, 3, peer=BOB)
    assert queue.peers() == [ANN, BOB]
    assert send(queue) == entries
    assert send(queue) == []
    assert queue.peers() == [BOB]


def test_a_bundle_has_one_endpoint_and_a_limited_size(queue: SendQueue) -> None:
    """A message for another endpoint, too many bytes or too many messages end the bundle."""
    first, second = add(queue, 0), add(queue, 1, endpoint="other")
    assert send(queue) == [first]
    assert send(queue) == [second]
    large = [add(queue, number, size=MAX_BUNDLE_BYTES // 2) for number in range(2, 5)]
    assert send(queue) == large[:2]
    assert send(queue) == large[2:]
    many = [add(queue, number) for number in range(5, 6 + MAX_BUNDLE_MESSAGES)]
    assert send(queue) == many[:-1]


def test_streams_take_turns(queue: SendQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call does not wait behind what is queued for another endpoint."""
    monkeypatch.setattr(send_queue, "MAX_BUNDLE_MESSAGES", 2)
    posts = [add(queue, number) for number in range(5)]
    call = add(queue, 5, endpoint="other")
    assert [send(queue) for _ in range(4)] == [posts[:2], [call], posts[2:4], posts[4:]]
    assert not queue.has_unsent


def test_endpoints_that_answer_take_turns(queue: SendQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer to a call does not wait behind the errors of many posts to another endpoint."""
    monkeypatch.setattr(send_queue, "MAX_IN_FLIGHT_MESSAGES", 4)
    errors = [answer(queue, number, "sink") for number in range(5)]
    assert [send(queue), send(queue)] == [errors[:2], []]
    reply = answer(queue, 5, "echo")
    queue.put_back(ANN, queue.next_bundle(ANN))
    assert [send(queue), send(queue)] == [[reply], []]
    queue.remove(errors[0].id)
    assert send(queue) == errors[2:3]


@pytest.mark.parametrize("limit", [("MAX_IN_FLIGHT_MESSAGES", 4), ("MAX_IN_FLIGHT_BYTES", 40)])
def test_a_limited_number_of_messages_is_in_flight(
    queue: SendQueue, monkeypatch: pytest.MonkeyPatch, limit: tuple[str, int]
) -> None:
    """What is sent next would otherwise arrive behind seconds of work, and fill the broker's queue."""
    monkeypatch.setattr(send_queue, *limit)
    posts = [[add(queue, 3 * number + each, endpoint=f"e{each}") for number in range(3)] for each in range(3)]
    assert [send(queue) for _ in range(3)] == [posts[0][:2], posts[1][:2], []]
    queue.remove(posts[0][0].id)
    assert send(queue) == posts[2][:1]
    assert send(queue) == []
    assert queue.has_unsent
    for entry in [each for stream in posts for each in stream]:
        queue.remove(entry.id)
    assert not queue._under_way


@pytest.mark.parametrize("limit", [("MAX_IN_FLIGHT_MESSAGES", 4), ("MAX_IN_FLIGHT_BYTES", 40)])
def test_one_stream_leaves_half_of_the_window_to_others(
    queue: SendQueue, monkeypatch: pytest.MonkeyPatch, limit: tuple[str, int]
) -> None:
    """A call to another endpoint finds room however many posts are queued, and arrives behind few of them."""
    monkeypatch.setattr(send_queue, *limit)
    posts = [add(queue, number) for number in range(5)]
    assert [send(queue), send(queue)] == [posts[:2], []]
    calls = [add(queue, number, endpoint="other") for number in range(5, 8)]
    assert [send(queue), send(queue)] == [calls[:2], []]
    queue.remove(posts[0].id)
    assert [send(queue), send(queue)] == [posts[2:3], []]
    queue.resend(posts[1])
    assert [send(queue), send(queue)] == [posts[3:4], []]
    queue.remove(calls[0].id)
    assert send(queue) == calls[2:]


def test_a_settled_message_is_not_sent(queue: SendQueue) -> None:
    """A message that is removed before it was sent stays unsent."""
    entry = add(queue, 0)
    queue.remove(entry.id)
    assert (len(queue), queue.get(entry.id)) == (0, None)
    assert send(queue) == []
    assert not queue.has_unsent


def test_only_sent_messages_are_queued_again(queue: SendQueue) -> None:
    """A message that waits for its receipt is sent again; one that was not sent yet is not queued twice."""
    sent = add(queue, 0)
    send(queue)
    unsent = add(queue, 1)
    queue.resend(sent)
    queue.resend(unsent)
    assert send(queue) == [unsent, sent]
    assert (unsent.attempts, sent.attempts) == (1, 2)


def test_a_bundle_that_was_put_back_is_sent_first(queue: SendQueue) -> None:
    """A bundle that could not be published keeps its order before later messages."""
    entries = [add(queue, number) for number in range(2)]
    bundle = queue.next_bundle(ANN)
    queue.put_back(ANN, bundle)
    later = add(queue, 2)
    assert send(queue) == [*entries, later]


def test_messages_are_due_when_their_receipt_is_late(queue: SendQueue) -> None:
    """A message is due once the time has passed at which it is to be sent again."""
    entry = add(queue, 0)
    send(queue)
    assert queue.take_due(0.9) == []
    assert queue.take_due(1.0) == queue.sent() == queue.sent_to(ANN) == [entry]
    assert queue.sent_to(BOB) == []


def test_answers_belong_to_no_stream(queue: SendQueue) -> None:
    """A stream has the pending requests to one endpoint in the order of their acceptance."""
    first, second = add(queue, 1), add(queue, 2)
    add(queue, 3, endpoint="other")
    queue.add(OutboxEntry(4, f"{4:032x}", Type.REPLY, ANN, "echo", 0))
    assert queue.stream(ANN, "echo", 9) == [first, second]
    assert queue.stream(ANN, "echo", 1) == [first]
    queue.remove(first.id)
    assert queue.stream(ANN, "echo", 9) == [second]


def test_cached_bodies_are_limited(queue: SendQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """A body is cached while there is space, and until its message is sent or removed."""
    monkeypatch.setattr(send_queue, "MAX_CACHED_BYTES", 25)
    entries = [add(queue, number) for number in range(3)]
    assert [entry.body is not None for entry in entries] == [True, True, False]
    queue.remove(entries[1].id)
    assert add(queue, 3).body is not None
    send(queue)
    assert entries[0].body is None


def test_stored_calls_come_back_before_the_pending_ones(queue: SendQueue) -> None:
    """A stored call is remembered until it ends; calls that are missed are sent again, first in their stream."""
    entries = [add(queue, number) for number in range(5)]
    for seq, entry in enumerate(entries):
        entry.seq = seq
    for entry in entries[:4]:
        queue.remove(entry.id)
        queue.keep_stored(entry)
    queue.forget_stored(ANN, "echo", entries[3].id)
    assert queue.newest_stored(ANN) == []
    assert queue.stored(ANN, "echo", 1) == entries[1:3]
    queue.reopen(entries[1:3])
    assert queue.stream(ANN, "echo", 9) == [entries[1], entries[2], entries[4]]
    for entry in queue.stream(ANN, "echo", 9):
        queue.remove(entry.id)
    assert queue.newest_stored(ANN) == [entries[0]]
    assert queue.newest_stored(BOB) == []


def test_what_has_ended_leaves_nothing_behind(queue: SendQueue) -> None:
    """Recipients to whom nothing is pending or stored are not remembered, and one message is not another."""
    first, second = add(queue, 0), add(queue, 1, endpoint="other")
    send(queue)
    send(queue)
    queue.remove(first.id)
    queue.keep_stored(first)
    assert queue.has_messages_to(ANN)
    queue.remove(second.id)
    queue.keep_stored(second)
    assert (queue.has_messages_to(ANN), queue.has_stored(ANN), queue.has_stored(BOB)) == (False, True, False)
    queue.forget_stored(ANN, "echo", first.id)
    assert queue.has_stored(ANN)
    assert queue.stored(ANN, "other", 0) == [second]
    queue.forget_stored(ANN, "other", second.id)
    assert not queue.has_stored(ANN)
    assert not any((queue._sent, queue._stored, queue._streams, queue._count_to))


def test_only_the_last_wait_for_a_receipt_counts(queue: SendQueue) -> None:
    """A message that was sent again is due once, at its new time; one that was received is due no more."""
    entry, received = add(queue, 0), add(queue, 1)
    send(queue)
    assert queue.resend(entry)
    assert queue.next_bundle(ANN) == [entry]
    queue.mark_sent([entry], at=0.5, due=3.0)
    queue.remove(received.id)
    assert queue.take_due(2.0) == []
    assert queue.take_due(3.0) == [entry]
    assert queue.take_due(9.0) == []


def test_a_stream_without_room_waits_for_the_window(queue: SendQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves the messages to other endpoints where they are, and sends one as soon as the window is open."""
    monkeypatch.setattr(send_queue, "MAX_IN_FLIGHT_MESSAGES", 2)
    monkeypatch.setattr(send_queue, "MAX_STREAM_PART", 1.0)
    refused = [add(queue, number) for number in range(2)]
    for seq, entry in enumerate(refused):
        entry.seq = seq
    assert send(queue) == refused
    others = [add(queue, number, endpoint="other") for number in range(2, 5)]
    queue.pause(refused, 0.0)
    assert send(queue) == others[:2]
    queue.probe_due(send_queue.PAUSE.max_s)
    assert send(queue) == []
    queue.remove(others[0].id)
    assert send(queue) == others[2:]
    assert send(queue) == []
    queue.remove(others[1].id)
    assert send(queue) == refused[:1]
    queue.remove(others[2].id)
    assert send(queue) == []
