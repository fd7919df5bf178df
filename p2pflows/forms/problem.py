"""Problem: what is wrong with an answer, and in which field."""

from __future__ import annotations

from p2pflows.errors import BadInput


class Problem(Exception):
    """A value does not fit its form.

    Attributes:
        path: the field, such as `ports[2]`; empty for the whole answer.
        what: the rest of a sentence that begins with the name of the field.
    """

    def __init__(self, path: str, what: str) -> None:
        super().__init__(f"{path} {what}")
        self.path = path
        self.what = what

    @property
    def sentence(self) -> str:
        """The sentence for a person."""
        subject = f"The field {self.path!r}" if self.path else "The answer"
        return f"{subject} {self.what}."

    def as_error(self, hint: str) -> BadInput:
        """Return the error of a method."""
        return BadInput(self.sentence, hint)
