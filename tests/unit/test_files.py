"""Files that are replaced as a whole, and YAML that is damaged."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from p2pflows import files
from p2pflows.errors import UsageError


def test_a_write_that_fails_leaves_the_old_file_and_no_draft(tmp_path: Path) -> None:
    """What cannot be written changes nothing, and leaves nothing behind that may hold a secret."""
    path = tmp_path / "file"
    files.replace(path, "old")
    with pytest.raises(UnicodeEncodeError):
        files.replace(path, "new \udcff")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_is_private_unless_told_otherwise(tmp_path: Path) -> None:
    """Whoever should read it, too, is a decision."""
    for mode, words in ((0o600, ()), (0o644, (0o644,))):
        files.replace(tmp_path / "file", "text", *words)
        assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode


@pytest.mark.parametrize(
    ("content", "why"),
    [
        ("a: secret: b", "mapping values are not allowed here, in line 1"),
        ("a: b\nc: [secret", "expected ',' or ']', but got '<stream end>', in line 2"),
        ("a: *secret", "found undefined alias, in line 1"),
        ("a: !secret b", "could not determine a constructor for the tag, in line 1"),
        ("a: !secret!c b", "found undefined tag handle, in line 1"),
        ("a: &secret b\nc: &secret d", "second occurrence, in line 2"),
        ("a: 2024-13-01", "a value in it is not what it looks like"),
        ("a: " + "1" * 5000, "a value in it is not what it looks like"),
        ("a: !!bool secret", "a value in it is not what it looks like"),
        ("a: !!timestamp secret", "a value in it is not what it looks like"),
        ("a: " + "[" * 5000, "it is nested too deeply"),
        ("a: \0secret", "it is no YAML"),
        (b"secret \xff", "it is no UTF-8"),
    ],
)
def test_damaged_yaml_is_one_sentence_that_repeats_nothing_of_it(
    tmp_path: Path, content: str | bytes, why: str
) -> None:
    """Whatever PyYAML raises, and whatever secret stands in the line that is wrong."""
    path = tmp_path / "file.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UsageError) as refused:
        files.read_yaml(path, "The file", "Mend it.")
    assert refused.value.message.startswith(f"The file cannot be read: {why}")
    assert refused.value.hint == "Mend it."
    assert "secret" not in refused.value.message


def test_a_folder_in_place_of_a_file_is_told(tmp_path: Path) -> None:
    """What the system refuses is a sentence, too; what is not there is empty."""
    assert files.read_yaml(tmp_path / "nothing", "It", "") is None
    with pytest.raises(UsageError, match="It cannot be read: Is a directory"):
        files.read_yaml(tmp_path, "It", "")
