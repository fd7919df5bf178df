"""Forms: what an answer of a human must be, as a JSON Schema that can be shown to a person."""

from __future__ import annotations

from p2pflows.forms.form import Form

__all__ = ["Form"]
