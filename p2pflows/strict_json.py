"""JSON from outside, as RFC 8259 has it: no NaN or Infinity, and no nesting that breaks whoever reads it."""

from __future__ import annotations

from typing import Any

from pydantic_core import from_json


def loads(text: str | bytes) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, holds NaN or Infinity, or is nested too deeply.
    """
    return from_json(text, allow_inf_nan=False)
