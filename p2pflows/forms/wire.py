"""Where a question has its form in the data of a message, and an answer its value (docs/PROTOCOL.md, section 12)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from p2pflows.errors import BadAnswer, BadInput
from p2pflows.forms.form import Form
from p2pflows.forms.shown import show
from p2pflows.protocol.file_reference import is_reference

SCHEMA, DRAFT = "answer_schema", "answer_draft"
TEXT, VALUE, REMARK = "human_input", "value", "remark"
ATTACHED = "files"
"""The key of the files that go with a question, a note or an answer."""
SHOWN = {"human": "shown"}
"""The progress of a call whose question is before the eyes of the human."""
SNOOZED = "snoozed"
"""What the human has done with the question until a time, in the progress `{"human": "snoozed", "until": TIME}`."""
MAX_REMARK_CHARS = 4_000


class Reply(NamedTuple):
    """What a human has answered.

    Attributes:
        text: the answer as text.
        value: the answer as the form wants it; the text, if there was no form.
        remark: what the human adds; may be empty.
        files: references to the files that go with it, as they stand in the data.
    """

    text: str
    value: Any
    remark: str
    files: list[dict[str, Any]] = []  # noqa: RUF012 - of a named tuple, which is not changed


def form_of(data: Mapping[str, Any]) -> Form | None:
    """Return the form in the data of a question; None if any text is an answer.

    Raises:
        BadInput: it cannot be shown to a person.
    """
    return Form.read(data.get(SCHEMA), data.get(DRAFT))


def with_form(data: Mapping[str, Any], form: Form | None) -> dict[str, Any]:
    """Return the data of a question together with its form."""
    if form is None:
        return dict(data)
    draft = {DRAFT: form.draft} if form.has_draft else {}
    return {**data, SCHEMA: form.schema, **draft}


def reply_data(form: Form | None, value: Any, remark: str, files: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """Return the data of an answer.

    Args:
        form: what was asked for.
        value: the answer, which fits the form; a text if there is none.
        remark: what the human adds; may be empty.
        files: references to the files that go with it.
    """
    data = {TEXT: show(value)} if form is None else {TEXT: show(value), VALUE: value}
    data |= {REMARK: remark} if remark else {}
    return {**data, ATTACHED: list(files)} if files else data


def read_reply(form: Form | None, data: Mapping[str, Any]) -> Reply:
    """Return what is in the data of an answer.

    Older daemons answer a form with text alone, which is read as a person would have typed it.

    Raises:
        BadAnswer: it does not fit the form.
    """
    text, remark = data.get(TEXT), data.get(REMARK, "")
    remark = remark[:MAX_REMARK_CHARS] if isinstance(remark, str) else ""
    if not isinstance(text, str):
        raise BadAnswer("The answer holds no text.", "Ask a human: CONTACT/User.")
    given = data.get(ATTACHED)
    files = [file for file in given if is_reference(file)] if isinstance(given, list) else []
    if form is None:
        return Reply(text, text, remark, files)
    try:
        if VALUE not in data:
            return Reply(text, form.parse(text), remark, files)
        form.check(data[VALUE])
    except BadInput as error:
        raise BadAnswer(f"The answer {text!r:.200} is not what you asked for. {error.message}", "Ask again.") from None
    return Reply(text, data[VALUE], remark, files)
