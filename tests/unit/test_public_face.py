"""The names that `import p2pflows` offers."""

from __future__ import annotations

import ast
import re
import tomllib
from pathlib import Path

import p2pflows
from p2pflows import errors


def test_every_public_name_exists() -> None:
    """`__all__` is sorted, every name in it exists, and it has all kinds of errors."""
    assert p2pflows.__all__ == sorted(p2pflows.__all__)
    assert all(getattr(p2pflows, name) is not None for name in p2pflows.__all__)
    assert {error.__name__ for error in errors.BY_KIND.values()} <= set(p2pflows.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """An unknown attribute fails as on any module."""
    assert not hasattr(p2pflows, "nonsense")


def test_no_message_names_a_file_that_only_the_source_has() -> None:
    """Who has installed p2pflows has no `docs/`; comments and docstrings are for those who have the source."""
    root = Path(__file__).parents[2]
    for path in [*(root / "p2pflows").rglob("*.py"), *(root / "daemon").rglob("*.py")]:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        comments = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in comments:
                found = re.search(r"\b(docs|tests|scripts|broker-config)/\w|\b[A-Z]{4,}\.md\b", node.value)
                assert found is None, f"{path.relative_to(root)}:{node.lineno}: {node.value}"


def test_the_version_is_that_of_the_project() -> None:
    """`__version__` and pyproject.toml agree."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == p2pflows.__version__
