"""Transformations from JSON text to values, and back."""

from __future__ import annotations

import json
from collections.abc import Hashable
from typing import Any

from p2pflows.flows.transformations import settings, tree
from p2pflows.flows.transformations.base import DataTransformation
from p2pflows.flows.transformations.errors import WrongValue
from p2pflows.flows.transformations.text import text_of
from p2pflows.protocol import strict_json


class Json2Obj(DataTransformation):
    """Reads a JSON text.

    Args:
        input_key: the key of the text.
        output_key: the key for its value; the input key by default.
    """

    def __init__(self, input_key: Hashable, output_key: Hashable | None = None) -> None:
        self.input_key = settings.name(input_key, "input_key")
        super().__init__(output_key=_output(output_key, self.input_key))

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """Return the data with the output key set.

        Raises:
            MissingKey: the data lacks the input key.
            WrongValue: its value is not JSON text.
        """
        text = text_of(data_dict, self.input_key)
        try:
            value = strict_json.loads(text)
        except ValueError as error:
            raise WrongValue(
                f"The value of {self.input_key!r} is not JSON: {error}.", "Ask for JSON without other text."
            ) from error
        tree.place(data_dict, self.output_key, value)
        return data_dict


class Obj2Json(DataTransformation):
    """Writes a value as JSON text.

    Args:
        input_key: the key of the value.
        output_key: the key for the text; the input key by default.
    """

    def __init__(self, input_key: Hashable, output_key: Hashable | None = None) -> None:
        self.input_key = settings.name(input_key, "input_key")
        super().__init__(output_key=_output(output_key, self.input_key))

    def __call__(self, data_dict: dict[str, Any], **_kwargs: Any) -> dict[str, Any]:
        """Return the data with the output key set.

        Raises:
            MissingKey: the data lacks the input key.
            WrongValue: JSON cannot hold its value.
        """
        value = tree.get(data_dict, tree.need(data_dict, self.input_key))
        try:
            text = json.dumps(value, allow_nan=False)
        except (TypeError, ValueError, RecursionError) as error:
            raise WrongValue(
                f"The value of {self.input_key!r} cannot be written as JSON: {error}.",
                "Use text, numbers, True, False, None, lists and dicts only.",
            ) from error
        tree.place(data_dict, self.output_key, text)
        return data_dict


def _output(output_key: Hashable | None, input_key: Hashable) -> Hashable:
    return input_key if output_key is None else settings.name(output_key, "output_key")
