"""Sealed frames between a daemon and its workers, under one symmetric key per dispatch point.

A frame is a JSON header and blobs (`framing`), sealed with NaCl secretbox. Its topic is part of what is sealed, so a
frame cannot be reflected or moved; headers carry counters against replay (docs/PROTOCOL.md, Dispatch).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from nacl.exceptions import CryptoError
from nacl.secret import SecretBox

from p2pflows.errors import UsageError
from p2pflows.protocol import framing, strict_json

_TOKEN_PREFIX = "p2pflows-worker-1."  # noqa: S105 - a format mark, no secret


class BadFrame(ValueError):
    """The frame was not sealed with this key for this topic, or is malformed."""


class Channel:
    """Seals and opens the frames of one dispatch point."""

    def __init__(self, key: bytes) -> None:
        self._box = SecretBox(key)

    def seal(self, topic: str, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> bytes:
        """One frame for one topic."""
        # Escaped, a header with a large text of another script would not fit any packet.
        head = strict_json.dumps(header, errors="replace")
        return bytes(self._box.encrypt(framing.pack([topic.encode(), head, *blobs])))

    def open(self, topic: str, frame: bytes) -> tuple[dict[str, Any], list[bytes]]:
        """The header and blobs of a frame.

        Raises:
            BadFrame: it was not sealed with this key for this topic, or is malformed.
        """
        try:
            where, head, *blobs = framing.unpack(self._box.decrypt(frame))
            header = strict_json.loads(head)
        except (CryptoError, ValueError, TypeError) as error:
            raise BadFrame("not a frame of this dispatch point") from error
        if where != topic.encode() or not isinstance(header, dict):
            raise BadFrame("a frame of another topic")
        return header, blobs


@dataclass(frozen=True, slots=True)
class Enrolment:
    """All that a worker needs: no user key is in it."""

    broker: str
    user: str
    point: str
    key: bytes = field(repr=False)

    def token(self) -> str:
        """The enrolment as one line to paste; it is a secret."""
        content = {"broker": self.broker, "user": self.user, "point": self.point, "key": self.key.hex()}
        return _TOKEN_PREFIX + json.dumps(content, separators=(",", ":")).encode().hex()


def read_token(token: str) -> Enrolment:
    """The enrolment in a pasted token.

    Raises:
        UsageError: the text is no whole token.
    """
    text = token.strip()
    try:
        if not text.startswith(_TOKEN_PREFIX):
            raise ValueError  # noqa: TRY301 - one sentence for every way it can be wrong
        content = strict_json.loads(bytes.fromhex(text.removeprefix(_TOKEN_PREFIX)))
        enrolment = Enrolment(
            broker=str(content["broker"]),
            user=str(content["user"]),
            point=str(content["point"]),
            key=bytes.fromhex(content["key"]),
        )
        SecretBox(enrolment.key)
    except (ValueError, KeyError, TypeError, CryptoError):
        raise UsageError(
            "That is not a whole worker token.", "Make one with: p2pflows worker-token DISPATCH_POINT"
        ) from None
    return enrolment
