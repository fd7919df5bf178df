"""The files that came with what another person said, as long as the message is kept."""

from __future__ import annotations

import json
from typing import Any

from p2pflows.protocol.file_reference import may_refer, references_in
from p2pflowsd.journal.rows import LineRow
from p2pflowsd.node import Node


def files_of(node: Node, line: LineRow) -> list[dict[str, Any]]:
    """Return the references in the message that says a line; none once the message is forgotten.

    The messages of the user are forgotten once they are delivered, and so what they say has none.
    """
    text = _message(node, line)
    if text is None or not may_refer(text):
        return []
    try:
        return [reference.as_data() for reference in references_in(json.loads(text))]
    except ValueError:  # an older release has stored it with another meaning
        return []


def _message(node: Node, line: LineRow) -> bytes | None:
    """Return the JSON of the message that says a line."""
    if line.by_me:
        return None
    if line.kind in ("note", "question"):
        return next((row.data.encode() for row in node.journal.prompts.matching(line.message)), None)
    asked = node.journal.outgoing.find(line.message)
    return None if asked is None else asked.answer
