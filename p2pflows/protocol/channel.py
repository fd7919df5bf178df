"""Sealed frames between a daemon and its workers, under a symmetric key of a worker token or a dispatch point.

A frame is a JSON header and blobs (`framing`), sealed with NaCl secretbox. Its topic is sealed with it, so a frame
cannot be sent back or moved to another topic. Headers carry counters against replay (docs/PROTOCOL.md, Dispatch).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nacl.bindings import crypto_secretbox_easy, crypto_secretbox_open_easy
from nacl.exceptions import CryptoError
from nacl.secret import SecretBox
from nacl.utils import random

from p2pflows.errors import UsageError
from p2pflows.protocol import framing, strict_json, topics

_TOKEN_PREFIX = "p2pflows-worker-1."  # noqa: S105 - names the format, holds no secret


class BadFrame(ValueError):
    """The frame was not sealed with this key for this topic, or is malformed."""


class Channel:
    """Seals and opens the frames of one dispatch point."""

    def __init__(self, key: bytes) -> None:
        self._key = bytes(SecretBox(key))

    def seal(self, topic: str, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
        """Return the sealed frame to publish on a topic."""
        # `dumps` writes UTF-8: escaped as ASCII, a large text in another script would exceed every packet limit.
        head = strict_json.dumps(header, errors="replace")
        nonce = random(SecretBox.NONCE_SIZE)
        # Not SecretBox.encrypt, which copies the whole frame twice more.
        return nonce + crypto_secretbox_easy(framing.pack([topic.encode(), head, *blobs]), nonce, self._key)

    def open(self, topic: str, frame: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """Return the header and the blobs of a frame.

        Raises:
            BadFrame: the frame was not sealed with this key for this topic, or is malformed.
        """
        try:
            nonce, box = frame[: SecretBox.NONCE_SIZE], frame[SecretBox.NONCE_SIZE :]
            sealed_topic, head, *blobs = framing.unpack(crypto_secretbox_open_easy(box, nonce, self._key))
            header = strict_json.loads(head)
        except (CryptoError, ValueError, TypeError) as error:
            raise BadFrame("not a frame of this dispatch point") from error
        if sealed_topic != topic.encode() or not isinstance(header, dict):
            raise BadFrame("a frame of another topic")
        return header, blobs


@dataclass(frozen=True, slots=True)
class Enrolment:
    """What a worker needs to connect: the broker, the dispatch point and a key for it, but no key of the user.

    Attributes:
        token_id: the id by which its daemon lists and revokes the token; "" for workers on the daemon's machine, and
            in tokens of older releases.
    """

    broker: str
    user: str
    point: str
    key: bytes = field(repr=False)
    token_id: str = ""

    @property
    def queue(self) -> str:
        """What stands for the dispatch point in topics."""
        return topics.queue_of(self.point, self.token_id)

    def token(self) -> str:
        """Return the enrolment as one line to paste. The line holds the key, so it is secret."""
        content = {"broker": self.broker, "user": self.user, "point": self.queue, "key": self.key.hex()}
        return _TOKEN_PREFIX + json.dumps(content, separators=(",", ":")).encode().hex()


def read_token(token: str) -> Enrolment:
    """Return the enrolment that a pasted token holds.

    Raises:
        UsageError: the text is not a complete token.
    """
    text = token.strip()
    try:
        if not text.startswith(_TOKEN_PREFIX):
            raise ValueError  # noqa: TRY301 - every defect has the same error
        content = strict_json.loads(bytes.fromhex(text.removeprefix(_TOKEN_PREFIX)))
        parts = topics.split_queue(str(content["point"]))
        if parts is None:
            raise ValueError  # noqa: TRY301 - every defect has the same error
        enrolment = Enrolment(
            broker=str(content["broker"]),
            user=str(content["user"]),
            point=parts[0],
            key=bytes.fromhex(content["key"]),
            token_id=parts[1],
        )
        SecretBox(enrolment.key)
    except (ValueError, KeyError, TypeError, CryptoError):
        raise UsageError(
            "That is not a complete worker token.", "Make one with: p2pflows worker-token DISPATCH_POINT"
        ) from None
    return enrolment
