"""Whose code may run here: the sources that the user has trusted, kept as a list in the home folder."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import yaml

from p2pflows.errors import UsageError
from p2pflows.home import home

NAME = "trusted_sources.yaml"


class Untrusted(UsageError):
    """A source is new, and nobody has said that its code may run."""

    kind = "untrusted"
    exit_code = 4

    def __init__(self, identity: str, url: str) -> None:
        super().__init__(
            f"{identity} is not trusted, and its code would run with all your rights.",
            f"Look at its code, then: p2pflows modules sync {url} --trust (in Python: trust=True)",
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
        try:
            content = yaml.safe_load(self._path.read_text(encoding="utf-8")) or {}
        except FileNotFoundError:
            return []
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise self._unreadable(str(error).replace("\n", " ")) from error
        listed = content.get("sources") or [] if isinstance(content, dict) else None
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise self._unreadable("it has an unknown form")
        return listed

    def add(self, identity: str) -> None:
        """Trust a source from now on, at all its revisions."""
        with self._locked():
            listed = self.sources()
            if identity not in listed:
                self._write(sorted([*listed, identity]))

    def _unreadable(self, why: str) -> UsageError:
        return UsageError(f"The trusted sources cannot be read: {why}.", f"Mend {self._path}, or move it away.")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _write(self, listed: list[str]) -> None:
        handle, temporary = tempfile.mkstemp(dir=self._path.parent, prefix=".trusted-")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            yaml.safe_dump({"sources": listed}, file)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(self._path)


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
