"""YAML files: damaged ones are refused, and the error quotes nothing of them."""

from __future__ import annotations

from pathlib import Path

import pytest

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
