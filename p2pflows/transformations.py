"""The transformations that an interface applies (docs/INTERFACES.md), under their public name."""

from __future__ import annotations

from p2pflows.flows.transformations import (
    DataTransformation,
    EndOfInteraction,
    Json2Obj,
    KeyCopy,
    KeyDelete,
    KeyMatchInput,
    KeyRename,
    KeySelect,
    KeySet,
    MissingKey,
    Obj2Json,
    PrintPreviousMessages,
    RegexFirstOccurrenceExtractor,
    Transformation,
    UnNesting,
    WrongValue,
    make,
    register,
    resolve,
)

__all__ = [
    "DataTransformation",
    "EndOfInteraction",
    "Json2Obj",
    "KeyCopy",
    "KeyDelete",
    "KeyMatchInput",
    "KeyRename",
    "KeySelect",
    "KeySet",
    "MissingKey",
    "Obj2Json",
    "PrintPreviousMessages",
    "RegexFirstOccurrenceExtractor",
    "Transformation",
    "UnNesting",
    "WrongValue",
    "make",
    "register",
    "resolve",
]
