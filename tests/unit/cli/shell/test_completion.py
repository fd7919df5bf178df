"""Completion: what is offered, and in the shells themselves."""

from __future__ import annotations

import asyncio
import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.processes import wait_until
from support.scripted_daemon import ScriptedDaemon, prompt, run_here

from p2pflows.cli.input import candidates
from p2pflows.cli.shell import shells
from p2pflows.contacts import Contacts

KEY = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"
ONE, TWO = "0197f6a0c3de7b0e9a5d0f0e38689ea2", "0197f6a0c3de7b0e9a5d0f0e4f1c22d9"
EVIL = "$(reboot)\n\x1b]0;x\x07, `reboot`"
TIMEOUT_S = 20.0


def _complete(home: Path, *words: str, listing: bool = False) -> list[str]:
    """Return what bash gets for the last word."""
    line = " ".join(("p2pflows", *words))
    ended = run_here(
        home, _P2PFLOWS_COMPLETE="bash_complete", COMP_WORDS=line, COMP_CWORD=str(len(words)),
        COMP_TYPE="63" if listing else "9",
    )  # fmt: skip
    assert (ended.code, ended.err) == (0, "")
    return [line.partition(",")[2] for line in ended.out.splitlines() if line]


@pytest.fixture
def busy(daemon: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> ScriptedDaemon:
    """A daemon with one of everything, which may take its time while many tests run."""
    monkeypatch.setattr(candidates, "TIMEOUT_S", TIMEOUT_S)
    message: dict[str, Any] = {"id": ONE, "to": KEY, "from": KEY, "name": "bob", "endpoint": "User"}
    flows = [{"endpoint": "User", "kind": "human", "description": "A human.", "dispatch_point": ""}]
    flows += [{"endpoint": "render", "kind": "exec", "description": EVIL, "dispatch_point": "gpu"}]
    talk = {"conversation": ONE, "user": KEY, "name": "bob", "endpoint": "User", "text": "Hm?"}
    daemon.script.update(
        inbox={"prompts": [prompt(ONE, EVIL), prompt(TWO, "Second")], "next": None},
        outbox={"pending": [message], "dead": [message]},
        asked={
            "asked": [
                {"id": TWO, "to": KEY, "to_name": "bob", "text": "Well?", "kind": "call", "outcome": "failed"},
                {"id": ONE, "to": KEY, "to_name": "bob", "text": "Hm?", "kind": "question", "outcome": "failed"},
            ]
        },
        ls={"flows": flows},
        instances={"instances": [{"instance": ONE, "endpoint": "Counter"}]},
        conversations={"conversations": [talk, {**talk, "conversation": TWO, "endpoint": "other"}]},
        status={"workers": [{"dispatch_point": "default"}]},
        requests={"requests": [{"user": "b1" * 32, "endpoints": ["User"]}, {"user": "c1" * 32}]},
        invitations={"invitations": [{"id": ONE, "name": "carol"}]},
    )
    Contacts(daemon.home / "contacts.yaml").add("bob", KEY)
    Contacts(daemon.home / "contacts.yaml").add_to_group("team", ["bob"])
    return daemon


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("answer ''", ["38689ea2", "4f1c22d9"]),
        ("answer 38", ["38689ea2"]),
        ("answer 0197", [ONE, TWO]),
        ("decline 4f", ["4f1c22d9"]),
        ("snooze 4f", ["4f1c22d9"]),
        ("dismiss 38689ea2 4f", ["4f1c22d9"]),
        ("wait ''", ["38689ea2", "4f1c22d9"]),
        ("cancel 4", ["4f1c22d9"]),
        ("ask b", ["bob"]),
        ("confirm b", ["bob"]),
        ("tell b", ["bob"]),
        ("ask @", ["@team"]),
        ("outbox retry ''", ["4f1c22d9", "38689ea2"]),
        ("invite revoke ''", ["38689ea2"]),
        ("reset ''", ["38689ea2"]),
        ("unmount 38", ["38689ea2"]),
        ("call bob/x --instance ''", ["38689ea2"]),
        ("call bob/User --conversation ''", ["38689ea2"]),
        ("chat bob/other --resume ''", ["4f1c22d9"]),
        ("call bo", ["bob/", "bob/User"]),
        ("call bob/", ["bob/User", "bob/render"]),
        ("call me/re", ["me/render"]),
        ("unserve ''", ["User", "render"]),
        ("serve re", ["render"]),
        ("worker --dispatch-point ''", ["default", "gpu"]),
        ("worker-token g", ["gpu"]),
        ("worker-token re", ["revoke"]),
        ("worker-token make g", ["gpu"]),
        ("allow b", ["b1" * 32]),
        ("deny b", ["b1" * 32]),
        ("contacts remove b", ["bob"]),
        ("wor", ["worker", "worker-token"]),
        ("help contacts re", ["remove", "rename"]),
        ("completion install f", ["fish"]),
    ],
)
def test_what_is_offered(busy: ScriptedDaemon, words: str, offered: list[str]) -> None:
    """Every name and every id that the daemon knows, ids as they are shown."""
    assert _complete(busy.home, *words.split(" ")) == offered


@pytest.mark.parametrize(
    "words", ["answer ''", "call bob/", "worker --dispatch-point ''", "unmount ''", "outbox retry ''"]
)
def test_without_a_daemon_the_shell_is_left_in_peace(busy: ScriptedDaemon, words: str) -> None:
    """Nothing is printed, and what needs no daemon is still offered."""
    busy.die()
    assert _complete(busy.home, *words.split()) == (["bob/User"] if "/" in words else [])
    (busy.home / "contacts.yaml").write_text("[")
    assert _complete(busy.home, "call", "b") == []


def test_a_daemon_that_hangs_is_not_waited_for(busy: ScriptedDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """The person waits with a finger on Tab."""
    monkeypatch.setattr(candidates, "TIMEOUT_S", 0.15)
    busy.script["status"] = busy.script["ls"] = lambda _: asyncio.sleep(60)
    begun = time.monotonic()
    assert _complete(busy.home, "worker", "--dispatch-point", "''") == []
    assert time.monotonic() - begun < 20


def test_descriptions_are_one_harmless_line(busy: ScriptedDaemon) -> None:
    """Bash shows them when it lists candidates, and never inserts them; no text of others controls the terminal."""
    listed = _complete(busy.home, "answer", "''", listing=True)
    assert listed == [
        "38689ea2  (bob: $(reboot) \\x1b]0;x\\x07, `reboot`)",
        "4f1c22d9  (bob: Second)",
    ]
    assert _complete(busy.home, "answer", "4", listing=True) == ["4f1c22d9"]


@pytest.fixture
def shell_home(busy: ScriptedDaemon, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home for a shell, which finds `p2pflows` on its path."""
    home = tmp_path / "it's a home"
    home.mkdir()
    program = tmp_path / "bin" / "p2pflows"
    program.parent.mkdir()
    environment = f"PYTHONPATH={shlex.quote(os.pathsep.join(filter(None, sys.path)))}"
    program.write_text(f'#!/bin/sh\n{environment} exec {sys.executable} -P -m p2pflows "$@"\n')
    program.chmod(0o755)
    for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "ZDOTDIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("P2PFLOWS_HOME", str(busy.home))
    monkeypatch.setenv("TERM", "dumb")
    return home


def test_install_writes_once(busy: ScriptedDaemon, shell_home: Path) -> None:
    """It says what it wrote; a second time, no line is added."""
    (shell_home / ".bashrc").write_text("alias x=y")
    first = run_here(busy.home, "completion", "install", SHELL="/usr/bin/bash").err
    again = run_here(busy.home, "completion", "install", "bash").err
    script = shell_home / ".local/share/bash-completion/completions/p2pflows"
    assert first == f"Wrote {script}\nAdded a line to {shell_home}/.bashrc\nOpen a new bash, or run: exec bash\n"
    assert f"The line is already in {shell_home}/.bashrc" in again
    assert (shell_home / ".bashrc").read_text().splitlines()[0] == "alias x=y"
    assert len((shell_home / ".bashrc").read_text().splitlines()) == 2
    assert script.read_text() == run_here(busy.home, "completion", "show", "bash").out
    fish = run_here(busy.home, "completion", "install", "fish", "--json").document
    assert fish == {
        "shell": "fish",
        "script": f"{shell_home}/.config/fish/completions/p2pflows.fish",
        "start_file": None,
    }


def test_an_unknown_shell(tmp_path: Path) -> None:
    """It has to be named."""
    ended = run_here(tmp_path, "completion", "install", SHELL="/bin/tcsh")
    assert (ended.code, ended.out) == (2, "")
    assert "Name one of bash, zsh and fish" in ended.err
    assert run_here(tmp_path, "completion", "show", SHELL="").code == 2


@pytest.mark.parametrize("shell", shells.SHELLS)
def test_a_script_is_understood_by_its_shell(busy: ScriptedDaemon, shell: str) -> None:
    """The shell finds no mistake in it."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    script = run_here(busy.home, "completion", "show", shell).out
    ended = subprocess.run([shell, "-n"], input=script, text=True, capture_output=True, timeout=20, check=False)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_an_interactive_shell_completes(busy: ScriptedDaemon, shell_home: Path, shell: str) -> None:
    """In a real shell on a terminal, Tab inserts a unique candidate, and lists others with descriptions."""
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    (shell_home / ".zshrc").write_text("PS1='> '\n")
    (shell_home / ".bashrc").write_text("PS1='> '\nbind 'set bell-style none'\n")
    assert run_here(busy.home, "completion", "install", shell).code == 0
    child, terminal = pty.fork()
    if child == 0:
        os.execvp(shell, [shell, "-i"])  # noqa: S606 - a real shell is what is tested
    try:
        assert _is_shown(terminal, "> ")
        _type_until_shown(terminal, b"p2pflows answer \t\t", "bob: Second")
        _type_until_shown(terminal, b"p2pflows answer 4\t", "4f1c22d9 ")
    finally:
        os.close(terminal)
        os.waitpid(child, 0)


def test_fish_completes(busy: ScriptedDaemon, shell_home: Path) -> None:
    """Fish reads its script by itself, and shows descriptions, also with commas."""
    del shell_home
    if shutil.which("fish") is None:
        pytest.skip("fish is not installed")
    assert run_here(busy.home, "completion", "install", "fish").code == 0
    words = ["fish", "-c", "complete -C 'p2pflows answer '"]

    def offered() -> list[str]:
        ended = subprocess.run(words, text=True, capture_output=True, timeout=TIMEOUT_S, check=False)
        return sorted(ended.stdout.splitlines())

    wait_until(lambda: len(offered()) == 2)
    first, second = offered() or offered()
    assert first.endswith(", `reboot`")
    assert second == "4f1c22d9\tbob: Second"


def _type_until_shown(terminal: int, keys: bytes, text: str) -> None:
    """Type into an empty line, again and again: on a busy machine, the shell may get its candidates too late."""
    wait_until(lambda: bool(os.write(terminal, b"\x15" + keys)) and _is_shown(terminal, text), TIMEOUT_S)


def _is_shown(terminal: int, text: str) -> bool:
    """Whether a shell prints a text within some seconds."""
    shown, until = "", time.monotonic() + 4.0
    while text not in shown:
        ready, _, _ = select.select([terminal], [], [], max(until - time.monotonic(), 0))
        if not ready:
            return False
        shown += os.read(terminal, 4096).decode(errors="replace")
    return True
