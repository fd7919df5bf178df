"""The transformations of a message's data that an interface applies (docs/INTERFACES.md)."""

from __future__ import annotations

from p2pflows.flows.transformations.base import DataTransformation, Transformation
from p2pflows.flows.transformations.errors import MissingKey, WrongValue
from p2pflows.flows.transformations.json_text import Json2Obj, Obj2Json
from p2pflows.flows.transformations.keys import KeyCopy, KeyDelete, KeyMatchInput, KeyRename, KeySelect, KeySet
from p2pflows.flows.transformations.previous_messages import PrintPreviousMessages
from p2pflows.flows.transformations.registry import make, register, resolve
from p2pflows.flows.transformations.text import EndOfInteraction, RegexFirstOccurrenceExtractor
from p2pflows.flows.transformations.unnesting import UnNesting

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
