"""Draws docs/lifecycle.md from the tables of daemon/p2pflowsd/lifecycle.py, so that the two never differ."""

from __future__ import annotations

import argparse
import ast
import inspect
import sys
from enum import StrEnum
from pathlib import Path

from p2pflowsd import lifecycle
from p2pflowsd.lifecycle import MOVES, IncomingState, OutgoingState, PromptState, QuestionState

PAGE = Path(__file__).parent.parent / "docs" / "lifecycle.md"
STARTS: dict[type[StrEnum], dict[StrEnum, str]] = {
    IncomingState: {
        IncomingState.READY: "it is the next of its stream",
        IncomingState.BLOCKED: "an earlier one is missing",
    },
    OutgoingState: {OutgoingState.PENDING: "it is accepted"},
    PromptState: {PromptState.OPEN: "it is asked"},
    QuestionState: {QuestionState.OPEN: "it is asked"},
}
HEAD = """# The life of a message

Drawn from `daemon/p2pflowsd/lifecycle.py` by `scripts/diagram`; do not edit.

A request from one user to another is stored twice: in the sender's journal as an outgoing message, and in the
recipient's as an incoming one. If a human answers it, the recipient's journal also has a prompt. The diagrams show
every legal move. One transaction stores a move together with all its consequences.
"""


def page() -> str:
    """Return the whole page, as it should be."""
    return "\n".join([HEAD, *map(_section, STARTS)])


def _section(kind: type[StrEnum]) -> str:
    title, meanings = _meanings(kind)
    moves = MOVES[kind]
    lines = [f"## {title.rstrip('.')}", "", "```mermaid", "stateDiagram-v2"]
    lines += [f"    [*] --> {state}: {why}" for state, why in STARTS[kind].items()]
    lines += [f"    {old} --> {new}" for old in kind for new in kind if new in moves[old]]
    lines += [f"    {state} --> [*]" for state in kind if not moves[state]]
    lines += ["```", ""]
    if meanings:
        lines += ["| State | Meaning |", "|---|---|"]
        lines += [f"| {state} | {meanings[state.name]} |" for state in kind if state.name in meanings]
        lines += [""]
    return "\n".join(lines)


def _meanings(kind: type[StrEnum]) -> tuple[str, dict[str, str]]:
    """Return the docstring of a class of states, and the docstring below each of its members."""
    tree = ast.parse(inspect.getsource(lifecycle))
    found = next(node for node in tree.body if isinstance(node, ast.ClassDef) and node.name == kind.__name__)
    meanings: dict[str, str] = {}
    for member, text in zip(found.body, found.body[1:], strict=False):
        match member, text:
            case (
                ast.Assign(targets=[ast.Name(id=name)]),
                ast.Expr(value=ast.Constant(value=str(sentence))),
            ):
                meanings[name] = " ".join(sentence.split())
    return inspect.getdoc(kind) or kind.__name__, meanings


def main() -> int:
    """Write the page, or compare it; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the page is stale")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
        return 0
    if PAGE.read_text(encoding="utf-8") == page():
        return 0
    sys.stderr.write(f"{PAGE} is stale; run: scripts/diagram\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
