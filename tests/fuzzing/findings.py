"""Inputs that were findings: kept as JSON files, so that they can be repeated without atheris."""

from __future__ import annotations

import hashlib
import json
import traceback
from collections.abc import Sequence
from pathlib import Path

from fuzzing.targets import TARGETS, Target, replay

INPUTS = Path(__file__).parent / "inputs"
"""The findings of the past, which are mended; `tests/properties/test_fuzz_inputs.py` feeds them again."""


def write(folder: Path, target: str, inputs: Sequence[bytes], error: BaseException) -> Path:
    """Write down the inputs of a finding; return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    name = hashlib.sha256(b"\0".join(inputs)).hexdigest()[:12]
    path = folder / f"{target}-{name}.json"
    shown = [text for text in (_as_text(data) for data in inputs) if text is not None]
    content = {
        "target": target,
        "about": f"{place(error)}: {str(error)[:200]}",
        "inputs": [data.hex() for data in inputs],
        "as_text": shown,
    }
    path.write_text(json.dumps(content, indent=1, ensure_ascii=True) + "\n", encoding="utf-8")
    return path


def read(path: Path) -> tuple[Target, list[bytes]]:
    """Return the target and the inputs of a finding."""
    content = json.loads(path.read_text(encoding="utf-8"))
    return TARGETS[content["target"]], [bytes.fromhex(data) for data in content["inputs"]]


def place(error: BaseException) -> str:
    """Return which error it is and which function of ours raised it; equal findings have the same place."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if "p2pflows" in frame.filename] or frames
    where = f"{Path(ours[-1].filename).name}, {ours[-1].name}" if ours else "nowhere"
    return f"{type(error).__name__} in {where}"


def shortest(target: Target, inputs: Sequence[bytes]) -> list[bytes]:
    """Return as few of the inputs as repeat their finding; all of them if it does not come again."""
    last = inputs[-1:]
    if fails(target, last):
        return list(last)
    needed = list(inputs)
    for data in inputs[:-1]:
        without = [each for each in needed if each is not data]
        if fails(target, without):
            needed = without
    return needed


def fails(target: Target, inputs: Sequence[bytes]) -> bool:
    """Return whether some inputs are a finding."""
    try:
        replay(target, inputs)
    except Exception:  # noqa: BLE001 - whatever it is, it is the finding
        return True
    return False


def _as_text(data: bytes) -> str | None:
    text = data.decode("utf-8", "replace")
    return text[:2_000] if text.isprintable() or "\n" in text else None
