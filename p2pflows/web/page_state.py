"""What the process of the page tells the daemon that has started it: a line of JSON on its stdout."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Self

MAX_CHARS = 2_000
"""Of each text; a daemon reads no longer lines than 64 KiB."""


@dataclass(frozen=True, slots=True)
class PageState:
    """How the page is; without any content, it is starting.

    Attributes:
        url: where it is; None if it does not run.
        problem: why it does not run, as a sentence.
        next: what to do about that.
    """

    url: str | None = None
    problem: str | None = None
    next: str | None = None

    def line(self) -> str:
        """Return the line that says it."""
        cut = {name: text if text is None else text[:MAX_CHARS] for name, text in asdict(self).items()}
        return json.dumps(cut) + "\n"

    @classmethod
    def read(cls, line: bytes) -> Self | None:
        """Read such a line; None if something else was printed."""
        try:
            found = json.loads(line)
        except ValueError:
            return None
        return cls(**found) if isinstance(found, dict) and found.keys() == set(cls.__slots__) else None
