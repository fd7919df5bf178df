"""Petnames: which texts may name a contact, and which names look alike.

Letters of every alphabet may be used, as Unicode counts them, but not of several alphabets in one name: so mixed,
letters that look alike make two names that nobody can tell apart (UTS 39, "highly restrictive").
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

from p2pflows.errors import UsageError

MAX_CHARS = 64
MAX_MARKS = 2
"""How many accents may follow one letter."""
RULE = f"1 to {MAX_CHARS} letters, digits, '_' or '-'"

_SIGNS = "0123456789_-"
_EAST_ASIAN = {"CJK", "HIRAGANA", "KATAKANA", "KATAKANA-HIRAGANA", "BOPOMOFO", "HANGUL"}
"""Scripts that names use together, and together with Latin letters."""

_LOOKALIKES = dict(zip(
    # Cyrillic, Greek and some Latin letters, and below them the Latin letter or digit that they look like.
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u04bb\u0501\u051b\u051d\u04cf"
    "\u0410\u0412\u0415\u041a\u041c\u041d\u041e\u0420\u0421\u0422\u0423\u0425\u0405\u0406\u0408"
    "\u03bf\u03b1\u03bd\u03c1\u03b9\u03c5"
    "\u0391\u0392\u0395\u0396\u0397\u0399\u039a\u039c\u039d\u039f\u03a1\u03a4\u03a5\u03a7"
    "\u0131\u0251\u0261\u0585\u057d\u0570I10",
    "aeopcyxijshdqwl"
    "ABEKMHOPCTYXSlJ"
    "oavpiu"
    "ABEZHlKMNOPTYX"
    "iagouhllO",
    strict=True,
))  # fmt: skip
_LIKE = {
    look: "".join(letter for letter in _LOOKALIKES if _LOOKALIKES[letter] == look) for look in _LOOKALIKES.values()
}
"""All letters that look like a Latin letter or digit."""
_ASCII_NAME = re.compile("[A-Za-z0-9_-]+")


def has_form(name: str) -> bool:
    """Return whether a text has the form of a petname: letters, accents, digits, '_' and '-'."""
    if _ASCII_NAME.fullmatch(name):
        return len(name) <= MAX_CHARS
    return 0 < len(name) <= MAX_CHARS and all(
        character in _SIGNS or unicodedata.category(character) in {"Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc"}
        for character in name
    )


def normalize(name: str) -> str:
    """Return a name as it is stored: accents joined with their letters (NFC), as keyboards differ in this."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def check(name: str) -> str:
    """Return a name in its normal form, if it may become a petname.

    Raises:
        UsageError: it has a wrong form, or mixes alphabets.
    """
    name = normalize(name)
    if not has_form(name):
        raise UsageError(f"{name!r} cannot name a contact.", f"Use {RULE}.")
    if name.isascii():
        return name
    if unicodedata.normalize("NFKC", name) != name or _has_stray_marks(name):
        raise UsageError(f"{name!r} cannot name a contact.", "Use plain letters, with accents if need be.")
    if not _is_one_alphabet(name):
        raise UsageError(
            f"{name!r} cannot name a contact: it mixes letters of several alphabets.",
            "Some of them look alike. Use letters of one alphabet.",
        )
    return name


def lookalikes(name: str, others: Iterable[str]) -> list[str]:
    """Return those of other names that look like this one; all are in their normal form."""
    looks = [_LOOKALIKES.get(letter, letter) for letter in name]
    alike = "".join(f"[{re.escape(look + _LIKE.get(look, ''))}]" for look in looks)
    # One search in all names, as there may be many.
    return re.findall(f"\n({alike})(?=\n)", "\n".join(("", *others, "")))


def _has_stray_marks(name: str) -> bool:
    marks = MAX_MARKS  # none may begin a name
    for character in name:
        marks = marks + 1 if unicodedata.category(character) == "Mn" else 0
        if marks > MAX_MARKS:
            return True
    return False


def _is_one_alphabet(name: str) -> bool:
    scripts = {unicodedata.name(character, "?").split()[0] for character in name if character not in _SIGNS}
    scripts -= {"COMBINING"}  # accents, of any alphabet
    return len(scripts) == 1 or scripts <= _EAST_ASIAN | {"LATIN"}
