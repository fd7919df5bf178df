"""Large buffers are kept from one use to the next."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

USE_BUFFERS = """
import resource
from p2pflows.memory import keep_large_buffers

{prepare}
for round in range(60):
    if round == 10:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    buffers = [b"x" * 1_000_000 for _ in range(8)]
    del buffers
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def page_faults(prepare: str) -> int:
    """Return how many pages the system gave to a process that uses eight megabytes again and again."""
    code = USE_BUFFERS.format(prepare=prepare)
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives them back to the system")
def test_large_buffers_are_not_given_back_and_cleared_for_each_message() -> None:
    """A process that has used some memory for large messages uses the same again."""
    assert page_faults("keep_large_buffers()") < 200
    assert page_faults("") > 10_000
