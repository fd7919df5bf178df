"""The edge of the CLI: help, start-up time, errors, exit codes, interrupts and terminals."""

from __future__ import annotations

import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from support.scripted_daemon import ScriptedDaemon, command, run, run_here

from p2pflows import errors
from p2pflows.cli import cli

ROOT = Path(__file__).parents[3]
HEAVY = "pydantic aiohttp nacl yaml asyncio http.client p2pflows.client"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    """A daemon without a script."""
    with ScriptedDaemon(tmp_path / "home") as daemon:
        yield daemon


def _commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], click.Command]]:
    context = click.Context(group)
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield (*path, name), found
        if isinstance(found, click.Group):
            yield from _commands(found, (*path, name))


def test_help_answers_at_once(tmp_path: Path) -> None:
    """`p2pflows --help` takes less than 0.25 s, or thrice what Python and click alone take where that is longer."""
    arguments, environment = command(tmp_path, "--help")
    taken, alone = 1.0, 1.0
    for _ in range(5):
        alone = min(alone, _seconds([sys.executable, "-c", "import click"], environment))
        taken = min(taken, _seconds(arguments, environment))
    assert taken < max(0.25, 3 * alone)


def _seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """How long a command takes."""
    start = time.perf_counter()
    subprocess.run(arguments, env=environment, stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - start


def test_help_imports_nothing_heavy() -> None:
    """Even the help, which loads every command module, loads no library but click."""
    code = (
        "import sys; from p2pflows.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print('heavy:', *sorted(set('{HEAVY}'.split()) & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "heavy:"


def test_help_lists_every_command_on_one_line(tmp_path: Path) -> None:
    """At 80 columns each command has its one line, and how to switch completion on is told."""
    shown = run_here(tmp_path, "--help", COLUMNS="80")
    assert shown.code == 0
    assert shown.out == run_here(tmp_path).out
    lines = shown.out.splitlines()
    assert all(len(line) <= 80 for line in lines)
    for (name, *rest), found in _commands(cli):
        if not rest:
            assert any(line.split(None, 1) == [name, found.get_short_help_str(100)] for line in lines), name
    assert "_P2PFLOWS_COMPLETE=bash_source" in shown.out


def test_every_command_has_help_with_an_example() -> None:
    """Each command says what it does, explains each option, and shows how it is used."""
    for path, found in _commands(cli):
        context = click.Context(found, info_name=" ".join(("p2pflows", *path)))
        text = found.get_help(context)
        assert found.help, path
        assert f"p2pflows {' '.join(path)}" in text.partition("Examples:")[2], path
        for parameter in found.params:
            assert not isinstance(parameter, click.Option) or parameter.help, (path, parameter.name)


def test_the_version_is_told(tmp_path: Path) -> None:
    """`--version` prints name and version."""
    assert run(tmp_path, "--version").out.startswith("p2pflows, version 0.")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["cal", "bob/User"], "Did you mean 'call'?"),
        (["xyzzy"], "There is no command 'xyzzy'."),
        (["call"], "Missing argument 'ADDRESS'"),
        (["call", "bob"], "CONTACT/ENDPOINT"),
        (["call", "bob/User", "--timeout", "soon"], "no length of time"),
        (["call", "bob/User", "{bad"], "line 1, column 2"),
        (["call", "bob/User", "--no-such-option"], "No such option"),
        (["send", "bob/User", "[1]"], "a list"),
        (["serve", "x"], "exactly one of"),
        (["worker", "--concurrency", "0"], "--concurrency"),
    ],
)
def test_wrong_use_is_one_plain_error(words: list[str], message: str, tmp_path: Path) -> None:
    """What cannot be used ends with exit 2, a sentence and a next step, in words and in JSON."""
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
    """An error of the daemon is shown with kind, message and hint, and its own exit code."""
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
    """Kinds of modules and of bugs too, each with its exit code: `kind` (3), or in a row of the table."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "p2pflows").rglob("*.py"))
    kinds = re.findall(r'^    kind = "(\w+)"\n(?:    exit_code = (\d+))?', sources, re.MULTILINE)
    assert {("untrusted", "4"), ("bug", "")} < set(kinds)
    for kind, code in kinds:
        row = re.search(rf"^\| {code or 1} \| .*`{kind}`", readme, re.MULTILINE)
        assert row or f"`{kind}` ({code or 1})" in readme or kind == "interrupted", kind


def test_no_daemon_is_exit_3(tmp_path: Path) -> None:
    """Without a daemon every command that needs one says how to start it."""
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


def test_a_bug_is_one_line_and_not_a_traceback(daemon: ScriptedDaemon) -> None:
    """Something unforeseen is owned up to, with how to see more; and then more is to be seen."""
    daemon.script["inbox"] = {"nonsense": 1}
    ended = run(daemon.home, "inbox")
    assert ended.code == 1
    assert ended.err.startswith("Error [bug]: Something unforeseen happened (KeyError: 'prompts')")
    assert "P2PFLOWS_DEBUG=1" in ended.err
    assert "Traceback" not in ended.err
    assert "Traceback" in run(daemon.home, "inbox", P2PFLOWS_DEBUG="1").err


def test_ctrl_c_while_waiting_says_how_to_go_on(daemon: ScriptedDaemon) -> None:
    """An interrupted call goes on; its id is told, and the exit code is 130."""
    daemon.script["submit"] = {"id": "0123abcd"}
    daemon.script["wait"] = lambda _: __import__("asyncio").sleep(60)
    arguments, environment = command(daemon.home, "call", "bob/User", "text=hi")
    running = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    while len(daemon.asked) < 2:
        time.sleep(0.01)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=10)
    assert (running.returncode, out) == (130, "")
    assert err == (
        "Error [interrupted]: You stopped waiting, but the message goes on.\n"
        "Wait for it again with: p2pflows wait 0123abcd\n"
    )


def test_a_reader_that_stops_is_no_error(daemon: ScriptedDaemon) -> None:
    """`p2pflows ... | head -1` is quiet."""
    daemon.script["ls"] = {
        "flows": [{"endpoint": f"e{n}", "kind": "exec", "description": "x" * 99} for n in range(5000)]
    }
    arguments, environment = command(daemon.home, "ls", "bob")
    running = subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert running.stdout is not None
    assert running.stderr is not None
    running.stdout.readline()
    running.stdout.close()
    assert running.stderr.read() == b""
    running.stderr.close()
    running.wait(10)


def test_a_full_disk_is_told(daemon: ScriptedDaemon) -> None:
    """Output that cannot be written is an error, and not silently lost."""
    daemon.script.update(submit={"id": "1"}, wait={"id": "1", "data": {}})
    arguments, environment = command(daemon.home, "call", "bob/x", "{}")
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(arguments, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error [error]: The system refused: No space left")


def test_a_file_that_cannot_be_used_is_told_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the system refuses is no fault of stdout: the file is named, stdout stays as it is, and there is a hint."""
    (tmp_path / "contacts.lock").mkdir()
    redirected: list[Any] = []
    monkeypatch.setattr(os, "dup2", lambda *handles: redirected.append(handles))
    ended = run_here(tmp_path, "contacts", "add", "bob", "b0" * 32)
    told, hint, _ = ended.err.split("\n")
    assert ended.code == 1
    assert told == f"Error [error]: The system refused {tmp_path}/contacts.lock: Is a directory."
    assert hint
    monkeypatch.setattr(cli, "main", _raises(OSError("odd")))
    assert run_here(tmp_path, "id").err.startswith("Error [error]: The system refused: odd.\n")
    assert redirected == []


def _raises(error: Exception) -> Any:
    def raises(*_: Any, **__: Any) -> None:
        raise error

    return raises


def test_a_closed_stdout_is_no_bug(tmp_path: Path) -> None:
    """With stdout closed there is nothing to print to, and nothing to report."""
    run_here(tmp_path, "contacts", "add", "bob", "b0" * 32)
    arguments, environment = command(tmp_path, "contacts", "list")
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *arguments]
    ended = subprocess.run(closed, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def _in_terminal(home: Path, *words: str, **more: str) -> tuple[int, str]:
    """Run a command with a terminal for stdin, stdout and stderr; gives exit code and all that was shown."""
    arguments, environment = command(home, *words, **more)
    ours, theirs = pty.openpty()
    running = subprocess.Popen(arguments, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 4096)
        except OSError:
            break
        shown += chunk
        if not chunk:
            break
    os.close(ours)
    return running.wait(10), shown.decode().replace("\r\n", "\n")


def test_a_terminal_without_data_sends_none(daemon: ScriptedDaemon) -> None:
    """On a terminal `call` does not wait for stdin, and prints the same document."""
    daemon.script.update(submit={"id": "1"}, wait={"id": "1", "data": {"text": "x\x9b31m"}})
    assert _in_terminal(daemon.home, "call", "bob/x") == (0, '{"text":"x\\u009b31m"}\n')
    assert daemon.asked[0] == ("submit", {"address": "bob/x", "data": {}})


def test_colour_is_for_terminals(daemon: ScriptedDaemon) -> None:
    """A terminal sees colour unless NO_COLOR is set; a pipe never does."""
    daemon.script["ls"] = errors.NotAllowed("No.")
    assert "\x1b[" in _in_terminal(daemon.home, "ls", "bob")[1]
    assert "\x1b[" not in _in_terminal(daemon.home, "ls", "bob", NO_COLOR="1")[1]
    assert "\x1b[" not in run(daemon.home, "ls", "bob").err


def test_strangers_are_completed_and_not_contacts(daemon: ScriptedDaemon) -> None:
    """The shell gets the user ids that wait for `allow` and `deny`; without a daemon it gets none."""
    run_here(daemon.home, "contacts", "add", "bob", "b0" * 32)
    daemon.script["requests"] = {"requests": [{"user": "b1" * 32}, {"user": "c1" * 32}]}

    def complete(*words: str) -> list[str]:
        asked = {"COMP_WORDS": " ".join(("p2pflows", *words)), "COMP_CWORD": str(len(words))}
        ended = run(daemon.home, _P2PFLOWS_COMPLETE="bash_complete", **asked)
        return [line.partition(",")[2] for line in ended.out.split()]

    assert complete("allow", "b") == complete("deny", "b") == ["b1" * 32]
    daemon.die()
    assert complete("allow", "b") == []


def test_contacts_are_completed(tmp_path: Path) -> None:
    """The shell gets petnames for an address, and the commands."""
    for name in ("bob", "bert", "carol"):
        assert run_here(tmp_path, "contacts", "add", name, name.encode().hex().rjust(64, "0")).code == 0

    def complete(*words: str) -> list[str]:
        ended = run(
            tmp_path,
            _P2PFLOWS_COMPLETE="bash_complete",
            COMP_WORDS=" ".join(("p2pflows", *words)),
            COMP_CWORD=str(len(words)),
        )
        return [line.partition(",")[2] for line in ended.out.split()]

    assert complete("call", "b") == ["bert/", "bert/User", "bob/", "bob/User"]
    assert complete("contacts", "remove", "c") == ["carol"]
    assert complete("wor") == ["worker", "worker-token"]
    (tmp_path / "contacts.yaml").write_text("[")
    assert complete("call", "b") == []


def test_output_is_utf_8_in_every_locale(daemon: ScriptedDaemon) -> None:
    """JSON is UTF-8 whatever the locale says, and no text breaks a table."""
    daemon.script.update(submit={"id": "1"}, wait={"id": "1", "data": {"text": "你好"}})
    daemon.script["ls"] = {"flows": [{"endpoint": "e", "kind": "exec", "description": "你好"}]}
    for encoding in ("ascii", "latin-1"):
        assert run(daemon.home, "call", "bob/x", "{}", PYTHONIOENCODING=encoding).json == {"text": "你好"}
        assert run(daemon.home, "ls", "bob", PYTHONIOENCODING=encoding).code == 0


def test_json_after_two_dashes_is_data(daemon: ScriptedDaemon) -> None:
    """`--json` is an option only where options may stand."""
    daemon.script["answer"] = errors.UsageError("No.")
    ended = run_here(daemon.home, "answer", "1234", "--", "--json")
    assert ended.err.startswith("Error [usage]: No.")
    assert daemon.asked == [("answer", {"id": "1234", "text": "--json"})]
    assert json.loads(run_here(daemon.home, "answer", "1234", "x", "--json").err)["code"] == "usage"
