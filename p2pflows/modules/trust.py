"""Whose code may run here: the sources that the user has trusted, kept as a list in the home folder."""

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
    """A source is new, and nobody has said that its code may run."""

    kind = "untrusted"
    exit_code = 4

    def __init__(self, identity: str) -> None:
        super().__init__(
            f"{identity} is not trusted, and its code would run with all your rights.",
            "Look at its code, then run the same command again with --trust (in Python: trust=True).",
        )


class TrustList:
    """The list of one home."""

    def __init__(self, path: Path | None = None) -> None:
        self._path = path or home().path / NAME

    def sources(self) -> list[str]:
        """Every source that is trusted.

        Raises:
            UsageError: the file is no such list.
        """
        content = yaml_file.read(self._path, "The trusted sources", self._hint) or {}
        listed = content.get("sources") or [] if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise UsageError("The trusted sources cannot be read: they have an unknown form.", self._hint)
        return listed

    def add(self, identity: str) -> None:
        """Trust a source from now on, at all its revisions."""
        with files.exclusive_lock(self._path.with_suffix(".lock")):
            listed = self.sources()
            if identity not in listed:
                yaml_file.write(self._path, {"sources": sorted([*listed, identity])})

    @property
    def _hint(self) -> str:
        return f"Mend {self._path}, or move it away."


def can_ask() -> bool:
    """Whether a person sits at stdin, and this is not one of a program's side threads."""
    with contextlib.suppress(ValueError, AttributeError):  # closed, or taken away
        return sys.stdin.isatty() and threading.current_thread() is threading.main_thread()
    return False


def ask(identity: str) -> bool:
    """Ask the person at the terminal; only a plain yes is one."""
    sys.stderr.write(f"{identity} is new here. Its code would run with all your rights. Trust it? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
