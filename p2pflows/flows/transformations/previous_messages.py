"""A look into a chat while it runs: its messages so far, in the log."""

from __future__ import annotations

import logging
from typing import Any

from p2pflows.flows.transformations import settings
from p2pflows.flows.transformations.base import DataTransformation
from p2pflows.flows.transformations.errors import MissingKey

_log = logging.getLogger(__name__)


class PrintPreviousMessages(DataTransformation):
    """Logs the messages of the source flow's chat at level info; the data stays as it is.

    Args:
        last_message_only: whether only the last one is logged.
    """

    def __init__(self, last_message_only: bool = False) -> None:
        super().__init__()
        self.last_message_only = settings.flag(last_message_only, "last_message_only")

    def __call__(self, data_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """The data, untouched.

        Raises:
            MissingKey: the interface was called without `src_flow`, or that flow keeps no chat in its state.
        """
        flow = kwargs.get("src_flow")
        state = getattr(flow, "flow_state", None)
        if not isinstance(state, dict) or "previous_messages" not in state:
            raise MissingKey(
                "PrintPreviousMessages has no chat to look into.",
                "Call the interface with src_flow=, a chat flow; one that runs elsewhere keeps its chat there.",
            )
        name = (getattr(flow, "flow_config", None) or {}).get("name", type(flow).__name__)
        for message in state["previous_messages"][-1 if self.last_message_only else 0 :]:
            _log.info("[%s] %s: %s", name, message["role"], message["content"])
        return data_dict
