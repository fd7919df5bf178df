"""Where the MQTT broker is, as one URL.

Forms: `embedded`, `embedded:PORT`, `mqtt://[user:password@]host[:1883]`,
`mqtts://[user:password@]host[:8883][?ca_file=/path/to/ca.crt]`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from urllib.parse import parse_qs, quote, unquote, urlsplit

from p2pflows.errors import UsageError

EMBEDDED_PORT = 18883
_MAX_PORT = 65_535
_FORMS = "Use embedded, mqtt://host or mqtts://user:password@host:8883?ca_file=/path/ca.crt."
_ENCODED = f"{_FORMS} In a password, write # as %23, / as %2F, ? as %3F, @ as %40 and % as %25."


@dataclass(frozen=True, slots=True)
class Embedded:
    """The broker that the daemons of this machine run for themselves on loopback."""

    port: int = EMBEDDED_PORT

    def __str__(self) -> str:
        return "embedded" if self.port == EMBEDDED_PORT else f"embedded:{self.port}"


@dataclass(frozen=True, slots=True)
class BrokerUrl:
    """An MQTT 5 broker and what it takes to connect; `str()` never shows the password."""

    host: str
    port: int
    tls: bool = False
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None

    def __str__(self) -> str:
        who = f"{self.username}@" if self.username else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{who}{self._place()}"

    def with_secret(self) -> str:
        """The URL that `parse` reads back whole, password included."""
        who = quote(self.username, safe="") if self.username else ""
        if self.password:
            who += ":" + quote(self.password, safe="")
        query = f"?ca_file={quote(self.ca_file)}" if self.ca_file else ""
        return f"{'mqtts' if self.tls else 'mqtt'}://{who + '@' if who else ''}{self._place()}{query}"

    def _place(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def parse(text: str) -> BrokerUrl | Embedded:
    """Read a broker setting.

    Raises:
        UsageError: the text has none of the known forms.
    """
    scheme, _, rest = text.partition(":")
    if scheme == "embedded":
        return Embedded(_port(rest, text)) if rest else Embedded()
    try:
        url = urlsplit(text)
    except ValueError:  # which may quote the password
        raise UsageError("The broker URL cannot be read.", _ENCODED) from None
    # A "#" or "?" that a password holds as it is would make the host of what stands before it.
    if url.scheme not in ("mqtt", "mqtts") or not url.hostname or url.path not in ("", "/") or "#" in text:
        raise UsageError(f"The broker setting has an unknown form (scheme {scheme!r}).", _ENCODED)
    tls = url.scheme == "mqtts"
    options = parse_qs(url.query, keep_blank_values=True)
    if set(options) - {"ca_file"}:
        raise UsageError("The broker URL has an unknown option.", _ENCODED)
    if "ca_file" in options and not (tls and all(options["ca_file"])):
        raise UsageError("The broker URL has a ca_file that means nothing.", "It is a path, and belongs to mqtts://.")
    try:
        port = url.port
    except ValueError:
        port = 0
    if port == 0:
        raise UsageError("The broker URL has no valid port.", _ENCODED)
    return BrokerUrl(
        host=url.hostname,
        port=port or (8883 if tls else 1883),
        tls=tls,
        username=unquote(url.username) if url.username else None,
        password=unquote(url.password) if url.password else None,
        ca_file=options["ca_file"][0] if "ca_file" in options else None,
    )


def _port(text: str, whole: str) -> int:
    if text.isascii() and text.isdigit() and 0 < int(text) <= _MAX_PORT:
        return int(text)
    raise UsageError(f"The broker setting {whole!r} has no valid port.", _FORMS)
