"""What a module says that it needs, read without running any of it."""

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
    """The entries of a module's `dependencies.yaml`, or else the list that its `__init__.py` syncs when imported.

    Raises:
        UsageError: dependencies.yaml has another form.
    """
    path = folder / FILE
    return read(path) if path.is_file() else _in_code(folder / "__init__.py")


def read(path: Path) -> list[Entry]:
    """The entries of a file: a list, alone or under `dependencies`.

    Raises:
        UsageError: it cannot be read, or has another form.
    """
    content = yaml_file.read(path, str(path), "Check the file.")
    entries = content.get("dependencies") if isinstance(content, dict) else content
    if not isinstance(entries, list | None) or not all(isinstance(entry, str | dict) for entry in entries or []):
        raise UsageError(f"{path} is no list of dependencies.", "Begin each with: - url: author/Name")
    return list(entries or [])


def requirements(folder: Path) -> Path | None:
    """The module's list of packages to install, if it has any."""
    path = folder / REQUIREMENTS
    try:
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return None
    return path if any(line.strip() and not line.lstrip().startswith("#") for line in lines) else None


def _in_code(path: Path) -> list[Entry]:
    """The literal list that is handed to `sync_dependencies`; what is computed shows only when the code runs."""
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
                for handed in [*value.args, *named][:1]:
                    found += _literal(names.get(handed.id, handed) if isinstance(handed, ast.Name) else handed)
        match statement:
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)) if value:
                names[name] = value
    return found


def _literal(expression: ast.expr) -> list[Entry]:
    try:
        value = ast.literal_eval(expression)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return []
    return [entry for entry in value if isinstance(entry, str | dict)] if isinstance(value, list | tuple) else []
