"""Finds the guards of a module, and writes the module so that a switch removes any one of them.

A guard decides whether something happens, or how much of it: a condition or a part of one, a limit, an exception that
is caught, a call that raises if a check fails. A mutant is a module without one of its guards. One text holds all
mutants of a module, each behind a switch, so that the module is imported once and not once for each mutant.
"""

from __future__ import annotations

import ast
import hashlib
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

_CHECKS = re.compile(r"_?(check|ensure|verify|validate|require)(_\w+)?|loads_exact")
_SQL_CONDITION = re.compile(
    rb"(?<=\bWHERE )[\w.]+ (?:[<>=!]+|IS) (?:\?|:\w+|'\w+'|NOT NULL|NULL)"
    rb"|(?<=\bAND )[\w.]+ (?:[<>=!]+|IS) (?:\?|:\w+|'\w+'|NOT NULL|NULL)"
    rb"|(?<=\bAND )[\w.]+ (?:NOT )?IN \([^)]*\)"
)
_BOOLEAN = (ast.Compare, ast.BoolOp)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


@dataclass(frozen=True)
class Mutant:
    """A module without one of its guards.

    Attributes:
        number: its number in the module, from 1.
        function: the qualified name of the function with the guard; empty if it is outside of functions.
        guard: the text of the guard.
        becomes: what stands in its place; empty if nothing does.
        line: the line of the guard.
        start: where the guard begins in the module, in bytes.
        end: where it ends.
        code: what stands in the module from `start` to `end`.
        is_early: whether the guard is used when the module is imported, as in a constant.
    """

    number: int
    function: str
    guard: str
    becomes: str
    line: int
    start: int
    end: int
    code: str
    is_early: bool

    @property
    def text(self) -> str:
        """What the change is, on one line."""
        return f"{self.guard} -> {self.becomes or 'nothing'}"

    def key(self, module: str) -> str:
        """What names it among the mutants of all modules, in ten characters, wherever it is in its module."""
        return hashlib.sha256(f"{module} {self.function}: {self.text}".encode()).hexdigest()[:10]


def find(source: str) -> list[Mutant]:
    """Return the mutants of a module, in the order of their places."""
    finder = _Finder(source)
    finder.visit(ast.parse(source))
    found = sorted(finder.found, key=lambda mutant: (mutant.start, -mutant.end))
    return [replace(mutant, number=number) for number, mutant in enumerate(_told_apart(found), 1)]


def with_switches(source: str, switch: str) -> str:
    """Return the text of a module in which each guard asks a function whether it is removed; lines keep their numbers.

    Args:
        source: the text of the module.
        switch: the name of a function that takes the number of a mutant, and that a module finds in `builtins`.
    """
    data = source.encode()
    return _switched(data, find(source), 0, len(data), switch).decode()


def _switched(data: bytes, mutants: list[Mutant], start: int, end: int, switch: str) -> bytes:
    """Return a part of a text with the switches of the mutants in it, the inner ones inside of the outer ones."""
    written, at = b"", start
    while mutants:
        first = mutants[0]
        outer = [each for each in mutants if (each.start, each.end) == (first.start, first.end)]
        inner = [each for each in mutants if each.end <= first.end and each not in outer]
        mutants = [each for each in mutants if each.end > first.end]
        text = _switched(data, inner, first.start, first.end, switch)
        for each in outer:
            text = f"(({each.code}) if {switch}({each.number}) else (".encode() + text + b"))"
        written += data[at : first.start] + text
        at = first.end
    return written + data[at:end]


def _told_apart(mutants: list[Mutant]) -> Iterator[Mutant]:
    """Give those of a function that have the same text a number."""
    seen: Counter[tuple[str, str]] = Counter()
    for mutant in mutants:
        key = (mutant.function, mutant.text)
        seen[key] += 1
        yield mutant if seen[key] == 1 else replace(mutant, guard=f"{mutant.guard} #{seen[key]}")


class _Finder(ast.NodeVisitor):
    """Collects the mutants of a module."""

    def __init__(self, source: str) -> None:
        self.found: list[Mutant] = []
        self._source = source
        self._data = source.encode()
        self._starts = [0]
        for line in self._data.splitlines(keepends=True):
            self._starts.append(self._starts[-1] + len(line))
        self._scope: list[str] = []
        self._is_in_function = False

    # Where we are.

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        self._scope.append(node.name)
        was, self._is_in_function = self._is_in_function, False
        for part in node.body:
            self.visit(part)
        self._is_in_function = was
        self._scope.pop()

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._scope.append(node.name)
        was, self._is_in_function = self._is_in_function, True
        for part in node.body:
            self.visit(part)
        self._is_in_function = was
        self._scope.pop()

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        if node.value is not None:
            self.visit(node.value)

    def visit_Assert(self, node: ast.Assert) -> None:
        """Skip it: it says what cannot be."""

    # What is a guard.

    def visit_If(self, node: ast.If) -> None:
        if _names_type_checking(node.test):
            return
        self._condition(node.test)
        for part in (*node.body, *node.orelse):
            self.visit(part)

    def visit_While(self, node: ast.While) -> None:
        if not isinstance(node.test, ast.Constant):
            self._condition(node.test, values=("False",))
        for part in (*node.body, *node.orelse):
            self.visit(part)

    def visit_IfExp(self, node: ast.IfExp) -> None:
        self._condition(node.test)
        self.visit(node.body)
        self.visit(node.orelse)

    def visit_comprehension(self, node: ast.comprehension) -> None:
        self.visit(node.iter)
        for test in node.ifs:
            self._condition(test, values=("True",))

    def visit_match_case(self, node: ast.match_case) -> None:
        if node.guard is not None:
            self._condition(node.guard)
        for part in node.body:
            self.visit(part)

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> None:
        if node.type is not None:
            self._add(node.type, "()")
        for part in node.body:
            self.visit(part)

    def visit_Compare(self, node: ast.Compare) -> None:
        self._condition(node)

    def visit_UnaryOp(self, node: ast.UnaryOp) -> None:
        if isinstance(node.op, ast.Not):
            self._condition(node)
        else:
            self.generic_visit(node)

    def visit_BoolOp(self, node: ast.BoolOp) -> None:
        if all(isinstance(value, _BOOLEAN) or _is_not(value) for value in node.values):
            self._condition(node)
            return
        neutral = str(isinstance(node.op, ast.And))  # one that chooses a value
        for value in node.values[:-1]:
            self._add(value, neutral)
        self._add(node, self._text(node.values[0]))
        self.generic_visit(node)

    def visit_Call(self, node: ast.Call) -> None:
        if isinstance(node.func, ast.Name) and node.func.id in ("min", "max") and len(node.args) > 1:
            for value in node.args:
                if not isinstance(value, ast.Starred):
                    self._add(node, self._text(value))
        self.generic_visit(node)

    def visit_Slice(self, node: ast.Slice) -> None:
        if node.upper is not None:
            self._add(node.upper, "None")
        self.generic_visit(node)

    def visit_Expr(self, node: ast.Expr) -> None:
        if isinstance(node.value, ast.Constant):
            return  # a docstring
        if isinstance(node.value, ast.Call) and _CHECKS.fullmatch(_name_of(node.value.func)):
            self._add(node.value, "")
        self.generic_visit(node)

    def visit_Constant(self, node: ast.Constant) -> None:
        if isinstance(node.value, str):
            self._sql(node)

    def visit_JoinedStr(self, node: ast.JoinedStr) -> None:
        self._sql(node)

    def _condition(self, node: ast.expr, values: tuple[str, ...] = ("True", "False")) -> None:
        """Take what is true or false as a guard, and every part of it that `and` or `or` joins."""
        for value in values:
            self._add(node, value)
        self._parts(node)

    def _parts(self, node: ast.expr) -> None:
        if isinstance(node, ast.BoolOp):
            neutral = str(isinstance(node.op, ast.And))
            for value in node.values:
                self._add(value, neutral)
                self._parts(value)
        elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
            self._parts(node.operand)
        else:
            self.generic_visit(node)

    def _sql(self, node: ast.expr) -> None:
        """Take each condition in a statement as a guard; in its place stands one that always holds."""
        start, end = self._start(node), self._end(node)
        for match in _SQL_CONDITION.finditer(self._data, start, end):
            guard = match.group().decode()
            before, after = self._data[start : match.start()].decode(), self._data[match.end() : end].decode()
            if "CREATE INDEX" in before:
                continue  # it only says which rows the index holds
            self._keep(node, guard, f"({guard} OR 1)", f"{before}({guard} OR 1){after}")

    def _add(self, node: ast.expr, becomes: str) -> None:
        guard = " ".join(self._text(node).split())
        becomes = " ".join(becomes.split())
        if guard == becomes:
            return
        self._keep(node, guard, becomes, becomes or "None")

    def _keep(self, node: ast.expr, guard: str, becomes: str, code: str) -> None:
        self.found.append(
            Mutant(
                number=0,
                function=".".join(self._scope),
                guard=guard,
                becomes=becomes,
                line=node.lineno,
                start=self._start(node),
                end=self._end(node),
                code=code,
                is_early=not self._is_in_function,
            )
        )

    def _text(self, node: ast.expr) -> str:
        return self._data[self._start(node) : self._end(node)].decode()

    def _start(self, node: ast.expr) -> int:
        return self._starts[node.lineno - 1] + node.col_offset

    def _end(self, node: ast.expr) -> int:
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        return self._starts[node.end_lineno - 1] + node.end_col_offset


def _is_not(node: ast.expr) -> bool:
    return isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not)


def _name_of(function: ast.expr) -> str:
    match function:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
    return ""


def _names_type_checking(test: ast.expr) -> bool:
    return isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"
