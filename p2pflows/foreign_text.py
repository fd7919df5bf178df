"""Text that others wrote: its control characters are made visible, and what stands for a sentence is short."""

from __future__ import annotations

import re

MAX_QUOTED_CHARS = 500
"""How much of another user's error is shown."""

# Control characters, and characters that reorder or hide their neighbours.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f"
    "\u3164\ufeff\uffa0\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def escape(value: object) -> str:
    """Return foreign text as one line, in which characters that could control a terminal are visible escapes."""
    return _UNSAFE.sub(lambda found: found[0].encode("unicode_escape").decode(), str(value))


def escape_lines(value: object) -> str:
    """Escape foreign text, but keep its line breaks."""
    return "\n".join(escape(line.expandtabs(4)) for line in str(value).split("\n"))


def shorten(value: object, max_chars: int = MAX_QUOTED_CHARS) -> str:
    """Escape foreign text, and cut it where it gets too long."""
    text = escape(str(value)[: max_chars + 1])
    return text if len(text) <= max_chars else text[: max_chars - 1] + "…"


def quote(who: str, message: str, hint: str = "") -> str:
    """Return the words of another user's daemon or flow as theirs, in one line."""
    end = "." if hint and message and message[-1] not in ".!?…" else ""
    return shorten(f"{who} says: {message}{end} {hint}".rstrip(), MAX_QUOTED_CHARS + len(who))


def shorten_lines(lines: list[str], max_lines: int, max_chars: int) -> list[str]:
    """Return the first and the last lines of a long text, and between them how much is left out.

    Args:
        lines: the text; each line counts as one.
        max_lines: the most lines to keep; at least 2.
        max_chars: the most characters to keep, for all lines together.
    """
    most = max_chars // max_lines
    if len(lines) <= max_lines and sum(map(len, lines)) <= max_chars:
        return lines
    short = [line if len(line) <= most else line[: most - 1] + "…" for line in lines]
    if len(short) <= max_lines:
        return short
    head = max_lines // 4
    tail = max_lines - head - 1
    return [*short[:head], f"… {len(lines) - head - tail} more lines …", *short[-tail:]]
