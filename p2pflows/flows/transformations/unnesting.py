"""A transformation that takes a dict apart into the one around it."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

from p2pflows.flows.transformations import settings, tree
from p2pflows.flows.transformations.base import DataTransformation
from p2pflows.flows.transformations.errors import WrongValue


class UnNesting(DataTransformation):
    """Puts the keys of a dict in its own place, over those that are there.

    Args:
        input_key: the key of the dict.
    """

    def __init__(self, input_key: Hashable) -> None:
        super().__init__()
        self.input_key = settings.name(input_key, "input_key")

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """The data without the dict, and with what was in it.

        Raises:
            MissingKey: the data lacks the key.
            WrongValue: it holds no dict.
        """
        path = tree.need(data_dict, self.input_key)
        inner = tree.get(data_dict, path)
        if not isinstance(inner, dict):
            raise WrongValue(
                f"{self.input_key!r} holds a {type(inner).__name__}, not a dict.", "Name a key that holds a dict."
            )
        tree.take(data_dict, path)
        tree.get(data_dict, path[:-1]).update(inner)
        return data_dict
