"""References to files: what is one, and what only looks like one."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.protocol import file_reference
from p2pflows.protocol.file_reference import MARK, MAX_REFERENCES, FileReference, references_in

GOOD = FileReference("0" * 31 + "1", "a" * 64, 5, "photo.png", "image/png")


def numbered(number: int) -> dict[str, Any]:
    """A reference with an id of its own."""
    return GOOD._replace(id=f"{number:032x}").as_data()


def test_references_are_found_anywhere() -> None:
    """In lists and objects, in the order in which they stand there, and each once."""
    data = {"a": [1, {"b": numbered(1)}, [numbered(2)]], "c": numbered(1), "d": {"$file2": 1}}
    assert [reference.id[-1] for reference in references_in(data)] == ["1", "2"]
    assert references_in({"x": "$file"}) == []


def test_a_reference_is_its_data() -> None:
    """What is written is read again; fields of later versions are ignored, and the type may be missing."""
    assert references_in(GOOD.as_data()) == [GOOD]
    more = {MARK: {**GOOD.as_data()[MARK], "later": 1}}
    assert references_in(more) == [GOOD]
    del more[MARK]["type"]
    assert references_in(more)[0].type == "application/octet-stream"


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "a/b", "/etc/passwd", "a\\b", "a\0b", "a\nb", "\u202egnp.exe", "a\u200bb", "\u2028",
        " x", "x ", "x" * 256, "é" * 128, "\x1b[31m", "\ud800",
    ],
)  # fmt: skip
def test_a_name_is_never_a_path_nor_a_trick(name: str) -> None:
    """No slashes, no dots alone, no controls, nothing that turns the text around, and at most 255 bytes."""
    assert not file_reference.is_file_name(name)
    with pytest.raises(ValueError, match="'name' is wrong"):
        references_in({MARK: {**GOOD.as_data()[MARK], "name": name}})


@given(st.text())
def test_any_text_becomes_a_name(text: str) -> None:
    """Whatever a file is called here, its reference has a name that readers take; a good one stays."""
    assert file_reference.is_file_name(file_reference.as_file_name(text))
    if file_reference.is_file_name(text):
        assert file_reference.as_file_name(text) == text


@pytest.mark.parametrize(
    "wrong",
    [
        {"id": "x"}, {"id": "A" * 32}, {"sha256": "a" * 63}, {"size": -1}, {"size": 1.0},
        {"size": True}, {"size": 2**53}, {"size": "5"}, {"type": "image"}, {"type": "IMAGE/PNG"}, {"type": "a/b\n"},
        {"type": ""}, {"name": 5},
    ],
)  # fmt: skip
def test_a_malformed_reference_is_refused(wrong: dict[str, Any]) -> None:
    """Each field is checked strictly, and named."""
    with pytest.raises(ValueError, match=f"'{next(iter(wrong))}' is wrong"):
        references_in({MARK: {**GOOD.as_data()[MARK], **wrong}})


@pytest.mark.parametrize("value", ["x", None, [], {}, {"type": "object", "required": ["sha256"]}, {"sha256": {}}])
def test_what_only_has_the_mark_is_data(value: object) -> None:
    """A schema of a flow that takes files has it as well, and what is inside is searched like everything."""
    assert references_in({MARK: value}) == []
    assert references_in({MARK: [GOOD.as_data()], "properties": {MARK: value}}) == [GOOD]


def test_other_forms_are_refused() -> None:
    """A mark beside other keys, one that is no object, two files of one id, or too many."""
    for data, why in (
        ({**GOOD.as_data(), "x": 1}, "beside"),
        ([GOOD.as_data(), GOOD._replace(size=6).as_data()], "one id"),
        ([numbered(number) for number in range(MAX_REFERENCES + 1)], "more than"),
    ):
        with pytest.raises(ValueError, match=why):
            references_in(data)
    assert len(references_in([numbered(number) for number in range(MAX_REFERENCES)])) == MAX_REFERENCES


@pytest.mark.parametrize(
    "key", ["$file", "\\u0024file", "$\\u0066ile", "$f\\u0069le", "\\u0024\\u0066\\u0069\\u006C\\u0065"]
)
def test_no_way_to_write_the_mark_is_overlooked(key: str) -> None:
    """However JSON writes it, the text is searched; other texts mostly are not."""
    text = f'{{"{key}": 1}}'.encode()
    assert MARK in json.loads(text)
    assert file_reference.may_refer(text)
    assert not file_reference.may_refer(b'{"file": "\\n\\u001b 5$"}')
