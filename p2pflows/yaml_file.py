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
_FLAT_ENTRY = re.compile(r"  ([^\W\d_][\w-]*): ([0-9a-f]*[a-f][0-9a-f]*)", re.ASCII)
"""An entry whose key and value are plain texts to every reader of YAML, but for the words in `_NO_TEXTS`."""
_SECTION = re.compile(r"^(?=[a-z]+:$)", re.MULTILINE)
_PLAIN_REST = re.compile(r"(?:[a-z]+:\n|(?: +|- )[\w: -]+\n)*")
"""Lines of which none can belong to a text of several lines."""
_NO_TEXTS = {"y", "n", "yes", "no", "on", "off", "true", "false", "null"}
_QUOTE = re.compile(r"\b(alias|handle|tag) (['\"]).*\2", re.DOTALL)
"""The parts of PyYAML's messages that quote the file."""


def write(path: Path, content: dict[str, Any]) -> None:
    """Replace a YAML file; only its owner can read it."""
    sections = [_flat_text(key, value) or _dump({key: value}) for key, value in content.items()]
    files.replace(path, "".join(sections) or _dump(content))


def _dump(content: dict[str, Any]) -> str:
    return str(yaml.dump(content, Dumper=_Dumper, allow_unicode=True))


def _flat_text(key: str, value: Any) -> str | None:
    """Write a section that `_flat` reads; None if PyYAML has to write it, which takes ten times as long."""
    if not isinstance(value, dict) or not value:
        return None
    lines = [f"  {name}: {text}" for name, text in value.items()]
    text = "\n".join((f"{key}:", *lines, ""))
    return text if _flat(text) == {key: value} else None


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
    try:
        text = path.read_text(encoding="utf-8")
        return _by_sections(text) or _load(text)
    except FileNotFoundError:
        return None
    except Exception as error:  # PyYAML raises errors of many types: for impossible dates, for overlong numbers, ...
        raise UsageError(f"{what} cannot be read: {_reason(error)}.", hint) from error


def _load(text: str) -> Any:
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - one of the safe loaders
    except Exception:  # noqa: BLE001 - whatever it is, the slow reader says it in its own words
        return yaml.safe_load(text)


def _by_sections(text: str) -> dict[str, Any] | None:
    """Read a file of several keys of which some hold only plain names with hex values; None if it has another form."""
    start, *sections = _SECTION.split(text)
    found: dict[str, Any] = {}
    rest = ""
    for section in sections:
        flat = _flat(section)
        if flat is None:
            rest += section
        elif found.keys() & flat.keys():
            return None
        else:
            found |= flat
    if start or not found or not _PLAIN_REST.fullmatch(rest):
        return None
    others = _load(rest) if rest else {}
    return found | others if isinstance(others, dict) and not found.keys() & others.keys() else None


def _flat(text: str) -> dict[str, dict[str, str]] | None:
    """Read a file that holds one key, and below it only plain names with hex values; None if it has another form.

    An address book has that form, and may be long: PyYAML would take seconds for 10,000 entries.
    """
    head, *lines = text.splitlines() or [""]
    entries = [_FLAT_ENTRY.fullmatch(line) for line in lines]
    found = {entry[1]: entry[2] for entry in entries if entry is not None and entry[1].lower() not in _NO_TEXTS}
    if not re.fullmatch(r"[a-z]+:", head) or not found or len(found) != len(lines):
        return None
    return {head[:-1]: found}


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
