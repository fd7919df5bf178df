"""The tools of a chat flow: other flows and humans, which its model may call by name."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from p2pflows.errors import CallError, UsageError

OWNER = "owner"
"""The key of the subflow that asks the owner, and the value of `confirm`."""
MAX_CALLS_AT_ONCE = 16
"""How many calls of one answer are carried out; the model hears that the others were not."""
MAX_RESULT_CHARS = 20_000
"""How much of a tool's result the model reads."""
MAX_TRANSCRIPT_CHARS = 2_000
"""How much of a tool's arguments and result a transcript shows."""
_MAX_SHOWN_CHARS = 1_000
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_TEXT_KEYS = frozenset({"api_output", "human_input", "text", "result"})
"""Where an answer may have its text; one that has nothing else is read as that text."""
_ABOUT_ANSWERS = frozenset({"finish_reason", "model", "usage", "attempts", "trimmed", "tool_calls"})
"""What another chat says beside its text, which is nothing to a model."""
_CUT = " ... (the rest is left out)"


class ToolCall(NamedTuple):
    """What a model wants done: the name of a tool, and its arguments as JSON."""

    id: str
    name: str
    arguments: str

    def as_message_part(self) -> dict[str, Any]:
        """Return the call as the conversation holds it."""
        return {"id": self.id, "type": "function", "function": {"name": self.name, "arguments": self.arguments}}


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the model sees it.

    Args:
        name: its name, the key of a subflow.
        description: what it does.
        parameters: a JSON Schema of its arguments.
        is_confirmed: whether the owner is asked each time before it runs.
        timeout: seconds that it may take; None for as long as the question may.
    """

    name: str
    description: str
    parameters: Mapping[str, Any]
    is_confirmed: bool = False
    timeout: float | None = None

    def as_setting(self) -> dict[str, Any]:
        """Return the entry of the setting `tools` of a request."""
        function = {"name": self.name, "description": self.description, "parameters": dict(self.parameters)}
        return {"type": "function", "function": function}


def read_tools(config: Mapping[str, Any]) -> list[Tool]:
    """Return the tools in a chat flow's config.

    Raises:
        UsageError: one has no flow behind it, or the owner cannot be asked.
    """
    tools, subflows = config.get("tools") or {}, config.get("subflows_config") or {}
    for name, about in tools.items():
        if name not in subflows:
            raise UsageError(f"The tool {name!r} has no flow.", f"Name it: subflows_config.{name}.flow_endpoint")
        if not _NAME.fullmatch(name):
            raise UsageError(f"{name!r} is no name of a tool.", "Use letters from a to z, digits, - and _.")
        if (about or {}).get("confirm") and OWNER not in subflows:
            raise UsageError(
                f"Nobody can be asked before {name!r} runs.",
                f"Add: subflows_config: {{{OWNER}: {{user_id: local, flow_endpoint: User}}}}",
            )
    if tools and ((config.get("backend") or {}).get("n") or 1) != 1:
        raise UsageError("A chat with tools gives one answer.", "Set backend.n to 1.")
    return [
        Tool(
            name,
            (about or {}).get("description") or "",
            (about or {}).get("parameters") or {"type": "object", "properties": {}},
            is_confirmed=(about or {}).get("confirm") is not None,
            timeout=(about or {}).get("timeout"),
        )
        for name, about in tools.items()
    ]


class Pending(Protocol):
    """A call that has begun."""

    def get_data(self) -> dict[str, Any]:
        """Wait for the answer; raises CallError if there is none."""


class Toolbox:
    """Carries out what a model wants done, each call once.

    Args:
        tools: the tools.
        begin: begins a call of a tool with its arguments.
        confirm: asks the owner whether a tool may run with these arguments.
        check: raises what ends the run, if its caller has left or the time is up.

    Attributes:
        transcript: what was done, in order.
    """

    def __init__(
        self,
        tools: Sequence[Tool],
        *,
        begin: Callable[[Tool, dict[str, Any]], Pending],
        confirm: Callable[[str], bool],
        check: Callable[[], object],
    ) -> None:
        self._tools = {tool.name: tool for tool in tools}
        self._begin = begin
        self._confirm = confirm
        self._check = check
        self.transcript: list[dict[str, Any]] = []

    def run(self, calls: Sequence[ToolCall]) -> list[dict[str, Any]]:
        """Carry out the calls of one answer, side by side, and return their results as messages.

        What a tool cannot do is told to the model.

        Raises:
            CallError: the run itself was withdrawn, or its time is up.
        """
        ends = [self._start(call, number) for number, call in enumerate(calls)]
        messages = []
        for call, end in zip(calls, ends, strict=True):
            result = end()
            shown = {"tool": call.name, "arguments": _cut(call.arguments, MAX_TRANSCRIPT_CHARS)}
            self.transcript.append({**shown, "result": _cut(result, MAX_TRANSCRIPT_CHARS)})
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
        return messages

    def _start(self, call: ToolCall, number: int) -> Callable[[], str]:
        """Begin a call, and return what waits for its result."""
        tool, data = self._tools.get(call.name), _arguments(call.arguments)
        problem = ""
        if number >= MAX_CALLS_AT_ONCE:
            problem = f"only {MAX_CALLS_AT_ONCE} calls are carried out at once"
        elif tool is None:
            problem = f"there is no tool {call.name!r}; there are: {', '.join(self._tools)}"
        elif data is None:
            problem = "the arguments are not a JSON object"
        elif tool.is_confirmed and not self._may_run(call):
            problem = "the owner of this assistant does not want it to run"
        if problem or tool is None or data is None:
            return lambda: f"Error: {problem}."
        pending = self._begin(tool, data)
        return lambda: self._result(pending)

    def _may_run(self, call: ToolCall) -> bool:
        try:
            return self._confirm(f"{call.name} with {_cut(call.arguments, _MAX_SHOWN_CHARS)}")
        except CallError:
            self._check()
            return False

    def _result(self, pending: Pending) -> str:
        try:
            return _cut(_text_of(pending.get_data()), MAX_RESULT_CHARS)
        except CallError as error:
            self._check()
            return _cut(f"Error ({error.kind}): {error.message}", MAX_RESULT_CHARS)


def _arguments(text: str) -> dict[str, Any] | None:
    """Return the arguments of a call; None if they are no JSON object. Some models write nothing for none."""
    try:
        found = json.loads(text or "{}")
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _text_of(data: Mapping[str, Any]) -> str:
    """Return the answer of a tool as its model reads it: a text if it has nothing else, else JSON."""
    said = {name: value for name, value in data.items() if name not in _ABOUT_ANSWERS or "api_output" not in data}
    if len(said) == 1:
        (name, value) = next(iter(said.items()))
        if name in _TEXT_KEYS and isinstance(value, str):
            return value
    return json.dumps(said, ensure_ascii=False)


def _cut(text: str, max_chars: int) -> str:
    return text if len(text) <= max_chars else text[: max_chars - len(_CUT)] + _CUT
