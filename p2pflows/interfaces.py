"""`KeyInterface`, under the name that the docs use; it is written in `p2pflows.flows.interfaces`."""

from __future__ import annotations

from p2pflows.flows.interfaces import KeyInterface

__all__ = ["KeyInterface"]
