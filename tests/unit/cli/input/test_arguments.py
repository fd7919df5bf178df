"""Arguments of commands: addresses, lengths of time, and data."""

from __future__ import annotations

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.cli.input.arguments import Address, Contact, Duration, parse_object
from p2pflows.cli.printing.output import to_json
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


@pytest.mark.parametrize("text", ["", " "])
def test_an_empty_text_is_no_contact(text: str) -> None:
    """A variable that is not set names neither oneself nor everybody."""
    with pytest.raises(click.UsageError, match="neither a petname nor a user id"):
        Contact().convert(text, None, None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{bad}", "line 1, column 2"),
        ("hello", "not JSON"),
        ("[1]", "a list"),
        ("5", "a number"),
        ("true", "true or false"),
        ("null", "null"),
        ('"a=b"', "a text"),
        ('{"a": NaN}', "NaN"),
        ('{"a": 1e999}', "too large"),
        ("[" * 100_000, "not JSON"),
        ("9" * 5_000, "not JSON"),
    ],
)
def test_other_data_is_refused_with_its_reason(text: str, message: str) -> None:
    """Data that is not an object is refused, with the reason."""
    with pytest.raises(UsageError, match=message):
        parse_object(text)


def test_the_position_of_a_mistake_is_shown() -> None:
    """The caret is below the position where the JSON is wrong, even far into a long line."""
    text = '{"a": "' + "x" * 500 + '" "b": 1}'
    with pytest.raises(UsageError) as caught:
        parse_object(text)
    shown, caret = caught.value.hint.split("\n")[:2]
    assert shown[caret.index("^") :].startswith('"b"')
    assert len(shown) < 70


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
