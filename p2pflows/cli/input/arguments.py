"""Arguments and options that commands share: addresses, lengths of time, settings, and JSON data."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import click
from click.shell_completion import CompletionItem

from p2pflows import petnames
from p2pflows.cli.input import candidates
from p2pflows.cli.printing import fields
from p2pflows.errors import UsageError
from p2pflows.protocol import topics

Decorated = TypeVar("Decorated", bound=Callable[..., Any])

_MAX_DAYS = 30
_SECONDS = {"": 1, "ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_NAME_RULE = "1 to 64 letters, digits, '_' or '-'"
_SETTINGS_HINT = "Give KEY=VALUE, for example: max_rounds=3; or one JSON object in single quotes."
_OBJECT_HINT = "Give one JSON object in single quotes."
_JSON_TYPES = {
    list: "a list",
    str: "a text",
    int: "a number",
    float: "a number",
    bool: "true or false",
    type(None): "null",
}


def examples(*lines: str) -> str:
    """Return the end of a command's help: what to type."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


class Contact(click.ParamType[str]):
    """A petname or user id; completes petnames."""

    name = "contact"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Refuse an empty text, as of a variable that is not set: in the control API it means oneself, or everybody."""
        if not value.strip():
            self.fail(f"{value!r} is neither a petname nor a user id.", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete a petname."""
        return candidates.contacts(ctx, param, incomplete)


class Stranger(click.ParamType[str]):
    """A petname or user id; completes the user ids of strangers who wait for a decision."""

    name = "user"

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete a user id."""
        return candidates.strangers(ctx, param, incomplete)


class Address(click.ParamType[str]):
    """`<petname or user id>/<endpoint>`; completes petnames, and the endpoints of each user."""

    name = "address"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form of an address."""
        owner, slash, endpoint = value.partition("/")
        if not slash:
            self.fail(f"{value!r} is not an address: give CONTACT/ENDPOINT, such as me/{value}.", param, ctx)
        if not topics.is_name(endpoint):
            self.fail(f"{endpoint!r} cannot name an endpoint ({_NAME_RULE}).", param, ctx)
        if owner and not petnames.has_form(petnames.normalize(owner)):
            self.fail(f"{owner!r} is neither a petname nor a user id.", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete an address."""
        return candidates.addresses(ctx, param, incomplete)


class NameOrAddress(Address):
    """A petname or user id, or an address."""

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form of a name or an address."""
        if "/" in value:
            return super().convert(value, param, ctx)
        if not petnames.has_form(petnames.normalize(value)):
            self.fail(f"{value!r} is neither a petname nor a user id, nor an address.", param, ctx)
        return value


class Duration(click.ParamType[float]):
    """A length of time, written as 90, 2s, 5m, 1h or 7d; converted to seconds.

    Args:
        max_days: how long it may be.
    """

    name = "duration"

    def __init__(self, max_days: int = _MAX_DAYS) -> None:
        self._max_days = max_days

    def convert(self, value: str | float, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the seconds: more than 0, and no longer than the limit."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|[smhd]?)", str(value).strip())
        seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
        if not 0 < seconds <= self._max_days * 86_400:
            self.fail(
                f"{value!r} is not a length of time: give 2s, 5m, 1h or 7d, up to {self._max_days} days.", param, ctx
            )
        return seconds


class DispatchPoint(click.ParamType[str]):
    """The name of a dispatch point."""

    name = "point"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Check the form of a name."""
        if not topics.is_name(value):
            self.fail(f"{value!r} cannot name a dispatch point ({_NAME_RULE}).", param, ctx)
        return value

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        """Complete a dispatch point."""
        return candidates.points(ctx, param, incomplete)


def _inherit_from_group(ctx: click.Context, param: click.Parameter, value: bool) -> bool:
    del param
    return value or fields.META in ctx.meta or (ctx.parent is not None and bool(ctx.parent.params.get("as_json")))


def _use_field(ctx: click.Context, param: click.Parameter, value: str | None) -> None:
    del param
    if value is not None:
        ctx.meta[fields.META] = value


def json_option(command: Decorated) -> Decorated:
    """Add `--json`, inherited from the parent group, and `-o FIELD`, which prints one field of it."""
    field = click.option(
        "-o",
        "--raw",
        metavar="FIELD",
        is_eager=True,  # before --json, whose value depends on it
        expose_value=False,
        callback=_use_field,
        help="Print one field of the JSON plainly; dots nest.",
    )
    as_json = click.option(
        "--json", "as_json", is_flag=True, callback=_inherit_from_group, help="Print JSON, also to stderr."
    )
    return as_json(field(command))


settings_option = click.option(
    "--set",
    "settings",
    metavar="KEY=VALUE",
    multiple=True,
    help="Set a key of its config; dots in KEY nest, VALUE is JSON or else text (KEY:=JSON: JSON). Or a JSON object.",
)


def timeout_option(help: str) -> Callable[[Any], Any]:  # noqa: A002 - click's own word
    """Return the option `--timeout`, with its meaning for one command."""
    return click.option("--timeout", type=Duration(), metavar="TIME", help=f"{help} For example 2s, 5m, 1h or 7d.")


def is_agreed(question: str, hint: str) -> bool:
    """Ask a yes-or-no question on the terminal; everything but a yes is a no.

    Args:
        question: the question.
        hint: what to give instead where nobody can be asked.

    Raises:
        UsageError: stdin is no terminal.
    """
    if sys.stdin is None or stdin_is_piped():
        raise UsageError("This command asks before it goes on, and stdin is no terminal.", hint)
    return click.confirm(question, err=True)


def stdin_is_piped() -> bool:
    """Whether stdin is open and not a terminal."""
    return sys.stdin is not None and not sys.stdin.isatty()


def read_stdin() -> str:
    """Read all of stdin as text.

    Raises:
        UsageError: stdin is closed, or not UTF-8.
    """
    if sys.stdin is None:
        raise UsageError("There is no stdin to read.", "Pipe something in.")
    return decode(sys.stdin.buffer.read())


def decode(content: bytes, source: str = "The input") -> str:
    """Decode UTF-8 input, dropping a byte order mark.

    Args:
        content: the bytes.
        source: the file that they come from, for the error.

    Raises:
        UsageError: the input is not UTF-8.
    """
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{source} is not UTF-8 (byte {error.start + 1}).", "Convert it, for example with iconv."
        ) from error


def read_settings(words: Sequence[str]) -> dict[str, Any]:
    """Build a config from the values of `--set`: KEY=VALUE pairs, in which dots nest, KEY:=JSON, and JSON objects.

    Raises:
        UsageError: a value is neither, or two set the same key.
    """
    config: dict[str, Any] = {}
    for word in words:
        key, equals, text = word.partition("=")
        is_json = key.endswith(":")
        key = key.removesuffix(":")
        parts = key.split(".")
        if word.lstrip().startswith("{"):
            _merge(config, parse_object(word, _SETTINGS_HINT))
        elif equals and all(parts):
            value = parse_json(text, f"{key}:=", f"For a text, write: {key}=TEXT") if is_json else parse_value(text)
            for part in reversed(parts):
                value = {part: value}
            _merge(config, value)
        else:
            raise UsageError(f"{word!r} is not a KEY=VALUE pair.", _SETTINGS_HINT)
    return config


def _merge(config: dict[str, Any], more: dict[str, Any], prefix: str = "") -> None:
    """Merge more settings into a config, in place."""
    for key, value in more.items():
        if key not in config:
            config[key] = value
        elif isinstance(config[key], dict) and isinstance(value, dict):
            _merge(config[key], value, f"{prefix}{key}.")
        else:
            raise UsageError(f"{prefix + key!r} is set twice.", "Keep one of the two settings.")


def parse_object(text: str, hint: str = _OBJECT_HINT) -> dict[str, Any]:
    """Parse a JSON object; an empty text is an empty object.

    Args:
        text: the JSON.
        hint: the hint of an error: what to give instead.

    Raises:
        UsageError: the text is not JSON, with the position of the mistake, or not an object.
    """
    if not text.strip():
        return {}
    value = parse_json(text, "The data", hint)
    if not isinstance(value, dict):
        raise UsageError(
            f"The data is {_JSON_TYPES[type(value)]}, but must be an object.",
            'Put it into one, for example: {"value": ...}',
        )
    return value


def parse_json(text: str, source: str, hint: str) -> Any:
    """Parse JSON.

    Args:
        text: the JSON.
        source: where it stands, for the error.
        hint: the hint of an error: what to give instead.

    Raises:
        UsageError: the text is not JSON, with the position of the mistake.
    """
    try:
        return _parse(text)
    except json.JSONDecodeError as error:
        raise UsageError(
            f"{source} is not JSON: line {error.lineno}, column {error.colno}: {error.msg}.",
            f"{_excerpt(error)}\n{hint}",
        ) from error
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{source} is not JSON: {error}.", hint) from error


def parse_value(text: str) -> Any:
    """Parse the value of a pair: JSON, or else text."""
    try:
        return _parse(text)
    except (ValueError, RecursionError):
        return text


def _parse(text: str) -> Any:
    return json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_number)


def _refuse_constant(word: str) -> float:
    raise ValueError(f"{word} is not a JSON number")


def _finite_number(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise ValueError(f"the number {text} is too large")
    return number


def _excerpt(error: json.JSONDecodeError) -> str:
    """Return the text around the mistake, and a caret below its position."""
    line = error.doc.split("\n")[error.lineno - 1]
    start = max(error.colno - 31, 0)
    shown = "".join(character if character.isprintable() else "·" for character in line[start : start + 60])
    return f"  {shown}\n  {' ' * (error.colno - 1 - start)}^"
