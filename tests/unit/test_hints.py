"""Hints are in the words of the place where they are read."""

from __future__ import annotations

import pytest

from p2pflows.hints import for_reader, in_shell


@pytest.mark.parametrize(
    ("shell", "python"),
    [
        (
            "Start one: p2pflows worker --dispatch-point gpu",
            "Start one: p2pflows.run_dispatch_worker_thread(cl, dispatch_point='gpu')",
        ),
        ("See: p2pflows ls", "See: p2pflows.serving.get_served_flows(cl)"),
        ("See what is: p2pflows ls CONTACT", "See what is: cl.request('ls', user='CONTACT')"),
        ("See why: p2pflows status", "See why: cl.request('status')"),
        ("Give it longer: --timeout 10m", "Give it longer: timeout=600"),
        ("Name them: p2pflows contacts add bob ID", "Name them: p2pflows contacts add bob ID (in a shell)"),
        ("Send less.", "Send less."),
    ],
)
def test_a_hint_in_python_and_in_the_shell(shell: str, python: str) -> None:
    """A Python program gets Python, the command line keeps its commands."""
    assert for_reader(shell) == python
    with in_shell():
        assert for_reader(shell) == shell
