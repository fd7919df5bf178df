"""The data of a message, as a person types it: a JSON object, key=value pairs, or a text.

The rule for people is in the help of `call`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from p2pflows.cli.input.arguments import decode, parse_json, parse_object, read_stdin, stdin_is_piped
from p2pflows.cli.input.sent_file import put_file
from p2pflows.errors import TooLarge, UsageError
from p2pflows.home import expand_user

TEXT_KEY = "text"
MAX_FILE_BYTES = 4_000_000
"""More than any message holds."""
MAX_TEXT_BYTES = 500_000
"""A text in a file that is longer travels as a file beside the message."""

_KEY = r"\w[\w.-]*"
_PAIR = re.compile(rf"({_KEY})(:=|@=|=)(.*)", re.DOTALL)
_DATA_HINT = "Give key=value pairs, one JSON object in single quotes, or a text in quotes."

Put = Callable[[Path], dict[str, Any]]
"""Takes a file that travels beside the message, and returns the reference to it."""


class MessageData(NamedTuple):
    """What to send.

    Attributes:
        data: the data; a text that reads as JSON is the value that it may stand for.
        typed: the texts of these keys as they were typed.
    """

    data: dict[str, Any]
    typed: dict[str, str]

    def as_params(self) -> dict[str, Any]:
        """Return both as parameters of a method; older daemons do not know `typed`."""
        return {"data": self.data, "typed": self.typed or None}


def read_data(words: Sequence[str], put: Put = put_file) -> MessageData:
    """Read the data of a message from the words after its address, or from stdin if there are none or just `-`.

    The schema of a flow decides whether `n=1.10` is a number or a text. Only the recipient knows its schema for
    certain, and to ask for it would cost a second round trip. So both travel, the number in `data` and the text in
    `typed`, and the recipient's daemon takes the one that the schema of the flow takes. A daemon that does not know
    `typed` takes the number, as it did before.

    `key=@FILE` is the text in the file. What is no text, or too long for a message, travels as a file beside the
    message; with `key@=FILE` everything does.

    Args:
        words: what was typed.
        put: takes a file that travels beside the message, and returns the reference to it.

    Raises:
        UsageError: the words or stdin hold no data, or a file cannot be read.
    """
    if list(words) == ["-"] or (not words and stdin_is_piped()):
        return MessageData(parse_object(read_stdin(), "Pipe a JSON object in; for a text, give: text=-"), {})
    if not words:
        return MessageData({}, {})
    if len(words) == 1 and words[0].lstrip().startswith("{"):
        return MessageData(parse_object(words[0]), {})
    pairs = [_PAIR.fullmatch(word) for word in words]
    if not any(pairs) and not any(word.lstrip().startswith("{") for word in words):
        return MessageData(*_text_value(TEXT_KEY, " ".join(words)))
    data: dict[str, Any] = {}
    typed: dict[str, str] = {}
    for word, pair in zip(words, pairs, strict=True):
        if pair is None:
            raise UsageError(f"{word!r} is not a key=value pair.", _DATA_HINT)
        key, sign, text = pair.groups()
        if key in data:
            raise UsageError(f"The key {key!r} is given twice.", f'For a list, write: {key}:=\'["one", "two"]\'')
        value, as_typed = _pair_value(key, sign, text, put)
        data |= value
        typed |= as_typed
    return MessageData(data, typed)


def is_key(name: str) -> bool:
    """Whether a name can be the key of a pair."""
    return re.fullmatch(_KEY, name) is not None


def read_content(key: str, text: str) -> str:
    """Return what a text stands for: itself, what stdin has (`-`), or a file (`@FILE`); `@@` is one @.

    Args:
        key: what the text is, for the error.
        text: the text.

    Raises:
        UsageError: the file cannot be read, or is not UTF-8.
        TooLarge: the file is larger than a message.
    """
    if text == "-":
        return read_stdin()
    if not text.startswith("@"):
        return text
    if text.startswith("@@"):
        return text[1:]
    path = expand_user(text[1:])
    try:
        with path.open("rb") as file:
            content = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UsageError(
            f"Cannot read {path} for {key!r}: {error.strerror or error}.",
            f"Check the path; a text that begins with '@' is written with two: @{text}",
        ) from error
    if len(content) > MAX_FILE_BYTES:
        raise TooLarge(f"{path} is larger than a message can be.", "Send it in parts, or send where it can be found.")
    return decode(content, str(path))


def _pair_value(key: str, sign: str, text: str, put: Put) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a pair says, and the text in it if that may mean something else."""
    if sign == "@=":
        return {key: put(expand_user(text))}, {}
    if sign == "=" and (path := _path_of(text)) is not None and not _is_short_text(path):
        return {key: put(path)}, {}
    text = read_content(key, text)
    if sign == ":=":
        return {key: parse_json(text, f"{key}:=", f"For a text, write: {key}=TEXT")}, {}
    return _text_value(key, text)


def _path_of(text: str) -> Path | None:
    """Return the path in `@FILE`; None if the text is anything else."""
    return expand_user(text[1:]) if text.startswith("@") and not text.startswith("@@") else None


def _is_short_text(path: Path) -> bool:
    """Return whether a file holds UTF-8 text that fits into a message, or is a pipe, which can be read only once.

    So does one that cannot be read, for its error.
    """
    try:
        if not path.is_file():
            return True
        with path.open("rb") as file:
            content = file.read(MAX_TEXT_BYTES + 1)
        content[:MAX_TEXT_BYTES].decode("utf-8-sig")
    except OSError:
        return True
    except UnicodeDecodeError:
        return False
    return len(content) <= MAX_TEXT_BYTES and b"\0" not in content


def _text_value(key: str, text: str) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what a typed text may stand for, and the text itself if that is something else."""
    try:
        value = parse_json(text, "", "")
    except UsageError:
        value = text
    return ({key: text}, {}) if isinstance(value, str) else ({key: value}, {key: text})
