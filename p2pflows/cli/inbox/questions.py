"""How a question to you is shown: its text, what the answer must be, and everything else that its sender says."""

from __future__ import annotations

from typing import Any

import click

from p2pflows.cli.printing.output import (
    ago,
    display_name,
    print_facts,
    print_table,
    say,
    short_id,
    time_left,
    to_json,
)
from p2pflows.cli.printing.sizes import as_size
from p2pflows.cli.printing.speech import asker
from p2pflows.foreign_text import escape, escape_lines
from p2pflows.protocol.file_reference import references_in


def question_text(prompt: dict[str, Any]) -> str:
    """Return the text of a question, and after it in brackets what the answer must be."""
    form = prompt.get("form")
    more = "" if form is None else f"  [{form['expects']}]"
    claimed = claim_text(prompt)
    return (
        f"{prompt['text']}{more}"
        + (f"  ({claimed})" if claimed else "")
        + ("  (more: p2pflows show ID)" if prompt.get("about") else "")
    )


def claim_text(entry: dict[str, Any]) -> str:
    """Return who works on the answer to a question, to you or of yours; empty if nobody does."""
    if not entry.get("claimed_by"):
        return ""
    name = entry["claimed_name"]
    who = "you" if name == "me" else display_name(name, entry["claimed_by"])
    return f"claimed by {who}, {time_left(entry['claimed_until'])} left"


def print_prompt(prompt: dict[str, Any]) -> None:
    """Print all that a person should see of a question."""
    form = prompt["form"]
    print_facts(
        [
            ("id", prompt["id"]),
            ("from", asker(prompt)),
            ("run at", f"the dispatch point {escape(prompt['dispatch_point'])}" if prompt.get("flow") else ""),
            ("to", escape(prompt["endpoint"])),
            ("asked", ago(prompt["received"])),
            ("status", escape(prompt["status"])),
            ("asked of", f"{prompt['asked_of']} people" if prompt.get("asked_of") else ""),
            ("claimed", claim_text(prompt).removeprefix("claimed ")),
            ("left", time_left(prompt["expires"]) if prompt["status"] == "open" else ""),
            ("answer" if prompt["status"] == "answered" else "reason", escape(prompt["answer"] or "")),
            ("expects", escape(form["expects"]) if form is not None else ""),
            *((escape(name), escape(_as_text(value))) for name, value in prompt["about"].items()),
        ]
    )
    click.echo()
    click.echo(escape_lines(prompt["text"]))
    if form is None:
        return
    if form["fields"]:
        click.echo()
        print_table(
            ["FIELD", "NEEDED", "EXPECTS", "ABOUT"],
            [
                [field["name"], "yes" if field["required"] else "no", field["expects"], field["about"]]
                for field in form["fields"]
            ],
        )
    if form["draft"] is not None:
        import json

        click.echo()
        click.echo(escape_lines(json.dumps(form["draft"], ensure_ascii=False, indent=2)))
    if prompt["status"] == "open":
        say(f"Answer with: p2pflows answer {short_id(prompt['id'])} {how_to_answer(form)}")


def how_to_answer(form: dict[str, Any]) -> str:
    """Return what to type after the id."""
    if form["draft"] is not None:
        return "--edit, or FIELD=VALUE for each change, or unchanged"
    if form["fields"]:
        needed = [field["name"] for field in form["fields"] if field["required"]]
        return " ".join(f"{escape(name)}=..." for name in needed) or "FIELD=VALUE"
    return "TEXT"


def _as_text(value: Any) -> str:
    try:
        files = references_in(value)
    except ValueError:
        files = []
    if files and (value == files[0].as_data() or value == [file.as_data() for file in files]):
        named = ", ".join(f"{file.name} ({as_size(file.size)})" for file in files)
        return f"{named}; get {'it' if len(files) == 1 else 'them'}: p2pflows files get ID"
    return value if isinstance(value, str) else to_json(value)
