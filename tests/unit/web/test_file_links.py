"""Links to files are good once, for one browser, for a minute; and no name or content makes a file more than a file."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pflows.web.file_links import (
    LINK_LIFE_S,
    MAX_LINKS,
    FileHere,
    FileLinks,
    WrongFileLink,
    disposition,
    picture_type,
)

FILE = FileHere("photo.png", 7, Path("/none"), "image/png")


def test_a_link_is_good_once_and_for_its_browser() -> None:
    """Another browser cannot use it up, either."""
    links = FileLinks()
    token = links.make(FILE, "cookie", "key")
    with pytest.raises(WrongFileLink):
        links.use(token, "another")
    assert links.use(token, "cookie") == (FILE, "key")
    for wrong in (token, "", "x"):
        with pytest.raises(WrongFileLink):
            links.use(wrong, "cookie")


def test_links_run_out() -> None:
    """After a minute, or when there are too many."""
    now = [0.0]
    links = FileLinks(lambda: now[0])
    first, *others = (links.make(FILE, "cookie", "key") for _ in range(MAX_LINKS + 1))
    with pytest.raises(WrongFileLink):
        links.use(first, "cookie")
    links.use(others[0], "cookie")
    now[0] = LINK_LIFE_S + 1
    with pytest.raises(WrongFileLink):
        links.use(others[1], "cookie")


@pytest.mark.parametrize(
    ("head", "kind"),
    [
        (b"\x89PNG\r\n\x1a\n....", "image/png"),
        (b"\xff\xd8\xff\xe0....", "image/jpeg"),
        (b"GIF89a....", "image/gif"),
        (b"RIFF....WEBPVP8 ", "image/webp"),
        (b"RIFF....WAVEfmt ", ""),
        (b"<svg xmlns=''>", ""),
        (b"<!doctype html>", ""),
        (b"", ""),
    ],
)
def test_a_picture_is_known_by_its_bytes(head: bytes, kind: str) -> None:
    """What its sender claims counts for nothing; no SVG and no HTML is shown."""
    assert picture_type(head) == kind


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.png", "attachment; filename=\"a.png\"; filename*=UTF-8''a.png"),
        ('a"; x="b', "attachment; filename=\"a_; x=_b\"; filename*=UTF-8''a%22%3B%20x%3D%22b"),
        ("é\\%41.html", "attachment; filename=\"___41.html\"; filename*=UTF-8''%C3%A9%5C%2541.html"),
        ("a\r\nb", "attachment; filename=\"a__b\"; filename*=UTF-8''a%0D%0Ab"),
    ],
)
def test_no_name_adds_to_the_header(name: str, header: str) -> None:
    """Neither quotes nor line breaks end it."""
    assert disposition(name) == header
