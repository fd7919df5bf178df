"""The envelope as a list of attacks: what an attacker on the wire may try, and how it ends."""

from __future__ import annotations

from hashlib import sha256

import pytest
from nacl.public import Box

from p2pflows.protocol import framing
from p2pflows.protocol.envelope import (
    HEADER_BYTES,
    NONCE_BYTES,
    VERSION,
    BundleKind,
    Envelope,
    Opened,
    Refused,
    claimed_sender,
)
from p2pflows.protocol.identity import SIGNATURE_BYTES, Identity, verify

ALICE, BOB, MALLORY = Identity(b"a" * 32), Identity(b"b" * 32), Identity(b"m" * 32)
NONCE = bytes(NONCE_BYTES)
LETTER = b'{"pay":1}'
DOMAIN = b"p2pflows bundle 1\0"


def _letter(*bodies: bytes, kind: BundleKind = BundleKind.MESSAGES, nonce: bytes = NONCE) -> bytes:
    return Envelope(ALICE).seal(kind, BOB.user_id, bodies or (LETTER,), nonce)


def _open(bundle: bytes, who: Identity = BOB) -> Opened:
    return Envelope(who).open(bundle)


def _reason(bundle: bytes, who: Identity = BOB) -> str:
    with pytest.raises(Refused) as refused:
        _open(bundle, who)
    return refused.value.reason


def _signature(signer: Identity, header: bytes, to: Identity, *bodies: bytes) -> bytes:
    return signer.sign(DOMAIN + header + to.public + b"".join(sha256(body).digest() for body in bodies))


def _sealed(header: bytes, plain: bytes, box: Box) -> bytes:
    return header + bytes(box.encrypt(plain, NONCE))


def _header(sender: Identity, version: int = VERSION, kind: int = BundleKind.MESSAGES) -> bytes:
    return bytes((version, kind)) + sender.public


def test_what_alice_seals_for_bob_bob_opens_and_knows_to_be_hers() -> None:
    """Without an attack, the bodies arrive complete, in order, and with the sender's id."""
    opened = _open(_letter(b"one", b"", b"three"))
    assert (opened.sender, opened.kind) == (ALICE.user_id, BundleKind.MESSAGES)
    assert opened.bodies == [b"one", b"", b"three"]


def test_a_reader_of_the_wire_sees_no_body() -> None:
    """The bytes that the broker sees hold no part of a body or of the recipient's id."""
    bundle = _letter()
    assert LETTER not in bundle
    assert BOB.public not in bundle
    assert sha256(LETTER).digest() not in bundle


def test_a_stranger_cannot_open_what_is_for_bob() -> None:
    """Only the recipient's key opens a bundle."""
    assert _reason(_letter(), MALLORY) == "bad_seal"


def test_a_stranger_cannot_write_in_the_name_of_alice() -> None:
    """A bundle that Mallory seals and signs does not open as one of Alice."""
    header = _header(ALICE)
    plain = _signature(MALLORY, header, BOB, LETTER) + framing.pack([LETTER])
    assert _reason(_sealed(header, plain, MALLORY.box_with(BOB.public))) == "bad_seal"


def test_bob_cannot_write_to_himself_in_the_name_of_alice() -> None:
    """The box does not show which of the two wrote it. The signature does, and Bob cannot make it."""
    header = _header(ALICE)
    plain = _signature(BOB, header, BOB, LETTER) + framing.pack([LETTER])
    assert _reason(_sealed(header, plain, BOB.box_with(ALICE.public))) == "bad_signature"


def test_bob_cannot_pass_on_a_letter_as_if_alice_had_written_it_to_mallory() -> None:
    """The signature covers the recipient, so signed bodies cannot be sealed again for another user."""
    opened = _open(_letter())
    header = _header(ALICE)
    plain = opened.proof[:SIGNATURE_BYTES] + framing.pack(opened.bodies)
    passed_on = _sealed(header, plain, ALICE.box_with(MALLORY.public))  # even if Alice's box were known
    assert _reason(passed_on, MALLORY) == "bad_signature"


def test_bob_cannot_pass_off_a_letter_of_alice_as_his_own() -> None:
    """The signature covers the sender's key, and is made with it."""
    opened = _open(_letter())
    plain = opened.proof[:SIGNATURE_BYTES] + framing.pack(opened.bodies)
    stolen = _sealed(_header(BOB), plain, BOB.box_with(MALLORY.public))
    assert _reason(stolen, MALLORY) == "bad_signature"


def test_a_letter_sent_back_to_its_sender_is_not_from_her() -> None:
    """A bundle that is sent back unchanged does not open."""
    assert _reason(_letter(), ALICE) == "bad_seal"


def test_a_letter_sent_back_under_bobs_name_is_not_from_him() -> None:
    """Both directions of a pair share one box key; the signature still shows who wrote."""
    reflected = _header(BOB) + _letter()[HEADER_BYTES:]
    assert _reason(reflected, ALICE) == "bad_signature"


@pytest.mark.parametrize("position", [0, 1, 2, 33, 34, 57, 58, 73, 74, 137, 138, -1])
def test_a_changed_bit_spoils_the_letter(position: int) -> None:
    """Seal and signature cover each region, from the version to the last byte of the box."""
    bundle = bytearray(_letter(b"one", b"two"))
    bundle[position] ^= 0x40
    assert _reason(bytes(bundle)) in {"wrong_version", "malformed", "bad_seal", "bad_signature"}


def test_messages_cannot_be_made_to_pass_for_a_notice() -> None:
    """The kind is signed, so messages cannot become receipts, nor receipts messages."""
    bundle = _letter()
    assert _reason(bundle[:1] + bytes([BundleKind.NOTICE]) + bundle[2:]) == "bad_signature"


@pytest.mark.parametrize("kind", [0, 4, 255])
def test_an_unknown_kind_is_malformed(kind: int) -> None:
    """A kind that this version does not know is not opened."""
    assert _reason(_letter()[:1] + bytes([kind]) + _letter()[2:]) == "malformed"


@pytest.mark.parametrize("version", [0, 2, 255])
def test_another_version_is_refused_before_anything_else_is_looked_at(version: int) -> None:
    """An attacker cannot make us use an older, weaker format."""
    assert _reason(bytes([version]) + bytes(300)) == "wrong_version"


@pytest.mark.parametrize("length", [0, 1, HEADER_BYTES, HEADER_BYTES + NONCE_BYTES, 145])
def test_a_stump_is_malformed(length: int) -> None:
    """Bytes too short for a signature and one body are malformed."""
    assert _reason(_letter()[:length]) == "malformed"


@pytest.mark.parametrize("cut", [1, 10])
def test_a_letter_cut_short_does_not_open(cut: int) -> None:
    """The box opens completely or not at all."""
    assert _reason(_letter(bytes(100))[:-cut]) == "bad_seal"


def test_a_letter_with_something_added_does_not_open() -> None:
    """Nothing can be appended."""
    assert _reason(_letter() + b"\0") == "bad_seal"


@pytest.mark.parametrize("key", [bytes(32), b"\1" + bytes(31), b"\xff" * 32])
def test_a_sender_that_is_no_key_is_malformed(key: bytes) -> None:
    """Points of small order, and bytes that are no point, are not accepted as a sender."""
    bundle = _letter()
    assert _reason(bundle[:2] + key + bundle[HEADER_BYTES:]) == "malformed"


@pytest.mark.parametrize(
    "bodies",
    [[b"two", b"one"], [b"one"], [b"one", b"two", b"three"], [b"onet", b"wo"], [b"onetwo"], [b"one", b"twO"]],
)
def test_bodies_cannot_be_swapped_dropped_added_or_cut_differently(bodies: list[bytes]) -> None:
    """The signature covers the hash of each body, in order."""
    header = _header(ALICE)
    plain = _signature(ALICE, header, BOB, b"one", b"two") + framing.pack(bodies)
    assert _reason(_sealed(header, plain, ALICE.box_with(BOB.public))) == "bad_signature"


def test_an_empty_bundle_is_malformed() -> None:
    """A bundle holds at least one body."""
    assert _reason(Envelope(ALICE).seal(BundleKind.MESSAGES, BOB.user_id, [], NONCE)) == "malformed"


@pytest.mark.parametrize(
    "frame", [b"\0\0\0\0" + bytes(4), b"\xff" * 8, b"\0\0\0\1\0\0\0\5abcd", b"\0\0\0\1\0\0\0\2abcd"]
)
def test_lengths_that_lie_are_malformed(frame: bytes) -> None:
    """A wrong count or length is detected without reading past the end."""
    header = _header(ALICE)
    plain = _signature(ALICE, header, BOB, LETTER) + frame
    assert _reason(_sealed(header, plain, ALICE.box_with(BOB.public))) == "malformed"


def test_a_signature_for_something_else_does_not_pass_for_a_bundle() -> None:
    """The domain tag makes signatures of other things, such as presence, useless here."""
    header = _header(ALICE)
    signature = ALICE.sign(b"p2pflows retained 1\0" + header + BOB.public + sha256(LETTER).digest())
    plain = signature + framing.pack([LETTER])
    assert _reason(_sealed(header, plain, ALICE.box_with(BOB.public))) == "bad_signature"


def test_a_replay_opens_again_and_is_left_to_the_journal() -> None:
    """The envelope has no memory: the same bytes open twice, and the journal knows the ids in them."""
    envelope, bundle = Envelope(BOB), _letter()
    assert envelope.open(bundle) == envelope.open(bundle)


def test_a_letter_to_a_user_id_that_is_no_key_is_never_made() -> None:
    """Sealing for bytes that are not a public key fails, as anyone could open such a box."""
    for user in ("00" * 32, "01" + "00" * 31, "ff" * 32):
        with pytest.raises(ValueError, match="public key"):
            Envelope(ALICE).seal(BundleKind.MESSAGES, user, [LETTER], NONCE)


def test_the_claimed_sender_costs_nothing_and_proves_nothing() -> None:
    """Rate limits can read the sender in the header before opening; it may be false."""
    bundle = _letter()
    assert claimed_sender(bundle) == ALICE.user_id
    assert claimed_sender(_header(MALLORY) + bundle[HEADER_BYTES:]) == MALLORY.user_id


def test_bob_can_show_anyone_what_alice_wrote() -> None:
    """The proof, with one body and both keys, convinces a third party without the other bodies."""
    opened = _open(_letter(b"one", b"two"))
    signature, hashes = opened.proof[:SIGNATURE_BYTES], opened.proof[SIGNATURE_BYTES:]
    assert sha256(b"two").digest() in {hashes[at : at + 32] for at in range(0, len(hashes), 32)}
    assert verify(ALICE.public, signature, DOMAIN + _header(ALICE) + BOB.public + hashes)


def test_the_number_of_cached_boxes_is_limited() -> None:
    """The number of cached boxes is limited, and a sender whose box was dropped can still be opened."""
    envelope = Envelope(BOB)
    bundle = _letter()
    envelope.open(bundle)
    for n in range(1100):
        envelope._box(Identity(n.to_bytes(32, "big")).public)
    assert len(envelope._boxes) <= 1024
    assert envelope.open(bundle).bodies == [LETTER]


@pytest.mark.parametrize("user", ["00" * 32, "01" + "00" * 31, "ff" * 32, "", "zz" * 32, "ab" * 31])
def test_what_is_no_key_is_known_before_anything_is_written(user: str) -> None:
    """A daemon can ask whether a user id is a key, without an error."""
    assert not Envelope(ALICE).can_seal_to(user)
    assert Envelope(ALICE).can_seal_to(BOB.user_id)
