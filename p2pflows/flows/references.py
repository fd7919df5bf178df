"""References in a config file: `${dotted.key}` stands for another value of the same file."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from p2pflows.errors import UsageError

_REFERENCE = re.compile(r"\$\{([A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*)\}")
_ESCAPED = "\\${"
_ESCAPED_OR_REFERENCE = re.compile(r"\\\$\{|\$\{[^}]*\}?")


def resolved_references(content: Any, path: Path) -> Any:
    """Return the content of a config file with its references replaced by what they stand for.

    Args:
        content: what the file holds.
        path: the file, for errors.

    Raises:
        UsageError: a reference stands for nothing, for itself, or for what a text cannot hold.
    """
    return _References(content, path).resolved()


@dataclass(frozen=True, slots=True)
class _References:
    """A config in which `${dotted.key}` stands for another value of the same file; there is no other syntax."""

    root: Any
    path: Path

    def resolved(self) -> Any:
        return self._resolve(self.root, ())

    def _resolve(self, value: Any, above: tuple[str, ...]) -> Any:
        if isinstance(value, dict):
            return {key: self._resolve(inner, above) for key, inner in value.items()}
        if isinstance(value, list):
            return [self._resolve(inner, above) for inner in value]
        if not isinstance(value, str) or "${" not in value:
            return value
        whole = _REFERENCE.fullmatch(value)
        if whole:
            return self._value(whole[1], above)
        return _ESCAPED_OR_REFERENCE.sub(functools.partial(self._text, above=above), value)

    def _text(self, found: re.Match[str], above: tuple[str, ...]) -> str:
        if found[0] == _ESCAPED:
            return "${"
        name = _REFERENCE.fullmatch(found[0])
        value = self._value(name[1], above) if name else None
        if not isinstance(value, (str, int, float)):
            raise UsageError(
                f"{self.path} has {found[0]!r}, which does not refer to a text or number of the file.",
                f"Write the value itself, or {_ESCAPED} for the characters.",
            )
        return str(value)

    def _value(self, name: str, above: tuple[str, ...]) -> Any:
        if name in above:
            raise UsageError(f"{self.path} has '${{{name}}}', which refers to itself.", "Write the value itself.")
        value = self.root
        for part in name.split("."):
            if not isinstance(value, dict) or part not in value:
                raise UsageError(f"{self.path} has '${{{name}}}', but no such key.", f"Write the key {name!r}.")
            value = value[part]
        return self._resolve(value, (*above, name))
