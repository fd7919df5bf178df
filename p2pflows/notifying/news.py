"""News: one thing that the user may want to know, and how it is said."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from p2pflows.foreign_text import escape
from p2pflows.settings.news_kinds import Kind
from p2pflows.settings.notify import Hook, NotifySettings

MAX_SUBJECT_CHARS = 80
MAX_TEXT_CHARS = 1_000
_MAX_NAMED = 3
"""How many people a summary names."""

Show = Literal["name", "subject", "all"]

_TITLES: dict[Kind, str] = {
    "asked": "{who} asks you",
    "note": "A note from {who}",
    "expiring": "{who} still waits for your answer",
    "missed": "You missed a question of {who}",
    "wish": "{who} wants to be let in",
    "answered": "{who} has answered",
}
_SUMMED: dict[Kind, tuple[str, str]] = {
    "asked": ("question", "questions"),
    "note": ("note", "notes"),
    "expiring": ("question about to expire", "questions about to expire"),
    "missed": ("missed question", "missed questions"),
    "wish": ("stranger at the door", "strangers at the door"),
    "answered": ("answer", "answers"),
}


class News(NamedTuple):
    """One thing that has happened.

    Attributes:
        kind: what.
        user: the user id of whom it is about.
        name: their petname, or None.
        endpoint: the endpoint that it came to; empty if that means nothing.
        text: what they say; it is theirs, and may hold anything.
        id: the question or message; empty if there is none.
        form: the type of the answer that a question wants, such as `boolean`.
        expires: until when there is time, as RFC 3339; empty if that means nothing.
    """

    kind: Kind
    user: str
    name: str | None
    endpoint: str = ""
    text: str = ""
    id: str = ""
    form: str = ""
    expires: str = ""

    @property
    def who(self) -> str:
        """Whom it is about, as a person reads it."""
        return self.name or f"A stranger ({self.user[:8]}…)"

    def as_json(self) -> dict[str, Any]:
        """What hooks get."""
        return self._asdict()


class Said(NamedTuple):
    """What is said of some news."""

    title: str
    body: str


def is_wanted(settings: NotifySettings, news: News) -> bool:
    """Whether the user wants to hear of it at all."""
    names = {news.user, news.name}
    return (
        news.kind in settings.on
        and (not settings.only_from or not names.isdisjoint(settings.only_from))
        and names.isdisjoint(settings.not_from)
        and (not settings.endpoints or not news.endpoint or news.endpoint in settings.endpoints)
    )


def fits(hook: Hook, news: News) -> bool:
    """Whether a hook is for it."""
    return (
        hook.on == news.kind
        and (not hook.users or news.user in hook.users or news.name in hook.users)
        and (not hook.endpoints or news.endpoint in hook.endpoints)
        and (not hook.forms or news.form in hook.forms)
    )


def say(news: Sequence[News], show: Show, link: str = "") -> Said:
    """Return what is said of news: of one, who and as much as is to be shown; of several, how many."""
    if len(news) == 1:
        (one,) = news
        body = [_shown(one.text, show), link]
        return Said(_TITLES[one.kind].format(who=escape(one.who)), "\n".join(filter(None, body)))
    counts = Counter(each.kind for each in news)
    parts = [f"{count:,} {_SUMMED[kind][count > 1]}" for kind, count in counts.items()]
    people = Counter(each.who for each in news).most_common()
    named = [f"{count:,} from {escape(who)}" for who, count in people[:_MAX_NAMED]]
    others = len(people) - _MAX_NAMED
    if others > 0:
        named.append(f"{sum(count for _, count in people[_MAX_NAMED:]):,} from {others:,} others")
    return Said(", ".join(parts), "\n".join(filter(None, [", ".join(named), link])))


def link_to(news: Sequence[News], page: str) -> str:
    """Return where the page of the user shows some news; empty if they have none.

    Args:
        news: what has happened.
        page: how the user reaches their page; may be empty.
    """
    if not page or len(news) != 1:
        return page
    (one,) = news
    if one.kind in ("asked", "note", "expiring") and one.id:
        return f"{page}/#q={one.id}"
    return page + {"wish": "/#people", "answered": "/#asked"}.get(one.kind, "")


def _shown(text: str, show: Show) -> str:
    if show == "name":
        return ""
    safe = escape(text[:MAX_TEXT_CHARS])
    if show == "all":
        return safe
    return safe if len(safe) <= MAX_SUBJECT_CHARS else f"{safe[: MAX_SUBJECT_CHARS - 1]}…"


def of_prompt(prompt: dict[str, Any], kind: Kind | None = None) -> News:
    """Return the news of a question or note that came."""
    form = (prompt.get("form") or {}).get("schema", {}).get("type", "")
    usual: Kind = "asked" if prompt["wants_answer"] else "note"
    return News(
        kind or usual,
        str(prompt["from"]),
        prompt.get("name"),
        str(prompt["endpoint"]),
        str(prompt["text"]),
        str(prompt["id"]),
        str(form),
        str(prompt.get("expires") or ""),
    )


def of_line(line: dict[str, Any]) -> News | None:
    """Return the news of what somebody has said, if it answers a question of the user."""
    if line["by"] != "them" or line["kind"] not in ("answer", "declined"):
        return None
    text = str(line["text"]) or ("declined" if line["kind"] == "declined" else "")
    return News("answered", str(line["user"]), line.get("name"), str(line["endpoint"]), text, str(line["message"]))


def of_request(request: dict[str, Any]) -> News:
    """Return the news of a stranger who wants to be let in."""
    return News("wish", str(request["user"]), None, text=", ".join(map(str, request.get("endpoints", ()))))
