"""The picture of a soak."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from soak.picture import draw
from soak.samples import Sample

SVG = "{http://www.w3.org/2000/svg}"


def test_a_line_for_each_daemon_and_a_mark_for_each_fault() -> None:
    """Each of four panels has a line for each daemon and a mark for each fault, and foreign text is no markup."""
    series = {name: [Sample(0.0, 1, 10, 5, 9), Sample(10.0, 7, 20, 5, 9)] for name in ("ann", "<bob>")}
    root = ET.fromstring(draw("soak & more", series, [(2.0, "kill daemon"), (4.0, "delay")], calm_from=8.0))  # noqa: S314 - ours
    assert len(root.findall(f"{SVG}polyline")) == 4 * 2
    assert [title.text for title in root.iter(f"{SVG}title")][:2] == ["kill daemon at 2.0 s", "delay at 4.0 s"]
    assert len(list(root.iter(f"{SVG}title"))) == 4 * 2
    assert "<bob>" in [text.text for text in root.findall(f"{SVG}text")]


def test_nothing_measured() -> None:
    """A soak that ended before the first sample has an empty picture."""
    ET.fromstring(draw("empty", {}, [], calm_from=0.0))  # noqa: S314 - ours
