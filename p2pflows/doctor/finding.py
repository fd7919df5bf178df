"""Finding: what one look has found, what it means, and what to do."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from p2pflows.errors import P2pflowsError


class Level(StrEnum):
    """How bad a finding is."""

    FINE = "fine"
    NOTE = "note"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """What one look has found.

    Attributes:
        level: how bad it is.
        what: what was looked at, in a word or two.
        text: what was found, as a sentence.
        next: what to do; empty if nothing.
    """

    level: Level
    what: str
    text: str
    next: str = ""


def fine(what: str, text: str) -> Finding:
    """Nothing is wrong."""
    return Finding(Level.FINE, what, text)


def note(what: str, text: str, then: str = "") -> Finding:
    """Something is worth knowing."""
    return Finding(Level.NOTE, what, text, then)


def problem(what: str, text: str, then: str) -> Finding:
    """Something does not work."""
    return Finding(Level.PROBLEM, what, text, then)


def from_error(what: str, error: P2pflowsError) -> Finding:
    """What an error says, as a problem."""
    return problem(what, error.message, error.hint)
