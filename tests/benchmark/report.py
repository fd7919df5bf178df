"""What a run has measured, as a table, as JSON and as a picture (SVG)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from benchmark.cases import SINGLE, Case, Summary

_FONT = 'font-family="sans-serif" font-size="12"'
_BAR, _GAP, _LEFT, _WIDTH = 18, 34, 230, 900
_OURS, _OTHERS = "#1f77b4", "#aaaaaa"
_MS, _US = 1_000, 1_000_000


class Row(NamedTuple):
    """What is known of one program.

    Attributes:
        label: its name.
        is_durable: whether an exchange outlives every process.
        is_signed: whether senders prove who they are.
        by_case: what was measured.
        problem: why nothing was.
    """

    label: str
    is_durable: str
    is_signed: str
    by_case: Mapping[Case, Summary]
    problem: str = ""


def table(rows: Sequence[Row], cases: Sequence[Case], base: str) -> str:
    """Return the table as text; each rate also as its ratio to that of the row `base`."""
    heads = ["", "kept", "signed"]
    for case in cases:
        heads += ["p50 ms", "p99 ms"] if case.in_flight == SINGLE else [f"{_short(case)}/s", "ratio"]
    lines = [heads]
    base_row = next((row for row in rows if row.label == base), None)
    for row in rows:
        cells = [row.label, row.is_durable, row.is_signed]
        for case in cases:
            cells += _cells(row, case, base_row)
        lines.append([*cells, row.problem] if row.problem else cells)
    widths = [max(len(line[column]) for line in lines if column < len(line)) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if not column else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(line, [*widths, 0], strict=False))
        ).rstrip()
        for line in lines
    )


def cpu_table(row: Row) -> str:
    """Return the processor time of each process of one program for one exchange, in microseconds, by case."""
    names = list(dict.fromkeys(name for summary in row.by_case.values() for name in summary.cpu))
    lines = [[f"us of CPU for one: {row.label}", *names]]
    lines += [
        [case.name, *(f"{summary.cpu.get(name, 0) * _US:,.0f}" for name in names)]
        for case, summary in row.by_case.items()
    ]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names) + 1)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return all that was measured, for programs."""
    return [
        {
            "label": row.label,
            "durable": row.is_durable,
            "signed": row.is_signed,
            **({"problem": row.problem} if row.problem else {}),
            "cases": [{**case._asdict(), **summary._asdict()} for case, summary in row.by_case.items()],
        }
        for row in rows
    ]


def picture(rows: Sequence[Row], cases: Sequence[Case], title: str) -> str:
    """Return bars of the exchanges in a second, a panel for each case; of single ones, of the median time."""
    parts: list[str] = []
    top = _GAP
    for case in cases:
        measured = [(row, row.by_case[case]) for row in rows if case in row.by_case]
        is_time = case.in_flight == SINGLE
        values = [summary.p50 * _MS if is_time else summary.rate for _, summary in measured]
        what = f"{case.name}: " + ("ms at the median, less is better" if is_time else "exchanges a second")
        parts.append(f'<text x="10" y="{top}" font-weight="bold">{escape(what)}</text>')
        for number, ((row, _), value) in enumerate(zip(measured, values, strict=True)):
            y = top + 8 + number * (_BAR + 4)
            width = round((_WIDTH - _LEFT - 90) * value / max(values), 1)
            colour = _OURS if row.label.startswith("p2pflows") else _OTHERS
            shown = f"{value:,.2f}" if is_time else f"{value:,.0f}"
            parts += [
                f'<text x="{_LEFT - 8}" y="{y + 13}" text-anchor="end">{escape(row.label)}</text>',
                f'<rect x="{_LEFT}" y="{y}" width="{width}" height="{_BAR}" fill="{colour}"/>',
                f'<text x="{_LEFT + width + 6}" y="{y + 13}">{shown}</text>',
            ]
        top += 8 + len(measured) * (_BAR + 4) + _GAP
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{top}" {_FONT}>'
    name = f'<title>{escape(title)}</title><rect width="100%" height="100%" fill="white"/>'
    return "\n".join([head, name, *parts, "</svg>", ""])


def _cells(row: Row, case: Case, base: Row | None) -> list[str]:
    summary = row.by_case.get(case)
    if summary is None:
        return ["", ""]
    if case.in_flight == SINGLE:
        return [f"{summary.p50 * _MS:.2f}", f"{summary.p99 * _MS:.2f}"]
    compared = None if base is None else base.by_case.get(case)
    return [f"{summary.rate:,.0f}", "" if compared is None else f"{summary.rate / compared.rate:.2f}x"]


def _short(case: Case) -> str:
    size, _, flight = case.name.partition(", ")
    return f"{size} {flight.removesuffix(' in flight')}"
