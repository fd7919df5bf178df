"""What commands are given: addresses, names, lengths of time, and JSON data."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any

import click
from click.shell_completion import CompletionItem

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.home import home
from p2pflows.protocol import topics


def _or_above(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    del param
    return value or (ctx.parent is not None and bool(ctx.parent.params.get("as_json")))


json_option = click.option(
    "--json", "as_json", is_flag=True, callback=_or_above, help="Print JSON, errors on stderr included."
)
"""Of a command, or of the group above it."""


def examples(*lines: str) -> str:
    """The end of a command's help: what to type."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


_MAX_DAYS = 30
_COMPLETION_TIMEOUT_S = 2
_UNITS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_HOW_SETTINGS = "Give KEY=VALUE, for example: max_rounds=3; or one JSON object in single quotes."
_HOW_DATA = "Give one JSON object in single quotes, '-' to read it from stdin, or key=value pairs."


class Contact(click.ParamType[str]):
    """A petname or user id; completes the petnames."""

    name = "contact"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The petnames that begin so."""
        del ctx, param
        return [CompletionItem(name) for name in _petnames() if name.startswith(incomplete)]


class Stranger(click.ParamType[str]):
    """A user id, or the start of one; completes those who wait to be let in."""

    name = "user"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The user ids that begin so."""
        del ctx, param
        from p2pflows.client import Client

        try:
            with Client(timeout=_COMPLETION_TIMEOUT_S) as me:
                waiting = me.request("requests")["requests"]
        except P2pflowsError:
            return []
        return [CompletionItem(one["user"]) for one in waiting if one["user"].startswith(incomplete)]


class Address(click.ParamType[str]):
    """`<contact or user id>/<endpoint>`; completes the petnames, and the endpoint that every human has."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The address, once it has the form of one."""
        owner, slash, endpoint = value.partition("/")
        if not slash:
            self.fail(f"{value!r} is no address: give CONTACT/ENDPOINT, such as bob/User or me/{value}.", param, ctx)
        if not topics.is_name(endpoint):
            self.fail(f"{endpoint!r} cannot name an endpoint (1 to 64 letters, digits, '_' or '-').", param, ctx)
        if owner and not topics.is_name(owner):
            self.fail(f"{owner!r} is neither a petname nor a user id.", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """The addresses that begin so."""
        del ctx, param
        # Two candidates for each name, so that the shell stops behind the slash and adds no space.
        known = (f"{name}/{endpoint}" for name in [*_petnames(), "me"] for endpoint in ("", "User"))
        return [CompletionItem(address) for address in known if address.startswith(incomplete)]


class Duration(click.ParamType[float]):
    """A length of time in seconds, written as 90, 2s, 5m, 1h or 7d."""

    name = "duration"

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The seconds, more than none and at most thirty days."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|[smhd]?)", str(value).strip())
        seconds = float(found[1]) * _UNITS[found[2]] if found else 0.0
        if not 0 < seconds <= _MAX_DAYS * 86_400:
            self.fail(f"{value!r} is no length of time: give 2s, 5m, 1h or 7d, up to {_MAX_DAYS} days.", param, ctx)
        return seconds


class Point(click.ParamType[str]):
    """A dispatch point."""

    name = "point"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """The point, once it has the form of one."""
        if not topics.is_name(value):
            self.fail(f"{value!r} cannot name a dispatch point (1 to 64 letters, digits, '_' or '-').", param, ctx)
        return value


def timeout_option(help: str) -> Callable[[Any], Any]:  # noqa: A002 - click's own word
    """The option `--timeout`, with what it means for this command."""
    return click.option("--timeout", type=Duration(), metavar="TIME", help=f"{help} Such as 2s, 5m, 1h or 7d.")


settings_option = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set a key of its config, or several with one JSON object; dots nest, and a value is JSON, or else text.",
)


def no_stdin() -> bool:
    """Whether nothing is piped in: stdin is a terminal, or closed."""
    return sys.stdin is None or sys.stdin.isatty()


def read_stdin() -> str:
    """All of stdin as text.

    Raises:
        UsageError: it is not UTF-8, or closed.
    """
    if sys.stdin is None:
        raise UsageError("There is no stdin to read.", "Pipe something in.")
    return decode(sys.stdin.buffer.read())


def decode(content: bytes) -> str:
    """Bytes from outside as text; a byte order mark is dropped.

    Raises:
        UsageError: they are not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"The input is not UTF-8 (byte {error.start + 1}).", "Convert it, for example with iconv."
        ) from error


def read_data(words: Sequence[str]) -> dict[str, Any]:
    """The data that the words after an address stand for; stdin when there are none, or `-`.

    Raises:
        UsageError: they are no JSON object and no key=value pairs.
    """
    if list(words) == ["-"] or (not words and not no_stdin()):
        return parse_object(read_stdin())
    if not words:
        return {}
    if len(words) == 1 and not is_pair(words[0]):
        return parse_object(words[0])
    return _read_pairs(words)


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """The config that the words after `--set` stand for: KEY=VALUE pairs, where dots nest, and JSON objects.

    Raises:
        UsageError: one is neither, or two set the same.
    """
    config: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        parts = key.split(".")
        if word.lstrip().startswith("{"):
            _lay(config, parse_object(word, _HOW_SETTINGS))
        elif equals and all(parts):
            value = parse_value(text)
            for part in reversed(parts):
                value = {part: value}
            _lay(config, value)
        else:
            raise UsageError(f"{word!r} is no KEY=VALUE pair.", _HOW_SETTINGS)
    return config


def _lay(config: dict[str, Any], more: dict[str, Any], above: str = "") -> None:
    """Put more into a config, in place."""
    for key, value in more.items():
        if key not in config:
            config[key] = value
        elif isinstance(config[key], dict) and isinstance(value, dict):
            _lay(config[key], value, f"{above}{key}.")
        else:
            raise UsageError(f"{above + key!r} has a value already.", "Set the one or the other.")


def parse_object(text: str, how: str = _HOW_DATA) -> dict[str, Any]:
    """The JSON object in a text; empty text is the empty object.

    Args:
        text: the text.
        how: what to give instead, if it is not JSON.

    Raises:
        UsageError: it is not JSON, naming where, or no object.
    """
    if not text.strip():
        return {}
    try:
        value = _parse(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"The data is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
            f"{_spot(error)}\n{how}",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"The data is not JSON: {error}.", how) from error
    if not isinstance(value, dict):
        raise UsageError(
            f"The data is {_KINDS[type(value)]}, and flows take objects.",
            'Name it, for example: {"value": ...}',
        )
    return value


_KINDS = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def is_pair(word: str) -> bool:
    """Whether a word is taken for key=value, not for JSON."""
    return re.match(r"[^\s{\[\"=][^={\[\"]*=", word) is not None


def _read_pairs(words: Sequence[str]) -> dict[str, Any]:
    data: dict[str, Any] = {}
    for word in words:
        key, _, text = word.partition("=")
        if not is_pair(word):
            raise UsageError(f"{word!r} is no key=value pair.", _HOW_DATA)
        if key in data:
            raise UsageError(f"The key {key!r} is given twice.", 'For a list, write: key=\'["one", "two"]\'')
        data[key] = parse_value(text)
    return data


def parse_value(text: str) -> Any:
    """The value after a `key=`: JSON, or else text."""
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return text


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_not_json, parse_float=_finite)


def _not_json(word: str) -> float:
    raise ValueError(f"{word} is no JSON number")


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"{text} is too large a number")
    return number


def _spot(error: json.JSONDecodeError) -> str:
    """The part of the text around an error, and a caret below the place."""
    line = error.doc.split("\n")[error.lineno - 1]
    start = max(error.colno - 31, 0)
    shown = "".join(character if character.isprintable() else "·" for character in line[start : start + 60])
    return f"  {shown}\n  {' ' * (error.colno - 1 - start)}^"


def _petnames() -> list[str]:
    from p2pflows.contacts import Contacts

    try:
        return sorted(Contacts(home().contacts).book().by_name)
    except P2pflowsError:
        return []
