"""What holds for all bundles, frames and fields, with any content."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from p2pflows.protocol import framing, topics
from p2pflows.protocol.channel import BadFrame, Channel
from p2pflows.protocol.envelope import NONCE_BYTES, BundleKind, Envelope, Refused
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.ids import new_id
from p2pflows.protocol.message import Message, Type
from p2pflows.protocol.notice import Notice

SEEDS = st.binary(min_size=32, max_size=32)
NONCES = st.binary(min_size=NONCE_BYTES, max_size=NONCE_BYTES)
BODIES = st.lists(st.binary(max_size=200), min_size=1, max_size=6)
ALICE, BOB = Identity(b"a" * 32), Identity(b"b" * 32)

COUNTS = st.integers(0, 2**62)
IDS = st.builds(new_id, st.integers(0, 2**48 - 1), st.binary(min_size=10, max_size=10))
NAMES = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
MESSAGES = st.fixed_dictionaries(
    {
        "id": IDS,
        "type": st.sampled_from(Type).map(str),
        "from": st.just(ALICE.user_id),
        "to": st.just(BOB.user_id),
        "endpoint": NAMES,
        "conversation": IDS,
        "created": COUNTS,
        "expires": COUNTS,
    },
    optional={
        "cause": IDS,
        "epoch": COUNTS,
        "seq": COUNTS,
        "source": TEXTS,
        "data": st.dictionaries(TEXTS, JSON, max_size=4),
    },
)


@given(SEEDS, SEEDS, st.sampled_from(BundleKind), BODIES, NONCES)
@settings(max_examples=60)
def test_what_is_sealed_opens(
    sender: bytes, recipient: bytes, kind: BundleKind, bodies: list[bytes], nonce: bytes
) -> None:
    """Any bodies between any two users are opened as they were sealed."""
    alice, bob = Identity(sender), Identity(recipient)
    opened = Envelope(bob).open(Envelope(alice).seal(kind, bob.user_id, bodies, nonce))
    assert (opened.sender, opened.kind, opened.bodies) == (alice.user_id, kind, bodies)


@given(BODIES, st.integers(0), st.integers(0, 7))
@settings(max_examples=300)
def test_any_flipped_bit_is_refused(bodies: list[bytes], place: int, bit: int) -> None:
    """A bundle with any one bit changed is refused."""
    bundle = bytearray(Envelope(ALICE).seal(BundleKind.MESSAGES, BOB.user_id, bodies, bytes(NONCE_BYTES)))
    bundle[place % len(bundle)] ^= 1 << bit
    with pytest.raises(Refused):
        Envelope(BOB).open(bytes(bundle))


@given(st.binary(max_size=400))
@settings(max_examples=200)
def test_noise_is_refused_and_nothing_else_goes_wrong(noise: bytes) -> None:
    """Any bytes are refused with a reason, with or without a right version and kind."""
    for bundle in (noise, b"\1\1" + noise, b"\1\1" + ALICE.public + noise):
        with pytest.raises(Refused):
            Envelope(BOB).open(bundle)


@given(st.lists(st.binary(max_size=50), max_size=20))
def test_framing_gives_back_what_it_joined(parts: list[bytes]) -> None:
    """Any list of byte strings can be framed and read, also an empty list and empty strings."""
    assert framing.unpack(framing.pack(parts)) == parts


@given(st.binary(max_size=60))
def test_framing_has_one_form(frame: bytes) -> None:
    """Any bytes are either exactly what `pack` writes for some parts, or refused."""
    try:
        parts = framing.unpack(frame)
    except framing.FramingError:
        return
    assert framing.pack(parts) == frame


@given(st.dictionaries(TEXTS, JSON, max_size=4), st.lists(st.binary(max_size=50), max_size=4))
@settings(max_examples=60)
def test_a_frame_opens_on_its_topic_only(header: dict[str, object], blobs: list[bytes]) -> None:
    """Header and blobs are read on the topic they were sealed for, and on no other."""
    channel = Channel(bytes(32))
    frame = channel.seal("here", header, blobs)
    assert channel.open("here", frame) == (header, blobs)
    with pytest.raises(BadFrame):
        channel.open("there", frame)


@given(MESSAGES)
@settings(max_examples=100)
def test_a_message_survives_the_wire(fields: dict[str, object]) -> None:
    """Any message is read back as itself."""
    message = Message.model_validate(fields)
    assert Message.model_validate_json(message.to_bytes()) == message


@given(
    st.lists(IDS, max_size=5),
    st.lists(st.tuples(NAMES, COUNTS, COUNTS), max_size=5),
    st.lists(st.tuples(NAMES, COUNTS, IDS), max_size=5),
)
def test_a_notice_survives_the_wire(
    ids: list[str], places: list[tuple[str, int, int]], rewound: list[tuple[str, int, str]]
) -> None:
    """Any notice is read back as itself."""
    notice = Notice(to=BOB.user_id, received=ids, held=ids, waiting=ids, gaps=places, skips=places, rewound=rewound)
    assert Notice.model_validate_json(notice.to_bytes()) == notice


@given(st.integers(0, 2**48 - 2), st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
def test_ids_sort_by_time(time: int, one: bytes, other: bytes) -> None:
    """An id of a later millisecond is larger, and every id is a UUID of version 7 in 32 hex digits."""
    earlier, later = new_id(time, one), new_id(time + 1, other)
    assert earlier < later
    assert len(earlier) == 32
    assert (earlier[12], earlier[16] in "89ab") == ("7", True)


@given(st.text(max_size=80))
def test_no_topic_but_ours_is_understood(topic: str) -> None:
    """Reading any topic never fails, and a topic that is understood is built again as the same text."""
    for text in (topic, f"p2pflows/1/{ALICE.user_id}/in/{topic}", f"p2pflows/1/{ALICE.user_id}/{topic}"):
        match topics.parse(text):
            case topics.InboxTopic(user, endpoint):
                assert topics.inbox(user, endpoint) == text
            case topics.ResultsTopic(user, point):
                assert topics.results(user, point) == text
            case topics.PresenceTopic(user, what):
                assert text in (topics.status(user), topics.card(user))
                assert what in text
