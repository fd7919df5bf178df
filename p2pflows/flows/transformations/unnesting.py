"""UnNesting: merges a nested dict into the dict around it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from p2pflows.flows.transformations import settings, tree
from p2pflows.flows.transformations.base import DataTransformation
from p2pflows.flows.transformations.errors import WrongValue


class UnNesting(DataTransformation):
    """Replaces a nested dict by its keys, which overwrite keys of the dict around it.

    Args:
        input_key: the key of the dict.
    """

    def __init__(self, input_key: Hashable) -> None:
        super().__init__()
        self.input_key = settings.name(input_key, "input_key")

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """Return the data with the keys of the dict in place of the dict.

        Raises:
            MissingKey: the data lacks the key.
            WrongValue: its value is not a dict.
        """
        path = tree.need(data_dict, self.input_key)
        inner = tree.get(data_dict, path)
        if not isinstance(inner, dict):
            raise WrongValue(
                f"The value of {self.input_key!r} must be a dict, not {type(inner).__name__}.",
                "Name a key that holds a dict.",
            )
        tree.take(data_dict, path)
        tree.get(data_dict, path[:-1]).update(inner)
        return data_dict
