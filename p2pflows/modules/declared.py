"""The dependencies that a module declares, read without running its code."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from p2pflows import yaml_file
from p2pflows.errors import UsageError

FILE = "dependencies.yaml"
REQUIREMENTS = "pip_requirements.txt"
_SYNC, _LIST = "sync_dependencies", "dependencies"

Entry = Mapping[str, Any] | str


def dependencies(folder: Path) -> list[Entry]:
    """Return the entries of a module's `dependencies.yaml`, or else of the list that its `__init__.py` syncs.

    Raises:
        UsageError: dependencies.yaml has a wrong form.
    """
    path = folder / FILE
    return read(path) if path.is_file() else _entries_in_code(folder / "__init__.py")


def read(path: Path) -> list[Entry]:
    """Read the entries of a YAML file: a list, or a mapping with a list under `dependencies`.

    Raises:
        UsageError: the file cannot be read, or has a wrong form.
    """
    content = yaml_file.read(path, str(path), "Check the file.")
    entries = content.get("dependencies") if isinstance(content, dict) else content
    if not isinstance(entries, list | None) or not all(isinstance(entry, str | dict) for entry in entries or []):
        raise UsageError(f"{path} is not a list of dependencies.", "Write each as: - url: author/Name")
    return list(entries or [])


def requirements(folder: Path) -> Path | None:
    """Return the path of the module's `pip_requirements.txt`, or None if it lists no packages."""
    path = folder / REQUIREMENTS
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return path if any(line.strip() and not line.lstrip().startswith("#") for line in lines) else None


def _entries_in_code(path: Path) -> list[Entry]:
    """Return the literal lists that code passes to `sync_dependencies`; a computed list is known only at run time."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return []
    names: dict[str, ast.expr] = {}
    found: list[Entry] = []
    for statement in body:
        value = getattr(statement, "value", None)
        match value:
            case ast.Call(func=ast.Name(id=called) | ast.Attribute(attr=called)) if called == _SYNC:
                named = [keyword.value for keyword in value.keywords if keyword.arg == _LIST]
                for passed in [*value.args, *named][:1]:
                    found += _literal_entries(names.get(passed.id, passed) if isinstance(passed, ast.Name) else passed)
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if value:
                names[name] = value
    return found


def _literal_entries(expression: ast.expr) -> list[Entry]:
    try:
        value = ast.literal_eval(expression)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return []
    return [entry for entry in value if isinstance(entry, str | dict)] if isinstance(value, list | tuple) else []
