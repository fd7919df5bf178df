"""What a soak prints at its end: a table that fits on one screen."""

from __future__ import annotations

import textwrap

from soak.scene import Options, Outcome
from soak.traffic import KINDS
from soak.verdict import summarize

SETTLE_GOAL_S = 30.0
_MAX_SHOWN = 15
_WIDTH = 100


def report(options: Options, outcome: Outcome, command: str) -> str:
    """Return the whole report."""
    lines = ["", *_messages(outcome), "", *_daemons(outcome), ""]
    faults = ", ".join(f"{count} {name}" for name, count in sorted(outcome.faults.items()))
    lines += textwrap.wrap(f"faults     {outcome.faults.total()}: {faults}", _WIDTH, subsequent_indent=" " * 11)
    lines.append(f"           {outcome.reruns} runs again, {outcome.unsure} messages without a word whether accepted")
    if outcome.settle_s is None:
        settled = "never: see below"
    else:
        goal = "within" if outcome.settle_s <= SETTLE_GOAL_S else "over"
        settled = f"{outcome.settle_s:.1f} s, {goal} the goal of {SETTLE_GOAL_S:.0f} s"
    lines.append(f"settled    {settled} ({outcome.open_at_end:,} were open when the faults ended)")
    lines.append("verdict    " + ", ".join(f"{count} {name}" for name, count in summarize(outcome.violations).items()))
    lines += [f"  {violation}" for violation in outcome.violations[:_MAX_SHOWN]]
    if len(outcome.violations) > _MAX_SHOWN:
        lines.append(f"  and {len(outcome.violations) - _MAX_SHOWN:,} more in {options.out / 'violations.txt'}")
    lines.append(f"files      {options.out} (history.jsonl, soak.svg, logs)")
    lines.append(f"again      {command}")
    return "\n".join(lines)


def _messages(outcome: Outcome) -> list[str]:
    rows = [f"{'messages':<11}{'accepted':>9}{'done':>9}   ended otherwise"]
    for kind in (*KINDS, "in all"):
        ends = {end: count for (of, end), count in outcome.ends.items() if of == kind}
        if kind == "in all":
            ends = {}
            for (_, end), count in outcome.ends.items():
                ends[end] = ends.get(end, 0) + count
        others = ", ".join(f"{count:,} {end}" for end, count in sorted(ends.items()) if end != "done")
        rows.append(f"{kind:<11}{sum(ends.values()):>9,}{ends.get('done', 0):>9,}   {others}")
    return rows


def _daemons(outcome: Outcome) -> list[str]:
    rows = [f"{'daemon':<11}{'open, most':>11}{'memory, most':>14}{'descriptors':>13}{'journal':>10}"]
    for name, series in outcome.series.items():
        rows.append(
            f"{name:<11}{max(one.backlog for one in series):>11,}"
            f"{max(one.memory for one in series) / 1e6:>11.0f} MB{max(one.descriptors for one in series):>13}"
            f"{series[-1].journal / 1e6:>7.1f} MB"
        )
    return rows
