"""The files of the page, read once and kept in memory."""

from __future__ import annotations

import hashlib
from importlib.resources import files
from typing import NamedTuple

_TYPES = {
    "css": "text/css; charset=utf-8",
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "png": "image/png",
    "svg": "image/svg+xml",
    "webmanifest": "application/manifest+json",
}
_INDEX = "index.html"


class StaticFile(NamedTuple):
    """One file of the page."""

    body: bytes
    content_type: str
    etag: str


def load() -> dict[str, StaticFile]:
    """Return the files by their path in a URL."""
    folder = files("p2pflows.web").joinpath("static")
    found = {
        f"/{item.name}": _file(item.name, item.read_bytes())
        for item in folder.iterdir()
        if item.name.rpartition(".")[2] in _TYPES
    }
    return {**found, "/": found[f"/{_INDEX}"]}


def _file(name: str, body: bytes) -> StaticFile:
    return StaticFile(body, _TYPES[name.rpartition(".")[2]], f'"{hashlib.sha256(body).hexdigest()[:32]}"')
