"""What the process that notifies the user leaves for `status`, `doctor` and its successor: `notifying.json`."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from p2pflows import files
from p2pflows.home import Home


class State:
    """The content of the file.

    Attributes:
        told_until: when the newest prompt came that was told, as RFC 3339; empty if none was.
        failing: what fails and why, by the kind of service or the command.
    """

    def __init__(self, home: Home) -> None:
        self._path = home.notifying
        found = read(home)
        self.told_until = str(found.get("told_until", ""))
        self.failing: dict[str, str] = {}
        self._is_changed = True

    def note_told(self, received: str) -> None:
        """Note when a prompt came that is told now."""
        if received > self.told_until:
            self.told_until = received
            self._is_changed = True

    def note_failing(self, failing: dict[str, str]) -> None:
        """Note what fails now."""
        if failing != self.failing:
            self.failing = failing
            self._is_changed = True

    def save(self) -> None:
        """Write the file, if anything has changed; while the disk does not take it, try again the next time."""
        if self._is_changed:
            text = json.dumps({"told_until": self.told_until, "failing": self.failing})
            with contextlib.suppress(OSError):  # the user is told all the same
                files.replace(self._path, text)
                self._is_changed = False


def read(home: Home) -> dict[str, Any]:
    """Return what the file of a home says; nothing if it does not exist, or holds something else."""
    try:
        content = json.loads(home.notifying.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def failing(home: Home) -> dict[str, str]:
    """Return what fails, by the kind of service or the command."""
    found = read(home).get("failing")
    return {str(name): str(why) for name, why in found.items()} if isinstance(found, dict) else {}
