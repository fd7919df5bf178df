"""The sources whose code the user allows to run, as a list in the home folder."""

from __future__ import annotations

import contextlib
import sys
import threading
from pathlib import Path

from p2pflows import files, yaml_file
from p2pflows.errors import UsageError
from p2pflows.home import home

NAME = "trusted_sources.yaml"


class Untrusted(UsageError):
    """The user does not trust a source yet."""

    kind = "untrusted"
    exit_code = 4

    def __init__(self, identity: str) -> None:
        super().__init__(
            f"{identity} is not trusted, and its code would run with all your rights.",
            "Look at its code, then run the same command again with --trust (in Python: trust=True).",
        )


class TrustList:
    """The list of trusted sources of one home."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or home().path / NAME

    def sources(self) -> list[str]:
        """Return all trusted sources.

        Raises:
            UsageError: the file cannot be read, or is not such a list.
        """
        content = yaml_file.read(self._path, "The list of trusted sources", self._hint) or {}
        listed = content.get("sources") or [] if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise UsageError("The list of trusted sources has an unknown form.", self._hint)
        return listed

    def add(self, identity: str) -> None:
        """Trust a source from now on, at all its revisions."""
        with files.exclusive_lock(self._path.with_suffix(".lock")):
            listed = self.sources()
            if identity not in listed:
                yaml_file.write(self._path, {"sources": sorted([*listed, identity])})

    @property
    def _hint(self) -> str:
        return f"Correct {self._path}, or move it away."


def can_ask() -> bool:
    """Whether stdin is a terminal, and this is the main thread."""
    with contextlib.suppress(ValueError, AttributeError):  # stdin is closed, or None
        return sys.stdin.isatty() and threading.current_thread() is threading.main_thread()
    return False


def ask(identity: str) -> bool:
    """Ask the person at the terminal; anything but `y` or `yes` means no."""
    sys.stderr.write(f"{identity} is not trusted yet. Its code would run with all your rights. Trust it? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
