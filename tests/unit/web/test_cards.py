"""What the page gets of prompts and questions: no more than it shows."""

from __future__ import annotations

from typing import Any

from p2pflows.protocol.file_reference import FileReference
from p2pflows.web.cards import MAX_ABOUT, MAX_CARD_CHARS, MAX_PEOPLE, MAX_TEXT_CHARS, asked, card, line, whole_card

PROMPT: dict[str, Any] = {"text": "x" * 1_000_000, "answer": None, "data": {}, "form": None}
RESULT: dict[str, Any] = {"answer": "", "remark": "", "value": None}


def test_a_list_has_the_beginning_of_a_text() -> None:
    """A thousand questions of a megabyte each would stop any browser."""
    found = card(PROMPT)
    assert (len(found["text"]), found["chars"]) == (MAX_CARD_CHARS, 1_000_000)
    assert "data" not in found


def test_what_is_beside_the_text_is_little() -> None:
    """The rest is counted."""
    found = whole_card({**PROMPT, "about": {f"k{n}": ["y" * 10_000] for n in range(MAX_ABOUT + 7)}})
    assert (len(found["about"]), found["about_left"]) == (MAX_ABOUT, 7)
    assert all(len(text) == MAX_TEXT_CHARS < length for _, text, length in found["about"])


def test_a_form_that_an_older_release_has_stored_is_no_form() -> None:
    """Then any text is an answer, as in a terminal."""
    assert whole_card({**PROMPT, "about": {}, "data": {"answer_schema": "?"}})["form"] is None


def test_a_question_to_many_lists_some_of_them() -> None:
    """Its answers are texts of a bounded length."""
    person = {**RESULT, "user": "b0" * 32, "value": {"a": "z" * 100_000}}
    found = asked({**RESULT, "text": "t" * 100_000, "people": [person] * (MAX_PEOPLE + 1)})
    assert len(found["people"]) == MAX_PEOPLE
    assert len(found["people"][0]["answer"]) == len(found["text"]) == MAX_TEXT_CHARS
    assert "value" not in found["people"][0]


def test_files_stand_beside_the_fields() -> None:
    """With what the page shows of each; what only looks like a file is shown as it is, and none with it."""
    file = FileReference("a1" * 16, "b2" * 32, 1_234_567, "photo.png", "image/png")
    shown = {"id": file.id, "name": "photo.png", "size": 1_234_567, "type": "image/png"}
    found = whole_card({**PROMPT, "about": {"one": file.as_data(), "two": [file.as_data()], "more": {"a": [1]}}})
    assert (found["files"], [name for name, _, _ in found["about"]]) == ([shown], ["more"])
    found = whole_card({**PROMPT, "about": {"wrong": {**file.as_data(), "more": 1}}})
    assert (found["files"], found["about"][0][1][0]) == ([], "{")
    assert asked({**RESULT, "text": "", "people": [], "files": [file.as_data()]})["files"] == [shown]
    assert line({"files": [file.as_data()]})["files"] == [shown]
