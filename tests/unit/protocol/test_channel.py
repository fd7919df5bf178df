"""The channel between a daemon and its workers: who can read, write, move or reflect a frame."""

from __future__ import annotations

import pytest

from p2pflows.errors import UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.channel import BadFrame, Channel, Enrolment, read_token
from p2pflows.protocol.identity import Identity
from p2pflowsd.running.worker_tokens import point_key

USER = "a1" * 32
RESULTS, DISPATCH = topics.results(USER, "gpu"), topics.dispatch(USER, "gpu", "w-1")
KEY = b"k" * 32
TOKEN = Enrolment("mqtt://local:secret@127.0.0.1:1883", USER, "gpu", KEY)


def test_a_frame_arrives_as_it_was_sent() -> None:
    """Header and blobs, also empty and binary ones, are read as they were written."""
    frame = Channel(KEY).seal(RESULTS, {"n": 2**62, "é": [None]}, [b"", b"\0\xff", b"{}"])
    assert Channel(KEY).open(RESULTS, frame) == ({"n": 2**62, "é": [None]}, [b"", b"\0\xff", b"{}"])


def test_a_reader_of_the_broker_sees_nothing_of_a_frame() -> None:
    """Neither tasks, results nor the key pass the broker as plain text."""
    frame = Channel(KEY).seal(RESULTS, {"task": "private"}, [b"secret words"])
    assert b"private" not in frame
    assert b"secret words" not in frame
    assert KEY not in frame


def test_a_frame_never_looks_the_same_twice() -> None:
    """Equal frames have different bytes, as each has its own nonce."""
    assert Channel(KEY).seal(RESULTS, {}) != Channel(KEY).seal(RESULTS, {})


@pytest.mark.parametrize("topic", [DISPATCH, topics.results(USER, "cpu"), topics.results("b2" * 32, "gpu"), ""])
def test_a_frame_moved_to_another_topic_is_refused(topic: str) -> None:
    """A frame cannot be sent back to its sender, or passed to another worker, point or user."""
    with pytest.raises(BadFrame):
        Channel(KEY).open(topic, Channel(KEY).seal(RESULTS, {}))


def test_a_worker_of_one_point_cannot_speak_for_another() -> None:
    """The key of one dispatch point opens and seals nothing at another."""
    me = Identity(b"a" * 32)
    gpu, cpu = Channel(point_key(me, "gpu")), Channel(point_key(me, "cpu"))
    with pytest.raises(BadFrame):
        cpu.open(RESULTS, gpu.seal(RESULTS, {}))


def test_the_keys_of_points_are_not_those_of_other_users() -> None:
    """Every user's points have their own keys."""
    assert point_key(Identity(b"a" * 32), "gpu") != point_key(Identity(b"b" * 32), "gpu")


@pytest.mark.parametrize("position", [0, 23, 24, 39, 40, -1])
def test_a_changed_frame_is_refused(position: int) -> None:
    """The seal covers each region of a frame."""
    frame = bytearray(Channel(KEY).seal(RESULTS, {"n": 1}, [b"data"]))
    frame[position] ^= 1
    with pytest.raises(BadFrame):
        Channel(KEY).open(RESULTS, bytes(frame))


@pytest.mark.parametrize("length", [0, 10, 24, 40])
def test_a_stump_of_a_frame_is_refused(length: int) -> None:
    """Bytes that are too short are not a frame."""
    with pytest.raises(BadFrame):
        Channel(KEY).open(RESULTS, Channel(KEY).seal(RESULTS, {})[:length])


def test_a_token_is_one_line_that_holds_the_enrolment() -> None:
    """One line to paste holds what a worker needs."""
    token = TOKEN.token()
    assert token.split() == [token]
    assert read_token(f"\n  {token}  \n") == TOKEN


def test_a_token_holds_no_key_of_the_user() -> None:
    """A token lets its holder work for one dispatch point, but not sign or read messages."""
    me = Identity(bytes(range(32)))
    token = Enrolment("mqtt://broker", me.user_id, "gpu", point_key(me, "gpu")).token()
    assert bytes(range(32)).hex() not in bytes.fromhex(token.partition(".")[2]).decode()


def test_an_enrolment_does_not_show_its_key() -> None:
    """Printing an enrolment does not show the key."""
    assert KEY.hex() not in repr(TOKEN)
    assert repr(KEY) not in repr(TOKEN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        "p2pflows-worker-1.",
        "p2pflows-worker-1.zz",
        "p2pflows-worker-1." + b"[]".hex(),
        "p2pflows-worker-1." + b"{}".hex(),
        TOKEN.token()[:-2],
        TOKEN.token() + "00",
        TOKEN.token().replace("worker-1", "worker-2"),
        TOKEN.token().removeprefix("p2pflows-worker-1."),
    ],
)
def test_what_is_no_whole_token_says_how_to_get_one(text: str) -> None:
    """The error of an incomplete token says how to create one, and does not show it."""
    with pytest.raises(UsageError, match="not a complete worker token") as error:
        read_token(text)
    assert error.value.hint == "Make one with: p2pflows worker-token DISPATCH_POINT"
