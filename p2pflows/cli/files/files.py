"""Commands for files beside messages: `files list`, `files get`, `files put` and `files prune`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import click

import p2pflows
from p2pflows.cli.input import candidates
from p2pflows.cli.input.arguments import Duration, examples, json_option
from p2pflows.cli.input.sent_file import put_file
from p2pflows.cli.printing.fetched_files import copy_to, fetch
from p2pflows.cli.printing.output import (
    display_name,
    number_of,
    print_json,
    print_result,
    print_table,
    say,
    short_id,
    time_left,
)
from p2pflows.cli.printing.sizes import as_size
from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.foreign_text import escape
from p2pflows.home import expand_user
from p2pflows.protocol.file_reference import references_in

_HEAD = ("ID", "NAME", "SIZE", "FROM/TO", "STATE", "KEPT FOR")
_MAX_NAMED = 3


@click.group(
    invoke_without_command=True,
    epilog=examples("p2pflows files list", "p2pflows files get 4f1c22d9 --to photo.png", "p2pflows files prune"),
)
@json_option
@click.pass_context
def files(ctx: click.Context, as_json: bool) -> None:
    """List, fetch and remove files that travel beside messages."""
    if ctx.invoked_subcommand is None:
        _list(as_json)


@files.command("list", epilog=examples("p2pflows files list", "p2pflows files list --json | jq '.files[].name'"))
@json_option
def list_files(as_json: bool) -> None:
    """List the files, the one used last first.

    FROM says who sent it, TO who may fetch it.
    """
    _list(as_json)


@files.command(epilog=examples("p2pflows files put photo.png"))
@click.argument("path", type=click.Path(path_type=Path))
@json_option
def put(path: Path, as_json: bool) -> None:
    """Copy a file into the daemon's store, and print the reference that the data of a message needs.

    A command that serves a flow can answer with it.
    """
    reference = put_file(expand_user(str(path)))
    del as_json  # the reference is JSON
    print_json(reference)


@files.command(
    epilog=examples(
        "p2pflows files get 4f1c22d9",
        "p2pflows files get 4f1c22d9 --to photo.png",
        "p2pflows files get PROMPT --to in/",
    )
)
@click.argument("file_id", metavar="ID", shell_complete=candidates.files)
@click.option("--to", type=click.Path(path_type=Path), help="Copy it there: to a file, or into a folder.")
@json_option
def get(file_id: str, to: Path | None, as_json: bool) -> None:
    """Fetch a file, and print where it lies.

    ID is that of a file, or of a question or note in the inbox: then all its files are fetched.
    """
    with p2pflows.connect() as me:
        ids = _ids_of(me, file_id)
        if to is not None and len(ids) > 1 and not to.is_dir():
            raise UsageError(f"There are {len(ids)} files, and {to} is no folder.", f"Make it: mkdir {to}")
        found = []
        for each in ids:
            path = fetch(me, each)
            about = me.request("files_get", id=each)
            found.append({**about, "path": str(path if to is None else _copy(path, to, about["name"]))})
    if as_json:
        print_json(found)
        return
    for about in found:
        click.echo(about["path"])


@files.command(epilog=examples("p2pflows files prune", "p2pflows files prune --older 7d", "p2pflows files prune --all"))
@click.option("--older", type=Duration(3_650), metavar="TIME", help="Those that were not used for so long.")
@click.option("--all", "everything", is_flag=True, help="All that no open message needs.")
@json_option
def prune(older: float | None, everything: bool, as_json: bool) -> None:
    """Remove files that no open message needs; by default those whose time is over."""
    if older is not None and everything:
        raise UsageError("--older and --all say different things.", "Leave out one of the two.")
    with p2pflows.connect() as me:
        result = me.request("files_prune", older=older, all=everything)
    sentence = f"Removed {number_of(result['files'], 'file')}, which frees {as_size(result['bytes'])}."
    print_result(result, sentence, as_json)


def _list(as_json: bool) -> None:
    with p2pflows.connect() as me:
        found = me.request("files_list")
    if as_json:
        print_json(found)
        return
    if found["files"]:
        print_table(_HEAD, [_cells(about) for about in found["files"]])
    say(
        f"{number_of(len(found['files']), 'file')}, {as_size(found['bytes'])} of {as_size(found['limits']['bytes'])}."
        if found["files"]
        else "There are no files. Send one with: p2pflows call CONTACT/ENDPOINT KEY=@FILE"
    )


def _cells(about: dict[str, Any]) -> tuple[str, ...]:
    state = about["state"]
    if state == "wanted":
        share = about["done"] * 100 // about["size"] if about["size"] else 100
        state = f"{share} %" + (f" ({about['error']})" if about["error"] else "")
    elif state == "failed":
        state = f"failed: {about['error']}"
    elif state == "offered":
        state = f"get it: p2pflows files get {short_id(about['id'])}"
    return (
        short_id(about["id"]),
        escape(about["name"]),
        as_size(about["size"]),
        _people(about),
        state,
        time_left(about["expires"]),
    )


def _people(about: dict[str, Any]) -> str:
    """Return who sent a file, and who may fetch it, with what became of it there."""
    parts = [f"from {display_name(about['from_name'], about['from'])}"] if about["from"] else []
    parts += [f"to {display_name(to['name'], to['user'])} ({to['state']})" for to in about["to"][:_MAX_NAMED]]
    if len(about["to"]) > _MAX_NAMED:
        parts.append(f"and {len(about['to']) - _MAX_NAMED} others")
    return ", ".join(parts) or "you"


def _ids_of(me: p2pflows.Client, wanted: str) -> list[str]:
    """Return the ids of the files that an id means: that of a file, or of a prompt.

    Raises:
        P2pflowsError: it means nothing here, or the prompt has no files.
    """
    try:
        return [me.request("files_get", id=wanted, timeout=0.001)["id"]]
    except UsageError as error:
        unknown = error
    try:
        prompt = me.request("prompt", id=wanted)
    except P2pflowsError:
        raise unknown from None
    found = [reference.id for reference in references_in(prompt["data"])]
    if not found:
        raise UsageError(f"Message {short_id(prompt['id'])} has no files.", "See: p2pflows files list")
    return found


def _copy(path: Path, to: Path, name: str) -> Path:
    """Copy a file to a path, or into a folder; return the path of the copy.

    Raises:
        UsageError: it is there already, or cannot be written.
    """
    if to.is_dir():
        return copy_to(path, to, name)
    try:
        with path.open("rb") as source, to.open("xb") as copy:
            shutil.copyfileobj(source, copy, 1_048_576)
    except OSError as error:
        raise UsageError(f"Cannot write {to}: {error.strerror or error}.", "Choose another path.") from error
    return to
