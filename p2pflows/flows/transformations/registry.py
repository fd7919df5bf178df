"""The classes that a config may name under `_target_`: those in this list, and those that the program registers.

A config may come from another user, so a name in it is looked up here, and nothing is imported for it.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any, TypeVar

from p2pflows.errors import UsageError
from p2pflows.flows.project import calling_project, project_of
from p2pflows.flows.transformations import settings
from p2pflows.flows.transformations.base import DataTransformation
from p2pflows.flows.transformations.json_text import Json2Obj, Obj2Json
from p2pflows.flows.transformations.keys import KeyCopy, KeyDelete, KeyMatchInput, KeyRename, KeySelect, KeySet
from p2pflows.flows.transformations.previous_messages import PrintPreviousMessages
from p2pflows.flows.transformations.text import EndOfInteraction, RegexFirstOccurrenceExtractor
from p2pflows.flows.transformations.unnesting import UnNesting

TARGET = "_target_"
Class = TypeVar("Class", bound=type[DataTransformation])

_allowed: dict[str, type[DataTransformation]] = {
    known.__name__: known
    for known in (
        EndOfInteraction,
        Json2Obj,
        KeyCopy,
        KeyDelete,
        KeyMatchInput,
        KeyRename,
        KeySelect,
        KeySet,
        Obj2Json,
        PrintPreviousMessages,
        RegexFirstOccurrenceExtractor,
        UnNesting,
    )
}


_of_projects: dict[str, dict[str, type[DataTransformation]]] = {}
"""What the modules of each served project have registered: it is for that project alone."""


def register(allowed: Class) -> Class:
    """Let configs name a class of your own, and return the class, so that this can be a decorator.

    Raises:
        UsageError: the class is not a `DataTransformation`, or another class has its name.
    """
    if not (inspect.isclass(allowed) and issubclass(allowed, DataTransformation)):
        raise UsageError(f"{allowed!r} is not a class of transformations.", "Derive it from DataTransformation.")
    project = project_of(allowed.__module__)
    names = _allowed if project is None else _of_projects.setdefault(project.name, {})
    other = names.get(allowed.__name__, _allowed.get(allowed.__name__, allowed))
    # A module that is loaded again defines its classes again, under the same names.
    if (other.__module__, other.__qualname__) != (allowed.__module__, allowed.__qualname__):
        raise UsageError(
            f"{allowed.__name__!r} already names {other.__module__}.{other.__qualname__}.",
            "Give your class another name.",
        )
    names[allowed.__name__] = allowed
    return allowed


def resolve(target: object) -> type[DataTransformation]:
    """Return the class that the last part of a `_target_` names; the parts before it are ignored.

    Raises:
        UsageError: the class is not allowed.
    """
    project = calling_project()
    names = _allowed if project is None else {**_allowed, **_of_projects.get(project.name, {})}
    found = names.get(settings.text(target, TARGET).rpartition(".")[2])
    if found is None:
        raise UsageError(f"No transformation is named {target!r}.", f"Use one of: {', '.join(sorted(names))}.")
    return found


def make(config: Mapping[str, Any]) -> DataTransformation:
    """Create the transformation that a config describes: its `_target_`, and the settings of that class.

    Raises:
        UsageError: the class is not allowed, or the settings do not fit it.
    """
    given = copy.deepcopy(settings.mapping(config, "A transformation"))
    if TARGET not in given:
        raise UsageError("A transformation has no _target_.", "Name its class: {_target_: KeyRename, ...}")
    allowed = resolve(given.pop(TARGET))
    keywords = {settings.text(key, "A setting's name"): value for key, value in given.items()}
    signature = inspect.signature(allowed)
    try:
        signature.bind(**keywords)
    except TypeError as error:
        takes = ", ".join(signature.parameters) or "no settings"
        raise UsageError(f"{allowed.__name__}: {error}.", f"It takes: {takes}.") from error
    return allowed(**keywords)
