"""Chromium, as a person uses it, and a page of bob's in it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import Browser, BrowserContext, Page, StorageState, expect, sync_playwright

from p2pflows.home import Home
from p2pflows.web.logins import Logins
from support.commands import Command
from support.people import Person
from support.processes import free_port

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WITHOUT_IT = "chromium is not installed: sudo apt-get install chromium"
PHONE, DESK = (390, 844), (1440, 900)
_ARGUMENTS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
_LINK = re.compile(r"http://127\.0\.0\.1:\d+/#login=\S+")
TIMEOUT_MS = 30_000


@contextmanager
def chromium() -> Iterator[Browser]:
    """Run the system's Chromium; `expect` waits as long as everything else."""
    expect.set_options(timeout=TIMEOUT_MS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=_ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


class Surfer:
    """A person who opens their page in a browser.

    Args:
        person: whose page it is; their daemon runs.
        browser: the browser.

    Attributes:
        server: the command `web`.
        url: the origin of the page.
        faults: what the browser has complained about: errors of scripts, and violations of the policy.
    """

    def __init__(self, person: Person, browser: Browser) -> None:
        self.person = person
        # A port that no outgoing connection gets, so that it is still free when the server is started again.
        self.server = self._serve(f"127.0.0.1:{free_port()}")
        self.faults: list[str] = []
        self._browser = browser
        self._contexts: list[BrowserContext] = []

    def _serve(self, listen: str) -> Command:
        """Start a server, and wait until it listens."""
        server = self.person.start_command("web", "--listen", listen)
        assert server.process.stdout is not None
        first = server.process.stdout.readline()
        assert _LINK.match(first), first
        self.url = first.partition("/#")[0]
        return server

    def end_server(self) -> None:
        """End the server, as Ctrl-C does."""
        self.server.process.terminate()
        self.server.wait()

    def start_server_again(self) -> None:
        """Start another server at the same address."""
        self.server = self._serve(self.url.removeprefix("http://"))

    def link(self) -> str:
        """Return a new link that logs in."""
        return f"{self.url}/#login={Logins(Home(self.person.home)).new_link()}"

    def open(
        self,
        where: str = "",
        *,
        size: Sequence[int] = DESK,
        logged_in: bool = True,
        state: StorageState | None = None,
    ) -> Page:
        """Open the page in a browser of its own, as on another device; `state` has the cookies of an earlier one."""
        width, height = size
        is_phone = width < 860
        context = self._browser.new_context(
            viewport={"width": width, "height": height}, is_mobile=is_phone, has_touch=is_phone, storage_state=state
        )
        context.set_default_timeout(TIMEOUT_MS)
        self._contexts.append(context)
        return self.new_tab(context, where, logged_in=logged_in)

    def new_tab(self, context: BrowserContext, where: str = "", *, logged_in: bool = True) -> Page:
        """Open the page in another tab of a browser."""
        page = context.new_page()
        page.on("pageerror", lambda error: self.faults.append(str(error)))
        page.on("console", lambda message: self._note(message.type, message.text))
        if logged_in:
            page.goto(self.link())
            page.wait_for_selector("#list .pane-title")
        if where:
            page.goto(f"{self.url}/{where}")
        return page

    def close(self) -> None:
        """Close all browsers, and end the server."""
        for context in self._contexts:
            context.close()
        self._contexts.clear()

    def _note(self, kind: str, text: str) -> None:
        # A server or daemon that is away is no fault of the page.
        if kind == "error" and not text.startswith("Failed to load resource"):
            self.faults.append(text)


def axe_script() -> str:
    """Return the source of axe-core."""
    import axe_playwright_python

    return Path(axe_playwright_python.__file__).with_name("axe.min.js").read_text(encoding="utf-8")
