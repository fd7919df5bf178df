"""ChatHumanFlow: a human and an assistant take turns."""

from __future__ import annotations

from typing import Any, ClassVar

from p2pflows.flows.interfaces import KeyInterface
from p2pflows.humans.interaction import Interaction, need_text
from p2pflows.models.answer import ABOUT_THE_ANSWER

_ASSISTANT, _USER = "Assistant", "User"


class ChatHumanFlow(Interaction):
    """Passes a query to the assistant, the assistant's answer to the human, the human's to the assistant, and so on.

    A kick-off is `{"query": text}` or `{"api_output": text}`; its other keys are sent to the assistant, too. It is
    answered when the human writes the end words, after `max_rounds` rounds, or when one of the two gives no answer:

        {"end_of_interaction": whether the human ended it, "reason": "end_word", "max_rounds", "too_long" or the kind
         of an error, "explanation": a sentence, "user_inputs": [...], "assistant_outputs": [...], "rounds": number}

    When the assistant fails, or the human cannot be asked at all, the answer is an error instead.
    """

    humans: ClassVar[frozenset[str]] = frozenset({_USER})

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.input_interface = KeyInterface(keys_to_rename={"human_input": "query"})

    def fresh(self) -> dict[str, Any]:
        """Return an empty record of what both say."""
        return {**super().fresh(), "user_inputs": [], "assistant_outputs": []}

    def begin(self, data: dict[str, Any]) -> None:
        """Ask the assistant the query."""
        if "query" not in data:
            data = KeyInterface(keys_to_rename={"api_output": "query"})(data)
        self.ask_next(_ASSISTANT, data)

    def go_on(self, subflow: str, data: dict[str, Any]) -> None:
        """Pass what one of the two said to the other.

        Raises:
            FlowFailed: the answer holds no text.
        """
        is_human = subflow == _USER
        said = need_text(data, "human_input" if is_human else "api_output", subflow)
        if self.is_too_long(said):
            self.finish("too_long", "The chat has become too long to be stored.")
            return
        self.flow_state["user_inputs" if is_human else "assistant_outputs"].append(said)
        if not is_human:
            question = {name: value for name, value in data.items() if name not in ABOUT_THE_ANSWER}
            self.ask_next(_USER, {**question, "api_output": said})
            return
        last = self.round_is_last()
        if self.says_end(said):
            self.finish("end_word", f"{_USER} ended the chat.", by_human=True)
        elif last:
            self.finish("max_rounds", f"The chat has had its {self.max_rounds} rounds.")
        else:
            self.ask_next(_ASSISTANT, self.input_interface(data))

    def ended(self, reason: str, explanation: str, silent: str | None) -> dict[str, Any]:
        """Return what both have said."""
        del reason, explanation, silent
        return {name: self.flow_state[name] for name in ("user_inputs", "assistant_outputs")}
