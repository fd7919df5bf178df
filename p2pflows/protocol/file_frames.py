"""What daemons say to each other about a file: a small JSON header, and behind it the bytes of a piece.

Both are bodies of a bundle of kind 3 (docs/PROTOCOL.md, Files), so they are sealed and signed like messages. Any of
them may be lost, repeated or late.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from p2pflows.protocol import strict_json

MAX_PIECE_BYTES = 131_072
"""The most bytes of a file in one packet."""
MAX_WANTED_BYTES = 4_194_304
"""The most bytes that one `want` asks for; a holder ignores the rest."""
MAX_HEADER_BYTES = 1_000
MAX_FRAME_BYTES = MAX_PIECE_BYTES + 2_000
"""No bundle with a piece is larger: whatever is, is refused unopened."""
OVERHEAD_BYTES = 700
"""Bytes of a packet with a piece besides the piece, rounded up."""

FileId = Annotated[str, StringConstraints(pattern="^[0-9a-f]{32}$")]
Position = Annotated[int, Field(ge=0, le=2**53 - 1)]


class _Header(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    file: FileId


class Want(_Header):
    """Send me this part of a file, from the byte `start` to the one before `end`, in pieces with the number `n`."""

    op: Literal["want"] = "want"
    start: Position
    end: Position
    n: Position = 0


class Piece(_Header):
    """The bytes of a file from `start` on, which follow the header; `n` is the number of the want."""

    op: Literal["piece"] = "piece"
    start: Position
    n: Position = 0


class NotHere(_Header):
    """I have no such file for you: I never sent it to you, or it has expired."""

    op: Literal["none"] = "none"


class NoRoom(_Header):
    """I do not fetch the file, as it does not fit into what I keep for files."""

    op: Literal["refuse"] = "refuse"


class Fetched(_Header):
    """I have the whole file."""

    op: Literal["done"] = "done"


Frame = Want | Piece | NotHere | NoRoom | Fetched
_FRAME: TypeAdapter[Frame] = TypeAdapter(Annotated[Frame, Field(discriminator="op")])


def pack(frame: Frame, content: bytes = b"") -> list[bytes]:
    """Return the bodies of a bundle."""
    header = frame.model_dump_json().encode()
    return [header, content] if isinstance(frame, Piece) else [header]


def unpack(bodies: Sequence[bytes]) -> tuple[Frame, bytes]:
    """Return the header in the bodies of a bundle, and the bytes of the piece.

    Raises:
        ValueError: they are no such frame.
    """
    if len(bodies[0]) > MAX_HEADER_BYTES:
        raise ValueError("a header that is too long")
    try:
        frame = _FRAME.validate_python(strict_json.loads_exact(bodies[0]))
    except ValidationError as error:
        raise ValueError("no frame about a file") from error
    if len(bodies) != (2 if isinstance(frame, Piece) else 1):
        raise ValueError("a wrong number of bodies")
    if isinstance(frame, Piece):
        if not 0 < len(bodies[1]) <= MAX_PIECE_BYTES:
            raise ValueError("a piece of a wrong size")
        return frame, bodies[1]
    return frame, b""
