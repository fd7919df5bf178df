"""Commands that show and tidy the inbox: `inbox`, `dismiss` and `snooze`."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import click

import p2pflows
from p2pflows.cli.inbox.questions import claim_text, question_text
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import Contact, Duration, examples, json_option
from p2pflows.cli.printing.output import (
    ago,
    display_name,
    local_time,
    number_of,
    print_json,
    print_result,
    print_table,
    say,
    short_id,
    style,
    time_left,
    wrap,
)
from p2pflows.cli.printing.speech import asker
from p2pflows.errors import DaemonNotRunning, UsageError
from p2pflows.foreign_text import escape
from p2pflows.terminal import run_interruptible

MAX_PAGE = 1_000
_DEFAULT_PAGE = 50
_NARROW_COLUMNS = 72
"""A terminal with fewer columns shows fewer facts of each question."""


_MAX_REMEMBERED = 10_000
"""How many questions `--watch` remembers, so as not to show them twice."""


class Since(click.ParamType[str]):
    """A date, a time, or how long ago; converted to RFC 3339 in UTC."""

    name = "since"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the moment; one without an offset is local."""
        try:
            moment = datetime.fromisoformat(value).astimezone(UTC)
        except (ValueError, OverflowError):
            try:
                moment = datetime.now(UTC) - timedelta(seconds=Duration().convert(value, param, ctx))
            except click.UsageError:
                self.fail(f"{value!r} is no time: give 1h for the last hour, or 2026-01-31, or '2026-01-31 18:00'.")
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@click.command(
    epilog=examples(
        "p2pflows inbox",
        "p2pflows inbox --from bob --kind question",
        "p2pflows inbox --since 1h",
        "p2pflows inbox --groups",
        "p2pflows inbox --watch",
        "p2pflows inbox --json | jq -r '.[0].id'",
    )
)
@click.option("--all", "everything", is_flag=True, help="Also list past questions.")
@click.option("--from", "sender", type=Contact(), metavar="CONTACT", help="Only those of one contact.")
@click.option("--kind", type=click.Choice(["question", "note"]), help="Only questions, or only notes.")
@click.option(
    "--since", type=Since(), metavar="TIME", help="Only those that came since: 1h for the last hour, or a date."
)
@click.option(
    "--limit", type=click.IntRange(1, MAX_PAGE), default=_DEFAULT_PAGE, help=f"How many to list ({_DEFAULT_PAGE})."
)
@click.option("--page", metavar="ID", help="List those that follow ID; the end of a page says which.")
@click.option("--snoozed", is_flag=True, help="List the hidden ones instead.")
@click.option("--groups", "grouped", is_flag=True, help="Count them by contact; with --from, by conversation.")
@click.option("--watch", is_flag=True, help="Keep running, and show each question when it arrives or changes.")
@json_option
def inbox(
    *,
    everything: bool,
    sender: str | None,
    kind: str | None,
    since: str | None,
    limit: int,
    page: str | None,
    snoozed: bool,
    grouped: bool,
    watch: bool,
    as_json: bool,
) -> None:
    """List the questions and notes of others.

    --json prints one list; with --watch, it prints one object per line.
    """
    filters = {"all": everything, "kind": kind, "since": since, "page": page, "snoozed": snoozed}
    chosen = [f"--{name}" for name, value in filters.items() if value]
    if watch and (chosen or grouped or sender):
        raise UsageError("--watch shows everything that arrives.", "Leave out the other options.")
    if grouped and chosen:
        raise UsageError(f"--groups cannot be combined with {chosen[0]}.", "It takes --from and --limit.")
    if everything and snoozed:
        raise UsageError("Past questions are not snoozed.", "Give --all or --snoozed.")
    if watch:
        run_interruptible(_watch(as_json))
        return
    with p2pflows.connect() as me:
        if grouped:
            groups = me.request("inbox_groups", user=sender, limit=limit)["groups"]
            print_json(groups) if as_json else _print_groups(groups, sender)
            return
        found = _read(me, limit, {**{name: value or None for name, value in filters.items()}, "user": sender})
    if as_json:
        print_json(found["prompts"])
        return
    _print_page(found, has_filter=bool(chosen or sender), snoozed=snoozed)


@click.command(
    epilog=examples(
        "p2pflows dismiss 4f1c22d9", "p2pflows dismiss 4f1c22d9 0b7a11c4", "p2pflows dismiss --from bob --all"
    )
)
@click.argument("ids", metavar="[ID]...", nargs=-1, shell_complete=candidates.prompts)
@click.option("--from", "sender", type=Contact(), metavar="CONTACT", help="With --all: whose notes to put away.")
@click.option("--all", "everything", is_flag=True, help="All notes of the --from contact.")
@json_option
def dismiss(ids: tuple[str, ...], sender: str | None, everything: bool, as_json: bool) -> None:
    """Put notes away.

    Notes ask nothing, and nobody hears that you have put one away. ID is the id that the inbox shows. If one of
    several is a question or not there, no note is put away.
    """
    if bool(ids) == everything or everything != (sender is not None):
        raise UsageError("What to dismiss is not clear.", "Give IDs, or: p2pflows dismiss --from CONTACT --all")
    with p2pflows.connect() as me:
        if ids:
            result = me.request("dismiss", ids=list(ids))
            count = len(result["ids"])
        else:
            result = me.request("dismiss_all", user=sender)
            count = result["dismissed"]
    print_result(result, f"Put away {number_of(count, 'note')}.", as_json)


@click.command(
    epilog=examples("p2pflows snooze 4f1c22d9 1h", "p2pflows snooze 4f1c22d9 --end", "p2pflows inbox --snoozed")
)
@click.argument("prompt_id", metavar="ID", shell_complete=candidates.prompts)
@click.argument("time", type=Duration(), metavar="[TIME]", required=False)
@click.option("--end", is_flag=True, help="Show it again now.")
@json_option
def snooze(prompt_id: str, time: float | None, end: bool, as_json: bool) -> None:
    """Hide a question or a note for a while.

    ID is the id that the inbox shows, TIME is such as 20m, 1h or 2d. The deadline of a question stays: nobody hears of
    it, and it can be answered meanwhile. 'inbox --snoozed' lists what is hidden.
    """
    if (time is None) != end:
        raise UsageError("For how long is not clear.", "Give a time, as in: p2pflows snooze ID 1h; or --end")
    with p2pflows.connect() as me:
        result = me.request("snooze", id=prompt_id, seconds=time or 0)
    what = short_id(result["id"])
    done = f"{what} is shown again." if end else f"{what} is hidden until {local_time(result['until'])}."
    print_result(result, done, as_json)


def _read(me: p2pflows.Client, limit: int, filters: dict[str, Any]) -> dict[str, Any]:
    """Read as many questions as wanted: a part may have fewer than it could."""
    found: dict[str, Any] = me.request("inbox", limit=limit, **filters)
    while found.get("next") and len(found["prompts"]) < limit:
        more = me.request("inbox", **{**filters, "limit": limit - len(found["prompts"]), "page": found["next"]})
        found = {**more, "prompts": found["prompts"] + more["prompts"]}
    return found


def _print_page(found: dict[str, Any], *, has_filter: bool, snoozed: bool) -> None:
    prompts = found["prompts"]
    if not prompts:
        say("Nothing like that is in your inbox." if has_filter else "There are no open questions.")
        return
    if shutil.get_terminal_size().columns < _NARROW_COLUMNS:
        head = ["ID", "FROM", "LEFT", "TEXT"]
        rows = [[short_id(each["id"]), _asker(each), _state(each), question_text(each)] for each in prompts]
    else:
        head = ["ID", "FROM", "ENDPOINT", "ASKED", "LEFT", "TEXT"]
        rows = [
            [
                short_id(each["id"]),
                _asker(each),
                each["endpoint"],
                ago(each["received"]),
                _state(each),
                question_text(each),
            ]
            for each in prompts
        ]
    print_table(head, rows)
    if found.get("next"):
        questions, notes = number_of(found["questions"], "question"), number_of(found["notes"], "note")
        say(f"There are more: {questions} and {notes} are open. Next: --page {short_id(found['next'])}; or --groups")
    has_note = any(_state(prompt) == "note" for prompt in prompts)
    if snoozed:
        say("Show one again with: p2pflows snooze ID --end")
    else:
        say("Answer with: p2pflows answer ID TEXT" + (", or put a note away: p2pflows dismiss ID" if has_note else ""))


def _print_groups(groups: list[dict[str, Any]], sender: str | None) -> None:
    if not groups:
        say("There are no open questions.")
        return
    print_table(
        ["FROM" if sender is None else "CONVERSATION", "QUESTIONS", "NOTES", "FIRST"],
        [
            [
                display_name(group["name"], group["user"]) if sender is None else short_id(group["conversation"]),
                group["questions"],
                group["notes"],
                "" if group["first"] is None else group["first"]["text"],
            ]
            for group in groups
        ],
    )
    say("List those of one with: p2pflows inbox --from CONTACT")


async def _watch(as_json: bool) -> None:
    """Show questions until Ctrl-C; when the daemon goes away, wait for it.

    Raises:
        DaemonNotRunning: no daemon ran when this began.
    """
    from p2pflows.cli.chat.reconnecting import reconnect

    shown: dict[str, dict[str, Any]] = {}
    hello = "Waiting for questions, until Ctrl-C. Answer in another terminal with: p2pflows answer ID TEXT"
    me = p2pflows.connect_async()
    await me.open()
    while True:
        if not as_json:
            say(hello)
        try:
            async for prompt in _changes(me, shown):
                if shown.get(prompt["id"]) == prompt:  # it was shown before the daemon went away
                    continue
                is_known = prompt["id"] in shown
                shown[prompt["id"]] = prompt
                if len(shown) > _MAX_REMEMBERED:
                    del shown[next(iter(shown))]
                print_json(prompt) if as_json else _show(prompt, is_known=is_known)
        except DaemonNotRunning:
            if not as_json:
                say("The daemon went away; waiting until it is back.")
        me = await reconnect(me)
        hello = "The daemon is back."


async def _changes(me: p2pflows.AsyncClient, shown: dict[str, dict[str, Any]]) -> AsyncIterator[dict[str, Any]]:
    """Yield how questions that were shown have changed meanwhile, the open ones, and then each that changes."""
    import asyncio

    watching = me.watch()
    first = asyncio.ensure_future(anext(watching))
    await asyncio.sleep(0)  # so that the watch is requested first, and no change is between the two
    for prompt_id in [each["id"] for each in shown.values() if each["status"] == "open"]:
        with contextlib.suppress(UsageError):  # it is so long ago that the daemon has forgotten it
            yield await me.request("prompt", id=prompt_id)
    yield await first
    async for prompt in watching:
        yield prompt


def _show(prompt: dict[str, Any], *, is_known: bool) -> None:
    """Print a question that is new, or what has changed of one that was shown before."""
    title = f"{short_id(prompt['id'])}  {_asker(prompt)} to {escape(prompt['endpoint'])}"
    if prompt["status"] != "open":
        click.echo(f"{title}: {escape(prompt['status'])}")
        return
    if prompt.get("snoozed"):
        click.echo(f"{title}: hidden for {time_left(prompt['snoozed'])}")
        return
    claimed = claim_text(prompt)
    if claimed and is_known:
        click.echo(f"{title}: {claimed}")
        return
    click.echo(f"{style(title, bold=True)}, {time_left(prompt['expires'])} left")
    for line in wrap(question_text(prompt), shutil.get_terminal_size().columns - 2):
        click.echo(f"  {line}")


def _asker(prompt: dict[str, Any]) -> str:
    return asker(prompt)


def _state(prompt: dict[str, Any]) -> str:
    if prompt["status"] != "open":
        return str(prompt["status"])
    if prompt.get("snoozed"):
        return f"in {time_left(prompt['snoozed'])}"
    return time_left(prompt["expires"]) if prompt.get("wants_answer", True) else "note"
