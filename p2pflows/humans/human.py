"""HumanFlow: asks a human, in the words of a template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from p2pflows.flows.flow import CompositeFlow
from p2pflows.flows.message import FlowMessage
from p2pflows.humans import settings
from p2pflows.models.templates import Template

_TEMPLATE = "query_message_prompt_template"
_USER = "User"


class HumanFlow(CompositeFlow):
    """Asks the human behind its subflow `User`, and answers with what the human says: `{"human_input": text}`.

    The config's `query_message_prompt_template` renders the question from the input. Without a template, the input is
    the question, with its `query` as the text. When the human declines or is late, the answer is that error. One
    instance asks one question at a time; serve it with `parallel_dispatch=True` to ask several at once.

    The flow never reads the terminal of its worker. The human answers in their inbox, from any terminal, with
    `p2pflows answer` or `p2pflows chat --answer`, also after a restart.

    Raises:
        UsageError: the config has a template that cannot be used, or a timeout that is not a positive number.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        template = self.flow_config.get(_TEMPLATE)
        self._template = None if template is None else Template.from_config(template)
        self._timeout = settings.timeout(self.flow_config)

    async def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Ask, and wait without holding a worker slot.

        Raises:
            CallError: the input lacks a variable of the template, or the human gave no answer.
        """
        question = self.package_input_message(self._question(input_message.data))
        return await self.subflows[_USER].get_reply_future(question, timeout=self._timeout)

    def _question(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if self._template is not None:
            return {"api_output": self._template.render(data)}
        if "query" in data and "api_output" not in data:
            return {**{name: value for name, value in data.items() if name != "query"}, "api_output": data["query"]}
        return dict(data)
