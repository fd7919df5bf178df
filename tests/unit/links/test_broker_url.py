"""The broker setting: each form it may have, and that a password in it is never shown."""

from __future__ import annotations

import pytest

from p2pflows.errors import UsageError
from p2pflows.links.broker_url import BrokerUrl, Embedded, parse

SECRET, ODD = "s cret", "p:/?#@"


@pytest.mark.parametrize(
    ("text", "meaning"),
    [
        ("embedded", Embedded()),
        ("embedded:", Embedded()),
        ("embedded:20000", Embedded(20000)),
        ("mqtt://broker", BrokerUrl("broker", 1883)),
        ("mqtt://broker/", BrokerUrl("broker", 1883)),
        ("mqtts://broker", BrokerUrl("broker", 8883, tls=True)),
        ("mqtt://127.0.0.1:2000", BrokerUrl("127.0.0.1", 2000)),
        ("mqtt://[::1]:2000", BrokerUrl("::1", 2000)),
        ("mqtt://alice@broker", BrokerUrl("broker", 1883, username="alice")),
        ("mqtt://alice:s%20cret@broker", BrokerUrl("broker", 1883, username="alice", password=SECRET)),
        ("mqtt://a%40b:p%3A%2F%3F%23%40@broker", BrokerUrl("broker", 1883, username="a@b", password=ODD)),
        ("mqtts://broker?ca_file=/etc/ca.crt", BrokerUrl("broker", 8883, tls=True, ca_file="/etc/ca.crt")),
        ("mqtts://broker:1?ca_file=my%20ca.crt", BrokerUrl("broker", 1, tls=True, ca_file="my ca.crt")),
    ],
)
def test_each_form_is_understood(text: str, meaning: BrokerUrl | Embedded) -> None:
    """The documented forms mean what they say, with the usual ports when none is given."""
    assert parse(text) == meaning


@pytest.mark.parametrize(
    "text",
    [
        "",
        "broker",
        "broker:1883",
        "http://broker",
        "mqtt://",
        "mqtt:broker",
        "mqtt://broker/path",
        "mqtt://broker:0x1",
        "mqtt://broker:99999",
        "mqtt://broker:" + "9" * 5_000,
        "embedded:" + "9" * 5_000,
        "mqtts://broker?ca_file=/etc/c\udcff",
        "mqtt://a\udcff@broker",
        "mqtt://broker:0",
        "mqtt://[::1",
        "mqtts://broker?ca_file=",
        "mqtts://broker?ca_file=/a&ca_file=",
        "mqtt://broker#part",
        "mqtt://broker?part",
        "mqtt://broker?tls=yes",
        "embedded:0",
        "embedded:65536",
        "embedded:port",
        "embedded:\u0661",
    ],
)
def test_what_has_no_known_form_is_refused(text: str) -> None:
    """A mistake in the setting is an error and never guessed at."""
    with pytest.raises(UsageError):
        parse(text)


@pytest.mark.parametrize(
    "url",
    [
        BrokerUrl("broker", 1883),
        BrokerUrl("::1", 1883),
        BrokerUrl("broker", 8883, tls=True, username="a@b", password=ODD, ca_file="/my ca.crt"),
    ],
)
def test_the_whole_url_is_read_back_with_its_secret(url: BrokerUrl) -> None:
    """A worker token carries the full URL, password included, and it parses to the same broker."""
    assert parse(url.with_secret()) == url


def test_a_password_is_never_shown() -> None:
    """Neither the text nor the repr of a URL holds the password."""
    url = parse("mqtts://alice:secret@broker")
    assert str(url) == "mqtts://alice@broker:8883"
    assert "secret" not in f"{url} {url!r}"


@pytest.mark.parametrize("text", ["mqtt://alice:secret@broker/path", "x://alice:secret@broker", "mqtt://a:secret@b:x"])
def test_a_refused_url_does_not_show_its_password(text: str) -> None:
    """An error about a setting does not repeat a text that may hold a secret."""
    with pytest.raises(UsageError) as error:
        parse(text)
    assert "secret" not in f"{error.value} {error.value.hint}"


@pytest.mark.parametrize("broken", ["#", "/", "?"])
def test_a_password_that_is_not_encoded_is_refused_and_not_taken_for_a_port(broken: str) -> None:
    """An unescaped sign in a password would make the user name the host; the hint says how to escape it."""
    with pytest.raises(UsageError, match="The broker") as error:
        parse(f"mqtt://alice:123{broken}secret@realhost")
    assert f"{broken} as %" in error.value.hint


def test_a_password_in_brackets_is_not_shown_by_the_error_of_the_parser() -> None:
    """`urlsplit` quotes what it cannot read, which may be the password: neither our error nor its cause shows it."""
    for text in ("mqtt://alice:[hunter2]@broker", "mqtt://alice:hun\u2100ter2@broker", "mqtt://alice:[hunter2@broker"):
        with pytest.raises(UsageError) as error:
            parse(text)
        assert error.value.__cause__ is None
        assert "ter2" not in f"{error.value} {error.value.hint}"


def test_a_ca_file_without_tls_is_refused() -> None:
    """A CA file has a meaning for mqtts:// only, and the hint says so."""
    with pytest.raises(UsageError, match="ca_file") as error:
        parse("mqtt://alice:secret@broker?ca_file=/etc/ca.crt")
    assert "mqtts://" in error.value.hint


def test_the_text_of_an_ipv6_url_has_its_brackets() -> None:
    """The text of a URL is a setting that can be typed."""
    assert str(parse("mqtt://alice:secret@[::1]:2000")) == "mqtt://alice@[::1]:2000"


def test_the_embedded_broker_is_named_with_its_port_if_it_is_unusual() -> None:
    """The text of the setting is what a user would write."""
    assert [str(Embedded()), str(Embedded(20000))] == ["embedded", "embedded:20000"]


@pytest.mark.parametrize(
    ("text", "is_exposed"),
    [
        ("mqtt://alice:pw@broker.example.org", True),
        ("mqtt://alice@192.168.1.5", True),
        ("mqtt://alice:pw@[2001:db8::1]:1883", True),
        ("mqtt://alice:pw@localhost.example.org", True),
        ("mqtts://alice:pw@broker.example.org", False),
        ("mqtt://broker.example.org", False),
        ("mqtt://alice:pw@localhost", False),
        ("mqtt://alice:pw@127.0.0.2:1883", False),
        ("mqtt://alice:pw@[::1]", False),
    ],
)
def test_a_password_without_tls_beyond_this_machine_is_exposed(text: str, is_exposed: bool) -> None:
    """Such a setting deserves a loud warning; on loopback and over TLS, nobody can listen."""
    setting = parse(text)
    assert isinstance(setting, BrokerUrl)
    assert setting.is_exposed == is_exposed


@pytest.mark.parametrize(
    ("text", "public"),
    [
        ("mqtt://alice:s%20cret@broker", "mqtt://broker"),
        ("mqtts://alice@broker:8883?ca_file=/ca.crt", "mqtts://broker"),
        ("mqtts://broker:1883", "mqtts://broker:1883"),
        ("mqtt://[::1]", "mqtt://[::1]"),
        ("mqtt://u:p@[::1]:2000", "mqtt://[::1]:2000"),
    ],
)
def test_what_others_are_given_of_a_broker_holds_no_credentials(text: str, public: str) -> None:
    """An invitation says where a broker is, and no more; the usual port is left out."""
    setting = parse(text)
    assert isinstance(setting, BrokerUrl)
    assert setting.public() == public
    found = parse(public)
    assert isinstance(found, BrokerUrl)
    assert (found.host, found.port, found.tls) == (setting.host, setting.port, setting.tls)
