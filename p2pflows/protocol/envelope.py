"""Seal bodies into a bundle, and open it again: the one gate between bytes and belief.

A bundle is `version kind sender nonce box` (1, 1, 32, 24 bytes, rest). The box (X25519, XSalsa20-Poly1305, as NaCl's
crypto_box) holds an Ed25519 signature and one or more bodies. The signature covers a domain tag, version, kind, both
public keys and the SHA-256 of every body, so bodies that were committed together travel together at the price of one
signature, and yet each can be shown to a third party beside the list of hashes. Nothing is parsed before it is
verified. No clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from nacl.exceptions import CryptoError
from nacl.public import Box

from p2pflows.protocol import framing
from p2pflows.protocol.identity import SIGNATURE_BYTES, Identity, verify

VERSION = 1
HEADER_BYTES = 34
NONCE_BYTES = 24
_DOMAIN = b"p2pflows bundle 1\0"
_MAX_CACHED_BOXES = 1024


class BundleKind(IntEnum):
    """What the bodies of a bundle are."""

    MESSAGES = 1
    NOTICE = 2


class Refused(Exception):
    """Bytes from outside that have no effect.

    Args:
        reason: one word of the list in docs/PROTOCOL.md, counted in `status`.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Opened:
    """A bundle whose seal and signature hold; only `Envelope.open` makes one.

    Attributes:
        sender: user id of the signer.
        kind: what the bodies are.
        bodies: the signed bytes.
        proof: signature and body hashes, which together with the keys prove each body to anyone.
    """

    sender: str
    kind: BundleKind
    bodies: list[bytes]
    proof: bytes


class Envelope:
    """Seals and opens bundles for one identity."""

    def __init__(self, identity: Identity) -> None:
        self._identity = identity
        self._boxes: dict[bytes, Box] = {}

    def seal(self, kind: BundleKind, recipient: str, bodies: Sequence[bytes], nonce: bytes) -> bytes:
        """A bundle that only the recipient can open.

        Args:
            kind: what the bodies are.
            recipient: user id.
            bodies: at least one.
            nonce: 24 random bytes, never used before.

        Raises:
            ValueError: the recipient's id is no usable public key.
        """
        key = bytes.fromhex(recipient)
        header = bytes((VERSION, kind)) + self._identity.public
        signature = self._identity.sign(_signed(header, key, _hashes(bodies)))
        return header + bytes(self._box(key).encrypt(signature + framing.pack(bodies), nonce))

    def reaches(self, recipient: str) -> bool:
        """Whether a user id is a public key that can be sealed to: of random ones, half are not."""
        try:
            self._box(bytes.fromhex(recipient))
        except ValueError:
            return False
        return True

    def open(self, bundle: bytes) -> Opened:
        """Verify and decrypt a bundle.

        Raises:
            Refused: malformed, wrong_version, bad_seal or bad_signature.
        """
        if len(bundle) < HEADER_BYTES + NONCE_BYTES + 16 + SIGNATURE_BYTES + 8:
            raise Refused("malformed")
        if bundle[0] != VERSION:
            raise Refused("wrong_version")
        header, sender = bundle[:HEADER_BYTES], bundle[2:HEADER_BYTES]
        try:
            kind = BundleKind(bundle[1])
            plain = self._box(sender).decrypt(bundle[HEADER_BYTES:])
        except CryptoError as error:
            raise Refused("bad_seal") from error
        except ValueError as error:
            raise Refused("malformed") from error
        signature = plain[:SIGNATURE_BYTES]
        try:
            bodies = framing.unpack(plain[SIGNATURE_BYTES:])
        except framing.FramingError as error:
            raise Refused("malformed") from error
        hashes = _hashes(bodies)
        if not verify(sender, signature, _signed(header, self._identity.public, hashes)):
            raise Refused("bad_signature")
        return Opened(sender.hex(), kind, bodies, signature + hashes)

    def _box(self, peer: bytes) -> Box:
        box = self._boxes.get(peer)
        if box is None:
            box = self._identity.box_with(peer)
            if len(self._boxes) >= _MAX_CACHED_BOXES:
                self._boxes.pop(next(iter(self._boxes)))
            self._boxes[peer] = box
        return box


def claimed_sender(bundle: bytes) -> str:
    """The user id that an unopened bundle claims to be from; good for rate limits, proves nothing."""
    return bundle[2:HEADER_BYTES].hex()


def _hashes(bodies: Sequence[bytes]) -> bytes:
    return b"".join([sha256(body).digest() for body in bodies])


def _signed(header: bytes, recipient: bytes, hashes: bytes) -> bytes:
    """Every field has a fixed length, so the encoding is unambiguous."""
    return _DOMAIN + header + recipient + hashes
