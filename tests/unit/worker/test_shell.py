"""Commands as flows: what their output means."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from p2pflows.errors import FlowFailed
from p2pflows.worker.shell import MAX_STDERR_BYTES, MAX_STDERR_LINES, VARIABLES, Command, ShellRun, parse


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


def test_what_a_command_writes_to_stderr_cannot_control_the_terminal_of_up(
    capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Escape sequences and bidirectional marks are visible; line breaks stay."""
    command = Command("printf 'one\\033[2J\\342\\200\\256\\rtwo\\nthree' >&2", str(tmp_path))
    ShellRun(command, {}).reply(b"{}", 10)
    assert capfd.readouterr().err == "one\\x1b[2J\\u202e\\rtwo\nthree\n"


@pytest.mark.parametrize("command", ["yes", "tr '\\0' x < /dev/zero"])
def test_what_a_command_writes_to_stderr_does_not_fill_the_log(
    capfd: pytest.CaptureFixture[str], tmp_path: Path, command: str
) -> None:
    """A run writes so many lines and bytes to the log, then one line says how much was dropped."""
    ShellRun(Command(f"{command} | head -c 3000000 >&2", str(tmp_path)), {}).reply(b"{}", 30)
    *lines, last = capfd.readouterr().err.splitlines()
    assert len(lines) <= MAX_STDERR_LINES
    assert sum(map(len, lines)) <= MAX_STDERR_BYTES
    shown = sum(len(line) + (command == "yes") for line in lines)
    assert last == f"… the command wrote {3_000_000 - shown} more bytes to stderr."


def test_a_command_gets_neither_passwords_nor_keys_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A command has a short list of variables and those of its message; nothing else of its worker's."""
    for name in ("OPENAI_API_KEY", "P2PFLOWS_BROKER", "P2PFLOWS_WORKER_TOKEN", "AWS_SECRET_ACCESS_KEY", "LD_PRELOAD_X"):
        monkeypatch.setenv(name, "s3cret")
    monkeypatch.setenv("LC_TIME", "C")
    run = ShellRun(Command("env", str(tmp_path)), {"P2PFLOWS_FROM": "b2" * 32})
    shown = dict(line.split("=", 1) for line in run.reply(b"{}", 10)["text"].splitlines())
    assert "s3cret" not in shown.values()
    assert shown["P2PFLOWS_FROM"] == "b2" * 32
    assert shown["PATH"] == os.environ["PATH"]
    assert shown["LC_TIME"] == "C"
    assert set(shown) <= {*VARIABLES, "LC_ALL", "LC_CTYPE", "LC_TIME", "P2PFLOWS_FROM", "PWD", "OLDPWD", "SHLVL", "_"}


@pytest.mark.parametrize(
    ("errors", "shown"),
    [("none", "exit code 3"), ("last-line", "exit code 3: sorry"), ("all", "exit code 3: at /home/bob/x\nsorry")],
)
def test_the_owner_chooses_what_callers_see_of_a_failing_command(tmp_path: Path, errors: str, shown: str) -> None:
    """Callers see the exit code, and as much of stderr as the owner lets them."""
    command = Command("echo at /home/bob/x >&2; echo sorry >&2; exit 3", str(tmp_path), errors)
    with pytest.raises(FlowFailed) as failed:
        ShellRun(command, {}).reply(b"{}", 10)
    assert failed.value.message == shown
