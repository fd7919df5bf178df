"""HumanToHuman: two humans in turns."""

from __future__ import annotations

from typing import Any, ClassVar

from p2pflows.errors import BadInput
from p2pflows.humans.interaction import Interaction, need_text

_FIRST, _SECOND = "User1", "User2"
_TEXTS = ("api_output", "human_input", "query", "text")


class HumanToHuman(Interaction):
    """Takes what one human says to the other, beginning with `User1`, and answers the kick-off with the transcript.

    A kick-off is `{"api_output": text}`. It is answered when one of them writes the end words, when `max_rounds` are
    over, or when one declines or is too late:

        {"end_of_interaction": whether one of them ended it, "reason": "end_word", "max_rounds", "too_long" or the kind
         of an error, "explanation": a sentence, "transcript": [{"user": "User1", "text": ...}, ...], "rounds": number}

    Whoever took part and did not end it in their own words gets a last message that wants no answer.
    """

    humans: ClassVar[frozenset[str]] = frozenset({_FIRST, _SECOND})

    def fresh(self) -> dict[str, Any]:
        """What both have said."""
        return {**super().fresh(), "transcript": []}

    def begin(self, data: dict[str, Any]) -> None:
        """Put the first words to the first one.

        Raises:
            BadInput: there are none.
        """
        words = next((data[name] for name in _TEXTS if isinstance(data.get(name), str)), "")
        if not words.strip():
            raise BadInput("A talk begins with a text.", 'Send {"api_output": TEXT}.')
        self.ask(_FIRST, {"api_output": words})

    def go_on(self, subflow: str, data: dict[str, Any]) -> None:
        """Hand what one said to the other.

        Raises:
            FlowFailed: it is no text.
        """
        said = need_text(data, "human_input", subflow)
        if self.is_too_long(said):
            self.finish("too_long", "The talk has become too long to be kept.")
            return
        self.flow_state["transcript"].append({"user": subflow, "text": said})
        last = subflow == _SECOND and self.round_is_last()
        if self.says_end(said):
            self.finish("end_word", f"{subflow} ended the talk.", by_human=True)
        elif last:
            self.finish("max_rounds", f"The talk has had its {self.max_rounds} rounds.")
        else:
            self.ask(_other(subflow), {"api_output": said})

    def ended(self, reason: str, explanation: str, silent: str | None) -> dict[str, Any]:
        """The transcript; and those are told who do not know that this is the end."""
        transcript = self.flow_state["transcript"]
        note = f"(This is the end. {explanation})"
        said = {"end_of_interaction": True, "reason": reason}
        knows = silent if reason == "declined" else None
        hears = None
        if reason in {"end_word", "max_rounds"}:
            # The last words still have to reach the other.
            speaker, words = transcript[-1]["user"], transcript[-1]["text"]
            hears = _other(speaker)
            knows = speaker if reason == "end_word" else None
            self._tell(hears, {"api_output": f"{words}\n\n{note}", **said})
        took_part = [_FIRST, *([_SECOND] if transcript else [])]
        for user in took_part:
            if user not in (knows, hears):
                self._tell(user, {"api_output": note, **said})
        return {"transcript": transcript}

    def _tell(self, user: str, data: dict[str, Any]) -> None:
        self.subflows[user].send_message(self.package_input_message(data))


def _other(user: str) -> str:
    return _SECOND if user == _FIRST else _FIRST
