"""Functions as flows: the schemas, and the checks of an invocation, come from the type hints."""

from __future__ import annotations

import functools
import inspect
import json
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import UnionType
from typing import Any, TypeVar, get_args, get_origin, overload

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    RootModel,
    TypeAdapter,
    ValidationError,
    create_model,
)
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import PydanticSerializationError, from_json, to_jsonable_python

from p2pflows.errors import BadInput, FlowFailed, UsageError
from p2pflows.protocol import strict_json
from p2pflows.protocol.file_reference import may_refer
from p2pflows.sent_files import with_files

_MARK = "__p2pflows_flow__"
_WHOLE_NAMES = ("data", "message")
"""A single dict parameter of such a name receives the whole data."""
_MAX_SHOWN_PROBLEMS = 3
_NO_MODEL = (
    PydanticSchemaGenerationError,
    PydanticUndefinedAnnotation,
    PydanticUserError,
    TypeError,
    NameError,
)
"""What pydantic raises for a type hint from which it cannot build a check or a schema."""

Function = TypeVar("Function", bound=Callable[..., Any])
Arguments = tuple[list[Any], dict[str, Any]]


@overload
def flow(function: Function, /) -> Function: ...
@overload
def flow(*, description: str | None = None) -> Callable[[Function], Function]: ...
def flow(
    function: Function | None = None, /, *, description: str | None = None
) -> Function | Callable[[Function], Function]:
    """Mark a function as a flow. The function itself stays unchanged.

    Args:
        function: the function; with `@flow(description=...)`, Python passes it afterwards.
        description: what others read about the flow; the first paragraph of its docstring by default.
    """

    def mark(marked: Function) -> Function:
        vars(marked)[_MARK] = description
        return marked

    return mark if function is None else mark(function)


@dataclass(frozen=True, slots=True)
class FlowFunction:
    """A function that can be invoked with the JSON data of a message.

    Attributes:
        function: the function.
        input_schema: the JSON schema of the data.
        output_schema: the JSON schema of the answer's data; None when the type hints do not say it.
        description: what others read about it.
        is_async: whether invoking it returns an awaitable.
        read: checks the data and returns the arguments.
        release: a fingerprint of its code; empty if it is installed, or of a notebook.
    """

    function: Callable[..., Any]
    input_schema: dict[str, Any]
    output_schema: dict[str, Any] | None
    description: str
    is_async: bool
    read: Callable[[bytes], Arguments]
    release: str = ""

    @classmethod
    def from_callable(cls, function: object) -> FlowFunction:
        """Build the checks and schemas of a function, once.

        Raises:
            UsageError: it is not a function, or JSON cannot express one of its type hints.
        """
        name = getattr(function, "__name__", type(function).__name__)
        if inspect.isclass(function) or not callable(function):
            raise UsageError(f"{name!r} is not a function.", "Serve a function, or an object that can be called.")
        try:
            signature = inspect.signature(function, eval_str=True)
        except (NameError, SyntaxError) as error:
            raise UsageError(
                f"A type hint of {name!r} cannot be resolved: {error}.", "Correct the type hint."
            ) from error
        except (ValueError, TypeError) as error:
            raise UsageError(f"{name!r} does not show its parameters.", "Wrap it in a function.") from error
        module = getattr(function, "__module__", None) or __name__
        schema, read = _input(name, module, list(signature.parameters.values()))
        inner = function.func if isinstance(function, functools.partial) else function
        return cls(
            function=function,
            input_schema=schema,
            output_schema=_output_schema(signature.return_annotation),
            description=getattr(function, _MARK, None) or _first_paragraph(inner),
            is_async=_is_async(inner),
            read=read,
        )

    def invoke(self, data: bytes) -> Any:
        """Check the data against the type hints, call the function, and return its result.

        Args:
            data: the JSON data of a message.

        Raises:
            BadInput: the data does not fit the type hints.
        """
        try:
            args, kwargs = self.read(data)
        except ValidationError as error:
            raise BadInput(_explain(error, self.input_schema)) from None
        if may_refer(data):
            args, kwargs = with_files(args), with_files(kwargs)
        return self.function(*args, **kwargs)


def to_data(value: Any) -> dict[str, Any]:
    """Return a flow's result as an answer's data: a dict or model as it is, any other value as `{"result": value}`.

    Raises:
        FlowFailed: JSON cannot hold the value.
    """
    whole = isinstance(value, (dict, BaseModel)) and not isinstance(value, RootModel)
    try:
        plain = to_jsonable_python(value)
    except (PydanticSerializationError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise FlowFailed(
            f"It returned a value of type {type(value).__name__} that JSON cannot hold: {reason}."
        ) from error
    return plain if whole and isinstance(plain, dict) else {"result": plain}


def to_json(data: dict[str, Any]) -> bytes:
    """Return data as JSON.

    Raises:
        FlowFailed: it holds NaN, infinity or a lone surrogate.
    """
    try:
        return strict_json.dumps_finite(data)
    except UnicodeEncodeError as error:
        raise FlowFailed("It returned text that is not valid Unicode, which JSON cannot hold.") from error
    except (ValueError, RecursionError) as error:
        raise FlowFailed("It returned NaN or infinity, which JSON cannot hold.") from error


class _Plain(GenerateJsonSchema):
    """Generates JSON schemas without titles, and without defaults that JSON cannot hold."""

    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012 - pydantic's own attribute

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 - no field has a title
        return False


def _input(
    name: str, module: str, parameters: list[inspect.Parameter]
) -> tuple[dict[str, Any], Callable[[bytes], Arguments]]:
    """Return the schema of the data, and the function that reads data into arguments."""
    only = parameters[0] if len(parameters) == 1 else None
    if only is not None and only.kind not in (only.VAR_POSITIONAL, only.VAR_KEYWORD):
        keyword = only.name if only.kind is only.KEYWORD_ONLY else None
        if _is_model(only.annotation):
            return _schema(name, only.annotation), functools.partial(_read_model, only.annotation, keyword)
        if only.name in _WHOLE_NAMES and _is_plain_dict(only.annotation):
            return {"type": "object"}, functools.partial(_read_object, keyword)
    fields: dict[str, Any] = {}
    positional, keywords = [], []
    extra: Any = None
    for number, parameter in enumerate(parameters):
        hint = Any if parameter.annotation is parameter.empty else parameter.annotation
        if parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            extra = hint
            continue
        # Fields have numbers, and parameters are aliases, so that a parameter may be called `schema`, `json` or `_x`.
        field = f"p{number}"
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[field] = (hint, Field(default, alias=parameter.name))
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(field)
        else:
            keywords.append((parameter.name, field))
    config = ConfigDict(extra="forbid" if extra is None else "allow", allow_inf_nan=False)
    try:
        model = create_model(name, __config__=config, __module__=module, **fields)
        model.model_rebuild()  # its error names the unknown name; the error of a first use would not
        checks = None if extra in (None, Any) else TypeAdapter(dict[str, extra])
    except _NO_MODEL as error:
        raise _unusable(name, error) from error
    schema = _schema(name, model)
    schema.pop("title", None)
    return schema, functools.partial(_read_fields, model, positional, keywords, checks)


def _read_model(model: type[BaseModel], keyword: str | None, data: bytes) -> Arguments:
    value = model.model_validate_json(data, strict=True)
    return ([], {keyword: value}) if keyword else ([value], {})


def _read_object(keyword: str | None, data: bytes) -> Arguments:
    try:
        value = from_json(data, allow_inf_nan=False)
    except ValueError as error:
        raise BadInput("The data is not valid JSON.") from error
    if not isinstance(value, dict):
        raise BadInput("The data must be a JSON object.")
    return ([], {keyword: value}) if keyword else ([value], {})


def _read_fields(
    model: type[BaseModel],
    positional: list[str],
    keywords: list[tuple[str, str]],
    checks: TypeAdapter[dict[str, Any]] | None,
    data: bytes,
) -> Arguments:
    value = model.model_validate_json(data, strict=True)
    fields = value.__dict__
    kwargs = {name: fields[field] for name, field in keywords}
    extra = value.model_extra
    if extra:
        kwargs.update(checks.validate_json(json.dumps(extra), strict=True) if checks else extra)
    return [fields[field] for field in positional], kwargs


def _schema(name: str, kind: Any) -> dict[str, Any]:
    try:
        return TypeAdapter(kind).json_schema(schema_generator=_Plain)
    except _NO_MODEL as error:
        raise _unusable(name, error) from error


def _unusable(name: str, error: Exception) -> UsageError:
    reason = str(error).splitlines()[0].split(". ")[0].rstrip(".")
    return UsageError(
        f"The type hints of {name!r} cannot be expressed in JSON: {reason}.",
        "Use plain types or pydantic models.",
    )


def _output_schema(hint: Any) -> dict[str, Any] | None:
    """Return the schema of an answer's data; None when the hint does not determine it."""
    if hint is inspect.Signature.empty or hint is Any:
        return None
    members = get_args(hint) if get_origin(hint) in (typing.Union, UnionType) else ()
    if any(_is_whole(member) for member in members):
        return None
    try:
        schema = TypeAdapter(hint).json_schema(mode="serialization", schema_generator=_Plain)
    except _NO_MODEL:
        return None
    if _is_whole(hint):
        return schema
    definitions = schema.pop("$defs", None)
    whole = {"type": "object", "properties": {"result": schema}, "required": ["result"]}
    return whole if definitions is None else {**whole, "$defs": definitions}


def _is_model(hint: Any) -> bool:
    return inspect.isclass(hint) and issubclass(hint, BaseModel) and not issubclass(hint, RootModel)


def _is_whole(hint: Any) -> bool:
    """Return whether a value of this type is an answer's data as it is, without `result`."""
    origin = get_origin(hint) or hint
    return _is_model(hint) or (inspect.isclass(origin) and issubclass(origin, Mapping))


def _is_plain_dict(hint: Any) -> bool:
    return (get_origin(hint) or hint) is dict and get_args(hint) in ((), (str, Any))


def _is_async(function: Any) -> bool:
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


def _first_paragraph(function: Any) -> str:
    paragraph = (inspect.getdoc(function) or "").strip().split("\n\n")[0]
    return " ".join(paragraph.split())


def _explain(error: ValidationError, schema: dict[str, Any]) -> str:
    problems = error.errors(include_url=False, include_context=False)
    sentences = [
        _problem(problem["type"], problem["loc"], problem["msg"], schema) for problem in problems[:_MAX_SHOWN_PROBLEMS]
    ]
    if len(problems) > _MAX_SHOWN_PROBLEMS:
        sentences.append(f"and {len(problems) - _MAX_SHOWN_PROBLEMS} more problems")
    return "; ".join(sentences) + "."


def _problem(kind: str, where: tuple[int | str, ...], text: str, schema: dict[str, Any]) -> str:
    field = "'" + ".".join(map(str, where)) + "'" if where else "The data"
    match kind:
        case "json_invalid":
            return "The data is not valid JSON"
        case "missing":
            return f"{field} is missing"
        case "extra_forbidden":
            known = ", ".join(schema.get("properties", {})) if len(where) == 1 else ""
            return f"{field} is not a field of the input" + (f" (its fields are {known})" if known else "")
        case "model_type" | "model_attributes_type" | "dict_type":
            return f"{field} must be a JSON object"
        case _ if text.startswith("Input "):
            return f"{field} {text.removeprefix('Input ')}"
        case _:
            return f"{field}: {text.removeprefix('Value error, ')}"
