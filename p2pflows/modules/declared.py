"""What a module says that it needs, read without running any of it."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from p2pflows.errors import UsageError

FILE = "dependencies.yaml"
REQUIREMENTS = "pip_requirements.txt"
_SYNC = "sync_dependencies"

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
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{path} cannot be read: {error}".replace("\n", " "), "Check the file.") from error
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
        match statement:
            case (
                ast.Expr(value=ast.Call(func=function, args=arguments))
                | ast.Assign(value=ast.Call(func=function, args=arguments))
            ):
                called = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
                if called == _SYNC and arguments:
                    first = arguments[0]
                    found += _literal(names.get(first.id, first) if isinstance(first, ast.Name) else first)
            case ast.Assign(targets=[ast.Name(id=name)], value=value):
                names[name] = value
    return found


def _literal(expression: ast.expr) -> list[Entry]:
    try:
        value = ast.literal_eval(expression)
    except (ValueError, TypeError, RecursionError, MemoryError):
        return []
    return [entry for entry in value if isinstance(entry, str | dict)] if isinstance(value, list | tuple) else []
