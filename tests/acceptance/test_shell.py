"""Commands as flows, with real commands."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from support.processes import kill_process

from p2pflows.errors import Cancelled, DeadlinePassed, FlowFailed, UsageError
from p2pflows.protocol.message import MAX_BODY_BYTES
from p2pflows.worker.shell import Command, ShellRun


def reply(command: str, cwd: Path, data: bytes = b"{}", *, seconds: float = 10, **env: str) -> dict[str, Any]:
    """The answer of one run of a command."""
    return ShellRun(Command(command, str(cwd)), env).reply(data, seconds)


def script(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def is_gone(pid: int) -> bool:
    """Whether a process ends soon; a zombie has ended."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(2_000):
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except FileNotFoundError:
            return True
        time.sleep(0.01)
    return False


def test_data_comes_on_stdin(tmp_path: Path) -> None:
    """A command reads the data as one line, and its JSON output is the reply."""
    assert reply("read line; echo $line", tmp_path, b'{"a":"b c"}') == {"a": "b c"}


def test_text_and_nothing(tmp_path: Path) -> None:
    """Text is a reply, and so is no output."""
    assert reply("echo hello", tmp_path) == {"text": "hello"}
    assert reply("true", tmp_path) == {"text": ""}


def test_folder_and_environment(tmp_path: Path) -> None:
    """A command runs in its folder; the environment is ours, with variables about the message."""
    output = reply('pwd; echo "$P2PFLOWS_FROM"; test -n "$PATH"', tmp_path, P2PFLOWS_FROM="bob")
    assert output == {"text": f"{tmp_path.resolve()}\nbob"}


def test_exit_code(tmp_path: Path) -> None:
    """A non-zero exit code fails the flow, and the error quotes the end of stderr."""
    with pytest.raises(FlowFailed) as caught:
        reply("echo ignored; echo no such file >&2; exit 3", tmp_path)
    assert caught.value.message == "exit code 3: no such file"


def test_silent_exit_code(tmp_path: Path) -> None:
    """Without stderr the error has the exit code, or the name of the signal."""
    with pytest.raises(FlowFailed, match=r"^exit code 1$"):
        reply("false", tmp_path)
    with pytest.raises(FlowFailed, match=r"^ended by SIGSEGV$"):
        reply("kill -SEGV $$", tmp_path)


def test_long_stderr(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The error may quote the end of a long stderr; the whole of it goes to the worker's own stderr."""
    command = Command("seq 100000 >&2; echo the end >&2; exit 1", str(tmp_path), errors="all")
    with pytest.raises(FlowFailed) as caught:
        ShellRun(command, {}).reply(b"{}", 10)
    assert caught.value.message.endswith("99999\n100000\nthe end")
    assert len(caught.value.message) < 600
    assert capfd.readouterr().err.startswith("1\n2\n3\n")


def test_killed_at_its_deadline_with_its_group(tmp_path: Path) -> None:
    """A command that is too slow is killed at its deadline, and so are its children."""
    started = time.monotonic()
    with pytest.raises(DeadlinePassed):
        reply("sleep 60 & echo $! > child; wait", tmp_path, seconds=0.3)
    assert 0.3 <= time.monotonic() - started < 20
    assert is_gone(int((tmp_path / "child").read_text()))


def test_killed_at_its_deadline_though_it_has_closed_its_output(tmp_path: Path) -> None:
    """A command that has closed its output is killed at its deadline, too."""
    with pytest.raises(DeadlinePassed):
        reply("exec >&- 2>&-; sleep 60", tmp_path, seconds=0.3)


def test_stopped(tmp_path: Path) -> None:
    """A command that another thread stops ends at once, with its children."""
    run = ShellRun(Command("sleep 60 & echo $! > child; wait", str(tmp_path)), {})
    threading.Timer(0.2, run.stop).start()
    started = time.monotonic()
    with pytest.raises(Cancelled):
        run.reply(b"{}", 60)
    assert time.monotonic() - started < 20
    assert is_gone(int((tmp_path / "child").read_text()))


def test_stopped_before_and_after(tmp_path: Path) -> None:
    """A command stopped before its start does not start; stopping an ended one has no effect."""
    early = ShellRun(Command("touch started", str(tmp_path)), {})
    early.stop()
    with pytest.raises(Cancelled):
        early.reply(b"{}", 10)
    assert not (tmp_path / "started").exists()
    late = ShellRun(Command("true", str(tmp_path)), {})
    late.reply(b"{}", 10)
    late.stop()


def test_huge_output(tmp_path: Path) -> None:
    """Endless output is cut off and refused; the largest possible reply passes."""
    started = time.monotonic()
    with pytest.raises(FlowFailed, match="The answer is too large"):
        reply("cat /dev/zero", tmp_path, seconds=60)
    assert time.monotonic() - started < 20
    assert len(reply(f"head -c {MAX_BODY_BYTES} /dev/zero | tr '\\0' x", tmp_path)["text"]) == MAX_BODY_BYTES


def test_huge_input(tmp_path: Path) -> None:
    """Data larger than the buffer of a pipe is written while the command writes."""
    data = json.dumps({"text": "x" * 600_000}).encode()
    assert reply("cat", tmp_path, data) == json.loads(data)


def test_input_after_output_is_closed(tmp_path: Path) -> None:
    """A command that has closed its output still gets all its input."""
    data = json.dumps({"text": "x" * 600_000}).encode()
    assert reply("exec >&- 2>&-; cat > copy", tmp_path, data) == {"text": ""}
    assert (tmp_path / "copy").read_bytes() == data + b"\n"


def test_input_that_nobody_reads(tmp_path: Path) -> None:
    """A command need not read its data."""
    assert reply("exec <&-; echo done", tmp_path, b"x" * 600_000) == {"text": "done"}


def test_child_left_behind(tmp_path: Path) -> None:
    """A child that keeps the output open does not delay the reply."""
    started = time.monotonic()
    assert reply("sleep 60 & echo $! > child; echo done", tmp_path) == {"text": "done"}
    assert time.monotonic() - started < 20
    kill_process(int((tmp_path / "child").read_text()))


def test_folder_is_gone(tmp_path: Path) -> None:
    """A command in a missing folder fails the flow with a clear error."""
    with pytest.raises(FlowFailed, match="could not start: No such file or directory"):
        reply("true", tmp_path / "gone")


@pytest.mark.parametrize(
    "command",
    [
        "./ok.sh",
        "./ok.sh && echo more",
        "cat",
        "cd /; pwd",
        "if true; then echo yes; fi",
        "X=1 ./missing-but-after-an-assignment",
        '"$HOME"/bin/whatever',
        "(echo a; echo b)",
        "./with\\ space",
    ],
)
def test_check_passes(tmp_path: Path, command: str) -> None:
    """The check accepts a command that could run, and leaves to the shell what only the shell understands."""
    script(tmp_path / "ok.sh", "echo ok")
    Command(command, str(tmp_path)).check()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("if then", "cannot parse"),
        ("echo 'open", "cannot parse"),
        ("./missing.sh --now", "There is no program ./missing.sh in"),
        ("./plain.sh", "./plain.sh is not executable"),
        ("/no/such/program", "There is no program /no/such/program"),
        ("no-such-program-anywhere x", "There is no program 'no-such-program-anywhere' on the PATH"),
    ],
)
def test_check_refuses(tmp_path: Path, command: str, reason: str) -> None:
    """The check refuses a command that cannot run, with the reason."""
    (tmp_path / "plain.sh").write_text("echo hi")
    with pytest.raises(UsageError) as caught:
        Command(command, str(tmp_path)).check()
    assert reason in caught.value.message


def test_check_runs_nothing(tmp_path: Path) -> None:
    """The check does not run the command."""
    script(tmp_path / "touch.sh", "touch trace")
    Command("./touch.sh", str(tmp_path)).check()
    assert not (tmp_path / "trace").exists()


def test_check_of_a_missing_folder(tmp_path: Path) -> None:
    """The check refuses a command whose folder is missing."""
    with pytest.raises(UsageError, match="does not exist"):
        Command("true", str(tmp_path / "gone")).check()
