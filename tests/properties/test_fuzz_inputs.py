"""Inputs from outside, fed as the fuzzer feeds them: its seeds, and the findings of the past. It needs no atheris."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest
from fuzzing import findings
from fuzzing.targets import KNOWN_IDS, TARGETS, Target, replay
from hypothesis import given
from hypothesis import strategies as st

_FINDINGS = sorted(findings.INPUTS.glob("*.json"))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_seeds_are_read_or_refused(target: Target) -> None:
    """No input with which fuzzing begins is a finding; nor are all of them, one after the other."""
    replay(target, target.seeds())


@pytest.mark.parametrize("path", _FINDINGS, ids=[path.stem for path in _FINDINGS])
def test_a_finding_of_the_past_is_mended(path: Path) -> None:
    """What once was a finding is read, or refused as it should be."""
    replay(*findings.read(path))


@pytest.mark.parametrize(
    "name",
    [
        *("envelope", "bundle", "token", "broker", "daemon_frame", "chat_request", "progress"),
        *("file_frame", "reference"),
    ],
)
@given(data=st.binary(max_size=200))
def test_arbitrary_bytes(name: str, data: bytes) -> None:
    """What needs no daemon takes any bytes."""
    replay(TARGETS[name], [data])


def test_a_finding_is_kept_with_the_inputs_that_it_needs(tmp_path: Path) -> None:
    """A finding that needs an earlier input is kept with this one, and without the others."""

    class Broken:
        """Fails once it has seen two inputs."""

        def __init__(self) -> None:
            self.seen: set[bytes] = set()

        def __call__(self, data: bytes) -> None:
            self.seen.add(data)
            if {b"first", b"last"} <= self.seen:
                raise RuntimeError("broken")

    target = Target(lambda: nullcontext(Broken()), list)
    assert findings.shortest(target, [b"a", b"first", b"b", b"last"]) == [b"first", b"last"]
    path = findings.write(tmp_path, "token", [KNOWN_IDS[0].encode()], RuntimeError("broken"))
    again, inputs = findings.read(path)
    assert (again, inputs) == (TARGETS["token"], [KNOWN_IDS[0].encode()])
