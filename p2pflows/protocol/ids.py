"""Ids of messages and questions (docs/PROTOCOL.md, Notation)."""

from __future__ import annotations

import hashlib


def derived_id(*parts: object) -> str:
    """Return an id of 32 hex digits that depends on nothing but its parts."""
    content = "\0".join(map(str, parts))
    return hashlib.sha256(f"p2pflows/1 id\0{content}".encode()).hexdigest()[:32]


def new_id(now_ms: int, random: bytes) -> str:
    """Return a UUID version 7 (RFC 9562, section 5.7) as 32 hex digits, from the time and 10 random bytes."""
    value = (now_ms & (2**48 - 1)) << 80 | int.from_bytes(random[:10], "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    value = value & ~(0x3 << 62) | 0x2 << 62
    return f"{value:032x}"
