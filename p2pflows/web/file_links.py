"""Links to files: each is good once, and for the browser that has asked for it.

Neither an image nor a download of a browser can show the key of the page, which other requests need. So the page asks
for a link with cookie and key, and the browser opens it with the cookie. A file never passes through the page's own
memory, and the policy of the page allows no address but ours.
"""

from __future__ import annotations

import secrets
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from p2pflows.protocol.file_reference import ANY_TYPE

LINK_LIFE_S = 60
MAX_LINKS = 200
MAX_PICTURE_BYTES = 20_000_000
"""A larger picture is not shown, only downloaded."""
HEAD_BYTES = 16
_TOKEN_BYTES = 32


class FileHere(NamedTuple):
    """A file that can be sent to a browser.

    Attributes:
        name: what it is called.
        size: how many bytes it has.
        path: where it lies.
        picture: the type of the picture that it is; empty if it is none that the page shows.
    """

    name: str
    size: int
    path: Path
    picture: str

    @property
    def headers(self) -> dict[str, str]:
        """What a browser is told of it: to save it, never to open it; images ignore that."""
        return {
            "Content-Type": self.picture or ANY_TYPE,
            "Content-Length": str(self.size),
            "Content-Disposition": disposition(self.name),
        }


class _Link(NamedTuple):
    file: FileHere
    cookie: str
    key: str
    until: float


class WrongFileLink(Exception):
    """There is no such link: it was used, is too old, is another browser's, or never was."""


class FileLinks:
    """The links that were not used yet.

    Args:
        now: returns seconds.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._links: dict[str, _Link] = {}

    def make(self, file: FileHere, cookie: str, key: str) -> str:
        """Make a link for a browser that is logged in, and return its token; with too many, the oldest gives way."""
        token = secrets.token_urlsafe(_TOKEN_BYTES)
        self._links[token] = _Link(file, cookie, key, self._now() + LINK_LIFE_S)
        while len(self._links) > MAX_LINKS:
            del self._links[next(iter(self._links))]
        return token

    def use(self, token: str, cookie: str) -> tuple[FileHere, str]:
        """Use a link up; return its file, and the key of the browser that has asked for it.

        Raises:
            WrongFileLink: there is no such link.
        """
        link = self._links.get(token)
        if link is None or link.cookie != cookie:
            raise WrongFileLink
        del self._links[token]
        if link.until < self._now():
            raise WrongFileLink
        return link.file, link.key


def picture_type(head: bytes) -> str:
    """Return the type of a picture by its first bytes, whatever its sender claims; empty if the page shows no such."""
    if head.startswith(b"\x89PNG\r\n\x1a\n"):
        return "image/png"
    if head.startswith(b"\xff\xd8\xff"):
        return "image/jpeg"
    if head.startswith((b"GIF87a", b"GIF89a")):
        return "image/gif"
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "image/webp"
    return ""


def disposition(name: str) -> str:
    """Return the header by which a browser saves a file under a name (RFC 6266)."""
    plain = "".join(each if each.isascii() and each.isprintable() and each not in '"\\%' else "_" for each in name)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{urllib.parse.quote(name, safe='')}"
