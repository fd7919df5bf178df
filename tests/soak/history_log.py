"""The history of a soak in a file: JSON lines with what clients asked and got, and with each fault."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any


class HistoryLog:
    """Writes JSON lines, each with the seconds since the beginning.

    Args:
        path: the file.
    """

    def __init__(self, path: Path) -> None:
        self._file = path.open("w", encoding="utf-8")
        self._began = time.monotonic()

    def elapsed(self) -> float:
        """Return the seconds since the beginning."""
        return time.monotonic() - self._began

    def write(self, what: str, who: str, **about: Any) -> None:
        """Add a line."""
        line = {"t": round(self.elapsed(), 3), "what": what, "who": who, **about}
        self._file.write(json.dumps(line, ensure_ascii=False) + "\n")

    def close(self) -> None:
        """Close the file."""
        self._file.close()
