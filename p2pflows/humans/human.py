"""HumanFlow: a human as a flow, asked in the words of a template."""

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
    """Asks the human behind its subflow `User`, and answers with what they say: `{"human_input": text}`.

    The question is what the config's `query_message_prompt_template` makes of the input; without one the input goes
    as it is, its `query` as the text. A declined or late question ends in the human's error. One instance asks one
    question after the other; serve it with `parallel_dispatch=True` to ask them side by side.

    It never reads the terminal of its worker, which belongs to somebody else or to nobody: the human answers in their
    inbox, from any terminal, with `p2pflows answer` or `p2pflows chat --answer`, and after any restart.

    Raises:
        UsageError: the config has a template that cannot be used, or a timeout that is none.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        template = self.flow_config.get(_TEMPLATE)
        self._template = None if template is None else Template.from_config(template)
        self._timeout = settings.timeout(self.flow_config)

    async def run(self, input_message: FlowMessage) -> dict[str, Any]:
        """Ask, and wait without holding a worker.

        Raises:
            CallError: the input lacks what the template needs, or the human gave no answer.
        """
        question = self.package_input_message(self._question(input_message.data))
        return await self.subflows[_USER].get_reply_future(question, timeout=self._timeout)

    def _question(self, data: Mapping[str, Any]) -> dict[str, Any]:
        if self._template is not None:
            return {"api_output": self._template.render(data)}
        if "query" in data and "api_output" not in data:
            return {**{name: value for name, value in data.items() if name != "query"}, "api_output": data["query"]}
        return dict(data)
