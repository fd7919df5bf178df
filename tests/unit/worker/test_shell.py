"""Commands as flows: what their output means."""

from __future__ import annotations

from typing import Any

import pytest

from p2pflows.worker.shell import parse


@pytest.mark.parametrize(
    ("output", "data"),
    [
        (b'{"a": [1]}\n', {"a": [1]}),
        (b"5\n", {"result": 5}),
        (b"[1, 2]", {"result": [1, 2]}),
        (b'"text"', {"result": "text"}),
        (b"null", {"result": None}),
        (b"hello\nworld\n", {"text": "hello\nworld"}),
        (b"hello\n\n", {"text": "hello\n"}),
        (b"", {"text": ""}),
        (b"NaN\n", {"text": "NaN"}),
        (b'{"a": Infinity}', {"text": '{"a": Infinity}'}),
        (b"1e999", {"text": "1e999"}),
        (b"{} {}", {"text": "{} {}"}),
        (b"[" * 100_000, {"text": "[" * 100_000}),
        (b"caf\xe9", {"text": "caf\N{REPLACEMENT CHARACTER}"}),
    ],
)
def test_output_as_data(output: bytes, data: dict[str, Any]) -> None:
    """A JSON object is the data, other JSON stands under `result`, and all that is not JSON under `text`."""
    assert parse(output) == data
