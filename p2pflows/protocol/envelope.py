"""Seal bodies into a bundle, and open it again. No other module decides whether bytes from outside are authentic.

A bundle is `version kind sender nonce box` (1, 1, 32 and 24 bytes, and the rest). The box (NaCl's crypto_box: X25519,
XSalsa20-Poly1305) holds an Ed25519 signature and one or more bodies. The signature covers a domain tag, version, kind,
both public keys and the SHA-256 of every body. So bodies that were committed together cost one signature, and each of
them can still be proved to a third party, together with the list of hashes. No body is parsed before its signature is
verified. No clock, no I/O.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from nacl.bindings import crypto_box_easy_afternm, crypto_box_open_easy_afternm
from nacl.exceptions import CryptoError
from nacl.public import Box

from p2pflows.protocol import framing
from p2pflows.protocol.identity import SIGNATURE_BYTES, Identity, verify

VERSION = 1
HEADER_BYTES = 34
NONCE_BYTES = 24
_BOX = HEADER_BYTES + NONCE_BYTES
MAX_BODIES = 1_024
"""How many bodies a bundle has at most."""
_DOMAIN = b"p2pflows bundle 1\0"
_MAX_CACHED_BOXES = 1024


class BundleKind(IntEnum):
    """Whether the bodies of a bundle are messages, a notice, or about a file."""

    MESSAGES = 1
    NOTICE = 2
    FILE = 3


class Refused(Exception):
    """A delivery from outside is refused, and has no effect.

    Args:
        reason: one word of the list in docs/PROTOCOL.md (Receiving); `p2pflows status` counts each.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Opened:
    """A bundle whose seal and signature were verified. Only `Envelope.open` creates one.

    Attributes:
        sender: user id of the signer.
        kind: what the bodies are.
        bodies: the signed bytes.
        proof: signature and body hashes; with both public keys, they prove each body to a third party.
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
        """Return a bundle that only the recipient can open.

        Args:
            kind: what the bodies are.
            recipient: user id.
            bodies: at least one.
            nonce: 24 random bytes that were never used before.

        Raises:
            ValueError: the recipient's id is not a usable public key.
        """
        key = bytes.fromhex(recipient)
        header = bytes((VERSION, kind)) + self._identity.public
        signature = self._identity.sign(_signed(header, key, _hashes(bodies)))
        # Not Box.encrypt, which copies the whole bundle three times.
        box = crypto_box_easy_afternm(framing.pack(bodies, before=signature), nonce, self._box(key).shared_key())
        return b"".join((header, nonce, box))

    def can_seal_to(self, recipient: str) -> bool:
        """Return whether a user id is a usable public key; about half of all 32-byte strings are not."""
        try:
            self._box(bytes.fromhex(recipient))
        except ValueError:
            return False
        return True

    def open(self, bundle: bytes) -> Opened:
        """Decrypt a bundle and verify its signature.

        Raises:
            Refused: its reason is malformed, wrong_version, bad_seal or bad_signature.
        """
        if len(bundle) < HEADER_BYTES + NONCE_BYTES + 16 + SIGNATURE_BYTES + 8:
            raise Refused("malformed")
        if bundle[0] != VERSION:
            raise Refused("wrong_version")
        header, sender = bundle[:HEADER_BYTES], bundle[2:HEADER_BYTES]
        try:
            kind = BundleKind(bundle[1])
            key = self._box(sender).shared_key()
            plain = crypto_box_open_easy_afternm(bundle[_BOX:], bundle[HEADER_BYTES:_BOX], key)
        except CryptoError as error:
            raise Refused("bad_seal") from error
        except ValueError as error:
            raise Refused("malformed") from error
        signature = plain[:SIGNATURE_BYTES]
        try:
            bodies = framing.unpack(plain, MAX_BODIES, start=SIGNATURE_BYTES)
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
    """Return the user id that an unopened bundle claims to be from. It proves nothing, but rate limits can use it."""
    return bundle[2:HEADER_BYTES].hex()


def _hashes(bodies: Sequence[bytes]) -> bytes:
    return b"".join([sha256(body).digest() for body in bodies])


def _signed(header: bytes, recipient: bytes, hashes: bytes) -> bytes:
    """Return what the signature covers. Every field has a fixed length, so the encoding is unambiguous."""
    return _DOMAIN + header + recipient + hashes
