"""Bech32m (BIP-350): bytes as text that people can copy, with a checksum that finds mistakes.

The text has no letters that look alike (1, b, i and o are left out of its data), and may be in capitals. Its checksum
finds every change of up to three characters in a text of up to 1,023, and misses one in a billion other mistakes. A
text may be as long as that; the addresses of BIP-350 end after 90 characters.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

MAX_CHARS = 1_023
"""The longest text in which the checksum finds every mistake of up to three characters."""
CHECKSUM_CHARS = 6

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_VALUES = {character: value for value, character in enumerate(_ALPHABET)}
_GENERATOR = (0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)
_CONSTANT = 0x2BC830A3


def encode(prefix: str, data: bytes) -> str:
    """Return bytes as text.

    Args:
        prefix: the part before the separator `1`: lower-case ASCII.
        data: the bytes.

    Raises:
        ValueError: the text would be too long.
    """
    values = list(_regroup(data, 8, 5, pad=True))
    text = f"{prefix}1{''.join(_ALPHABET[value] for value in values + _checksum(prefix, values))}"
    if len(text) > MAX_CHARS:
        raise ValueError("too long")
    return text


def decode(text: str) -> tuple[str, bytes]:
    """Return the prefix, in lower case, and the bytes of a text.

    Raises:
        ValueError: the text was changed, or was never made by `encode`.
    """
    prefix, values = split(text)
    data = bytes(_regroup(values, 5, 8, pad=False))
    return prefix, data


def split(text: str) -> tuple[str, list[int]]:
    """Return the prefix of a text, in lower case, and its data in groups of five bits; check all that BIP-350 demands.

    Raises:
        ValueError: the text is no Bech32m.
    """
    if text not in (text.lower(), text.upper()):
        raise ValueError("it mixes capitals and small letters")
    prefix, separator, rest = text.lower().rpartition("1")
    if not (separator and prefix) or len(rest) < CHECKSUM_CHARS or len(text) > MAX_CHARS:
        raise ValueError("it has another form")
    if not all(33 <= ord(character) <= 126 for character in prefix):  # noqa: PLR2004 - as BIP-173 says
        raise ValueError("its prefix has other characters")
    try:
        values = [_VALUES[character] for character in rest]
    except KeyError:
        raise ValueError("it has other characters") from None
    if _remainder([*_expand(prefix), *values]) != _CONSTANT:
        raise ValueError("its checksum is wrong")
    return prefix, values[:-CHECKSUM_CHARS]


def _checksum(prefix: str, values: Sequence[int]) -> list[int]:
    remainder = _remainder([*_expand(prefix), *values, *[0] * CHECKSUM_CHARS]) ^ _CONSTANT
    return [(remainder >> 5 * (5 - place)) & 31 for place in range(CHECKSUM_CHARS)]


def _expand(prefix: str) -> list[int]:
    codes = prefix.encode("ascii")
    return [*(code >> 5 for code in codes), 0, *(code & 31 for code in codes)]


def _remainder(values: Iterable[int]) -> int:
    remainder = 1
    for value in values:
        top = remainder >> 25
        remainder = (remainder & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate(_GENERATOR):
            if top >> bit & 1:
                remainder ^= generator
    return remainder


def _regroup(values: Iterable[int], bits_in: int, bits_out: int, *, pad: bool) -> Iterable[int]:
    """Yield the bits of values in groups of another size; fill up the last group, or check that it was filled up."""
    held = bits = 0
    for value in values:
        held = held << bits_in | value
        bits += bits_in
        while bits >= bits_out:
            bits -= bits_out
            yield held >> bits & (1 << bits_out) - 1
        held &= (1 << bits) - 1
    if pad and bits:
        yield held << (bits_out - bits)
    elif not pad and (bits >= bits_in or held):
        raise ValueError("its last character holds more than it should")
