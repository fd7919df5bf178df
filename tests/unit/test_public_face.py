"""What `import p2pflows` offers."""

from __future__ import annotations

import tomllib
from pathlib import Path

import p2pflows
from p2pflows import errors


def test_every_name_is_there() -> None:
    """`__all__` is sorted, every name in it can be had, and every error kind is in it."""
    assert p2pflows.__all__ == sorted(p2pflows.__all__)
    assert all(getattr(p2pflows, name) is not None for name in p2pflows.__all__)
    assert {error.__name__ for error in errors.BY_KIND.values()} <= set(p2pflows.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    """Asking for what there is not fails as on any module."""
    assert not hasattr(p2pflows, "nonsense")


def test_the_version_is_the_project_s() -> None:
    """`__version__` and pyproject.toml say the same."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert project["version"] == p2pflows.__version__
