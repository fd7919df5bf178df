"""The command as a process: start-up time, interrupts, terminals, pipes, locales, and the programs that it becomes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from support.scripted_daemon import ScriptedDaemon, command, prompt, run, run_here, run_in_terminal

from p2pflows import errors
from p2pflows.contacts import Contacts
from p2pflows.protocol.channel import Enrolment

BOB = "b0" * 32
ID = "0197f6a0c3de7b0e9a5d0f0e4f1c22d9"
HEAVY = "pydantic aiohttp nacl yaml asyncio http.client p2pflows.client p2pflows.client.async_client"


def test_help_answers_at_once(tmp_path: Path) -> None:
    """`p2pflows --help` takes less than 0.25 s of processor time, or thrice that of Python and click alone."""
    arguments, environment = command(tmp_path, "--help")
    taken, alone = 1.0, 1.0
    for _ in range(5):
        alone = min(alone, _seconds([sys.executable, "-c", "import click"], environment))
        taken = min(taken, _seconds(arguments, environment))
    assert taken < max(0.25, 3 * alone)


def _seconds(arguments: list[str], environment: dict[str, str]) -> float:
    """Return how much processor time a command takes, which others on the machine hardly change."""
    before = os.times()
    subprocess.run(arguments, env=environment, capture_output=True, check=True)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def test_help_imports_nothing_heavy() -> None:
    """Even the help, which loads every command module, loads no library but click."""
    code = (
        "import sys; from p2pflows.cli import main\n"
        "try: main(['--help'])\n"
        f"except SystemExit: print('heavy:', *sorted(set('{HEAVY}'.split()) & set(sys.modules)))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "heavy:"


def test_a_bug_is_one_line_and_not_a_traceback(daemon: ScriptedDaemon) -> None:
    """An unexpected exception is reported as a bug, with how to get the traceback."""
    daemon.script["inbox"] = {"nonsense": 1}
    ended = run(daemon.home, "inbox")
    assert ended.code == 1
    assert ended.err.startswith("Error [bug]: Unexpected KeyError: 'prompts'. This is a bug in p2pflows.")
    assert "P2PFLOWS_DEBUG=1" in ended.err
    assert "Traceback" not in ended.err
    assert "Traceback" in run(daemon.home, "inbox", P2PFLOWS_DEBUG="1").err


def test_ctrl_c_while_waiting_says_how_to_continue(daemon: ScriptedDaemon) -> None:
    """An interrupted call continues; the hint has its id, and the exit code is 130."""
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
        "Error [interrupted]: You stopped waiting; the message continues.\n"
        "Wait for it again with: p2pflows wait 0123abcd\n"
    )


def test_a_reader_that_stops_is_not_an_error(daemon: ScriptedDaemon) -> None:
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


def test_a_full_disk_is_an_error(daemon: ScriptedDaemon) -> None:
    """Output that cannot be written is an error, not silently lost."""
    daemon.script.update(submit={"id": "1"}, wait={"id": "1", "data": {}})
    arguments, environment = command(daemon.home, "call", "bob/x", "{}")
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(arguments, env=environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith("Error [error]: Cannot write the output: No space left")


def test_a_closed_stdout_is_not_an_error(tmp_path: Path) -> None:
    """With stdout closed, the command prints nothing and succeeds."""
    Contacts(tmp_path / "contacts.yaml").add("bob", "b0" * 32)
    arguments, environment = command(tmp_path, "contacts", "list")
    closed = ["sh", "-c", 'exec "$@" >&-', "sh", *arguments]
    ended = subprocess.run(closed, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert (ended.returncode, ended.stderr) == (0, "")


def test_a_terminal_is_not_read_for_data(daemon: ScriptedDaemon) -> None:
    """On a terminal, `call` does not wait for stdin, and prints the same JSON."""
    daemon.script.update(submit={"id": "1"}, wait={"id": "1", "data": {"text": "x\x9b31m"}})
    assert run_in_terminal(daemon.home, "call", "bob/x") == (0, '{"text":"x\\u009b31m"}\n')
    assert daemon.asked[0] == ("submit", {"address": "bob/x", "data": {}})


def test_colour_is_for_terminals(daemon: ScriptedDaemon) -> None:
    """A terminal gets colour, and a pipe does not, unless a variable says otherwise; NO_COLOR always holds."""
    daemon.script["ls"] = errors.NotAllowed("No.")
    plain = [{"NO_COLOR": "1"}, {"CLICOLOR": "0"}, {"TERM": "dumb"}, {"NO_COLOR": "1", "CLICOLOR_FORCE": "1"}]
    assert "\x1b[" in run_in_terminal(daemon.home, "ls", "bob", TERM="xterm")[1]
    for variables in plain:
        assert "\x1b[" not in run_in_terminal(daemon.home, "ls", "bob", **{"TERM": "xterm", **variables})[1], variables
    assert "\x1b[" not in run(daemon.home, "ls", "bob").err
    assert "\x1b[" in run(daemon.home, "ls", "bob", CLICOLOR_FORCE="1").err
    daemon.script["ls"] = {"flows": [{"endpoint": "e", "kind": "exec", "description": ""}]}
    assert "\x1b[" in run(daemon.home, "ls", "bob", CLICOLOR_FORCE="1").out
    assert "\x1b[" not in run(daemon.home, "ls", "bob").out


def test_what_takes_long_says_so_on_a_terminal(daemon: ScriptedDaemon) -> None:
    """After a second, a line says what the command waits for; it is gone at the end, and no pipe gets it."""

    def slowly(_: object) -> dict[str, list[object]]:
        time.sleep(1.3)
        return {"flows": []}

    daemon.script["ls"] = slowly
    shown = run_in_terminal(daemon.home, "ls", "bob", COLUMNS="40")[1]
    assert "\rAsking bob … 1s\x1b[K\r\x1b[Kbob serves nothing to you." in shown
    assert run(daemon.home, "ls", "bob").err == "bob serves nothing to you.\n"


def test_output_is_utf_8_in_every_locale(daemon: ScriptedDaemon) -> None:
    """JSON is UTF-8 in every locale, and no text breaks a table."""
    daemon.script.update(submit={"id": "1"}, wait={"id": "1", "data": {"text": "你好"}})
    daemon.script["ls"] = {"flows": [{"endpoint": "e", "kind": "exec", "description": "你好"}]}
    for encoding in ("ascii", "latin-1"):
        assert run(daemon.home, "call", "bob/x", "{}", PYTHONIOENCODING=encoding).document == {"text": "你好"}
        assert run(daemon.home, "ls", "bob", PYTHONIOENCODING=encoding).code == 0


def test_inbox_watches(daemon: ScriptedDaemon) -> None:
    """`--watch` shows each question when it arrives and changes; with --json, one object per line."""
    text = "Are you there?\n\x1b]0;owned\x07"

    async def watch(_: dict[str, Any]) -> dict[str, Any]:
        daemon.tell("prompt", prompt(ID, text, status="answered"))
        return {"prompts": [prompt(ID, text)]}

    daemon.script["watch"] = watch
    for words, expected in ((["--json"], 2), ([], 4)):
        arguments, environment = command(daemon.home, "inbox", "--watch", *words)
        with subprocess.Popen(arguments, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
            assert running.stdout is not None
            shown = [running.stdout.readline().decode() for _ in range(expected)]
            running.send_signal(2)
            assert running.wait(60) == 130
        if words:
            assert {json.loads(line)["status"] for line in shown} == {"open", "answered"}
        else:
            assert "4f1c22d9  bob to User, 1h left\n" in shown
            assert "4f1c22d9  bob to User: answered\n" in shown


def _executed(home: Path, *words: str, stdin: str = "", **more: str) -> Any:
    """Run a command that becomes another program, and return what that program would get."""
    code = (
        "import json, os, sys\n"
        "def execv(program, words):\n"
        "    got = {'words': words[1:], 'stdin': os.read(0, 4096).decode()}\n"
        "    got['environment'] = dict(os.environ)\n"
        "    print(json.dumps(got))\n"
        "    sys.stdout.flush(); os._exit(0)\n"
        "os.execv = execv\n"
        "from p2pflows.cli import main; main()\n"
    )
    _, environment = command(home, **more)
    ended = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment,
        input=stdin,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return json.loads(ended.stdout)


def test_up_becomes_the_daemon(tmp_path: Path) -> None:
    """`up` makes an identity on first use, checks the broker, and becomes the daemon."""
    got = _executed(tmp_path, "up", "--broker", "mqtt://broker.example.org")
    assert got["words"] == ["-P", "-m", "p2pflowsd"]
    assert got["environment"]["P2PFLOWS_BROKER"] == "mqtt://broker.example.org"
    key = (tmp_path / "identity.key").read_text()
    _executed(tmp_path, "up")
    assert (tmp_path / "identity.key").read_text() == key
    assert run_here(tmp_path, "up", "--broker", "http://x").code == 2
    (tmp_path / "identity.key").chmod(0o644)
    assert "chmod 600" in run_here(tmp_path, "up").err


def test_a_worker_gets_its_token_through_a_pipe(daemon: ScriptedDaemon) -> None:
    """The token, from the daemon, an option, a variable or stdin, reaches the worker only through a pipe."""
    token = Enrolment("mqtt://127.0.0.1:1", BOB, "gpu", b"k" * 32).token()
    daemon.script["worker_token"] = {"token": token}
    assert run_here(daemon.home, "worker-token", "gpu").out == f"{token}\n"
    words = ["-P", "-m", "p2pflows.worker", "--no-parent", "--keys-on-stdin", "--concurrency"]
    got = _executed(daemon.home, "worker", "--dispatch-point", "gpu", "--concurrency", "7")
    assert (got["words"], got["stdin"]) == (
        [*words, "7", "--max-waiting", "256", "--socket", str(daemon.home / "worker.sock")],
        f"{token}\n{{}}\n",
    )
    for given in (
        _executed(daemon.home, "worker", P2PFLOWS_WORKER_TOKEN=token),
        _executed(daemon.home, "worker", "--token", "-", stdin=token),
        _executed(daemon.home, "worker", "--token", token),
    ):
        assert (given["words"], given["stdin"]) == ([*words, "4", "--max-waiting", "256"], f"{token}\n{{}}\n")
        assert token not in given["environment"].values()
    assert daemon.asked == [
        ("worker_token", {"dispatch_point": "gpu"}),
        ("worker_token", {"dispatch_point": "gpu", "local": True}),
    ]
    assert run_here(daemon.home, "worker", "--token", "nonsense").code == 2
    ended = run_here(daemon.home, "worker", "--token", token, "--dispatch-point", "cpu")
    assert ended.code == 2
    assert "for the dispatch point 'gpu', not 'cpu'" in ended.err
