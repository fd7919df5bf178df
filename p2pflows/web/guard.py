"""What every request must show, before anything else of it counts: the right name, and a page of ours as its origin."""

from __future__ import annotations

from typing import NamedTuple

from p2pflows.links.http_address import host_name

JSON = "application/json"

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self';"
    " connect-src 'self'; manifest-src 'self'; worker-src 'self'; base-uri 'none'; form-action 'none';"
    " frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), microphone=(), geolocation=()",
}
"""With every response."""


class Refused(Exception):
    """A request is not answered as it wishes.

    Args:
        status: the status of HTTP.
        kind: the kind of the error.
        message: what is wrong, as one sentence.
        hint: what the user can do next.
        retry_after: seconds after which it makes sense to try again; None if it does not.
    """

    def __init__(self, status: int, kind: str, message: str, hint: str = "", retry_after: int | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.kind = kind
        self.message = message
        self.hint = hint
        self.retry_after = retry_after

    def as_reply(self) -> dict[str, str]:
        """Return the object that the page gets."""
        return {"code": self.kind, "message": self.message, "hint": self.hint}


class Headers(NamedTuple):
    """What a request says of itself; None for what it does not say."""

    host: str
    origin: str | None
    fetch_site: str | None
    content_type: str


def check_host(headers: Headers, names: frozenset[str]) -> None:
    """Check that a browser asks for us: a name of somebody else may lead to this machine, too (DNS rebinding).

    Raises:
        Refused: it asks for somebody else.
    """
    if host_name(headers.host) not in names:
        raise Refused(
            421,
            "wrong_host",
            "This server does not know itself by that name.",
            "Open the address that p2pflows web has printed, or name yours: p2pflows web --host NAME",
        )


def check_origin(headers: Headers, *, changes: bool, content_type: str = JSON) -> None:
    """Check that a page of ours asks, and no page of another origin, or of another port of this machine.

    Args:
        headers: what the request says of itself.
        changes: whether the request is a POST; browsers send no origin with a plain GET of our own page.
        content_type: what a POST holds; a type that no form of a page has, so that browsers ask us before they send it.

    Raises:
        Refused: another page asks.
    """
    if headers.fetch_site not in (None, "same-origin"):
        raise _foreign()
    if headers.origin is None:
        if changes:
            raise _foreign()
    elif headers.origin.partition("://")[2] != headers.host:
        raise _foreign()
    if changes and headers.content_type.partition(";")[0].strip().lower() != content_type:
        raise Refused(415, "usage", f"The content of this request must be {content_type}.", "Load the page again.")


def _foreign() -> Refused:
    return Refused(403, "wrong_origin", "Only the page of this server may ask this.", "Open the page itself.")
