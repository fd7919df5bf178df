"""HumanToHuman: two humans take turns."""

from __future__ import annotations

from typing import Any, ClassVar

from p2pflows.errors import BadInput
from p2pflows.humans.interaction import Interaction, need_text

_FIRST, _SECOND = "User1", "User2"
_TEXTS = ("api_output", "human_input", "query", "text")


class HumanToHuman(Interaction):
    """Passes what one human says to the other, beginning with `User1`, and answers the kick-off with the transcript.

    A kick-off is `{"api_output": text}`. It is answered when one of them writes the end words, after `max_rounds`
    rounds, or when one declines or is too late:

        {"end_of_interaction": whether one of them ended it, "reason": "end_word", "max_rounds", "too_long" or the kind
         of an error, "explanation": a sentence, "transcript": [{"user": "User1", "text": ...}, ...], "rounds": number}

    A human who took part and did not end the talk receives a last message, which needs no answer.
    """

    humans: ClassVar[frozenset[str]] = frozenset({_FIRST, _SECOND})

    def fresh(self) -> dict[str, Any]:
        """Return an empty transcript."""
        return {**super().fresh(), "transcript": []}

    def begin(self, data: dict[str, Any]) -> None:
        """Ask the first human.

        Raises:
            BadInput: the kick-off holds no text.
        """
        words = next((data[name] for name in _TEXTS if isinstance(data.get(name), str)), "")
        if not words.strip():
            raise BadInput("A talk begins with a text.", 'Send {"api_output": TEXT}.')
        self.ask_next(_FIRST, {"api_output": words})

    def go_on(self, subflow: str, data: dict[str, Any]) -> None:
        """Pass what one human said to the other.

        Raises:
            FlowFailed: the answer holds no text.
        """
        said = need_text(data, "human_input", subflow)
        if self.is_too_long(said):
            self.finish("too_long", "The talk has become too long to be stored.")
            return
        self.flow_state["transcript"].append({"user": subflow, "text": said})
        last = subflow == _SECOND and self.round_is_last()
        if self.says_end(said):
            self.finish("end_word", f"{subflow} ended the talk.", by_human=True)
        elif last:
            self.finish("max_rounds", f"The talk has had its {self.max_rounds} rounds.")
        else:
            self.ask_next(_other(subflow), {"api_output": said})

    def ended(self, reason: str, explanation: str, silent: str | None) -> dict[str, Any]:
        """Return the transcript, and tell each human who does not know it that this is the end."""
        transcript = self.flow_state["transcript"]
        note = f"(This is the end. {explanation})"
        end = {"end_of_interaction": True, "reason": reason}
        knows_end = silent if reason == "declined" else None
        receiver = None
        if reason in {"end_word", "max_rounds"}:
            # The other has not read the last words yet.
            speaker, words = transcript[-1]["user"], transcript[-1]["text"]
            receiver = _other(speaker)
            knows_end = speaker if reason == "end_word" else None
            self._post(receiver, {"api_output": f"{words}\n\n{note}", **end})
        took_part = [_FIRST, *([_SECOND] if transcript else [])]
        for user in took_part:
            if user not in (knows_end, receiver):
                self._post(user, {"api_output": note, **end})
        return {"transcript": transcript}

    def _post(self, user: str, data: dict[str, Any]) -> None:
        self.subflows[user].send_message(self.package_input_message(data))


def _other(user: str) -> str:
    return _SECOND if user == _FIRST else _FIRST
