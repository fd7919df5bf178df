"""Files between a browser and a scripted daemon: who may have and send them, and within which limits."""

from __future__ import annotations

import asyncio
import fcntl
import io
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from support.page import Browser, logged_in, serving
from support.scripted_daemon import ScriptedDaemon

from p2pflows.errors import FileLost
from p2pflows.home import Home
from p2pflows.web import transfers
from p2pflows.web.logins import Logins
from p2pflows.web.methods import MAX_ATTACHED
from p2pflows.web.server import KEY_HEADER, NAME_HEADER

PNG = b"\x89PNG\r\n\x1a\n" + b"." * 100
MAX_BYTES = 5_000_000
ID = "1" * 32
REFERENCE = {"$file": {"id": ID, "name": "x", "size": 1, "sha256": "a" * 64, "type": "image/png"}}


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    """A daemon that has a picture, and takes files."""
    kept = tmp_path / "kept"
    kept.write_bytes(PNG)
    found = {
        "id": ID, "name": "photo.png", "size": len(PNG), "type": "text/html", "state": "here", "error": None,
        "done": len(PNG), "path": str(kept),
    }  # fmt: skip
    with ScriptedDaemon(tmp_path) as daemon:
        daemon.script.update(
            news={"news_items": []},
            status={"files": {"limits": {"max_size": MAX_BYTES}}},
            files_get=found,
            files_put={"file": REFERENCE},
        )
        yield daemon


async def link_of(browser: Browser) -> str:
    """Ask for a link to the picture."""
    status, answer = await browser.post("file_link", {"id": ID})
    assert status == 200, answer
    return browser.url + str(answer["result"]["link"])


async def upload(browser: Browser, content: object, **headers: str) -> tuple[int, Any]:
    """Send a file as the page does."""
    sent = {
        "Origin": browser.url,
        "Sec-Fetch-Site": "same-origin",
        "Content-Type": "application/octet-stream",
        KEY_HEADER: browser.key,
        NAME_HEADER: "..%2Fm%C3%BCll.png",
        **headers,
    }
    async with browser.session.post(f"{browser.url}/api/upload", data=content, headers=sent) as response:
        return response.status, await response.json()


def left_over(daemon: ScriptedDaemon) -> list[Path]:
    """Return what lies in the folder of uploads."""
    return list(Home(daemon.home).uploads.glob("*"))


async def test_a_file_is_saved_and_never_opened(daemon: ScriptedDaemon) -> None:
    """Whatever its type is said to be: a browser gets it as an attachment that no cache keeps."""
    async with logged_in(daemon.home) as browser:
        assert (await browser.post("file", {"id": ID}))[1]["result"]["is_picture"] is True
        async with browser.session.get(await link_of(browser)) as response:
            assert (response.status, await response.read()) == (200, PNG)
            headers = response.headers
        assert headers["Content-Type"] == "image/png"
        assert headers["Content-Disposition"].startswith("attachment;")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        (daemon.home / "kept").write_bytes(b"<svg xmlns='http://www.w3.org/2000/svg'><script/></svg>".ljust(len(PNG)))
        assert (await browser.post("file", {"id": ID}))[1]["result"]["is_picture"] is False
        async with browser.session.get(await link_of(browser)) as response:
            assert response.content_type == "application/octet-stream"


async def test_a_very_large_picture_is_only_saved(daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser would take long to draw it."""
    monkeypatch.setattr(transfers, "MAX_PICTURE_BYTES", len(PNG) - 1)
    async with logged_in(daemon.home) as browser:
        assert (await browser.post("file", {"id": ID}))[1]["result"]["is_picture"] is False


async def test_a_link_is_worth_nothing_to_others(daemon: ScriptedDaemon) -> None:
    """Without the cookie, after a log-out, from another origin, or a second time."""
    async with logged_in(daemon.home) as browser:
        link = await link_of(browser)
        for more in ({"Sec-Fetch-Site": "cross-site"}, {"Sec-Fetch-Site": "same-site"}, {"Origin": "http://evil"}):
            async with browser.session.get(link, headers=more) as response:
                assert response.status == 403
        cookies = {cookie.key: cookie.value for cookie in browser.session.cookie_jar}
        browser.session.cookie_jar.clear()
        async with browser.session.get(link) as response:
            assert response.status == 404
        browser.session.cookie_jar.update_cookies(cookies)
        async with browser.session.get(link, cookies=cookies) as response:
            assert response.status == 200
        async with browser.session.get(link, cookies=cookies) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (404, "wrong_link")
        link = await link_of(browser)
        Logins(Home(daemon.home)).log_out_all()
        async with browser.session.get(link) as response:
            assert response.status == 401


async def test_without_a_login_no_file_comes_or_goes(daemon: ScriptedDaemon) -> None:
    """Not a byte reaches the daemon."""
    async with serving(daemon.home) as (browser, _):
        assert (await browser.post("file_link", {"id": ID}))[0] == 401
        assert (await upload(browser, b"x"))[0] == 401
    assert [method for method, _ in daemon.asked if method.startswith("files")] == []
    assert left_over(daemon) == []


async def test_an_upload_is_a_private_file_until_the_daemon_has_it(daemon: ScriptedDaemon) -> None:
    """Its name and type are what the browser says of it, its bytes are those that were sent; then it is gone."""
    seen: list[tuple[bytes, int, dict[str, Any]]] = []

    def put(params: dict[str, Any]) -> dict[str, Any]:
        path = Path(params["path"])
        seen.append((path.read_bytes(), stat.S_IMODE(path.stat().st_mode), params))
        return {"file": REFERENCE}

    daemon.script["files_put"] = put
    content = b"y" * 3_000_000
    async with logged_in(daemon.home) as browser:
        assert await upload(browser, io.BytesIO(content)) == (200, {"result": {"file": REFERENCE}})
    ((found, mode, params),) = seen
    assert (found == content, mode, params["name"], params["type"]) == (True, 0o600, "../müll.png", "image/png")
    assert stat.S_IMODE(Home(daemon.home).uploads.stat().st_mode) == 0o700
    assert left_over(daemon) == []


@pytest.mark.parametrize(
    "more",
    [
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "same-site"},
        {"Content-Type": "text/plain"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/json"},
        {KEY_HEADER: "guess"},
    ],
)
async def test_another_page_cannot_upload(daemon: ScriptedDaemon, more: dict[str, str]) -> None:
    """No type that a form can send is taken, so a browser asks the server before it sends anything."""
    async with logged_in(daemon.home) as browser:
        status, _ = await upload(browser, b"x", **more)
    assert status in (401, 403, 415)
    assert "files_put" not in dict(daemon.asked)


async def test_a_file_that_is_too_large_is_refused(daemon: ScriptedDaemon) -> None:
    """At once if its size is known, else as soon as it is; nothing stays on the disk."""

    async def without_a_size() -> AsyncIterator[bytes]:
        for _ in range(6):
            yield b"z" * 1_000_000

    async with logged_in(daemon.home) as browser:
        for content in (io.BytesIO(b"z" * (MAX_BYTES + 1)), without_a_size()):
            status, answer = await upload(browser, content)
            assert (status, answer["error"]["code"]) == (422, "too_large")
            assert "5,000,000" in answer["error"]["message"]
    assert "files_put" not in dict(daemon.asked)
    assert left_over(daemon) == []


async def test_transfers_at_once_are_few(daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes too late can try again; a place is free again after a failure."""
    monkeypatch.setattr(transfers, "MAX_DOWNLOADS", 0)
    monkeypatch.setattr(transfers, "MAX_UPLOADS", 0)
    async with logged_in(daemon.home) as browser:
        async with browser.session.get(await link_of(browser)) as response:
            assert (response.status, response.headers["Retry-After"]) == (429, "5")
        assert (await upload(browser, b"x"))[0] == 429
        monkeypatch.setattr(transfers, "MAX_DOWNLOADS", 1)
        for _ in range(2):
            async with browser.session.get(await link_of(browser)) as response:
                assert (response.status, await response.read()) == (200, PNG)
        monkeypatch.setattr(transfers, "MAX_UPLOADS", 1)
        daemon.script["files_put"] = FileLost("No.", "Again.")
        for _ in range(2):
            assert (await upload(browser, b"x"))[1]["error"]["code"] == "no_file"


async def test_a_size_that_is_too_large_is_refused_before_a_byte_comes(daemon: ScriptedDaemon) -> None:
    """Nobody sends a gigabyte for nothing."""

    async def never() -> AsyncIterator[bytes]:
        yield b"z"
        await asyncio.sleep(60)

    async with logged_in(daemon.home) as browser:
        async with asyncio.timeout(10):
            status, _ = await upload(browser, never(), **{"Content-Length": str(MAX_BYTES + 1)})
    assert status == 422


async def test_an_upload_has_an_end(daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it comes byte by byte."""
    monkeypatch.setattr(transfers, "UPLOAD_TIMEOUT_S", 0.3)

    async def slow() -> AsyncIterator[bytes]:
        for _ in range(100):
            yield b"z"
            await asyncio.sleep(0.05)

    async with logged_in(daemon.home) as browser:
        assert (await upload(browser, slow()))[0] == 408


async def test_who_sends_or_takes_nothing_is_hung_up_on(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So nobody holds a place for ever."""
    monkeypatch.setattr(transfers, "STALL_TIMEOUT_S", 0.2)
    going_on = asyncio.Event()

    async def stalling() -> AsyncIterator[bytes]:
        yield b"z"
        await going_on.wait()

    (daemon.home / "kept").write_bytes(b"z" * 50_000_000)
    daemon.script["files_get"]["size"] = 50_000_000
    async with logged_in(daemon.home) as browser:
        status, answer = await upload(browser, stalling())
        assert (status, answer["error"]["message"]) == (408, "The file did not come in time.")
        going_on.set()
        async with browser.session.get(await link_of(browser)) as response:
            await asyncio.sleep(1)
            with pytest.raises(aiohttp.ClientError):
                await response.read()
    assert left_over(daemon) == []


async def test_a_file_that_was_removed_is_said(daemon: ScriptedDaemon) -> None:
    """Before the link is made, and after."""
    async with logged_in(daemon.home) as browser:
        link = await link_of(browser)
        (daemon.home / "kept").unlink()
        async with browser.session.get(link) as response:
            assert (response.status, (await response.json())["error"]["code"]) == (410, "no_file")
        assert (await browser.post("file", {"id": ID}))[0] == 410
        daemon.script["files_get"] = {**daemon.script["files_get"], "path": None, "state": "offered"}
        assert (await browser.post("file_link", {"id": ID}))[1]["error"]["hint"] == "Fetch it first."


async def test_what_a_killed_server_has_left_is_removed(daemon: ScriptedDaemon) -> None:
    """Unless another server writes it at the moment."""
    folder = Home(daemon.home).uploads
    folder.mkdir()
    (folder / "old").write_bytes(b"x")
    with (folder / "new").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        async with serving(daemon.home):
            assert [path.name for path in left_over(daemon)] == ["new"]


async def test_files_go_with_an_answer(daemon: ScriptedDaemon) -> None:
    """Also without a word, and with any kind of answer; but not too many."""
    daemon.script.update(
        answer={"id": ID}, prompt={"id": ID, "data": {"text": "?", "answer_schema": {"type": "boolean"}}}
    )
    async with logged_in(daemon.home) as browser:
        for given in ({"text": ""}, {"value": True}):
            assert (await browser.post("answer", {"id": ID, **given, "files": [REFERENCE]}))[0] == 200
        for files in ([REFERENCE] * (MAX_ATTACHED + 1), "x"):
            status, answer = await browser.post("answer", {"id": ID, "text": "", "files": files})
            assert (status, answer["error"]["code"]) == (422, "usage")
        assert (await browser.post("answer", {"id": ID, "text": ""}))[0] == 422
    sent = [params for method, params in daemon.asked if method == "answer"]
    assert [(params.get("text"), params.get("value"), params["files"]) for params in sent] == [
        ("", None, [REFERENCE]),
        (None, True, [REFERENCE]),
    ]
