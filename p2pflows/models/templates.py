"""Prompt templates: Jinja templates that can read their variables and do nothing else.

A caller may have overridden a template in a config, so four limits apply: only a part of the language is allowed, a
variable shows its items and never its attributes, loops spend from a budget, and the text has a maximum size.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from typing import Any

from jinja2 import Template as Compiled
from jinja2 import TemplateError, nodes, pass_context
from jinja2.filters import FILTERS as DEFAULT_FILTERS
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from p2pflows.errors import BadInput, FlowFailed, UsageError

MAX_TEMPLATE_CHARS = 256 * 1024
MAX_OUTPUT_CHARS = 4 * 1024 * 1024
MAX_LOOP_STEPS = 2_000_000
"""The budget of one rendering: how many nodes its loops may evaluate; filters are charged in the same unit."""

_MAX_LOOP_ITEMS = 100_000
_CHARS_PER_STEP = 64
"""How many characters a filter may process for one step of the budget."""
_BUDGET, _SPEND = "_p2pflows_budget", "_p2pflows_spend"
_ALLOWED = "It may use variables, if, for, comparisons, range(), + and - and the usual text filters."

_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Scope),
    *(nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.CondExpr),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.Keyword),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.Add, nodes.Sub, nodes.Neg),
    nodes.Call,
)
"""Nodes that multiply or store values (`*`, `**`, `%`, `~`, set, macros, calls) are not allowed."""

_FILTERS = (
    *("capitalize", "count", "d", "default", "first", "int", "items", "length", "lower", "reverse"),
    *("sort", "string", "title", "trim", "unique", "upper"),
)
_ENVIRONMENT_FILTERS = ("first", "sort", "unique")
"""Filters that Jinja calls with its environment."""
_TESTS = (
    *("boolean", "defined", "divisibleby", "eq", "even", "false", "ge", "gt", "in", "iterable", "le", "lt", "mapping"),
    *("ne", "none", "number", "odd", "sequence", "string", "true", "undefined", "==", "!=", "<", "<=", ">", ">="),
)


class Template:
    """A prompt template.

    Args:
        template: the text.
        input_variables: the variables that the data must have; the template sees no others of the data.
        partial_variables: variables with fixed values.

    Raises:
        UsageError: the template cannot be read, or uses more of Jinja than is allowed.
    """

    def __init__(
        self,
        template: str,
        input_variables: Sequence[str] = (),
        partial_variables: Mapping[str, Any] | None = None,
    ) -> None:
        self.input_variables = tuple(input_variables)
        self.partial_variables = dict(partial_variables or {})
        self._compiled = _compile(template)

    @classmethod
    def from_config(cls, config: Any) -> Template:
        """Create a template from its config: `{"template", "input_variables", "partial_variables"}`.

        Other keys are ignored, such as the predecessor's `_target_`.

        Raises:
            UsageError: the config has another form, or the template cannot be used.
        """
        match config:
            case {"template": str(template)}:
                variables = config.get("input_variables") or []
                partial = config.get("partial_variables") or {}
                named = isinstance(variables, (list, tuple)) and all(isinstance(name, str) for name in variables)
                if named and isinstance(partial, Mapping):
                    return cls(template, variables, partial)
        raise UsageError(
            "A prompt template in the config has an unknown form.",
            'Write {"template": "Translate: {{query}}", "input_variables": ["query"]}.',
        )

    def render(self, data: Mapping[str, Any]) -> str:
        """Return the prompt; an undefined variable is empty text.

        Raises:
            BadInput: the data lacks an input variable.
            FlowFailed: the template fails on this data, runs too long, or its text becomes too large.
        """
        missing = [name for name in self.input_variables if name not in data]
        if missing:
            raise BadInput(
                f"The data lacks {', '.join(map(repr, missing))}, which the prompt needs.",
                f"Send it with: {', '.join(self.input_variables)}.",
            )
        values = {**self.partial_variables, **{name: data[name] for name in self.input_variables}}
        try:
            return _bounded(self._compiled.generate({**values, _BUDGET: [MAX_LOOP_STEPS]}))
        except (TemplateError, OverflowError) as error:
            problem = str(error)
        except Exception as error:  # noqa: BLE001 - a template on a caller's data may raise anything
            problem = f"{type(error).__name__}: {error}"
        raise FlowFailed(f"A prompt template failed: {problem}".rstrip(".") + ".", "Correct the template, or the data.")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja without attributes: `a.b` is the item `b` of `a`. Only `loop` has attributes."""

    intercepted_binops = frozenset({"+"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, (str, list, tuple)) and len(left) + len(right) > MAX_OUTPUT_CHARS:
            raise OverflowError(_too_large())
        return super().call_binop(context, operator, left, right)

    def getattr(self, obj: Any, attribute: str) -> Any:
        if isinstance(obj, LoopContext) and not attribute.startswith("_"):
            return super().getattr(obj, attribute)
        return self.getitem(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        try:
            return obj[argument]
        except (LookupError, TypeError, ValueError):
            return self.undefined(obj=obj, name=argument if isinstance(argument, str) else None)


def _charge(context: Context, steps: int) -> None:
    """Spend steps from the budget of this rendering."""
    budget = context[_BUDGET]
    budget[0] -= steps
    if budget[0] < 0:
        raise OverflowError("it runs too long")


def _guarded(name: str) -> Callable[..., Any]:
    """Return Jinja's filter of that name, charged for its input and with a limit for its result.

    As it takes the context, Jinja does not run it while compiling a template.
    """
    function = DEFAULT_FILTERS[name]

    @pass_context
    def guarded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        _charge(context, 1 + (len(value) // _CHARS_PER_STEP if isinstance(value, Sized) else 0))
        given = (context.environment, value) if name in _ENVIRONMENT_FILTERS else (value,)
        result = function(*given, *args, **kwargs)
        if isinstance(result, str) and len(result) > MAX_OUTPUT_CHARS:
            raise OverflowError(_too_large())
        return result

    return guarded


@pass_context
def _join(context: Context, values: Any, between: Any = "", attribute: str | None = None) -> str:
    """Join texts as Jinja's `join` does, and check the size before."""
    glue = str(between)
    if isinstance(values, str) and not attribute:
        _charge(context, len(values))
        if len(values) * (1 + len(glue)) > MAX_OUTPUT_CHARS:
            raise OverflowError(_too_large())
        return glue.join(values)
    texts, size = [], 0
    for value in values:
        _charge(context, 1)
        texts.append(str(value[attribute] if attribute else value))
        size += len(texts[-1]) + len(glue)
        if size > MAX_OUTPUT_CHARS:
            raise OverflowError(_too_large())
    return glue.join(texts)


@pass_context
def _to_json(context: Context, value: Any) -> str:
    """Return the value as JSON, without escapes for other scripts, and check the size on the way."""
    text = _bounded(json.JSONEncoder(ensure_ascii=False).iterencode(value))
    _charge(context, 1 + len(text) // _CHARS_PER_STEP)
    return text


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > _MAX_LOOP_ITEMS:
        raise OverflowError(f"range() has more than {_MAX_LOOP_ITEMS} numbers")
    return numbers


@pass_context
def _spend(context: Context, values: Any, weight: int) -> Iterator[Any]:
    """Yield the values of a loop, as long as the budget lasts."""
    for value in () if isinstance(values, Undefined) else values:
        _charge(context, weight)
        yield value


def _sandbox() -> _Sandbox:
    sandbox = _Sandbox(autoescape=False, keep_trailing_newline=True)  # a prompt is no HTML
    sandbox.filters = {name: _guarded(name) for name in _FILTERS}
    sandbox.filters |= {"join": _join, "tojson": _to_json, _SPEND: _spend}
    sandbox.tests = {name: sandbox.tests[name] for name in _TESTS}
    sandbox.globals = {"range": _range}
    return sandbox


_SANDBOX = _sandbox()


@functools.lru_cache(maxsize=64)
def _compile(source: str) -> Compiled:
    # Cached, as a flow object and its templates are created again for each message.
    if len(source) > MAX_TEMPLATE_CHARS:
        raise UsageError(f"A prompt template has over {MAX_TEMPLATE_CHARS} characters.", "Send long text as data.")
    try:
        tree = _SANDBOX.parse(source)
        _check(tree)
        for loop in list(tree.find_all(nodes.For)):
            _meter(loop)
        code = _SANDBOX.compile(tree)
        return Compiled.from_code(_SANDBOX, code, _SANDBOX.make_globals(None))
    except TemplateError as error:
        problem = f"{error.message}"
    except (RecursionError, MemoryError, SyntaxError, OverflowError):
        problem = "it is nested too deeply"
    except ValueError:
        problem = "a number in it is too long"
    raise UsageError(f"A prompt template cannot be used: {problem}".rstrip(".") + ".", _ALLOWED)


def _check(tree: nodes.Template) -> None:
    """Refuse what a prompt must not use."""
    for node in tree.find_all(nodes.Node):
        allowed = isinstance(node, _NODES)
        match node:
            case nodes.Call():
                allowed = isinstance(node.node, nodes.Name) and node.node.name == "range"
            case nodes.For():
                allowed = not node.recursive
            case nodes.Name():
                allowed = not node.name.startswith("_")
            case nodes.Filter():
                allowed = node.name in {*_FILTERS, "join", "tojson"}
            case nodes.List() | nodes.Tuple() | nodes.Dict():
                # With variables inside, a short template could create a long list of one large text.
                allowed = all(name.ctx == "store" for name in node.find_all(nodes.Name))
        if not allowed:
            what = getattr(node, "name", None)
            label = f"{type(node).__name__.lower()} {what!r}" if isinstance(what, str) else type(node).__name__.lower()
            raise TemplateError(f"{label} in line {node.lineno} is not allowed in a prompt")


def _meter(loop: nodes.For) -> None:
    """Charge each iteration of a loop for the nodes in it."""
    weight = 1 + sum(1 for _ in loop.find_all(nodes.Node))
    loop.iter = nodes.Filter(loop.iter, _SPEND, [nodes.Const(weight)], [], None, None, lineno=loop.lineno)
    loop.set_environment(_SANDBOX)


def _bounded(parts: Iterator[str]) -> str:
    texts, size = [], 0
    for part in parts:
        size += len(part)
        if size > MAX_OUTPUT_CHARS:
            raise OverflowError(_too_large())
        texts.append(part)
    return "".join(texts)


def _too_large() -> str:
    return f"its text has over {MAX_OUTPUT_CHARS} characters"
