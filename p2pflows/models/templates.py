"""Prompts with places to fill in: Jinja templates that can read their variables and do nothing else.

A template may come from a config that a caller wrote into, so four things hold it: only a part of the language is
taken, a variable gives its items and never its attributes, loops spend from a budget, and the text has a longest size.
"""

from __future__ import annotations

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
"""Nodes that the loops of one rendering may run through, and what its filters do in the same measure."""

_MAX_LOOP_ITEMS = 100_000
_LETTERS = 64
"""How many of a text a filter works through at the price of a node."""
_BUDGET, _SPEND = "_p2pflows_budget", "_p2pflows_spend"
_DATA_ONLY = "It may use variables, if, for, comparisons, range(), + and - and the usual text filters."

_NODES = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.If, nodes.For, nodes.Scope),
    *(nodes.Name, nodes.Const, nodes.List, nodes.Tuple, nodes.Dict, nodes.Pair, nodes.CondExpr),
    *(nodes.Getattr, nodes.Getitem, nodes.Slice, nodes.Filter, nodes.Test, nodes.Keyword),
    *(nodes.And, nodes.Or, nodes.Not, nodes.Compare, nodes.Operand, nodes.Add, nodes.Sub, nodes.Neg),
    nodes.Call,
)
"""What multiplies a value or keeps one (`*`, `**`, `%`, `~`, set, macros, calls) is not among them."""

_FILTERS = (
    *("capitalize", "count", "d", "default", "first", "int", "items", "length", "lower", "reverse"),
    *("sort", "string", "title", "trim", "unique", "upper"),
)
_ENVIRONMENT_FILTERS = ("first", "sort", "unique")
"""Those that Jinja hands its environment."""
_TESTS = (
    *("boolean", "defined", "divisibleby", "eq", "even", "false", "ge", "gt", "in", "iterable", "le", "lt", "mapping"),
    *("ne", "none", "number", "odd", "sequence", "string", "true", "undefined", "==", "!=", "<", "<=", ">", ">="),
)


class Template:
    """A prompt with places to fill in.

    Args:
        template: the text.
        input_variables: the variables that the data must have; others are not given to the template.
        partial_variables: values that are always the same.

    Raises:
        UsageError: it cannot be read, or wants more of Jinja than a prompt may have.
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
        """Build a template from its place in a config: `{"template", "input_variables", "partial_variables"}`.

        Other keys, such as the predecessor's `_target_`, mean nothing here.

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
        """Fill the places in; what is not defined is left empty.

        Raises:
            BadInput: the data lacks an input variable.
            FlowFailed: the template fails on this data, or would take too long or get too big.
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
        except Exception as error:  # noqa: BLE001 - what a template does with a caller's data may raise anything
            problem = f"{type(error).__name__}: {error}"
        raise FlowFailed(f"A prompt template failed: {problem}".rstrip(".") + ".", "Mend the template, or the data.")


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja without attributes: `a.b` means the item `b` of `a`, save for what a loop tells of itself."""

    intercepted_binops = frozenset({"+"})

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if isinstance(left, (str, list, tuple)) and len(left) + len(right) > MAX_OUTPUT_CHARS:
            raise OverflowError(_too_big())
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


def _charge(context: Context, work: int) -> None:
    """Spend from the budget of the rendering at hand."""
    budget = context[_BUDGET]
    budget[0] -= work
    if budget[0] < 0:
        raise OverflowError("it runs too long")


def _guarded(name: str) -> Callable[..., Any]:
    """Jinja's filter of that name, which spends for what it works on, and whose text cannot grow without end.

    Since it asks for the context, Jinja does not try it out when it compiles a template.
    """
    function = DEFAULT_FILTERS[name]

    @pass_context
    def guarded(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        _charge(context, 1 + (len(value) // _LETTERS if isinstance(value, Sized) else 0))
        given = (context.environment, value) if name in _ENVIRONMENT_FILTERS else (value,)
        result = function(*given, *args, **kwargs)
        if isinstance(result, str) and len(result) > MAX_OUTPUT_CHARS:
            raise OverflowError(_too_big())
        return result

    return guarded


@pass_context
def _join(context: Context, values: Any, between: Any = "", attribute: str | None = None) -> str:
    """Jinja's `join`, measured before it is made."""
    texts, size, glue = [], 0, str(between)
    for value in values:
        _charge(context, 1)
        texts.append(str(value[attribute] if attribute else value))
        size += len(texts[-1]) + len(glue)
        if size > MAX_OUTPUT_CHARS:
            raise OverflowError(_too_big())
    return glue.join(texts)


@pass_context
def _to_json(context: Context, value: Any) -> str:
    """The value as JSON, measured while it is made, and with letters as they are."""
    text = _bounded(json.JSONEncoder(ensure_ascii=False).iterencode(value))
    _charge(context, 1 + len(text) // _LETTERS)
    return text


def _range(*bounds: int) -> range:
    numbers = range(*bounds)
    if len(numbers) > _MAX_LOOP_ITEMS:
        raise OverflowError(f"range() gives more than {_MAX_LOOP_ITEMS} numbers")
    return numbers


@pass_context
def _spend(context: Context, values: Any, weight: int) -> Iterator[Any]:
    """The values of a loop, while the rendering's budget lasts."""
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


def _compile(source: str) -> Compiled:
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
    raise UsageError(f"A prompt template cannot be used: {problem}".rstrip(".") + ".", _DATA_ONLY)


def _check(tree: nodes.Template) -> None:
    """Refuse what a prompt does not need."""
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
                # With variables inside, a long list of one big text would be made at a small price.
                allowed = all(name.ctx == "store" for name in node.find_all(nodes.Name))
        if not allowed:
            what = getattr(node, "name", None)
            label = f"{type(node).__name__.lower()} {what!r}" if isinstance(what, str) else type(node).__name__.lower()
            raise TemplateError(f"{label} in line {node.lineno} is more than a prompt may do")


def _meter(loop: nodes.For) -> None:
    """Make a loop spend, for each turn, as much as it has nodes."""
    weight = 1 + sum(1 for _ in loop.find_all(nodes.Node))
    loop.iter = nodes.Filter(loop.iter, _SPEND, [nodes.Const(weight)], [], None, None, lineno=loop.lineno)
    loop.set_environment(_SANDBOX)


def _bounded(parts: Iterator[str]) -> str:
    texts, size = [], 0
    for part in parts:
        size += len(part)
        if size > MAX_OUTPUT_CHARS:
            raise OverflowError(_too_big())
        texts.append(part)
    return "".join(texts)


def _too_big() -> str:
    return f"its text has over {MAX_OUTPUT_CHARS} characters"
