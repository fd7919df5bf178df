"""Files that several programs share: held by one at a time, replaced as a whole, and YAML whatever stands in it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from p2pflows.errors import UsageError

_PRIVATE = 0o600
_QUOTED = re.compile(r"\b(alias|handle|tag) (['\"]).*\2", re.DOTALL)
"""Where PyYAML's sentences repeat what stands in the file."""


@contextlib.contextmanager
def hold(path: Path) -> Iterator[None]:
    """Hold a lock file for oneself; others wait, in other processes and in this one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def replace(path: Path, text: str, mode: int = _PRIVATE) -> None:
    """Write a file in one step: whatever cuts it short, the old content is there or the new one, and no draft."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    draft = Path(name)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        draft.chmod(mode)
        draft.replace(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    """Replace a private YAML file."""
    replace(path, yaml.safe_dump(content))


def read_yaml(path: Path, what: str, hint: str) -> Any:
    """The content of a YAML file; None if it is empty, or not there.

    Args:
        path: the file.
        what: what it holds, as the error's sentence begins.
        hint: what to do when it cannot be read.

    Raises:
        UsageError: it cannot be read; the error repeats nothing of the file, which may hold a password.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except Exception as error:  # a date that is none, a number too long: each has its own error in PyYAML
        raise UsageError(f"{what} cannot be read: {_why(error)}.", hint) from error


def _why(error: Exception) -> str:
    match error:
        case yaml.MarkedYAMLError(problem=str(problem), problem_mark=yaml.Mark(line=int(line))):
            told = _QUOTED.sub(r"\1", problem)
            return f"{told}, in line {line + 1}"
        case OSError():
            return error.strerror or type(error).__name__
        case UnicodeDecodeError():
            return "it is no UTF-8"
        case RecursionError():
            return "it is nested too deeply"
        case yaml.YAMLError():
            return "it is no YAML"
    return "a value in it is not what it looks like, such as a date that does not exist"
