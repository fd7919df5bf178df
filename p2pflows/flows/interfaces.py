"""KeyInterface: adapts the data of one flow to what another flow takes."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterable, Mapping
from typing import Any, Protocol, TypeVar, overload

from p2pflows.errors import UsageError
from p2pflows.flows.transformations import settings
from p2pflows.flows.transformations.base import Transformation
from p2pflows.flows.transformations.errors import WrongValue
from p2pflows.flows.transformations.keys import KeyCopy, KeyDelete, KeyRename, KeySelect, KeySet
from p2pflows.flows.transformations.registry import TARGET, make


class HasData(Protocol):
    """The part of a message that an interface uses."""

    data: dict[str, Any]


MessageT = TypeVar("MessageT", bound=HasData)


class KeyInterface:
    """Transforms data in this order: rename, copy, set, the additional transformations, select, delete.

    A name with dots is a path into nested dicts (docs/INTERFACES.md).

    Args:
        keys_to_rename: old names to new ones.
        keys_to_copy: names to further names.
        keys_to_set: names to values.
        additional_transformations: configs, each a mapping with the class name as `_target_` and its settings; or
            functions that take `data_dict` and keywords, and return a dict.
        keys_to_select: the names to keep, if any; everything else is dropped.
        keys_to_delete: the names to drop.

    Raises:
        UsageError: an argument has a wrong form. The constructor raises it, so that no message meets it.
    """

    def __init__(  # noqa: PLR0917 - the order that existing flows rely on
        self,
        keys_to_rename: Mapping[Any, Any] | None = None,
        keys_to_copy: Mapping[Any, Any] | None = None,
        keys_to_set: Mapping[Any, Any] | None = None,
        additional_transformations: Iterable[Mapping[str, Any] | Transformation] | None = None,
        keys_to_select: Iterable[Any] | None = None,
        keys_to_delete: Iterable[Any] | None = None,
    ) -> None:
        rename = KeyRename({} if keys_to_rename is None else keys_to_rename)
        duplicate = KeyCopy({} if keys_to_copy is None else keys_to_copy)
        assign = KeySet({} if keys_to_set is None else keys_to_set)
        more = () if additional_transformations is None else additional_transformations
        select = KeySelect(() if keys_to_select is None else keys_to_select)
        delete = KeyDelete(() if keys_to_delete is None else keys_to_delete)
        self.transformations: list[Transformation] = [
            rename,
            duplicate,
            assign,
            *(_ready(entry) for entry in settings.entries(more, "additional_transformations")),
            *([select] if select.keys_to_select else []),
            delete,
        ]

    @overload
    def __call__(self, data: dict[str, Any], **kwargs: Any) -> dict[str, Any]: ...
    @overload
    def __call__(self, data: MessageT, **kwargs: Any) -> MessageT: ...
    def __call__(self, data: Any, **kwargs: Any) -> Any:
        """Transform a dict and return a new one; or replace the data of a message and return that message.

        When a transformation fails, the dict or message stays unchanged.

        Args:
            data: a dict of data, or a message.
            kwargs: passed on to every transformation: `goal`, `src_flow`, `dst_flow`.

        Raises:
            MissingKey: the data lacks a name that a transformation needs.
            WrongValue: a value has a type that a transformation cannot use.
            UsageError: the argument is neither a dict nor a message.
        """
        if isinstance(data, dict):
            return self._transformed(data, kwargs)
        if not isinstance(getattr(data, "data", None), dict):
            raise UsageError(f"An interface cannot take a {type(data).__name__}.", "Pass a dict or a message.")
        data.data = self._transformed(data.data, kwargs)
        return data

    def _transformed(self, data: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        data = copy.deepcopy(data)
        for transformation in self.transformations:
            data = transformation(data_dict=data, **kwargs)
            if not isinstance(data, dict):
                name = getattr(transformation, "__name__", type(transformation).__name__)
                raise WrongValue(
                    f"The transformation {name} returned a {type(data).__name__}, not a dict.",
                    "Let it return the data.",
                )
        return data


def _ready(entry: object) -> Transformation:
    """Return the transformation that a config describes; return a function as it is.

    Raises:
        UsageError: the entry is neither, or its config does not fit.
    """
    if isinstance(entry, Mapping):
        return make(entry)
    if inspect.isclass(entry):
        raise UsageError(
            f"{entry.__name__} is a class, not a transformation.", f"Create an object of it: {entry.__name__}(...)"
        )
    if not callable(entry):
        raise UsageError(f"{entry!r} is not a transformation.", f"Write a config with a {TARGET}, or pass a function.")
    return entry
