"""Every command, with nothing, with garbage, and in shells that close its streams or cannot show its letters."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest
from support.command_tree import commands
from support.scripted_daemon import ScriptedDaemon, command, prompt, run_here

from p2pflows.cli import cli

ALL = [name for name, _ in commands(cli)]
RUN_FOR_LONG = {"up", "worker"}
"""They start something; with nothing wrong, they do not end."""
BROKEN_PIPE = 128 + signal.SIGPIPE
CODES = {0, 1, 2, 3, 4, 5}
GARBAGE = ["\udcff\x1b]0;x\x07", "--no-such-option", "{", "'", "-", "ü" * 300, "=", "@/", ""]


@pytest.mark.parametrize("name", ALL)
def test_every_command_with_nothing_and_with_garbage(name: str, tmp_path: Path) -> None:
    """Whatever is typed, the answer is a result or an error of ours, also in 40 columns."""
    words = name.split()
    tried = [] if name in RUN_FOR_LONG else [words, [*words, "--json"]]
    tried += [[*words, "--help"], [*words, *GARBAGE], [*words, *reversed(GARBAGE)]]
    tried += [] if name in RUN_FOR_LONG else [[*words, garbage, garbage] for garbage in GARBAGE]
    for given in tried:
        ended = run_here(tmp_path / "home", *given, cwd=tmp_path, COLUMNS="40")
        assert ended.code in CODES, (given, ended)
        assert "Traceback" not in ended.out + ended.err
        assert "[bug]" not in ended.err, (given, ended)
        if ended.code:
            assert ended.err.startswith(("Error [", '{"code":')), (given, ended)


_RUN_ALL = """
import sys
from p2pflows.cli import main

for name in sys.argv[1:]:
    try:
        main([*name.split(), *(["--help"] if name in ("up", "worker") else ["\u00fc"])])
    except SystemExit as ended:
        print(ended.code, name, file=sys.stderr)
"""


def test_every_command_with_closed_streams_in_the_c_locale(tmp_path: Path) -> None:
    """In the poorest shell, none of them fails with an error that it does not expect."""
    (python, *_), environment = command(tmp_path / "home", LC_ALL="C", PYTHONIOENCODING="ascii", COLUMNS="40")
    shell = ["/bin/sh", "-c", 'exec "$@" <&- >&-', "sh", python, "-c", _RUN_ALL, *ALL]
    ended = subprocess.run(
        shell, env=environment, stderr=subprocess.PIPE, text=True, timeout=60, check=False, cwd=tmp_path
    )
    assert ended.returncode == 0, ended.stderr
    assert "Traceback" not in ended.stderr
    assert "[bug]" not in ended.stderr
    codes = dict(line.split(" ", 1)[::-1] for line in ended.stderr.splitlines() if line[:2].strip().isdigit())
    assert set(codes) == set(ALL)
    assert {int(code) for code in codes.values()} <= CODES


@pytest.fixture
def talkative(daemon: ScriptedDaemon) -> ScriptedDaemon:
    """A daemon with more to list than a pipe holds."""
    many: list[dict[str, Any]] = [prompt(f"{number:032x}", "x" * 200) for number in range(1_000)]
    flow = {"endpoint": "x" * 60, "kind": "exec", "dispatch_point": "d", "allow": "me", "description": "y" * 200}
    daemon.script.update(inbox={"prompts": many}, ls={"flows": [flow] * 1_000})
    daemon.script.update(submit={"id": "0" * 32}, wait={"id": "0" * 32, "data": {"text": "z" * 300_000}})
    return daemon


@pytest.mark.parametrize(
    "line", ["inbox", "inbox --json", "ls", "ls --json", "call bob/x {}", "--help", "call --help", "frobnicate 2>&1"]
)
def test_a_reader_that_ends_early(talkative: ScriptedDaemon, line: str) -> None:
    """`| head -1` ends the command as a pipe does: silently, with exit code 141; or as if all were read, if it was."""
    (python, *_), environment = command(talkative.home, PYTHONUNBUFFERED="")
    script = f'"{python}" -m p2pflows {line} | head -c1 >/dev/null; exit "${{PIPESTATUS[0]}}"'
    ended = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, timeout=60, check=False)
    assert ended.stderr == b""
    assert ended.returncode in ({BROKEN_PIPE} if "inbox" in line or line == "ls" else {BROKEN_PIPE, 0, 2})


def test_a_user_without_a_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a container without HOME, for a user whom the system does not know, the error names P2PFLOWS_HOME."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", {}.__getitem__)  # as for any unknown user
    for words in (["id"], ["up"], ["contacts"], ["call", "bob/User", "{}"]):
        ended = run_here(tmp_path, *words, P2PFLOWS_HOME="")
        assert (ended.code, ended.out) == (2, "")
        assert ended.err.startswith("Error [usage]: There is no home folder: HOME is not set")
        assert "export P2PFLOWS_HOME=" in ended.err


@pytest.mark.parametrize("word", ["~nobody-here/x", "a=@~nobody-here/x"])
def test_the_home_of_an_unknown_user(tmp_path: Path, word: str) -> None:
    """`~NAME` of a user who does not exist is refused."""
    ended = run_here(tmp_path, "call", "me/x", f"text=@{word.removeprefix('a=@')}")
    assert (ended.code, ended.out) == (2, "")
    assert "There is no home folder for '~nobody-here/x'" in ended.err
