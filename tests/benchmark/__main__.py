"""Measure calls beside what others reach, all in one run, and print a table.

Absolute figures change with the load of the machine: compare the ratios. All programs run at the same time and take
turns in each round, so that what disturbs one disturbs all. A program that cannot run here is named with the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from benchmark import files, growth, models
from benchmark.cases import FULL, MANY, QUICK, SINGLE, Case, Measurement, summarise
from benchmark.checkouts import python_at
from benchmark.peers import BARE, OTHERS, OURS, PAHO, CannotRun, Peer, python_of
from benchmark.program import Program
from benchmark.report import Row, as_json, cpu_table, picture, table

ROUNDS, QUICK_ROUNDS = 3, 2
EXAMPLES = """examples:
  scripts/bench --quick
  scripts/bench --peers jetstream,dramatiq,autogen --svg bench.svg
  scripts/bench --against HEAD~10
  scripts/bench --growth
  scripts/bench --files
  scripts/bench --models
"""


def main() -> int:
    """Measure, and print; return the exit code."""
    arguments = _arguments()
    if arguments.broker:
        os.environ["P2PFLOWS_EMBEDDED"] = arguments.broker
    cases = list(QUICK if arguments.quick else FULL)
    if arguments.size:
        cases = [case._replace(size=arguments.size) for case in QUICK[:2]]
    if arguments.growth:
        found = growth.measure_all(_show_progress)
        _show_progress("")
        print(growth.table(found))
        return 0
    if arguments.files:
        figures = files.measure_all(_show_progress)
        _show_progress("")
        print(files.table(figures))
        return 0
    if arguments.models:
        costs = models.measure_all(_show_progress)
        _show_progress("")
        print(models.table(costs))
        return 0
    rounds = arguments.rounds or (QUICK_ROUNDS if arguments.quick else ROUNDS)
    with ExitStack() as stack:
        programs, problems = _start(stack, arguments)
        broker = programs[OURS.label].about["broker_name"]
        measured = _measure(programs, cases, rounds)
    rows = [_row(program.peer, found) for program, found in zip(programs.values(), measured.values(), strict=True)]
    rows += [_row(peer, {}, reason) for peer, reason in problems.items()]
    title = f"echo there and back on {broker}, {os.cpu_count()} cores, medians of {rounds} rounds"
    if arguments.svg:
        arguments.svg.write_text(picture(rows, cases, title), encoding="utf-8")
    if arguments.json:
        print(json.dumps({"title": title, "programs": as_json(rows)}))
    else:
        parts = [f"{title}; ratio: to {PAHO.label}", table(rows, cases, PAHO.label)]
        print("\n\n".join([*parts, *(cpu_table(row) for row in rows if row.label.startswith("p2pflows"))]))
    return 0


def _start(stack: ExitStack, arguments: argparse.Namespace) -> tuple[dict[str, Program], dict[Peer, str]]:
    """Start all programs; return them by label, and why others cannot run."""
    ours = stack.enter_context(Program(OURS, Path(sys.executable)))
    programs, problems = {}, {}
    for peer in () if arguments.only_ours else (PAHO, BARE):
        programs[peer.label] = stack.enter_context(Program(peer, Path(sys.executable), ours.about["broker"]))
    programs[OURS.label] = ours
    if arguments.against:
        before = OURS._replace(label=f"p2pflows at {arguments.against}")
        python = stack.enter_context(python_at(arguments.against))
        programs[before.label] = stack.enter_context(Program(before, python))
    for name in arguments.peers:
        peer = OTHERS[name]
        try:
            broker = [ours.about["broker"]] if peer.takes_broker else []
            programs[peer.label] = stack.enter_context(Program(peer, python_of(peer), *broker))
        except CannotRun as reason:
            problems[peer] = str(reason)
    return programs, problems


def _row(peer: Peer, found: Mapping[Case, Sequence[Measurement]], problem: str = "") -> Row:
    by_case = {case: summarise(each) for case, each in found.items()}
    return Row(peer.label, peer.is_durable, peer.is_signed, by_case, problem)


def _measure(
    programs: Mapping[str, Program], cases: Sequence[Case], rounds: int
) -> dict[str, dict[Case, list[Measurement]]]:
    """Let all programs make all exchanges, in turn; every second round in the opposite order."""
    found: dict[str, dict[Case, list[Measurement]]] = {label: {} for label in programs}
    steps = [(label, program, case) for case in cases for label, program in programs.items()]
    for number in range(rounds):
        for label, program, case in reversed(steps) if number % 2 else steps:
            if program.peer.only_single and case.in_flight != SINGLE:
                continue
            _show_progress(f"round {number + 1} of {rounds}: {label}, {case.name}")
            found[label].setdefault(case, []).append(program.measure(case))
    _show_progress("")
    return found


def _show_progress(text: str) -> None:
    """Show what is measured now, on a terminal; with an empty text, remove it."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)


def _peers(text: str) -> list[str]:
    names = list(OTHERS) if text == "all" else [name for name in text.split(",") if name]
    if unknown := set(names) - set(OTHERS):
        raise argparse.ArgumentTypeError(
            f"there is no {', '.join(sorted(unknown))}; there are {', '.join(OTHERS)}, all"
        )
    return names


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="under two minutes")
    parser.add_argument("--peers", type=_peers, default=[], metavar="NAME,...", help=f"{', '.join(OTHERS)}, or all")
    parser.add_argument("--against", metavar="COMMIT", help="measure this project at another commit, too")
    parser.add_argument("--broker", choices=["mosquitto", "iotcore"], help="default: as `up` chooses")
    parser.add_argument("--size", type=int, help=f"bytes of text, one at a time and {MANY} in flight; default: several")
    parser.add_argument("--rounds", type=int, help=f"default: {ROUNDS}, with --quick {QUICK_ROUNDS}")
    parser.add_argument("--only-ours", action="store_true", help="without raw paho-mqtt and the bare hops")
    parser.add_argument("--growth", action="store_true", help="measure instead how figures change as work grows")
    parser.add_argument("--files", action="store_true", help="measure instead how a file travels, and calls beside it")
    parser.add_argument("--models", action="store_true", help="measure instead a question to a neighbour's chat")
    parser.add_argument("--svg", type=Path, metavar="FILE", help="write a picture")
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    return parser.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except CannotRun as reason:
        sys.exit(f"Nothing was measured: {reason}")
