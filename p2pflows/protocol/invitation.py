"""Invitations: the line that one user gives to another, and the proof that the other has seen it.

docs/PROTOCOL.md, Invitations, specifies both. The secret of a line never travels over the broker.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field

from nacl.encoding import RawEncoder
from nacl.hash import blake2b

from p2pflows.errors import UsageError
from p2pflows.protocol import bech32m

PREFIX = "p2pf"
SECRET_BYTES = 16
MAX_TEXT_BYTES = 255
"""The longest name of a broker, and the longest suggested name, in UTF-8."""
_VERSION = 1
_FIXED_BYTES = 1 + 32 + SECRET_BYTES + 4
_START = PREFIX + "1"
MAX_PASTED_CHARS = 20_000
"""The longest text in which an invitation is looked for."""
_MIN_CHARS = 90
"""No line is shorter."""
_MAX_STARTS = 5
_ID_DOMAIN = b"p2pflows invite"
_PROOF_DOMAIN = b"p2pflows accept"


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a line says. `repr` never shows the secret.

    Attributes:
        user: the user id of the one who invites.
        secret: 16 random bytes; who knows them has seen the line.
        expires: when it ends, in seconds since the Unix epoch.
        broker: where their daemon is: `mqtt://HOST[:PORT]`, `mqtts://HOST[:PORT]`, or `embedded:PORT/MARK`.
        name: what they suggest to call them; may be empty.
    """

    user: str
    secret: bytes = field(repr=False)
    expires: int
    broker: str
    name: str = ""

    @property
    def id(self) -> str:
        """Identifies the invitation without revealing its secret: 32 hex digits."""
        return blake2b(b"", digest_size=16, key=self.secret, person=_ID_DOMAIN, encoder=RawEncoder).hex()

    def proof(self, acceptor: str) -> str:
        """Return what proves that a user has seen the line: 64 hex digits, of no use to any other user."""
        return proof(self.secret, self.user, acceptor, self.id)

    def to_text(self) -> str:
        """Return the line.

        Raises:
            UsageError: the name or the broker's address is too long.
        """
        broker, name = self.broker.encode(), self.name.encode()
        if max(len(broker), len(name)) > MAX_TEXT_BYTES:
            raise UsageError("The name, or the broker's address, is too long for an invitation.", "Use a shorter one.")
        fixed = bytes([_VERSION]) + bytes.fromhex(self.user) + self.secret + self.expires.to_bytes(4, "big")
        return bech32m.encode(PREFIX, fixed + bytes([len(broker)]) + broker + bytes([len(name)]) + name)


def proof(secret: bytes, inviter: str, acceptor: str, invitation_id: str) -> str:
    """Return the proof of an invitation: keyed BLAKE2b over both users and its id."""
    said = bytes.fromhex(inviter) + bytes.fromhex(acceptor) + bytes.fromhex(invitation_id)
    return blake2b(said, key=secret, person=_PROOF_DOMAIN, encoder=RawEncoder).hex()


def proves(given: str, expected: str) -> bool:
    """Return whether a proof is the expected one, in a time that says nothing about it."""
    return hmac.compare_digest(given.encode(), expected.encode())


def parse(text: str) -> Invitation:
    """Find the line of an invitation in a text, such as a pasted mail.

    Capitals, spaces, line breaks and quote marks in it do not matter, nor does what stands before and after it.

    Raises:
        UsageError: there is none in it, it was changed or cut, or a newer release made it; or the text is too long.
    """
    if len(text) > MAX_PASTED_CHARS:
        raise UsageError("That is too long for an invitation.", "Give the line, or the mail that holds it.")
    pieces = re.findall(r"[a-z0-9]+", text.lower())
    whole = "".join(pieces)
    ends, end = [], 0
    for piece in pieces:
        end += len(piece)
        ends.append(end)
    starts = [found.start() for found in re.finditer(_START, whole)]
    if not starts:
        raise UsageError("That is no invitation.", f"It begins with {_START}. Copy all of it.")
    for start in starts[:_MAX_STARTS]:
        for end in ends:
            if not _MIN_CHARS <= end - start <= bech32m.MAX_CHARS:
                continue
            try:
                _, data = bech32m.decode(whole[start:end])
            except ValueError:
                continue
            return _read(data)
    raise UsageError(
        "The invitation was changed on its way, or a part is missing.",
        "Copy it again, from the first character to the last.",
    )


def _read(data: bytes) -> Invitation:
    """Read the bytes of a line; what a later release adds at the end is ignored."""
    if data[:1] != bytes([_VERSION]):
        raise UsageError("A newer release of p2pflows made this invitation.", "Install the newer release.")
    try:
        user, secret = data[1:33].hex(), data[33 : 33 + SECRET_BYTES]
        expires = int.from_bytes(data[33 + SECRET_BYTES : _FIXED_BYTES], "big")
        broker, rest = _take_text(data[_FIXED_BYTES:])
        name, _ = _take_text(rest)
    except (IndexError, ValueError):
        raise UsageError("The invitation cannot be read.", "Ask for another one.") from None
    return Invitation(user, secret, expires, broker, name)


def _take_text(data: bytes) -> tuple[str, bytes]:
    length = data[0]
    if len(data) <= length:
        raise ValueError("it ends too early")
    return data[1 : 1 + length].decode(), data[1 + length :]
