"""Reading and writing small YAML files; errors about a damaged file never quote its content."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from p2pflows import files
from p2pflows.errors import UsageError

_Dumper: type[Any] = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_Loader: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_QUOTE = re.compile(r"\b(alias|handle|tag) (['\"]).*\2", re.DOTALL)
"""The parts of PyYAML's messages that quote the file."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a YAML file; only its owner can read it."""
    files.replace(path, dump(content))


def dump(content: dict[str, Any]) -> str:
    """Return the text of a YAML file."""
    return str(yaml.dump(content, Dumper=_Dumper, allow_unicode=True))


def read(path: Path, what: str, hint: str) -> Any:
    """Read a YAML file.

    Args:
        path: the file.
        what: what the file holds, as the first words of an error: "The settings".
        hint: the hint of an error.

    Returns:
        The content, of any type; None if the file is empty or missing.

    Raises:
        UsageError: it cannot be read. The error quotes nothing of the file, which may hold a password.
    """
    data = read_bytes(path, what, hint)
    return None if data is None else load(data, what, hint)


def read_bytes(path: Path, what: str, hint: str) -> bytes | None:
    """Read a file as it is; return None if it is missing.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {_reason(error)}.", hint) from error


def load(data: bytes, what: str, hint: str) -> Any:
    """Return the content of a YAML file, as `read` does.

    Raises:
        UsageError: it is not YAML.
    """
    try:
        text = data.decode()
        try:
            return yaml.load(text, _Loader)  # noqa: S506 - one of the safe loaders
        except Exception:  # noqa: BLE001 - whatever it is, the slow reader says it in its own words
            return yaml.safe_load(text)
    except Exception as error:  # PyYAML raises errors of many types: for impossible dates, for overlong numbers, ...
        raise UsageError(f"{what} cannot be read: {_reason(error)}.", hint) from error


def _reason(error: Exception) -> str:
    match error:
        case yaml.MarkedYAMLError(problem=str(problem), problem_mark=yaml.Mark(line=int(line))):
            unquoted = _QUOTE.sub(r"\1", problem)
            return f"{unquoted}, in line {line + 1}"
        case OSError():
            return error.strerror or type(error).__name__
        case UnicodeDecodeError():
            return "it is not UTF-8"
        case RecursionError():
            return "it is nested too deeply"
        case yaml.YAMLError():
            return "it is not YAML"
    return "it holds an impossible value, such as a date that does not exist"
