"""Writes the table of methods in docs/CONTROL.md from the parameter models and docstrings of daemon/p2pflowsd/api."""

from __future__ import annotations

import argparse
import inspect
import json
import sys
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from p2pflowsd.api.daemon import Method
from p2pflowsd.api.methods import METHODS

PAGE = Path(__file__).parent.parent / "docs" / "CONTROL.md"
BEGIN = "<!-- Written by scripts/method_table; do not edit. -->\n"
END = "<!-- End of the table. -->\n"


def table() -> str:
    """The whole table, as it should be."""
    rows = [_row(name, method) for name, method in METHODS.items()]
    return "\n".join(["| Method | What it does | Parameters | Result |", "|---|---|---|---|", *rows, ""])


def page(text: str) -> str:
    """The page with the table as it should be."""
    before, rest = text.split(BEGIN)
    _, after = rest.split(END)
    return before + BEGIN + table() + END + after


def _row(name: str, method: Method[Any]) -> str:
    purpose, _, result = inspect.cleandoc(method.function.__doc__ or "").partition("Returns:\n")
    fields = method.parameters.model_fields.items()
    parameters = ", ".join(_parameter(field.alias or name, field) for name, field in fields)
    cells = (f"`{name}`", _one_line(purpose), parameters, _one_line(result))
    return "".join(f"| {cell} " if cell else "| " for cell in cells) + "|"


def _parameter(name: str, field: FieldInfo) -> str:
    """A parameter, with a question mark if it is optional, and its default or the values that it may have."""
    if get_origin(field.annotation) is Literal:
        note = ", ".join(f"`{value}`" for value in get_args(field.annotation))
    elif field.default not in (PydanticUndefined, None, "") and field.default is not False:
        note = f"`{json.dumps(field.default)}`" if isinstance(field.default, str) else json.dumps(field.default)
    else:
        note = ""
    return f"`{name}{'' if field.is_required() else '?'}`" + (f" ({note})" if note else "")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def main() -> int:
    """Write the table, or compare it, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the table is stale")
    is_check = parser.parse_args().check
    text = PAGE.read_text(encoding="utf-8")
    if text == page(text):
        return 0
    if is_check:
        sys.stderr.write(f"The table of methods in {PAGE} is stale; run: scripts/method_table\n")
        return 1
    PAGE.write_text(page(text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
