"""The base of all transformations: each takes a dict of data and returns one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any

Transformation = Callable[..., dict[str, Any]]
"""Called with `data_dict=` and the keywords that the interface was called with; returns the new data."""


class DataTransformation(ABC):
    """The base of transformations that have settings.

    Args:
        output_key: the key for the result, if the transformation produces one.
    """

    def __init__(self, output_key: Hashable | None = None) -> None:
        self.output_key = output_key

    @abstractmethod
    def __call__(self, data_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Transform the data.

        Args:
            data_dict: the data; an interface passes a copy, so it may be changed in place.
            kwargs: what else the interface was called with: `goal`, `src_flow`, `dst_flow`.
        """
