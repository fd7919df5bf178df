"""The hooks of a home: `hooks.yaml`."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from p2pflows import yaml_file
from p2pflows.errors import UsageError
from p2pflows.home import Home
from p2pflows.settings.notify import MAX_HOOKS, Hook

_HOOKS = TypeAdapter(list[Hook])


def path_of(home: Home) -> Path:
    """Return the file."""
    return home.path / "hooks.yaml"


def read(home: Home) -> list[Hook]:
    """Return the hooks, in the order in which they were added.

    Raises:
        UsageError: the file cannot be read, or holds something else.
    """
    path = path_of(home)
    hint = f"Correct {path}, or remove it."
    content = yaml_file.read(path, "The file of hooks", hint) or {}
    try:
        return _HOOKS.validate_python(content.get("hooks", []) if isinstance(content, dict) else content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise UsageError(f"The file {path} is wrong at {where or 'its beginning'}: {first['msg']}.", hint) from None


def write(home: Home, hooks: list[Hook]) -> None:
    """Replace the hooks.

    Raises:
        UsageError: there are too many.
    """
    if len(hooks) > MAX_HOOKS:
        raise UsageError(f"There may be {MAX_HOOKS} hooks at most.", "Remove one: p2pflows hook remove NUMBER")
    content = [hook.model_dump(exclude_defaults=True) for hook in hooks]
    home.path.mkdir(mode=0o700, parents=True, exist_ok=True)
    yaml_file.write(path_of(home), {"hooks": content})
