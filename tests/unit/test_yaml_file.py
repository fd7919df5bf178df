"""YAML files: damaged ones are refused, and the error quotes nothing of them."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from p2pflows import yaml_file
from p2pflows.errors import UsageError


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a: secret: b", "mapping values are not allowed here, in line 1"),
        ("a: b\nc: [secret", "expected ',' or ']', but got '<stream end>', in line 2"),
        ("a: *secret", "found undefined alias, in line 1"),
        ("a: !secret b", "could not determine a constructor for the tag, in line 1"),
        ("a: !secret!c b", "found undefined tag handle, in line 1"),
        ("a: &secret b\nc: &secret d", "second occurrence, in line 2"),
        ("a: 2024-13-01", "it holds an impossible value"),
        ("a: " + "1" * 5000, "it holds an impossible value"),
        ("a: !!bool secret", "it holds an impossible value"),
        ("a: !!timestamp secret", "it holds an impossible value"),
        ("a: " + "{a: " * 5000, "it is nested too deeply"),
        ("a: \0secret", "it is not YAML"),
        (b"secret \xff", "it is not UTF-8"),
    ],
)
def test_the_error_about_damaged_yaml_is_one_sentence_that_quotes_nothing(
    tmp_path: Path, content: str | bytes, why: str
) -> None:
    """For each error that PyYAML raises, with a secret in the damaged line."""
    path = tmp_path / "file.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as refused:
        yaml_file.read(path, "The file", "Correct it.")
    assert refused.value.message.startswith(f"The file cannot be read: {why}")
    assert refused.value.hint == "Correct it."
    assert "secret" not in refused.value.message


def test_a_missing_file_is_empty_and_a_folder_is_an_error(tmp_path: Path) -> None:
    """An error of the operating system becomes a sentence, too."""
    assert yaml_file.read(tmp_path / "nothing", "It", "") is None
    with pytest.raises(UsageError, match="It cannot be read: Is a directory"):
        yaml_file.read(tmp_path, "It", "")


NAMES = st.sampled_from(["yes", "Null", "on", "y", "ann", "Bob-2", "_x", "1e3", "e", "12", "no_"]) | st.text(
    "abeE019_-.: '#", min_size=1, max_size=6
)
VALUES = st.text("0123456789abcdef", min_size=1, max_size=8) | st.sampled_from(["1e5", "0b1", "true", "~", ""])


SECTIONS = st.sampled_from(["contacts", "about", "blocked", "groups"])
LINES = st.sampled_from(
    ["  ab: cd", "- cd", "- 12", "  - cd", "    verified: true", "  x:", "  ab: 'cd", "# ab", "cd", " |", ""]
)


@given(st.lists(st.tuples(SECTIONS, st.lists(LINES, max_size=3)), min_size=1, max_size=4))
def test_sections_are_read_as_any_reader_of_yaml_reads_them(
    tmp_path_factory: pytest.TempPathFactory, sections: list[tuple[str, list[str]]]
) -> None:
    """The quick way for one section changes nothing for the others."""
    text = "".join(f"{name}:\n" + "".join(f"{line}\n" for line in lines) for name, lines in sections)
    try:
        expected = yaml.safe_load(text)
    except yaml.YAMLError:
        expected = None
    path = tmp_path_factory.getbasetemp() / "sections.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        found = yaml_file.read(path, "The contacts", "Correct it.")
    except UsageError:
        found = None
    assert found == expected


@given(st.lists(st.tuples(NAMES, VALUES), min_size=1, max_size=4))
def test_a_flat_file_is_read_as_any_reader_of_yaml_reads_it(
    tmp_path_factory: pytest.TempPathFactory, entries: list[tuple[str, str]]
) -> None:
    """The quick way for long address books takes nothing that PyYAML would take for a number, a bool or an error."""
    text = "contacts:\n" + "".join(f"  {name}: {value}\n" for name, value in entries)
    try:
        expected = yaml.safe_load(text)
    except yaml.YAMLError:
        expected = None
    path = tmp_path_factory.getbasetemp() / "flat.yaml"
    path.write_text(text, encoding="utf-8")
    try:
        found = yaml_file.read(path, "The contacts", "Correct it.")
    except UsageError:
        found = None
    assert found == expected


@given(st.dictionaries(SECTIONS, st.dictionaries(NAMES, VALUES, max_size=4) | st.lists(VALUES, max_size=3), max_size=4))
def test_what_is_written_is_read_again(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, dict[str, str] | list[str]]
) -> None:
    """By this module and by any reader of YAML, whichever way a section was written."""
    path = tmp_path_factory.getbasetemp() / "written.yaml"
    yaml_file.write(path, content)
    assert yaml_file.read(path, "The contacts", "Correct it.") == content
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == content


def test_ten_thousand_contacts_are_written_in_a_moment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The section of the names, the only long one, is written and read without PyYAML."""
    monkeypatch.setattr(yaml_file, "_dump", lambda content: f"{next(iter(content))}:\n- ab\n")
    names = {f"person-{number}": f"{number:063x}a" for number in range(10_000)}
    path = tmp_path / "contacts.yaml"
    yaml_file.write(path, {"contacts": names, "blocked": ["ab"]})
    monkeypatch.setattr(yaml_file, "_load", lambda text: {"blocked": text.count("ab")})
    assert yaml_file.read(path, "The contacts", "") == {"contacts": names, "blocked": 1}
