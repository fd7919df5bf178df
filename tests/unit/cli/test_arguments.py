"""Arguments of commands: addresses, lengths of time, and data."""

from __future__ import annotations

import io
import sys

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.cli.arguments import Address, Duration, parse_object, read_data
from p2pflows.cli.output import to_json
from p2pflows.errors import UsageError


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2s", 2),
        ("5m", 300),
        ("1h", 3600),
        ("7d", 604_800),
        ("90", 90),
        ("0.5", 0.5),
        ("1.5m", 90),
        ("250ms", 0.25),
    ],
)
def test_a_duration_has_a_number_and_a_unit(text: str, seconds: float) -> None:
    """Every documented way to write a length of time is converted to its seconds."""
    assert Duration().convert(text, None, None) == seconds


@pytest.mark.parametrize("text", ["", "0", "-1", "soon", "5 m", "1w", "31d", "1e9", "nan", "inf", "2s3s"])
def test_no_other_duration_is_accepted(text: str) -> None:
    """Anything else is refused, and so are times that are too long for a message."""
    with pytest.raises(click.UsageError, match="not a length of time"):
        Duration().convert(text, None, None)


@pytest.mark.parametrize("text", ["bob/User", "me/sum", "/sum", f"{'ab' * 32}/x", f"{'AB' * 32}/x"])
def test_an_address_has_an_owner_and_an_endpoint(text: str) -> None:
    """The owner of an endpoint is a petname, a user id, `me`, or nothing for oneself."""
    assert Address().convert(text, None, None) == text


@pytest.mark.parametrize("text", ["bob", "bob/", "bob/a/b", "b ob/User", "bob/Us\x1ber", ""])
def test_no_other_address_is_accepted(text: str) -> None:
    """An address with a wrong form is refused before the daemon is asked."""
    with pytest.raises(click.UsageError):
        Address().convert(text, None, None)


@pytest.mark.parametrize(
    ("words", "data"),
    [
        (['{"a": [1, 2.5, null]}'], {"a": [1, 2.5, None]}),
        (["{}"], {}),
        (["text=hello"], {"text": "hello"}),
        (
            ["n=5", "yes=true", "list=[1]", "empty=", 'quoted="5"'],
            {"n": 5, "yes": True, "list": [1], "empty": "", "quoted": "5"},
        ),
        (["url=http://x/?a=b"], {"url": "http://x/?a=b"}),
        (["n=NaN", "big=1e999"], {"n": "NaN", "big": "1e999"}),
        (["text=a b\nc"], {"text": "a b\nc"}),
    ],
)
def test_data_is_json_or_pairs(words: list[str], data: object) -> None:
    """Data is one JSON object, or key=value pairs; a value that is not JSON is text."""
    assert read_data(words) == data


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{bad}"], "line 1, column 2"),
        (["hello"], "not JSON"),
        (["a=1", "hello"], "'hello' is not a key=value pair"),
        (["a=1", "a=2"], "given twice"),
        (["[1]"], "a list"),
        (["5"], "a number"),
        (["true"], "true or false"),
        (["null"], "null"),
        (['"a=b"'], "a text"),
        (['{"a": NaN}'], "NaN"),
        (['{"a": 1e999}'], "too large"),
        (["[" * 100_000], "not JSON"),
        (["9" * 5_000], "not JSON"),
    ],
)
def test_other_data_is_refused_with_its_reason(words: list[str], message: str) -> None:
    """Data that is not an object is refused, with the reason."""
    with pytest.raises(UsageError, match=message):
        read_data(words)


def test_the_position_of_a_mistake_is_shown() -> None:
    """The caret is below the position where the JSON is wrong, even far into a long line."""
    text = '{"a": "' + "x" * 500 + '" "b": 1}'
    with pytest.raises(UsageError) as caught:
        parse_object(text)
    shown, caret = caught.value.hint.split("\n")[:2]
    assert shown[caret.index("^") :].startswith('"b"')
    assert len(shown) < 70


@pytest.mark.parametrize(("content", "data"), [(b"", {}), (b" \n", {}), (b'\xef\xbb\xbf{"a":1}\n', {"a": 1})])
def test_stdin_is_read_without_arguments(content: bytes, data: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, piped input is the data; empty input is an empty object."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_data([]) == data


def test_a_dash_is_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads stdin; input that is not UTF-8 is refused."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"a":"\xff"}')))
    with pytest.raises(UsageError, match="byte 7"):
        read_data(["-"])


def test_closed_stdin_is_empty_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without stdin sends an empty object, and gets an error if it asks for stdin."""
    monkeypatch.setattr(sys, "stdin", None)
    assert read_data([]) == {}
    with pytest.raises(UsageError, match="no stdin"):
        read_data(["-"])


_VALUES = st.text() | st.booleans() | st.integers(-(2**60), 2**60) | st.floats(allow_nan=False, allow_infinity=False)


@given(st.dictionaries(st.text(), _VALUES))
def test_data_survives_printing(data: dict[str, object]) -> None:
    """Data that `call` prints can be read back by another `call` without a change."""
    assert parse_object(to_json(data)) == data


@given(st.text())
def test_no_text_breaks_the_parser(text: str) -> None:
    """Any text is either parsed as an object or refused with a usage error."""
    try:
        assert isinstance(parse_object(text), dict)
    except UsageError as error:
        assert error.message  # noqa: PT017 - either outcome is right
