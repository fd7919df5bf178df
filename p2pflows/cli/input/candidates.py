"""What the shell may complete a word to: names and ids that the daemon knows, asked for in a moment or not at all.

Each function that takes a context, a parameter and the word fits `shell_complete` of click's arguments and options.
Nothing here raises: without a daemon, there are fewer candidates.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from typing import Any

import click
from click.shell_completion import CompletionItem

from p2pflows.errors import P2pflowsError
from p2pflows.foreign_text import escape
from p2pflows.home import home

TIMEOUT_S = 0.15
"""How long the daemon may take, as the person waits with a finger on Tab."""
MAX_LISTED = 100
_MAX_DESCRIPTION_CHARS = 60
_SHOWN_DIGITS = 8


_deadlines = {"all": float("inf")}


def begin() -> None:
    """Let the time begin that the daemon has for the candidates of one word."""
    _deadlines["all"] = time.monotonic() + TIMEOUT_S


def petnames() -> list[str]:
    """Return the petnames of all contacts; needs no daemon."""
    from p2pflows.contacts import Contacts

    try:
        return sorted(Contacts(home().contacts).book().by_name)
    except P2pflowsError:
        return []


def contacts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a petname."""
    del ctx, param
    return _that_begin(((name, "") for name in petnames()), incomplete)


def people(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete whom to ask: a petname, or a group of contacts such as @team."""
    from p2pflows.contacts import Contacts

    try:
        groups = sorted(Contacts(home().contacts).book().groups)
    except P2pflowsError:
        groups = []
    return [*contacts(ctx, param, incomplete), *_that_begin(((f"@{name}", "") for name in groups), incomplete)]


def addresses(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete an address: first the user, and after the slash what that user serves to this one."""
    del ctx, param
    owner, slash, _ = incomplete.partition("/")
    if not slash:
        # Two candidates for each name, so that the shell stops after the slash and adds no space.
        return _that_begin(((f"{name}/{end}", "") for name in [*petnames(), "me"] for end in ("", "User")), incomplete)
    flows = _ask("ls", user=None if owner in ("", "me") else owner).get("flows", [])
    served = {f"{owner}/{flow['endpoint']}": _description(flow.get("description") or flow["kind"]) for flow in flows}
    return _that_begin(sorted({f"{owner}/User": "", **served}.items()), incomplete)


def files(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a file."""
    del ctx, param
    found = _ask("files_list").get("files", [])[:MAX_LISTED]
    return _that_begin(((each["id"][-_SHOWN_DIGITS:], _description(each["name"])) for each in found), incomplete)


def endpoints(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete an endpoint of one's own."""
    del ctx, param
    flows = _ask("ls").get("flows", [])
    return _that_begin(((flow["endpoint"], _description(flow.get("description"))) for flow in flows), incomplete)


def points(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete a dispatch point that has workers or flows."""
    del ctx, param
    workers = {str(each["dispatch_point"]) for each in _ask("status").get("workers", [])}
    flows = {str(flow["dispatch_point"]) for flow in _ask("ls").get("flows", []) if flow["dispatch_point"]}
    return _that_begin(((point, "") for point in sorted(workers | flows)), incomplete)


def strangers(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the user id of a stranger who waits for a decision."""
    del ctx, param
    waiting = _ask("requests").get("requests", [])
    rows = ((request["user"], _description(", ".join(request.get("endpoints", ())))) for request in waiting)
    return _that_begin(rows, incomplete)


def prompts(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of an open question or note."""
    del ctx, param
    found = _ask("inbox", limit=MAX_LISTED).get("prompts", [])
    rows = ((each["id"], _description(f"{_who(each, 'from')}: {each['text']}")) for each in found)
    return _ids(rows, incomplete)


def sent(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a message that has not ended: what was asked, or is not confirmed yet."""
    del ctx, param
    asked = _ask("asked", open=True, limit=MAX_LISTED).get("asked", [])
    rows = {each["id"]: _description(f"{_who(each, 'to')}: {each['text']}") for each in asked}
    return _ids({**dict(_messages("pending")), **rows}.items(), incomplete)


def failed(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a failed message, or of a dead letter."""
    del ctx, param
    asked = _ask("asked", limit=MAX_LISTED).get("asked", [])
    rows = {
        each["id"]: _description(f"{_who(each, 'to')}: {each['text']}")
        for each in asked
        if each["outcome"] == "failed" and each["kind"] != "question"
    }
    return _ids({**rows, **dict(_messages("dead"))}.items(), incomplete)


def invitations(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of an invitation."""
    del ctx, param
    found = _ask("invitations").get("invitations", [])
    return _ids(((each["id"], _description(each.get("name"))) for each in found), incomplete)


def conversations(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of a conversation; with an address before it, of one with that endpoint."""
    del param
    owner, endpoint = _address_before(ctx)
    rows = [
        (each["conversation"], _description(f"{_who(each, 'user')}/{each['endpoint']}: {each['text']}"))
        for each in _ask("conversations", limit=MAX_LISTED).get("conversations", [])
        if not owner or (each["endpoint"] == endpoint and owner in (each["name"], each["user"], "me"))
    ]
    return _ids(rows, incomplete)


def instances(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Complete the id of an instance at the user of the address or of `--of`, or else of one's own flows."""
    del param
    owner, endpoint = _address_before(ctx)
    user = ctx.params.get("owner") or (None if owner in ("", "me") else owner)
    found = _ask("instances", user=user, endpoint=endpoint or None).get("instances", [])
    return _ids(((each["instance"], _description(each["endpoint"])) for each in found), incomplete)


def _address_before(ctx: click.Context) -> tuple[str, str]:
    """Return the owner and the endpoint of the address that was typed before, or empty texts.

    While the option before the word has no value yet, click leaves the other words unread in `ctx.args`.
    """
    address = ctx.params.get("address") or next((word for word in ctx.args if "/" in word), "")
    owner, _, endpoint = str(address).partition("/")
    return owner, endpoint


def _ask(method: str, **params: Any) -> dict[str, Any]:
    """Return what the daemon answers in the time that is left for this word, or else nothing."""
    from p2pflows.client import Client

    left = _deadlines["all"] - time.monotonic()
    if left <= 0:
        return {}
    try:
        with Client(timeout=min(left, TIMEOUT_S)) as me:
            return dict(me.request(method, **params))
    except P2pflowsError:
        return {}


def _messages(*lists: str) -> Iterator[tuple[str, str]]:
    outbox = _ask("outbox")
    for name in lists:
        for each in outbox.get(name, [])[:MAX_LISTED]:
            yield each["id"], _description(f"{_who(each, 'from' if name == 'dead' else 'to')}/{each['endpoint']}")


def _who(row: dict[str, Any], key: str) -> str:
    return str(row.get("name") or row.get(f"{key}_name") or f"{row[key][:_SHOWN_DIGITS]}…")


def _description(text: object) -> str:
    """Return a description on one line, without anything that could control a terminal."""
    line = " ".join(str(text or "").split())
    return escape(line[:_MAX_DESCRIPTION_CHARS] + ("…" if len(line) > _MAX_DESCRIPTION_CHARS else ""))


def _ids(rows: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    """Return ids in the short form that other commands print, or whole if that is how the word begins."""
    given = list(rows)
    short = _that_begin(((whole[-_SHOWN_DIGITS:], described) for whole, described in given), incomplete)
    return short or _that_begin(given, incomplete)


def _that_begin(rows: Iterable[tuple[str, str]], incomplete: str) -> list[CompletionItem]:
    return [CompletionItem(value, help=described or None) for value, described in rows if value.startswith(incomplete)]
