"""How many prompts are open: counted once at the start, so that a count never reads the inbox."""

from __future__ import annotations

import heapq
from collections import Counter

from p2pflows.protocol.message import Type
from p2pflowsd.counts import count_down
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import PromptRow


class OpenPrompts:
    """The number of open prompts of each asker: questions, which want an answer, and notes."""

    def __init__(self, journal: Journal) -> None:
        self._counts: dict[str, Counter[str]] = {Type.CALL: Counter(), Type.POST: Counter()}
        for peer, kind, count in journal.prompts.count_open():
            self._counts[kind][peer] = count

    @property
    def questions(self) -> int:
        """How many questions are open."""
        return self._counts[Type.CALL].total()

    @property
    def notes(self) -> int:
        """How many notes are open."""
        return self._counts[Type.POST].total()

    def count_of(self, peer: str) -> int:
        """Return how many questions and notes of a user are open."""
        return sum(count[peer] for count in self._counts.values())

    def by_user(self, limit: int) -> list[tuple[str, int, int]]:
        """Return the users with the most open questions, then notes: each with how many of both."""
        questions, notes = self._counts[Type.CALL], self._counts[Type.POST]
        return heapq.nlargest(
            limit,
            ((user, questions[user], notes[user]) for user in questions.keys() | notes.keys()),
            key=lambda each: (each[1], each[2], each[0]),
        )

    def add(self, prompt: PromptRow) -> None:
        """Count a prompt that was asked."""
        self._counts[prompt.type][prompt.peer] += 1

    def remove(self, prompt: PromptRow) -> None:
        """Count a prompt that has ended no longer."""
        count_down(self._counts[prompt.type], prompt.peer)
