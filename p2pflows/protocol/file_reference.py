"""References to files in the data of messages: `{"$file": {...}}` (docs/PROTOCOL.md, Files). All pure.

The bytes of a file do not travel in a message. The message refers to it, and whoever gets the message may fetch it.
"""

from __future__ import annotations

import re
import unicodedata
from typing import Any, NamedTuple

MARK = "$file"
"""The only key of an object that refers to a file."""
MAX_REFERENCES = 64
"""How many different files a message refers to at most."""
MAX_NAME_BYTES = 255
MAX_FILE_BYTES = 1_000_000_000
"""The largest file that any daemon takes; each may take less."""
ANY_TYPE = "application/octet-stream"
_ID = re.compile(r"[0-9a-f]{32}")
_HASH = re.compile(r"[0-9a-f]{64}")
_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,62}/[a-z0-9][a-z0-9!#$&^_.+-]{0,62}")
_MAX_SIZE = 2**53 - 1
_SEPARATORS = frozenset({"/", "\\"})
_UNSEEN = frozenset({"Zl", "Zp"})


def is_file_name(name: str) -> bool:
    """Return whether a text is a bare file name that is shown as it is: no path, no control or bidi characters."""
    return (
        0 < len(name.encode(errors="replace")) <= MAX_NAME_BYTES
        and name not in (".", "..")
        and name == name.strip()
        and all(_is_plain(character) for character in name)
    )


def _is_plain(character: str) -> bool:
    category = unicodedata.category(character)
    return not category.startswith("C") and category not in _UNSEEN and character not in _SEPARATORS


def as_file_name(text: str) -> str:
    """Return a text as a name that a reference may have: what none may hold becomes `_`."""
    plain = "".join(character if _is_plain(character) else "_" for character in text).strip()
    while len(plain.encode()) > MAX_NAME_BYTES:
        plain = plain[: len(plain) - 1 - (len(plain.encode()) - MAX_NAME_BYTES) // 4]
    return plain.strip() if is_file_name(plain.strip()) else "file"


class FileReference(NamedTuple):
    """A file that a message refers to.

    Attributes:
        id: random; who knows it was sent the file. It can be fetched with it from whoever sent it, and be passed on.
        sha256: the hash of its bytes, in hex.
        size: how many bytes it has.
        name: a bare file name.
        type: its media type.
    """

    id: str
    sha256: str
    size: int
    name: str
    type: str = ANY_TYPE

    def as_data(self) -> dict[str, Any]:
        """Return the reference as it stands in the data of a message."""
        return {MARK: self._asdict()}


def is_reference(value: object) -> bool:
    """Return whether a part of the data refers to a file, well-formed or not.

    Another object with the mark is data, such as a schema that describes references.
    """
    fields = value.get(MARK) if isinstance(value, dict) else None
    return isinstance(fields, dict) and isinstance(fields.get("sha256"), str)


def read(value: dict[str, Any]) -> FileReference:
    """Read a part of the data that `is_reference`.

    Raises:
        ValueError: it is malformed; its text says why.
    """
    if len(value) != 1:
        raise ValueError(f"{MARK!r} stands beside other keys")
    fields = value[MARK]
    about = {"type": ANY_TYPE, **fields}
    found = FileReference._make(about.get(name) for name in FileReference._fields)
    for name, is_right in (
        ("id", _matches(_ID, found.id)),
        ("sha256", _matches(_HASH, found.sha256)),
        ("size", type(found.size) is int and 0 <= found.size <= _MAX_SIZE),
        ("name", isinstance(found.name, str) and is_file_name(found.name)),
        ("type", _matches(_TYPE, found.type)),
    ):
        if not is_right:
            raise ValueError(f"its {name!r} is wrong")
    return found


def _matches(pattern: re.Pattern[str], value: object) -> bool:
    return isinstance(value, str) and pattern.fullmatch(value) is not None


def may_refer(text: bytes) -> bool:
    """Return whether a JSON text may hold a reference; most texts do not, and need not be searched."""
    if b"$" in text and b'"$file"' in text:  # one character is found much faster than several, or found to be missing
        return True
    return b"\\" in text and rb"\u00" in text and re.search(rb"\\u00[2-7]", text) is not None


def references_in(data: object) -> list[FileReference]:
    """Return the files that data refers to, each once, in the order in which they stand there.

    Raises:
        ValueError: a reference is malformed, two of one id differ, or there are too many; its text says why.
    """
    found: dict[str, FileReference] = {}
    left: list[Any] = [data]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            if not is_reference(value):
                left += reversed(value.values())
                continue
            reference = read(value)
            if found.setdefault(reference.id, reference)[:3] != reference[:3]:
                raise ValueError("two files have one id")
        elif isinstance(value, list):
            left += reversed(value)
    if len(found) > MAX_REFERENCES:
        raise ValueError(f"there are more than {MAX_REFERENCES} of them")
    return list(found.values())
