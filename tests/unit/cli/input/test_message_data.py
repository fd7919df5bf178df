"""The data of a message, as people type it."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.cli.input.message_data import MAX_FILE_BYTES, MAX_TEXT_BYTES, is_key, read_data
from p2pflows.errors import P2pflowsError, TooLarge, UsageError


@pytest.mark.parametrize(
    ("words", "data"),
    [
        (['{"a": [1, 2.5, null]}'], {"a": [1, 2.5, None]}),
        (["{}"], {}),
        (["text=hello"], {"text": "hello"}),
        (["url=http://x/?a=b"], {"url": "http://x/?a=b"}),
        (["n=NaN", "big=1e999", "empty="], {"n": "NaN", "big": "1e999", "empty": ""}),
        (["text=a b\nc"], {"text": "a b\nc"}),
        (['quoted="5"'], {"quoted": '"5"'}),
        (["n:=5", "list:=[1]", 'text:="5"', "yes:=true"], {"n": 5, "list": [1], "text": "5", "yes": True}),
        (["at=@@home", "signs=a:=b"], {"at": "@home", "signs": "a:=b"}),
        (["Are you there?"], {"text": "Are you there?"}),
        (["Are", "you", "there?"], {"text": "Are you there?"}),
        (["Is 2+2=4?"], {"text": "Is 2+2=4?"}),
        (["See https://x/?a=b"], {"text": "See https://x/?a=b"}),
        (["[x] done"], {"text": "[x] done"}),
    ],
)
def test_data_is_pairs_or_an_object_or_a_text(words: list[str], data: object) -> None:
    """A text stays as it was typed, `:=` takes JSON, and what is neither pair nor object is a text for a human."""
    assert read_data(words) == (data, {})


def test_texts_that_may_be_other_values_are_named() -> None:
    """A text that also reads as a number, a list, ... travels as both, for the recipient to decide."""
    words = ["n=1.10", "yes=true", "list=[1]", "none=null", "text=hello", 'quoted="5"']
    data, typed = read_data(words)
    assert data == {"n": 1.1, "yes": True, "list": [1], "none": None, "text": "hello", "quoted": '"5"'}
    assert typed == {"n": "1.10", "yes": "true", "list": "[1]", "none": "null"}
    assert read_data(["42"]) == ({"text": 42}, {"text": "42"})


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{bad}"], "line 1, column 2"),
        (["a=1", "hello"], "'hello' is not a key=value pair"),
        (["hello", "a=1"], "'hello' is not a key=value pair"),
        (["{}", "{}"], "not a key=value pair"),
        (["a=1", "a:=2"], "given twice"),
        (["a:=hello"], "a:= is not JSON: line 1, column 1"),
        (["a:="], "a:= is not JSON"),
        (["a:=NaN"], "NaN"),
        (["a=@/nowhere/file"], "Cannot read /nowhere/file for 'a': No such file"),
        (["a=@/"], "Cannot read / for 'a': Is a directory"),
    ],
)
def test_other_words_are_refused_with_their_reason(words: list[str], message: str) -> None:
    """Words that are unclear are refused, with the reason."""
    with pytest.raises(UsageError, match=message):
        read_data(words)


def test_a_file_is_a_text_or_json(tmp_path: Path) -> None:
    """`key=@FILE` is the whole text of a file, `key:=@FILE` the JSON in it."""
    (tmp_path / "note").write_text(" 5\n", encoding="utf-8")
    assert read_data([f"a=@{tmp_path}/note", f"b:=@{tmp_path}/note"]) == ({"a": 5, "b": 5}, {"a": " 5\n"})


def test_a_file_that_is_no_text_travels_beside_the_message(tmp_path: Path) -> None:
    """So do a long one, and any other with `@=`; a short text is a text, as before."""
    contents = {"binary": b"a\xff", "null": b"a\x00", "large": b"a" * (MAX_TEXT_BYTES + 1), "text": b"a\n"}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    put: list[Path] = []

    def put_file(path: Path) -> dict[str, Any]:
        put.append(path)
        return {"$file": path.name}

    words = [f"{name}=@{tmp_path}/{name}" for name in contents] + [f"whole@={tmp_path}/text"]
    assert read_data(words, put_file).data == {
        "binary": {"$file": "binary"},
        "null": {"$file": "null"},
        "large": {"$file": "large"},
        "text": "a\n",
        "whole": {"$file": "text"},
    }
    assert put == [tmp_path / name for name in ("binary", "null", "large", "text")]


def test_json_in_a_file_must_be_text(tmp_path: Path) -> None:
    """`key:=@FILE` wants UTF-8 that fits into a message."""
    (tmp_path / "binary").write_bytes(b"a\xff")
    with pytest.raises(UsageError, match=r"binary is not UTF-8 \(byte 2\)"):
        read_data([f"a:=@{tmp_path}/binary"])
    (tmp_path / "large").write_bytes(b"a" * (MAX_FILE_BYTES + 1))
    with pytest.raises(TooLarge, match="larger than a message"):
        read_data([f"a:=@{tmp_path}/large"])


@pytest.mark.parametrize(("content", "data"), [(b"", {}), (b" \n", {}), (b'\xef\xbb\xbf{"a":1}\n', {"a": 1})])
def test_stdin_is_read_without_arguments(content: bytes, data: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without arguments, piped input is the data; empty input is an empty object."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_data([]) == (data, {})


def test_a_dash_is_stdin(monkeypatch: pytest.MonkeyPatch) -> None:
    """`-` reads stdin; input that is not UTF-8 is refused."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"a":"\xff"}')))
    with pytest.raises(UsageError, match="byte 7"):
        read_data(["-"])


@pytest.mark.parametrize(("word", "value"), [("text=-", " 7\n"), ("text:=-", 7)])
def test_stdin_can_be_one_value(word: str, value: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """`key=-` takes stdin as a text, exactly, and `key:=-` as JSON."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b" 7\n")))
    data, typed = read_data([word, "to=fr"])
    assert data | typed == {"text": value, "to": "fr"}


def test_closed_stdin_is_empty_input(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process without stdin sends an empty object, and gets an error if it asks for stdin."""
    monkeypatch.setattr(sys, "stdin", None)
    assert read_data([]) == ({}, {})
    with pytest.raises(UsageError, match="no stdin"):
        read_data(["-"])


@given(st.lists(st.text(alphabet=st.characters(codec="utf-8")), min_size=1, max_size=3))
def test_no_words_break_the_parser(words: list[str]) -> None:
    """Any words are either read as an object or refused with an error of ours."""
    try:
        assert isinstance(read_data([word.replace("@", "").replace("-", "") for word in words]).data, dict)
    except P2pflowsError as error:
        assert error.message  # noqa: PT017 - either outcome is right


@given(st.from_regex(r"\w[\w.-]{0,9}", fullmatch=True), st.text(alphabet=st.characters(codec="utf-8")))
def test_no_text_becomes_another_value(key: str, text: str) -> None:
    """Whatever is typed behind `key=`, that text travels; `@@` stands for `@`."""
    typed = f"@{text}" if text.startswith("@") else text
    if typed != "-" and not key.endswith(":"):
        data, texts = read_data([f"{key}={typed}"])
        assert data | texts == {key: text}


@pytest.mark.parametrize("name", ["text", "a.b", "über", "x-1"])
def test_names_that_a_pair_can_hold(name: str) -> None:
    """A key is letters of any language, digits, and some signs."""
    assert is_key(name)


@pytest.mark.parametrize("name", ["", "-x", "a b", "a=b", "a:", "{", '"'])
def test_names_that_no_pair_can_hold(name: str) -> None:
    """Other keys need a JSON object."""
    assert not is_key(name)
