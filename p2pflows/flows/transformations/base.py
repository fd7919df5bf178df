"""What every transformation is: something that takes a dict of data and gives one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable
from typing import Any

Transformation = Callable[..., dict[str, Any]]
"""Called with `data_dict=` and whatever the interface was called with besides; gives the new data."""


class DataTransformation(ABC):
    """The base of transformations that have settings.

    Args:
        output_key: the key that the result goes to, for those that make one.
    """

    def __init__(self, output_key: Hashable | None = None) -> None:
        self.output_key = output_key

    @abstractmethod
    def __call__(self, data_dict: dict[str, Any], **kwargs: Any) -> dict[str, Any]:
        """Transform the data; the dict may be changed in place, so that an interface hands over a copy.

        Args:
            data_dict: the data.
            kwargs: what the interface was called with besides: `goal`, `src_flow`, `dst_flow`.
        """
