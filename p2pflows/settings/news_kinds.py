"""The kinds of news; commands offer them, so this imports nothing that takes time."""

from __future__ import annotations

from typing import Literal

Kind = Literal["asked", "note", "expiring", "missed", "wish", "answered"]
"""A question came; a note; a question is about to expire; it has expired; a stranger wants to be let in; an answer."""
KINDS: tuple[Kind, ...] = ("asked", "note", "expiring", "missed", "wish", "answered")
