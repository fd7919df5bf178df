"""What stands between two flows: the data of one, made to fit the other."""

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
    """A message, as far as an interface looks at it."""

    data: dict[str, Any]


MessageT = TypeVar("MessageT", bound=HasData)


class KeyInterface:
    """Transforms data in this order: rename, copy, set, the additional transformations, select, delete.

    Names with dots lead into dicts (docs/INTERFACES.md).

    Args:
        keys_to_rename: old names to new ones.
        keys_to_copy: names to further names.
        keys_to_set: names to values.
        additional_transformations: configs, each a mapping with the class name as `_target_` and its settings; or
            functions that take `data_dict` and keywords and give a dict.
        keys_to_select: the names to keep, if any; all else is dropped.
        keys_to_delete: the names to drop.

    Raises:
        UsageError: an argument does not fit; here and now, not when the first message comes.
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
        """Transform a dict, which gives a new one, or a message, whose data is replaced; gives the same message.

        What fails leaves both as they were.

        Args:
            data: a dict of data, or a message.
            kwargs: handed on to every transformation: `goal`, `src_flow`, `dst_flow`.

        Raises:
            MissingKey: a name that is to be selected or looked into is not there.
            WrongValue: a value is not what a transformation works on.
            UsageError: it is neither a dict nor a message.
        """
        if isinstance(data, dict):
            return self._transformed(data, kwargs)
        if not isinstance(getattr(data, "data", None), dict):
            raise UsageError(f"An interface cannot take a {type(data).__name__}.", "Give it a dict or a message.")
        data.data = self._transformed(data.data, kwargs)
        return data

    def _transformed(self, data: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
        data = copy.deepcopy(data)
        for transformation in self.transformations:
            data = transformation(data_dict=data, **kwargs)
            if not isinstance(data, dict):
                name = getattr(transformation, "__name__", type(transformation).__name__)
                raise WrongValue(
                    f"The transformation {name} gave a {type(data).__name__}, not a dict.", "Let it return the data."
                )
        return data


def _ready(entry: object) -> Transformation:
    """A transformation from a config; a function as it is.

    Raises:
        UsageError: it is neither, or the config does not fit.
    """
    if isinstance(entry, Mapping):
        return make(entry)
    if inspect.isclass(entry):
        raise UsageError(f"{entry.__name__} is a class.", f"Make one: {entry.__name__}(...)")
    if not callable(entry):
        raise UsageError(f"{entry!r} is no transformation.", f"Write a config with a {TARGET}, or give a function.")
    return entry
