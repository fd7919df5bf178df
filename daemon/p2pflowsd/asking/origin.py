"""The origin of a call that asks a human: the question that has to hear of its end. It is stored with the message."""

from __future__ import annotations

import json

from p2pflows.protocol.strict_json import compact

_KEY = "question"


def write_origin(row_id: int) -> str:
    """Return the text that is stored with a call.

    Args:
        row_id: the number of the question.
    """
    return compact({_KEY: row_id})


def question_in(origin: str | None) -> int | None:
    """Return the number of the question in a stored text; None if it is the origin of something else."""
    if origin is None or not origin.startswith(f'{{"{_KEY}"'):
        return None
    return int(json.loads(origin)[_KEY])
