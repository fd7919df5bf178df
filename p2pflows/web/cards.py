"""What the page gets of prompts, lines and questions: no more text than it shows at first."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from p2pflows.errors import BadInput
from p2pflows.forms import Form
from p2pflows.forms.shown import show
from p2pflows.forms.wire import form_of
from p2pflows.protocol.file_reference import references_in
from p2pflows.web.fields import describe_form

MAX_CARD_CHARS = 500
"""Of a text in a list."""
MAX_TEXT_CHARS = 4_000
"""Of a text that is shown alone; the page asks for the rest of it."""
MAX_ABOUT = 50
"""Fields beside the text of a question."""
MAX_PEOPLE = 64
_PLAIN = (
    "id", "from", "name", "endpoint", "received", "expires", "status", "wants_answer", "conversation", "label", "flow",
    "dispatch_point", "snoozed", "asked_of", "claimed_by", "claimed_name", "claimed_until",
)  # fmt: skip


def card(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prompt as it stands in a list."""
    answer, form = prompt.get("answer"), prompt.get("form")
    return {
        **{name: prompt.get(name) for name in _PLAIN},
        "text": prompt["text"][:MAX_CARD_CHARS],
        "chars": len(prompt["text"]),
        "expects": "" if form is None else str(form["expects"])[:MAX_CARD_CHARS],
        "answer": answer if answer is None else answer[:MAX_CARD_CHARS],
    }


def whole_card(prompt: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prompt as it is shown alone: with its form, and what else its sender says."""
    about = [[name, as_text(value)] for name, value in prompt["about"].items() if not _is_files(value)]
    answer = prompt.get("answer")
    form = form_in(prompt)
    return {
        **card(prompt),
        "text": prompt["text"][:MAX_TEXT_CHARS],
        "answer": answer if answer is None else answer[:MAX_TEXT_CHARS],
        "about": [[name, text[:MAX_TEXT_CHARS], len(text)] for name, text in about[:MAX_ABOUT]],
        "about_left": max(len(about) - MAX_ABOUT, 0),
        "files": shown_files(prompt["about"]),
        "form": None if form is None else describe_form(form),
    }


def form_in(prompt: Mapping[str, Any]) -> Form | None:
    """Return the form of a prompt; None if any text is an answer."""
    try:
        return form_of(prompt["data"])
    except BadInput:  # an older release has stored it with another meaning
        return None


def line(said: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of a conversation, with the prompt that is open under it as in a list."""
    prompt = said.get("prompt")
    files = shown_files(said.get("files"))
    return {**said, "prompt": None if prompt is None else card(prompt), "files": files}


def asked(question: Mapping[str, Any]) -> dict[str, Any]:
    """Return a question of the user, without the answers as values."""
    people = [_outcome(person) for person in question["people"][:MAX_PEOPLE]]
    return {**_outcome(question), "text": question["text"][:MAX_TEXT_CHARS], "people": people}


def _outcome(entry: Mapping[str, Any]) -> dict[str, Any]:
    rest = {name: value for name, value in entry.items() if name not in ("value", "people")}
    text = entry["answer"] or (as_text(entry["value"]) if entry["value"] is not None else "")
    rest["files"] = shown_files([entry.get("files"), entry["value"]])
    return {**rest, "answer": text[:MAX_TEXT_CHARS], "remark": entry["remark"][:MAX_TEXT_CHARS]}


def as_text(value: object) -> str:
    """Return a value as a person reads it."""
    if isinstance(value, bool | str | int | float):
        return show(value)
    return json.dumps(value, ensure_ascii=False, indent=1)


def shown_files(value: object) -> list[dict[str, Any]]:
    """Return what the page shows at first of the files that a value refers to; none if a reference is malformed."""
    try:
        found = references_in(value)
    except ValueError:  # the daemon refuses such a message, unless an older release took it
        return []
    return [{"id": file.id, "name": file.name, "size": file.size, "type": file.type} for file in found]


def _is_files(value: object) -> bool:
    """Return whether a value refers to files, and is nothing else."""
    try:
        found = references_in(value)
    except ValueError:
        return False
    return bool(found) and (value == found[0].as_data() or value == [file.as_data() for file in found])
