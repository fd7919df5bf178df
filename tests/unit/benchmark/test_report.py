"""The benchmark says what it measured: medians, ratios to raw paho-mqtt, and why a program could not run."""

from __future__ import annotations

from xml.etree import ElementTree as ET

import pytest
from benchmark.cases import Case, Measurement, summarise
from benchmark.peers import BARE, FOLDER, OTHERS, OURS, PAHO, dependencies
from benchmark.report import Row, as_json, cpu_table, picture, table

SINGLE, MANY = Case(200, 1, 4), Case(16_384, 64, 4)


def measured(millis: float) -> Measurement:
    """Four exchanges that took so long."""
    return Measurement([millis / 1_000] * 4, 4 * millis / 1_000, {"caller": 0.002, "alice": 0.004})


def row(label: str, millis: float) -> Row:
    """A program whose exchanges took so long, in three rounds of which one was disturbed."""
    rounds = [measured(millis), measured(millis), measured(millis * 9)]
    return Row(label, "yes", "no", {case: summarise(rounds) for case in (SINGLE, MANY)})


ROWS = [row("raw", 1), row("p2pflows", 4), Row("<late>", "no", "no", {}, "nats-server is not installed")]


def test_the_table_shows_medians_and_ratios() -> None:
    """One disturbed round changes nothing."""
    lines = table(ROWS, [SINGLE, MANY], "raw").splitlines()
    assert lines[0].split("  ")[0] == ""
    assert lines[0].split() == ["kept", "signed", "p50", "ms", "p99", "ms", "16", "KiB", "64/s", "ratio"]
    assert lines[1].split() == ["raw", "yes", "no", "1.00", "1.00", "1,000", "1.00x"]
    assert lines[2].split() == ["p2pflows", "yes", "no", "4.00", "4.00", "250", "0.25x"]
    assert lines[3].endswith("nats-server is not installed")
    assert cpu_table(ROWS[1]).splitlines()[1].split() == ["200", "B,", "one", "at", "a", "time", "500", "1,000"]


def test_programs_can_read_it() -> None:
    """All figures, in seconds."""
    document = as_json(ROWS)
    assert document[1]["cases"][1]["rate"] == pytest.approx(250)
    assert document[2]["problem"] == "nats-server is not installed"


def test_the_picture_is_well_formed() -> None:
    """A bar for each program that was measured, in a panel for each case."""
    root = ET.fromstring(picture(ROWS, [SINGLE, MANY], "a & b"))  # noqa: S314 - our own text
    bars = [
        each for each in root.iter("{http://www.w3.org/2000/svg}rect") if each.get("fill") in {"#1f77b4", "#aaaaaa"}
    ]
    assert [each.get("fill") for each in bars] == ["#aaaaaa", "#1f77b4"] * 2


def test_every_program_is_there_and_names_what_it_needs() -> None:
    """A peer that is no part of this project is installed on its own."""
    for peer in (OURS, PAHO, BARE, *OTHERS.values()):
        assert (FOLDER / f"{peer.script}.py").exists()
        assert bool(dependencies(peer)) == (peer in OTHERS.values())
