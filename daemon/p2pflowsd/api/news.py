"""The method for programs that tell the user what waits for them."""

from __future__ import annotations

from typing import Any

from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import NoParameters
from p2pflowsd.human.pages import read_page
from p2pflowsd.journal.prompts import Page

MAX_OPEN = 1_000


async def news(daemon: Daemon, _params: NoParameters) -> Any:
    """Send an event `news_item` for each prompt and line that appears or changes; in JSON Lines only.

    Unlike `watch`, it does not count as shown to the human.

    Returns:
        `news_items`: a list of at most 1,000 open prompts, each as `{"prompt": PROMPT}`; later ones are the data of
        events, as well as `{"line": LINE}`
    """

    def read() -> list[dict[str, Any]]:
        rows, _ = read_page(daemon.node.journal, Page(limit=MAX_OPEN), "")
        return [{"prompt": views.prompt(daemon.node, row)} for row in rows if daemon.node.rights.shows(row)]

    return {"news_items": await daemon.read(read)}
