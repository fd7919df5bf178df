"""The server of the page between a browser and a scripted daemon."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import re
import ssl
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import trustme
from support.page import logged_in, serving
from support.scripted_daemon import ScriptedDaemon

from p2pflows.errors import DeadlinePassed, UsageError
from p2pflows.home import Home
from p2pflows.settings.web import WebSettings
from p2pflows.web import hub, server, static_files
from p2pflows.web.logins import MAX_WRONG_LOGINS, Logins
from p2pflows.web.methods import PASSED_ON, Methods
from p2pflows.web.place import Place
from p2pflows.web.server import KEY_HEADER, MAX_BODY_BYTES, MAX_CONNECTIONS, Server
from p2pflowsd.api.methods import METHODS

BOB = "b0" * 32
PROMPT = {
    "id": "1" * 32, "from": BOB, "name": "bob", "endpoint": "User", "text": "Hm?", "received": "2026-01-01T00:00:00Z",
    "expires": "2126-01-01T00:00:00Z", "status": "open", "wants_answer": True, "conversation": "1" * 32, "label": "",
    "flow": None, "dispatch_point": None, "answer": None, "snoozed": None, "asked_of": None, "claimed_by": None,
    "claimed_name": None, "claimed_until": None, "data": {"text": "Hm?"}, "about": {}, "form": None,
}  # fmt: skip
NO_OBJECTS: tuple[object, ...] = ([], "x", 7)
STATUS = {"problem": None, "broker": {"connected": True, "reason": None}, "pending": 0, "dead": 0}


@pytest.fixture
def daemon(tmp_path: Path) -> Any:
    """A daemon with one open question."""
    with ScriptedDaemon(tmp_path) as daemon:
        daemon.script.update(
            news={"news_items": []},
            status=STATUS,
            requests={"requests": []},
            contacts={"contacts": [], "next": None},
            id={"user_id": "a1" * 32},
            prompt=PROMPT,
            inbox={"prompts": [PROMPT], "next": None, "questions": 1, "notes": 0},
            answer={"id": PROMPT["id"]},
        )
        yield daemon


async def hang_up(writer: asyncio.StreamWriter) -> None:
    """Close a connection, and wait until it is; the server may have closed it before."""
    writer.close()
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


async def test_the_files_of_the_page_say_what_browsers_may_do_with_them(daemon: ScriptedDaemon) -> None:
    """They need no login, as they hold nothing of the user; a second load transfers nothing."""
    async with serving(daemon.home) as (browser, _):
        for path, kind in {
            "/": "text/html",
            "/app.js": "text/javascript",
            "/manifest.webmanifest": "application/manifest+json",
        }.items():
            async with browser.session.get(browser.url + path) as response:
                assert response.status == 200
                assert response.content_type == kind
                assert "default-src 'none'" in response.headers["Content-Security-Policy"]
                assert response.headers["X-Content-Type-Options"] == "nosniff"
                assert response.headers["Referrer-Policy"] == "no-referrer"
                etag = response.headers["ETag"]
            async with browser.session.get(browser.url + path, headers={"If-None-Match": etag}) as response:
                assert (response.status, await response.read()) == (304, b"")
        for path in ("/../web.json", "/%2e%2e/web.json", "/static/app.js", "//etc/passwd", "/none"):
            async with browser.session.get(browser.url + path) as response:
                assert response.status == 404


def test_the_page_has_no_script_of_its_own_and_names_no_other_address() -> None:
    """Its only scripts are files, and none of the files leads anywhere else."""
    text = static_files.load()["/"].body.decode()
    assert "<script>" not in text
    assert "style=" not in text
    assert " on" not in text.replace(" only", "")
    for path in (Path(server.__file__).parent / "static").iterdir():
        if path.suffix in (".js", ".css", ".html", ".webmanifest"):
            words = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "").replace("https://…", "")
            assert "http:" not in words, path.name
            assert "https:" not in words, path.name
            assert "innerHTML" not in words, path.name


def test_every_module_of_the_first_view_is_loaded_at_once() -> None:
    """Each module that the browser would find only after others stands in the head of the page."""
    folder = Path(server.__file__).parent / "static"
    needed, waiting = set(), ["app.js"]
    while waiting:
        name = waiting.pop()
        if name not in needed:
            needed.add(name)
            waiting += re.findall(r'^import .* from "\./(.*)";$', (folder / name).read_text(), re.MULTILINE)
    named = re.findall(r'rel="modulepreload" href="/(.*)"', (folder / "index.html").read_text())
    assert sorted(named) == sorted(needed - {"app.js"})


async def test_nothing_is_answered_before_the_login(daemon: ScriptedDaemon) -> None:
    """Another user of this machine can reach the port, but has no link."""
    async with serving(daemon.home) as (browser, _):
        for method in ("inbox", "answer", "logout", "none"):
            status, answer = await browser.post(method)
            assert status == 401, method
            assert "p2pflows web --link" in answer["error"]["hint"]
        async with browser.session.get(f"{browser.url}/api/events") as response:
            assert response.status == 401
        for token in ("", "x", "../../web.json", None, 7, {"$ne": 1}, "\ud800"):
            status, answer = await browser.post("login", {"token": token})
            assert status == 403, token
        for content in NO_OBJECTS:
            assert (await browser.post("login", content))[0] == 403
        assert (await browser.post("login", {"token": "x"}))[0] == 429
    assert "inbox" not in [name for name, _ in daemon.asked]


async def test_who_tries_links_is_slowed_down_and_the_owner_gets_in(daemon: ScriptedDaemon) -> None:
    """A stranger cannot use the limit against the owner."""
    async with serving(daemon.home) as (browser, logins):
        token = logins.new_link()
        found = [
            (await browser.post("login", {"token": f"0123456789abcdef.{n}"}))[0] for n in range(MAX_WRONG_LOGINS + 1)
        ]
        assert found == [403] * MAX_WRONG_LOGINS + [429]
        assert await browser.log_in(token) == 200
        assert (await browser.post("inbox"))[0] == 200


async def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(daemon: ScriptedDaemon) -> None:
    """It is for this host alone, and ends by itself."""
    async with serving(daemon.home) as (browser, logins):
        origin = {"Origin": browser.url}
        async with browser.session.post(
            f"{browser.url}/api/login", json={"token": logins.new_link()}, headers=origin
        ) as response:
            cookie = response.headers["Set-Cookie"]
    assert {"HttpOnly", "SameSite=Strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Domain" not in cookie
    assert "Max-Age=2592000" in cookie


async def test_without_the_key_of_the_page_a_cookie_is_worth_nothing(daemon: ScriptedDaemon) -> None:
    """A server of another user on this machine may have seen the cookie."""
    async with logged_in(daemon.home) as browser:
        browser.key = "x"
        assert (await browser.post("inbox"))[0] == 401


async def test_another_page_cannot_answer(daemon: ScriptedDaemon) -> None:
    """Not even with cookie and key: its origin is another one, or its name is."""
    async with logged_in(daemon.home) as browser:
        text = {"id": PROMPT["id"], "text": "yes"}
        for headers in (
            {"Origin": "https://evil.example"},
            {"Origin": browser.url.replace("127.0.0.1", "localhost")},
            {"Sec-Fetch-Site": "cross-site"},
            {"Content-Type": "text/plain"},
            {"Host": "evil.example"},
        ):
            status, _ = await browser.post("answer", text, **headers)
            assert status in (403, 415, 421), headers
        assert "answer" not in [name for name, _ in daemon.asked]
        assert (await browser.post("answer", text))[0] == 200
        assert daemon.asked[-1] == ("answer", text)


async def test_the_page_may_call_only_what_it_needs(daemon: ScriptedDaemon) -> None:
    """No method that serves, mounts, makes tokens or invites; and only parameters that it has."""
    async with logged_in(daemon.home) as browser:
        for method in sorted(METHODS.keys() - PASSED_ON.keys() - Methods(Home(daemon.home), None).names):  # type: ignore[arg-type]
            status, answer = await browser.post(method)
            assert (status, answer["error"]["code"]) == (422, "usage"), method
        status, answer = await browser.post("ask", {"who": ["bob"], "text": "x", "source": "me"})
        assert status == 422
        assert "source" in answer["error"]["message"]
        for content in NO_OBJECTS:
            assert (await browser.post("inbox", content))[0] == 422
    assert not {"serve", "worker_token", "ask"} & {name for name, _ in daemon.asked}


def test_the_page_may_call_only_what_there_is() -> None:
    """Every method that goes on to the daemon is one of the daemon's."""
    assert set(PASSED_ON) <= set(METHODS)
    for name, params in PASSED_ON.items():
        model = METHODS[name].parameters
        known = {field.alias or key for key, field in model.model_fields.items()}
        assert params <= known, name


async def test_what_is_no_json_or_too_long_is_refused(daemon: ScriptedDaemon) -> None:
    """Each error says what to do."""
    async with logged_in(daemon.home) as browser:
        headers = {"Origin": browser.url, KEY_HEADER: browser.key, "Content-Type": "application/json"}
        for content, expected in (
            (b"{", 400),
            (b"\xff", 400),
            (b"[" * 100_000, 400),
            (b" " * (MAX_BODY_BYTES + 1), 413),
        ):
            async with browser.session.post(f"{browser.url}/api/inbox", data=content, headers=headers) as response:
                assert response.status == expected
                assert (await response.json())["error"]["hint"]


async def test_errors_of_the_daemon_reach_the_page(daemon: ScriptedDaemon) -> None:
    """In its words."""
    daemon.script["answer"] = DeadlinePassed("Too late.", "See the inbox.")
    async with logged_in(daemon.home) as browser:
        status, answer = await browser.post("answer", {"id": "1", "text": "x"})
        assert (status, answer["error"]["code"], answer["error"]["message"]) == (422, "deadline", "Too late.")


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"id": "1"},
        {"id": 1, "text": "x"},
        {"id": "1", "text": "x", "value": True},
        {"id": "1", "text": 7},
        {"id": "1", "fields": []},
    ],
)
async def test_an_answer_of_a_wrong_form_is_refused(daemon: ScriptedDaemon, params: dict[str, Any]) -> None:
    """Nothing goes on to the daemon."""
    async with logged_in(daemon.home) as browser:
        status, _ = await browser.post("answer", params)
        assert status == 422
    assert "answer" not in [name for name, _ in daemon.asked]


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ({"value": False}, False),
        ({"value": "no"}, None),
        ({"value": 0}, None),
        ({"unchanged": True}, None),
        ({"json": "{"}, None),
    ],
)
async def test_yes_or_no_is_a_value(daemon: ScriptedDaemon, given: dict[str, Any], value: bool | None) -> None:
    """What is neither is no answer."""
    schema = {"type": "boolean"}
    form: dict[str, Any] = {"expects": "yes or no", "choices": [], "fields": [], "schema": schema, "draft": None}
    daemon.script["prompt"] = {**PROMPT, "data": {"text": "Hm?", "answer_schema": schema}, "form": form}
    async with logged_in(daemon.home) as browser:
        status, _ = await browser.post("answer", {"id": "1", **given})
    answers = [params for name, params in daemon.asked if name == "answer"]
    assert (status, answers) == ((200, [{"id": "1", "value": value}]) if value is not None else (422, []))


async def test_the_stream_says_what_happens_and_goes_on_after_the_daemon(daemon: ScriptedDaemon) -> None:
    """First how things are, then each change; a long text is cut."""
    async with logged_in(daemon.home) as browser, contextlib.aclosing(browser.events()) as events:
        seen = []
        async with asyncio.timeout(15):
            async for event, data in events:
                seen.append((event, data))
                if event == "pulse":
                    daemon.tell("news_item", {"prompt": {**PROMPT, "text": "x" * 5_000}})
                if event == "prompt":
                    assert (len(data["text"]), data["chars"]) == (500, 5_000)
                    daemon._loop.call_soon_threadsafe(daemon.die)
                if event == "state" and data["daemon"] == "away" and ("prompt" in [name for name, _ in seen]):
                    break
    assert (
        "pulse",
        {
            "problem": None,
            "broker": {"connected": True, "reason": None},
            "waiting": {"pending": 0, "dead": 0},
            "requests": [],
            "contacts": hashlib.sha256(b"[]").hexdigest(),
        },
    ) in seen


async def test_a_change_of_a_contact_on_any_page_is_seen(
    daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hub asks for the contacts page by page, and says when one of them has changed."""
    monkeypatch.setattr(hub, "PULSE_S", 0.01)
    asked = iter(range(100))

    def contacts(params: dict[str, Any]) -> Any:
        if not params.get("page"):
            return {"contacts": [{"user": BOB, "online": True}], "next": "bob"}
        return {"contacts": [{"user": "c3" * 32, "online": next(asked) > 2}], "next": None}

    daemon.script["contacts"] = contacts
    async with logged_in(daemon.home) as browser, contextlib.aclosing(browser.events()) as events:
        seen: list[str] = []
        async with asyncio.timeout(15):
            async for event, data in events:
                seen += [data["contacts"]] if event == "pulse" else []
                if len(seen) == 2:
                    break
    assert seen[0] != seen[1]


async def test_pages_that_look_on_are_few(daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more is told so, and may come again."""
    monkeypatch.setattr(hub, "MAX_STREAMS", 1)
    async with logged_in(daemon.home) as browser, contextlib.aclosing(browser.events()) as events:
        await anext(events)
        headers = {KEY_HEADER: browser.key}
        async with browser.session.get(f"{browser.url}/api/events", headers=headers) as response:
            assert response.status == 429
            assert response.headers["Retry-After"]


async def test_a_page_that_does_not_read_is_dropped() -> None:
    """What waits for it has a limit; it reads everything again later."""
    stream = hub.Stream()
    for _ in range(hub.MAX_UNSENT + 1):
        stream.put(b"x")
    async with asyncio.timeout(5):
        assert len([event async for event in stream.events(0.01)]) == 0


async def test_logging_out_ends_the_stream(daemon: ScriptedDaemon) -> None:
    """At the next event, also in other tabs."""
    async with logged_in(daemon.home) as browser:
        async with contextlib.aclosing(browser.events()) as events, asyncio.timeout(15):
            await anext(events)
            assert (await browser.post("logout"))[0] == 200
            daemon.tell("news_item", {"prompt": PROMPT})
            async for _ in events:
                daemon.tell("news_item", {"prompt": PROMPT})
        assert (await browser.post("inbox"))[0] == 401


async def test_connections_of_strangers_give_way(daemon: ScriptedDaemon) -> None:
    """Another user of the machine who opens all that there are does not keep the owner out."""
    async with logged_in(daemon.home) as browser:
        host, port = browser.url.removeprefix("http://").split(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(MAX_CONNECTIONS + 10)]
        try:
            assert (await browser.post("inbox"))[0] == 200
            async with aiohttp.ClientSession() as fresh, fresh.get(browser.url) as response:
                assert response.status == 200
            assert await idle[0][0].read() == b""
        finally:
            for _, writer in idle:
                await hang_up(writer)


async def test_an_address_that_is_taken_is_said(daemon: ScriptedDaemon) -> None:
    """The hint names the command for another link, as the page may run already."""
    async with serving(daemon.home) as (browser, logins):
        port = browser.url.rpartition(":")[2]
        with pytest.raises(UsageError, match="cannot be used") as error:
            await Server(Place.of(WebSettings(listen=f"127.0.0.1:{port}")), Home(daemon.home), logins).start()
        assert "--link" in error.value.hint


async def test_with_a_certificate_the_cookie_travels_only_encrypted(daemon: ScriptedDaemon, tmp_path: Path) -> None:
    """The page is reached by its name, and the browser may check the certificate."""
    authority = trustme.CA()
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert.pem")
    issued.private_key_pem.write_to_path(tmp_path / "cert.key")
    settings = WebSettings(listen="127.0.0.1:0", cert=f"{tmp_path}/cert.pem", key=f"{tmp_path}/cert.key")
    logins, place = Logins(Home(daemon.home)), Place.of(settings)
    running = Server(place, Home(daemon.home), logins)
    port = await running.start()
    assert place.url(port) == f"https://127.0.0.1:{port}"
    context = ssl.create_default_context()
    authority.configure_trust(context)
    url = f"https://localhost:{port}"
    try:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
            token = {"token": logins.new_link()}
            async with session.post(f"{url}/api/login", json=token, headers={"Origin": url}) as response:
                assert response.status == 200
                assert "Secure" in response.headers["Set-Cookie"]
        async with aiohttp.ClientSession() as session:
            with pytest.raises(aiohttp.ClientError):
                await session.get(f"http://localhost:{port}/")
        await asyncio.sleep(0.25)  # aiohttp closes encrypted connections a moment after their session
    finally:
        await running.close()


async def test_a_name_that_leads_here_by_a_trick_gets_nothing(daemon: ScriptedDaemon) -> None:
    """Not even the files of the page."""
    async with logged_in(daemon.home) as browser:
        for path in ("/", "/api/events", "/app.js"):
            headers = {"Host": "evil.example", KEY_HEADER: browser.key}
            async with browser.session.get(browser.url + path, headers=headers) as response:
                assert response.status == 421


async def test_nothing_of_the_user_stays_in_a_cache(daemon: ScriptedDaemon) -> None:
    """A browser shows what it kept to whoever uses it next."""
    async with logged_in(daemon.home) as browser:
        headers = {"Origin": browser.url, KEY_HEADER: browser.key}
        async with browser.session.post(f"{browser.url}/api/inbox", json={}, headers=headers) as response:
            assert response.headers["Cache-Control"] == "no-store"


async def test_a_request_that_does_not_end_is_refused(daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """It holds a connection for so long and no longer."""
    monkeypatch.setattr(server, "BODY_TIMEOUT_S", 0.1)
    async with serving(daemon.home) as (browser, _):
        host = browser.url.removeprefix("http://")
        reader, writer = await asyncio.open_connection(*host.split(":"))
        head = (
            f"POST /api/login HTTP/1.1\r\nHost: {host}\r\nOrigin: {browser.url}\r\nContent-Type: application/json\r\n"
        )
        writer.write(f"{head}Content-Length: 100\r\n\r\n{{".encode())
        async with asyncio.timeout(10):
            assert b" 408 " in await reader.readline()
        await hang_up(writer)


@pytest.mark.parametrize("method", ["words", "verify", "rename"])
async def test_only_contacts_are_compared_and_named(daemon: ScriptedDaemon, method: str) -> None:
    """The words take half a second and much memory, so nobody else gets them."""
    (daemon.home / "contacts.yaml").write_text(json.dumps({"contacts": {"bob": BOB}}))
    async with logged_in(daemon.home) as browser:
        for user in ("c0" * 32, "bob", "", None, 7):
            status, answer = await browser.post(method, {"user": user, "name": "x"})
            assert (status, answer["error"]["code"]) == (422, "usage"), user
        if method != "words":
            assert (await browser.post(method, {"user": BOB, "name": "robert"}))[0] == 200


async def test_the_rest_of_a_text_is_that_of_the_question(daemon: ScriptedDaemon) -> None:
    """A field that it does not have is an error."""
    daemon.script["prompt"] = {**PROMPT, "about": {"more": {"a": 1}}}
    async with logged_in(daemon.home) as browser:
        assert await browser.post("prompt_text", {"id": "1"}) == (200, {"result": {"text": "Hm?"}})
        assert await browser.post("prompt_text", {"id": "1", "field": "more"}) == (
            200,
            {"result": {"text": '{\n "a": 1\n}'}},
        )
        status, answer = await browser.post("prompt_text", {"id": "1", "field": "none"})
        assert (status, answer["error"]["code"]) == (422, "usage")


async def test_a_defect_is_no_traceback(daemon: ScriptedDaemon, caplog: pytest.LogCaptureFixture) -> None:
    """The page says that it is one, and the log of the server has it."""
    daemon.script["prompt"] = {"no": "prompt"}
    async with logged_in(daemon.home) as browser:
        status, answer = await browser.post("prompt", {"id": "1"})
    assert (status, answer["error"]["code"]) == (500, "bug")
    assert "KeyError" in caplog.text
