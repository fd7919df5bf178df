"""The flows that everybody serves in a soak; a copy of this file lies in the folder of each person.

Every run appends a line to the file `effects` beside it, so that the checker knows what really ran, and in which order.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any, ClassVar

from p2pflows import CompositeFlow, FlowMessage

_EFFECTS = Path(__file__).with_name("effects")


def _note(endpoint: str, data: dict[str, Any]) -> None:
    """Append a line in one write, so that no kill can leave half of one between two others."""
    line = json.dumps({"endpoint": endpoint, "token": data["token"]}).encode() + b"\n"
    file = os.open(_EFFECTS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line)
    os.close(file)


def record(data: dict[str, Any]) -> dict[str, Any]:
    """Record a call or post, and echo it."""
    _note("record", data)
    return {"echo": data}


def private(data: dict[str, Any]) -> dict[str, Any]:
    """Record a call of somebody who should not have got here."""
    _note("private", data)
    return {"echo": data}


def weigh(data: dict[str, Any]) -> dict[str, Any]:
    """Record a call with a large text, and return a hash of the text."""
    _note("weigh", data)
    return {"token": data["token"], "sha256": hashlib.sha256(data["text"].encode()).hexdigest()}


class _Noting(CompositeFlow):
    """Keeps the ids of all messages that it ran on in its state, for the checker."""

    def set_up_flow_state(self) -> None:
        """Begin with nothing seen."""
        super().set_up_flow_state()
        self.flow_state["seen"] = []

    def _note(self, message: FlowMessage) -> None:
        self.flow_state["seen"].append(message.message_id)
        if message.subflow is None:
            _note(type(self).__name__.lower(), message.data)


class Clerk(_Noting):
    """Asks a neighbour during its run, and answers with what the neighbour said."""

    default_config: ClassVar[dict[str, Any]] = {
        "name": "Clerk",
        "description": "Asks, and waits.",
        "subflows_config": {},
    }

    def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Ask, and answer."""
        self._note(input_message)
        answer = self.subflows["neighbour"].call({"token": f"{input_message.data['token']}/asked"})
        return {"echo": input_message.data, "heard": answer["echo"]["token"]}


class Relay(_Noting):
    """Asks a neighbour with `get_reply`, and answers in the run that gets the reply."""

    default_config: ClassVar[dict[str, Any]] = {
        "name": "Relay",
        "description": "Asks, and ends.",
        "subflows_config": {},
    }

    def run(self, input_message: FlowMessage) -> None:
        """Ask, or answer what was asked before."""
        self._note(input_message)
        if input_message.subflow is None:
            self.flow_state["asked"] = input_message
            question = self.package_input_message({"token": f"{input_message.data['token']}/asked"})
            self.subflows["neighbour"].get_reply(question)
            return
        asked = self.flow_state.pop("asked")
        answer = {"echo": asked.data, "heard": input_message.data["echo"]["token"]}
        self.send_message(self.package_output_message(asked, answer))
