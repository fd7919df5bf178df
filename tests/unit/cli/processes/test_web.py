"""`web`: where the page listens, and what it prints; nothing here starts a server for long."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest
from support.scripted_daemon import command, run_here

from p2pflows.home import Home
from p2pflows.web.logins import Logins


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a user."""
    folder = tmp_path / "home"
    folder.mkdir(mode=0o700)
    return folder


@pytest.mark.parametrize("address", ["0.0.0.0:0", "[::]:0", "192.168.1.7:80", "localhost.evil.example:1"])
def test_other_machines_reach_it_only_with_tls(home: Path, address: str) -> None:
    """The error says how to get a certificate, or do without."""
    ended = run_here(home, "web", "--listen", address)
    assert ended.code == 2
    assert "--cert" in ended.err
    assert "ssh -L" in ended.err


def test_a_link_needs_a_page_that_runs(home: Path) -> None:
    """What logs in goes to stdout, so that a script can pass it on."""
    ended = run_here(home, "web", "--link")
    assert (ended.code, ended.out) == (2, "")
    assert "p2pflows web" in ended.err
    Logins(Home(home)).note_server("https://pi.lan:8643")
    ended = run_here(home, "web", "--link").ok()
    assert ended.out.startswith("https://pi.lan:8643/#login=")
    assert Logins(Home(home)).log_in(ended.out.strip().partition("#login=")[2])


def test_all_browsers_are_logged_out(home: Path) -> None:
    """The command says how many there were."""
    logins = Logins(Home(home))
    session = logins.log_in(logins.new_link())
    assert "1 browser logged out" in run_here(home, "web", "--log-out").ok().err
    assert not logins.is_logged_in(session.cookie, session.key)


def test_without_a_home_there_is_no_page(tmp_path: Path) -> None:
    """The first start of the daemon makes the home."""
    ended = run_here(tmp_path / "none", "web")
    assert ended.code == 2
    assert "p2pflows up" in ended.err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("web: {listen: nowhere}", "no address to listen at"),
        ("web: {port: 1}", "Known ones: listen, cert, key, hosts, address"),
        ("web: {address: pi.lan}", "give an address such as https://"),
    ],
)
def test_settings_of_a_wrong_form_are_named(home: Path, settings: str, words: str) -> None:
    """Before anything listens."""
    (home / "config.yaml").write_text(settings)
    ended = run_here(home, "web")
    assert ended.code == 2
    assert words in ended.err
    assert [path.name for path in home.iterdir()] == ["config.yaml"]


def test_beside_a_daemon_it_ends_with_stdin_or_by_a_signal(home: Path) -> None:
    """And if it cannot listen it says why, in one sentence."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        (home / "config.yaml").write_text(f"web: {{listen: '127.0.0.1:{taken.getsockname()[1]}'}}")
        ended = _beside_a_daemon(home)
        _, err = ended.communicate(timeout=20)
        assert ended.returncode == 2
        assert len(err.splitlines()) == 2, err
        assert "Error [usage]" in err
    for by_signal in (False, True):
        running = _beside_a_daemon(home)
        assert running.stderr is not None
        assert running.stdin is not None
        assert "Log in with" in running.stderr.readline()
        running.terminate() if by_signal else running.stdin.close()
        assert running.wait(10) == 0
        assert running.stderr.read() == ""
        running.stderr.close()
        running.stdin.close()


def _beside_a_daemon(home: Path) -> subprocess.Popen[str]:
    arguments, environment = command(home)
    module = [arguments[0], "-m", "p2pflows.web"]
    return subprocess.Popen(module, env=environment, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
