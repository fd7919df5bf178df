"""Place: where the server listens, for which names, and with which certificate."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from typing import Self

from p2pflows.errors import UsageError
from p2pflows.home import expand_user
from p2pflows.links.http_address import LOCAL_NAMES, in_url, is_loopback, read_address
from p2pflows.settings.web import DEFAULT_ADDRESS, WebSettings

_ANY = frozenset({"0.0.0.0", "::", ""})  # noqa: S104 - what must not be taken for a name
_HOW_TO = (
    "Give --cert and --key, for example of your own authority: mkcert pi.lan; or let it listen on 127.0.0.1, and reach"
    " it through: ssh -L 8643:127.0.0.1:8643 HOST"
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the server is.

    Attributes:
        host: where it listens.
        port: where it listens; 0 for any free one.
        names: the names under which browsers may ask for it.
        tls: with which certificate; None without TLS.
        address: how the user reaches it; empty if that follows from the rest.
    """

    host: str
    port: int
    names: frozenset[str]
    tls: ssl.SSLContext | None
    address: str = ""

    @classmethod
    def of(cls, settings: WebSettings) -> Self:
        """Return the place that settings name.

        Raises:
            UsageError: the address has a wrong form, other machines would reach it without TLS, there is no name for
                it, or the certificate cannot be used.
        """
        host, port = read_address(settings.listen, DEFAULT_ADDRESS)
        if bool(settings.cert) != bool(settings.key):
            raise UsageError("A certificate and its key go together.", _HOW_TO)
        if not is_loopback(host) and not settings.cert:
            raise UsageError(
                f"{host} is not of this machine alone, and without TLS whoever listens in can answer in your name.",
                _HOW_TO,
            )
        named = {name.lower().strip("[]") for name in settings.hosts}
        names = named | (LOCAL_NAMES if is_loopback(host) else {host.lower()} - _ANY)
        if not names:
            raise UsageError(
                f"{settings.listen} stands for all addresses of this machine, and none of them is a name.",
                "Say under which name your browser asks for the page: --host NAME",
            )
        tls = _context(settings.cert, settings.key) if settings.cert else None
        return cls(host, port, frozenset(names), tls, settings.address)

    def url(self, port: int) -> str:
        """Return how the user reaches the page, once the server has a port."""
        if self.address:
            return self.address
        name = self.host if self.host in self.names else min(self.names)
        return f"{'http' if self.tls is None else 'https'}://{in_url(name)}:{port}"


def _context(cert: str, key: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(expand_user(cert), expand_user(key))
    except (OSError, ssl.SSLError) as error:
        why = error.strerror or str(error)
        raise UsageError(f"The certificate {cert} with the key {key} cannot be used: {why}.", _HOW_TO) from error
    return context
