"""Where the data of a message has its text for a person."""

from __future__ import annotations

from typing import Any

TEXT_KEYS = ("api_output", "prompt", "text")
"""The keys under which it may be; the first one with a text counts."""


def text_in(data: dict[str, Any]) -> str | None:
    """Return the text for a person in the data of a message; None if it has none."""
    for name in TEXT_KEYS:
        text = data.get(name)
        if isinstance(text, str) and text.strip():
            return text
    return None
