"""The settings of a chat flow, checked when they are set: unknown names and values that mean nothing are refused."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.models.api_info import normal_base
from p2pflows.models.routes import read_choices
from p2pflows.models.structured import OutputSchema
from p2pflows.models.templates import Template
from p2pflows.models.tools import read_tools

_CORRECT = "Correct the flow's config; the page about models has all settings."
_OF_EVERY_FLOW = frozenset(
    {
        *("_target_", "name", "description", "private_keys", "unsent_keys", "overridable", "subflows_config"),
        *("input_interface", "input_interface_initialized", "input_interface_non_initialized", "output_interface"),
        *("user_id", "flow_id", "flow_endpoint", "flow_class_name", "dispatch_point", "singleton"),
        *("parallel_dispatch", "initial_state"),
    }
)
"""Keys that the config of any flow may have."""
_OF_THE_PREDECESSOR = frozenset({"enable_cache", "keep_raw_response", "clear_flow_namespace_on_run_end"})
"""Keys in configs that were written for the predecessor; they have no effect here."""


def _template(value: Any) -> Any:
    if value is not None:
        Template.from_config(value)
    return value


def _base(value: Any) -> Any:
    if value is not None:
        normal_base(value)
    return value


def _models(value: Any) -> Any:
    if value is not None:
        for choice in read_choices(value):
            _base(choice.api_base)
    return value


def _schema(value: Any) -> Any:
    if value is not None:
        if not isinstance(value, dict):
            raise UsageError("The config's 'output_schema' is not a JSON Schema.", 'Write: {"type": "object", ...}')
        OutputSchema(value)
    return value


_Prompt = Annotated[Any, BeforeValidator(_template)]
_Count = Annotated[int, Field(ge=1)]
_Penalty = Annotated[float, Field(ge=-2, le=2)]
_Seconds = Annotated[float, Field(ge=0)]


class _Group(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, arbitrary_types_allowed=True)


class BackendSettings(_Group):
    """What stands under `backend`: the model, its server, and what is sent with each question."""

    api_infos: Any = None
    api_base: Annotated[Any, BeforeValidator(_base)] = None
    model_name: Annotated[Any, BeforeValidator(_models)] = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    n: Annotated[int, Field(ge=1, le=128)] | None = None
    max_tokens: _Count | None = None
    max_completion_tokens: _Count | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(ge=0, le=1)] | None = None
    frequency_penalty: _Penalty | None = None
    presence_penalty: _Penalty | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    response_format: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    verbosity: str | None = None
    wait_time_per_key: _Seconds | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None


class Window(_Group):
    """What stands under `previous_messages`: how much of a long conversation the model receives."""

    first_k: Annotated[int, Field(ge=0)] | None = None
    last_k: Annotated[int, Field(ge=0)] | None = None
    context_tokens: Annotated[int, Field(ge=100)] | None = None
    on_overflow: Literal["trim", "summarise", "error"] | None = None


class ToolSettings(_Group):
    """What stands under `tools`, for each of them: how the model sees it, and who is asked before it runs."""

    description: Annotated[str, Field(max_length=4_000)] | None = None
    parameters: dict[str, Any] | None = None
    confirm: Literal["owner"] | None = None
    timeout: Annotated[float, Field(gt=0)] | None = None


class ChatSettings(_Group):
    """The keys of a chat flow's own."""

    backend: BackendSettings
    n_api_retries: Annotated[int, Field(ge=1, le=20)] | None = None
    wait_time_between_retries: _Seconds | None = None
    accept_incomplete: bool | None = None
    output_schema: Annotated[Any, BeforeValidator(_schema)] = None
    output_retries: Annotated[int, Field(ge=0, le=10)] | None = None
    system_name: str | None = None
    user_name: str | None = None
    assistant_name: str | None = None
    system_message_prompt_template: _Prompt = None
    init_human_message_prompt_template: _Prompt = None
    human_message_prompt_template: _Prompt = None
    previous_messages: Window | None = None
    allow_demonstrations: bool | None = None
    allow_image_urls: bool | None = None
    tools: Annotated[dict[str, ToolSettings | None], Field(max_length=64)] | None = None
    tool_rounds: Annotated[int, Field(ge=1, le=100)] | None = None
    tool_tokens: _Count | None = None
    tool_transcript: bool | None = None


_GROUPS: dict[str, type[BaseModel]] = {"backend": BackendSettings, "previous_messages": Window}


def check_settings(config: Mapping[str, Any], own_keys: Collection[str] | None = None) -> None:
    """Check the config of a chat flow.

    Args:
        config: the whole config.
        own_keys: the keys that a class derived from the chat flow has in its defaults: it may have others, too. None
            for the chat flow itself, which has none.

    Raises:
        UsageError: a key is unknown, or a value means nothing; the error names the key.
    """
    known = set(ChatSettings.model_fields)
    others = set(config) - known - _OF_EVERY_FLOW - _OF_THE_PREDECESSOR - set(own_keys or ())
    for key in sorted(others):
        meant = _meant(key)
        if own_keys is None or meant:
            raise UsageError(f"The config of a chat flow has no key {key!r}.", meant or _CORRECT)
    plain = {key: _without_private(value) for key, value in config.items() if key in known}
    if config.get("output_schema") is not None and (plain["backend"] or {}).get("response_format") is not None:
        raise UsageError("The config has both output_schema and backend.response_format.", "Keep one of them.")
    try:
        ChatSettings.model_validate(plain)
        read_tools(config)
    except P2pflowsError as error:  # a template or a URL, which says itself what is wrong
        raise UsageError(error.message, error.hint) from None
    except ValidationError as error:
        raise _explain(error) from None


def _explain(error: ValidationError) -> UsageError:
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"]]
    group = _GROUPS.get(path[0])
    if group is not None:  # pydantic goes on with the type that it tried
        path = path[:2]
    key = ".".join(path)
    if first["type"] == "extra_forbidden" and group is not None:
        hint = _meant(path[-1], path[0]) or f"Known ones: {', '.join(group.model_fields)}."
        return UsageError(f"The config has no key {key!r}.", hint)
    if first["type"] in ("model_type", "model_attributes_type"):
        return UsageError(f"The config's {key!r} is not a mapping.", f"Write: {key}: {{...}}")
    return UsageError(f"The config's {key!r} is wrong: {first['msg'][:1].lower()}{first['msg'][1:]}.", _CORRECT)


def _meant(key: str, group: str = "") -> str:
    """Return a hint with the key that was probably meant; empty if there is none."""
    names = {name: f"{part}.{name}" for part, model in _GROUPS.items() for name in model.model_fields}
    names |= {name: name for name in ChatSettings.model_fields}
    if group:
        names = {name: where for name, where in names.items() if where.startswith(f"{group}.")} | names
    close = difflib.get_close_matches(key.rpartition(".")[2], names, n=1, cutoff=0.8)
    return f"Do you mean {names[close[0]]!r}?" if close else ""


def _without_private(value: Any) -> Any:
    """Return a part of a config without names such as `_target_`, which have no effect."""
    if not isinstance(value, Mapping):
        return value
    return {name: inner for name, inner in value.items() if not name.startswith("_")}
