"""How a person reads a value."""

from __future__ import annotations

import json
from typing import Any


def show(value: Any) -> str:
    """Return a value as a person writes it: text as it is, yes or no, and anything else as JSON."""
    match value:
        case True:
            return "yes"
        case False:
            return "no"
        case str():
            return value
        case _:
            return json.dumps(value, ensure_ascii=False)
