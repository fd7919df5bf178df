"""A picture of a soak over time, as SVG: a panel for each measure, a line for each daemon, a mark for each fault."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape

from soak.samples import Sample

_WIDTH, _PANEL, _LEFT, _RIGHT, _TOP, _GAP = 1_000, 150, 70, 20, 50, 40
_FONT = 'font-family="sans-serif" font-size="12"'
_LINES = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#7f7f7f")
_MARKS = {"kill": "#d62728", "pause": "#ff7f0e", "jump": "#9467bd", "restart": "#000000", "empty": "#000000"}
_OTHER_MARK = "#999999"
_PANELS: tuple[tuple[str, Callable[[Sample], float]], ...] = (
    ("open messages and requests", lambda sample: sample.backlog),
    ("resident memory (MB)", lambda sample: sample.memory / 1e6),
    ("descriptors", lambda sample: sample.descriptors),
    ("journal (MB)", lambda sample: sample.journal / 1e6),
)


def draw(
    title: str, samples: Mapping[str, Sequence[Sample]], faults: Sequence[tuple[float, str]], calm_from: float
) -> str:
    """Return the SVG.

    Args:
        title: the line above it.
        samples: the samples of each daemon, by its name.
        faults: when each fault began, and its name.
        calm_from: when the faults had stopped, in seconds after the beginning; the rest has a grey background.
    """
    end = max((sample.at for series in samples.values() for sample in series), default=1.0) or 1.0

    def x(at: float) -> float:
        return round(_LEFT + at / end * (_WIDTH - _LEFT - _RIGHT), 1)

    height = _TOP + len(_PANELS) * (_PANEL + _GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" {_FONT}>',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{_LEFT}" y="18" font-size="14">{escape(title)}</text>',
    ]
    for number, name in enumerate(samples):
        colour = _LINES[number % len(_LINES)]
        parts.append(f'<text x="{_LEFT + number * 90}" y="36" fill="{colour}">{escape(name)}</text>')
    for number, (name, measure) in enumerate(_PANELS):
        top = _TOP + number * (_PANEL + _GAP)
        bottom = top + _PANEL
        highest = max((measure(sample) for series in samples.values() for sample in series), default=1.0) or 1.0
        parts += [
            f'<rect x="{x(calm_from)}" y="{top}" width="{x(end) - x(calm_from)}" height="{_PANEL}" fill="#eeeeee"/>',
            *(_mark(x(at), top, bottom, at, fault) for at, fault in faults),
            f'<path d="M{_LEFT} {top}V{bottom}H{_WIDTH - _RIGHT}" fill="none" stroke="black"/>',
            f'<text x="{_LEFT}" y="{bottom + 16}">0 s</text>',
            f'<text x="{_WIDTH - _RIGHT}" y="{bottom + 16}" text-anchor="end">{end:.0f} s</text>',
            f'<text x="{_LEFT + 60}" y="{bottom + 16}">{escape(name)}</text>',
            f'<text x="{_LEFT - 5}" y="{top + 10}" text-anchor="end">{highest:,.4g}</text>',
            f'<text x="{_LEFT - 5}" y="{bottom}" text-anchor="end">0</text>',
        ]
        for line, series in enumerate(samples.values()):
            points = " ".join(f"{x(one.at)},{bottom - measure(one) / highest * _PANEL:.1f}" for one in series)
            parts.append(f'<polyline points="{points}" fill="none" stroke="{_LINES[line % len(_LINES)]}"/>')
    return "\n".join([*parts, "</svg>", ""])


def _mark(x: float, top: int, bottom: int, at: float, fault: str) -> str:
    colour = _MARKS.get(fault.split(maxsplit=1)[0], _OTHER_MARK)
    line = f'<path d="M{x} {top}V{bottom}" stroke="{colour}" stroke-opacity="0.3"/>'
    return f"<g><title>{escape(fault)} at {at:.1f} s</title>{line}</g>"
