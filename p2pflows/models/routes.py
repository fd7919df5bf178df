"""Which models a config names, in which order, and which key of the worker each of them is asked with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from p2pflows.errors import UsageError
from p2pflows.models.api_info import ApiInfo
from p2pflows.models.failures import Cause, ModelFailed
from p2pflows.models.keyring import Keyring

MAX_CHOICES = 20
"""How many models a config names at most."""
_FORM = "Name a model, or list models in the order of preference, each as NAME or {model_name: NAME, api_base: URL}."


class Route(NamedTuple):
    """A model at a server, and the key for it."""

    info: ApiInfo
    model: str


@dataclass(frozen=True, slots=True)
class Choice:
    """One model of a config.

    Args:
        model: its name, or its names by the backends of the keys; None if each key has one of its own.
        api_base: the server that it is at; None for any that the worker has a key for.
        backend_used: the backend of the keys that it is asked with; None for any.
    """

    model: str | Mapping[str, str] | None
    api_base: str | None = None
    backend_used: str | None = None


def read_choices(model_name: Any, api_base: str | None = None) -> list[Choice]:
    """Return the models that a config names, the preferred one first.

    Args:
        model_name: `backend.model_name` of the config.
        api_base: `backend.api_base` of the config, which holds where an entry of a list names no other.

    Raises:
        UsageError: it has another form.
    """
    if not isinstance(model_name, list):
        return [_read_choice({"model_name": model_name}, api_base)]
    if not 1 <= len(model_name) <= MAX_CHOICES:
        raise UsageError(f"backend.model_name lists no model, or more than {MAX_CHOICES}.", _FORM)
    entries = [entry if isinstance(entry, Mapping) else {"model_name": entry} for entry in model_name]
    choices = [_read_choice(entry, api_base) for entry in entries]
    if any(choice.model is None for choice in choices):
        raise UsageError("An entry of backend.model_name names no model.", _FORM)
    return choices


def find_routes(choices: Sequence[Choice], keyring: Keyring) -> list[list[Route]]:
    """Return the routes of each choice that the worker has a key for.

    Raises:
        ModelFailed: it has a key for none.
        UsageError: no model is named for any key.
    """
    found: list[list[Route]] = []
    keyless: ModelFailed | None = None
    backends: set[str] = set()
    for choice in choices:
        try:
            infos = keyring.for_base(choice.api_base)
        except UsageError as error:
            keyless = ModelFailed(Cause.NOT_SET_UP, f"{error.message} {error.hint}")
            continue
        infos = [info for info in infos if choice.backend_used in (None, info.backend_used)]
        backends |= {info.backend_used for info in infos}
        routes = [Route(info, model) for info in infos if (model := _model(info, choice.model))]
        if new := [route for route in routes if not any(route in earlier for earlier in found)]:
            found.append(new)
    if not found:
        if keyless is not None:
            raise keyless
        known = ", ".join(sorted(backends)) or "none of the worker's keys"
        raise UsageError(f"The config names no model for: {known}.", "Set backend.model_name.")
    return found


def _read_choice(entry: Mapping[str, Any], api_base: str | None) -> Choice:
    unknown = sorted(set(entry) - {"model_name", "api_base", "backend_used"})
    names = entry.get("model_name")
    if isinstance(names, Mapping):
        is_named = all(isinstance(name, str) for name in names.values())
    else:
        is_named = names is None or (isinstance(names, str) and bool(names.strip()))
    base, backend = entry.get("api_base"), entry.get("backend_used")
    is_text = all(isinstance(each, str | None) for each in (base, backend))
    if unknown or not is_named or not is_text:
        what = f"the unknown key {unknown[0]!r}" if unknown else "an unknown form"
        raise UsageError(f"backend.model_name has {what}.", _FORM)
    return Choice(names, api_base if base is None else base, backend)


def _model(info: ApiInfo, names: str | Mapping[str, str] | None) -> str | None:
    return info.model or (names.get(info.backend_used) if isinstance(names, Mapping) else names) or None
