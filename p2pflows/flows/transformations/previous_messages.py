"""PrintPreviousMessages: logs a conversation with a model while it is going on."""

from __future__ import annotations

import logging
from typing import Any

from p2pflows.flows.transformations import settings
from p2pflows.flows.transformations.base import DataTransformation
from p2pflows.flows.transformations.errors import MissingKey

_log = logging.getLogger(__name__)


class PrintPreviousMessages(DataTransformation):
    """Logs the conversation in the source flow's state at level INFO; the data stays unchanged.

    Args:
        last_message_only: whether to log the last message only.
    """

    def __init__(self, last_message_only: bool = False) -> None:
        super().__init__()
        self.last_message_only = settings.flag(last_message_only, "last_message_only")

    def __call__(self, data_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Return the data unchanged.

        Raises:
            MissingKey: the interface was called without `src_flow`, or the state of that flow holds no conversation.
        """
        flow = kwargs.get("src_flow")
        state = getattr(flow, "flow_state", None)
        if not isinstance(state, dict) or "previous_messages" not in state:
            raise MissingKey(
                "PrintPreviousMessages finds no conversation.",
                "Call the interface with src_flow=, a flow of your own process that talks with a model.",
            )
        name = (getattr(flow, "flow_config", None) or {}).get("name", type(flow).__name__)
        for message in state["previous_messages"][-1 if self.last_message_only else 0 :]:
            _log.info("[%s] %s: %s", name, message["role"], message["content"])
        return data_dict
