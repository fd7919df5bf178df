"""Where the MQTT broker is, as one URL.

Forms: `embedded`, `embedded:PORT`, `mqtt://[user:password@]host[:1883]`,
`mqtts://[user:password@]host[:8883][?ca_file=/path/to/ca.crt]`.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlsplit

from p2pflows.errors import UsageError

EMBEDDED_PORT = 18883
_PORT, _TLS_PORT = 1883, 8883
_MAX_PORT = 65_535
_MAX_PORT_DIGITS = 5
_FORMS = "Use embedded, mqtt://host or mqtts://user:password@host:8883?ca_file=/path/ca.crt."
_FORMS_AND_ESCAPES = f"{_FORMS} In a password, write # as %23, / as %2F, ? as %3F, @ as %40 and % as %25."


@dataclass(frozen=True, slots=True)
class Embedded:
    """The broker on a loopback port that the daemons of this machine start and share."""

    port: int = EMBEDDED_PORT

    def __str__(self) -> str:
        return "embedded" if self.port == EMBEDDED_PORT else f"embedded:{self.port}"


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """The address of an MQTT 5 broker, with the credentials. `str()` and `repr()` never show the password."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    socket: str | None = None
    """The path of a unix socket on which the broker listens, too: it is used in place of host and port."""

    def __str__(self) -> str:
        user = f"{self.username}@" if self.username else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{user}{self._host_and_port()}"

    def with_secret(self) -> str:
        """Return the full URL, password included, as `parse` reads it."""
        user = quote(self.username, safe="") if self.username else ""
        if self.password:
            user += ":" + quote(self.password, safe="")
        query = f"?ca_file={quote(self.ca_file)}" if self.ca_file else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{user + '@' if user else ''}{self._host_and_port()}{query}"

    def public(self) -> str:
        """Return the URL without credentials and without the usual port, as others need it."""
        default = _TLS_PORT if self.tls else _PORT
        host = self._host_and_port().removesuffix(f":{default}")
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}"

    @property
    def is_exposed(self) -> bool:
        """Whether user and password travel over the network without encryption."""
        return bool(self.username or self.password) and not self.tls and not is_loopback(self.host)

    def _host_and_port(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Whether a host is this machine, as far as its name says."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.casefold().rstrip(".") == "localhost" or host.casefold().rstrip(".").endswith(".localhost")


def parse(text: str) -> BrokerUrl | Embedded:
    """Read a broker setting.

    Raises:
        UsageError: the text has none of the forms above.
    """
    if any("\ud800" <= character <= "\udfff" for character in text):  # bytes of a command line that are no text
        raise UsageError("The broker URL is no text in UTF-8.", _FORMS_AND_ESCAPES)
    scheme, _, rest = text.partition(":")
    if scheme == "embedded":
        return Embedded(_port(rest, text)) if rest else Embedded()
    try:
        url = urlsplit(text)
    except ValueError:  # its text may quote the password
        raise UsageError("The broker URL cannot be read.", _FORMS_AND_ESCAPES) from None
    # An unescaped "#" or "?" in a password would end the host there: mqtt://alice:1#2@broker has the host alice.
    if url.scheme not in ("mqtt", "mqtts") or not url.hostname or url.path not in ("", "/") or "#" in text:
        raise UsageError(f"The broker setting has an unknown form (scheme {scheme!r}).", _FORMS_AND_ESCAPES)
    tls = url.scheme == "mqtts"
    options = parse_qs(url.query, keep_blank_values=True)
    if set(options) - {"ca_file"}:
        raise UsageError("The broker URL has an unknown option.", _FORMS_AND_ESCAPES)
    if "ca_file" in options and not (tls and all(options["ca_file"])):
        raise UsageError(
            "The broker URL has a ca_file that cannot be used.", "Write the path of a file, and use mqtts://."
        )
    try:
        port = url.port
    except ValueError:
        port = 0
    if port == 0:
        raise UsageError("The broker URL has no valid port.", _FORMS_AND_ESCAPES)
    return BrokerUrl(
        host=url.hostname,
        port=port or (_TLS_PORT if tls else _PORT),
        tls=tls,
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
        ca_file=options["ca_file"][0] if "ca_file" in options else None,
    )


def _port(text: str, whole: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= _MAX_PORT_DIGITS and 0 < int(text) <= _MAX_PORT:
        return int(text)
    raise UsageError(f"The broker setting {whole!r} has no valid port.", _FORMS)
