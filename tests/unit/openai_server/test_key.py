"""The key that clients need."""

from __future__ import annotations

from pathlib import Path

import pytest

from p2pflows.errors import UsageError
from p2pflows.openai_server.key import load_or_create


def test_a_key_is_made_once(tmp_path: Path) -> None:
    """Nobody else can read it."""
    path = tmp_path / "openai.key"
    key, is_new = load_or_create(path)
    assert is_new
    assert path.stat().st_mode & 0o777 == 0o600
    assert load_or_create(path) == (key, False)
    path.unlink()
    assert load_or_create(path)[0] != key


@pytest.mark.parametrize(
    ("text", "mode"), [("sk-p2pflows-" + "0" * 48, 0o640), ("", 0o600), ("hush", 0o600), ("é", 0o600)]
)
def test_a_file_that_is_no_secret_key_is_refused(tmp_path: Path, text: str, mode: int) -> None:
    """The error says what to do, and does not show it."""
    path = tmp_path / "openai.key"
    path.write_text(text)
    path.chmod(mode)
    with pytest.raises(UsageError, match=r"OpenAI server|Other users") as refused:
        load_or_create(path)
    assert "remove the file" in refused.value.hint
    assert not text or text not in str(refused.value)


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    """The error says so."""
    with pytest.raises(UsageError, match="cannot be kept"):
        load_or_create(tmp_path / "missing" / "openai.key")
