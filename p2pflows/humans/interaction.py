"""Interaction: the base of composites whose subflows take turns, from a kick-off to an end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, ClassVar

from p2pflows.errors import CallError, FlowFailed
from p2pflows.flows.flow import CompositeFlow
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.transformations import EndOfInteraction
from p2pflows.humans import settings

MAX_HISTORY_BYTES = 180_000
"""Most bytes of what is said in one interaction, so that the state and the answer stay within their limits."""

NO_ANSWER = {
    "declined": "declined",
    "deadline": "did not answer in time",
    "unreachable": "could not be reached",
    "cancelled": "was not asked any more",
}
"""The errors that mean that a human gave no answer, by kind, and how to say it; other errors mean a wrong set-up."""

_KICK_OFF, _TURN = "kick_off", "turn"
_END = "end_of_interaction"


class Interaction(CompositeFlow):
    """Handles one kick-off at a time, asks one subflow at a time, and accepts an answer from that subflow only.

    A subclass defines which subflow a kick-off asks (`begin`), what follows an answer (`go_on`), what the kick-off is
    answered at the end (`ended`), and which subflows are humans. An answer to a question that is not open, such as one
    from before a reset, is an error and changes nothing.

    Raises:
        UsageError: the config has a wrong number of rounds, timeout or end words.
    """

    default_config: ClassVar[dict[str, Any]] = {
        settings.END_WORDS: "<END>",
        settings.MAX_ROUNDS: None,
        settings.HUMAN_TIMEOUT: None,
    }
    handles_errors: ClassVar[bool] = True
    interleaves: ClassVar[bool] = True
    """A second kick-off does not wait for humans who talk for days: `run` refuses it at once."""
    humans: ClassVar[frozenset[str]] = frozenset()
    """The keys of the subflows that are humans."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_rounds = settings.rounds(self.flow_config)
        self._timeout = settings.timeout(self.flow_config)
        self._is_end = EndOfInteraction(_END, settings.end_words(self.flow_config), "said")

    def set_up_flow_state(self) -> None:
        """Start without an interaction."""
        super().set_up_flow_state()
        self._clear()

    def run(self, input_message: FlowMessage) -> None:
        """Handle a kick-off, or the answer of the subflow whose turn it is.

        Raises:
            FlowFailed: an interaction is going on already, or the message answers no open question.
        """
        if input_message.subflow is None:
            self._kick_off(input_message)
            return
        self._check_turn(input_message)
        self.flow_state[_TURN] = None
        if input_message.error is not None:
            self._failed(input_message.subflow, input_message.error)
            return
        try:
            self.go_on(input_message.subflow, input_message.data)
        except CallError as error:
            self.finish(error.kind, error.message, error=error)

    def fresh(self) -> dict[str, Any]:
        """Return the part of the state that belongs to one interaction, as it is at the beginning."""
        return {"rounds": 0}

    def begin(self, data: dict[str, Any]) -> None:
        """Ask the first subflow.

        Raises:
            CallError: the kick-off lacks what is needed; then no interaction has begun.
        """
        raise NotImplementedError

    def go_on(self, subflow: str, data: dict[str, Any]) -> None:
        """Handle an answer: ask the next subflow, or finish.

        Raises:
            CallError: the answer cannot be used, which ends the interaction.
        """
        raise NotImplementedError

    def ended(self, reason: str, explanation: str, silent: str | None) -> dict[str, Any]:
        """Return what the kick-off is answered besides the reason; it may also send last messages.

        Args:
            reason: one word.
            explanation: a sentence for people.
            silent: the key of the human who gave no answer, if that is the reason.
        """
        raise NotImplementedError

    def ask_next(self, subflow: str, data: Mapping[str, Any]) -> None:
        """Ask a subflow; it is now its turn."""
        message = self.package_input_message(data)
        self.subflows[subflow].get_reply(message, timeout=self._timeout if subflow in self.humans else None)
        self.flow_state[_TURN] = {"subflow": subflow, "message": message.message_id}

    def says_end(self, said: str) -> bool:
        """Return whether a human's text holds the words that end the interaction."""
        found = self._is_end({"said": said})
        return bool(found[_END])

    def round_is_last(self) -> bool:
        """Count a round, and return whether it was the last."""
        self.flow_state["rounds"] += 1
        return self.max_rounds is not None and self.flow_state["rounds"] >= self.max_rounds

    def is_too_long(self, said: str) -> bool:
        """Return whether the record of the interaction would be too large with one more text."""
        record = {name: self.flow_state[name] for name in self.fresh()}
        return len(json.dumps([record, said], ensure_ascii=False).encode(errors="replace")) > MAX_HISTORY_BYTES

    def finish(
        self,
        reason: str,
        explanation: str,
        *,
        by_human: bool = False,
        silent: str | None = None,
        error: CallError | None = None,
    ) -> None:
        """Answer the kick-off, with the error if there is one, and end the interaction."""
        kick_off: FlowMessage = self.flow_state[_KICK_OFF]
        outcome = {
            _END: by_human,
            "reason": reason,
            "explanation": explanation,
            **self.ended(reason, explanation, silent),
            "rounds": self.flow_state["rounds"],
        }
        answer = self.package_output_message(kick_off, outcome)
        if error is not None:
            answer.error = type(error)(explanation, error.hint)
        self.send_message(answer)
        self._clear()

    def _kick_off(self, message: FlowMessage) -> None:
        if self.flow_state[_KICK_OFF] is not None:
            raise FlowFailed(
                f"{self.name} is in an interaction already.",
                "Wait for its end, or get an instance of your own; a reset of this one would end it.",
            )
        # Only the sender of a kick-off is needed later; its data may be as large as a whole state.
        self.flow_state[_KICK_OFF] = dataclasses.replace(message, data={})
        self.begin(message.data)

    def _check_turn(self, answer: FlowMessage) -> None:
        turn = self.flow_state[_TURN]
        if turn != {"subflow": answer.subflow, "message": answer.input_message_id}:
            now = f"It is the turn of {turn['subflow']}." if turn else "Nobody is being asked."
            raise FlowFailed(
                f"{answer.subflow} answers a question that {self.name} has not asked last. {now}",
                "Send a new kick-off.",
            )

    def _failed(self, subflow: str, error: CallError) -> None:
        if subflow in self.humans and error.kind in NO_ANSWER:
            explanation = f"{subflow} {NO_ANSWER[error.kind]}: {error.message}"
            self.finish(error.kind, explanation, by_human=True, silent=subflow)
        else:
            self.finish(error.kind, f"{subflow} failed: {error.message}", error=error)

    def _clear(self) -> None:
        self.flow_state.update({_KICK_OFF: None, _TURN: None, **self.fresh()})


def need_text(data: Mapping[str, Any], name: str, subflow: str) -> str:
    """Return the text in a subflow's answer.

    Raises:
        FlowFailed: it holds no text.
    """
    match data.get(name):
        case str(said):
            return said
        case [*texts] if texts and all(isinstance(text, str) for text in texts):
            return "\n\n".join(texts)
        case _:
            raise FlowFailed(f"{subflow} answered without a text under {name!r}.", f"Let it answer {{{name!r}: TEXT}}.")
