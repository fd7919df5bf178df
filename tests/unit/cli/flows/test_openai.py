"""`openai`: where the server listens, and where it does not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.scripted_daemon import ScriptedDaemon, run_here

from p2pflows.links.http_address import is_loopback


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[ScriptedDaemon]:
    """A daemon."""
    with ScriptedDaemon(tmp_path) as daemon:
        daemon.script["id"] = {"user_id": "b0" * 32}
        yield daemon


@pytest.mark.parametrize(
    "address", ["0.0.0.0:0", ":::0", "[::]:0", "192.168.1.7:80", "evil.example:80", "localhost.evil.example:1"]
)
def test_it_listens_on_this_machine_alone_unless_told(daemon: ScriptedDaemon, address: str) -> None:
    """The error says why, and what to do instead. No key is made."""
    ended = run_here(daemon.home, "openai", "--listen", address)
    assert ended.code == 2
    assert "does not encrypt" in ended.err
    assert "ssh -L" in ended.err
    assert "--allow-network" in ended.err
    assert not (daemon.home / "openai.key").exists()


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "::1"])
def test_loopback(host: str) -> None:
    """Addresses that only this machine reaches."""
    assert is_loopback(host)


@pytest.mark.parametrize(
    "address", ["", "x", "localhost", "localhost:", "localhost:99999", "localhost:-1", "localhost:٣"]
)
def test_what_is_no_address_is_refused(daemon: ScriptedDaemon, address: str) -> None:
    """The error shows what one looks like."""
    ended = run_here(daemon.home, "openai", "--listen", address)
    assert ended.code == 2
    assert "HOST:PORT" in ended.err


def test_an_address_that_cannot_be_used(daemon: ScriptedDaemon) -> None:
    """Such as one that others use, or that this machine does not have."""
    for address in ("203.0.113.1:80", "no-such-host.invalid:80"):
        ended = run_here(daemon.home, "openai", "--listen", address, "--allow-network")
        assert ended.code == 2
        assert "cannot be used" in ended.err
        assert "Traceback" not in ended.err


def test_no_daemon_runs(tmp_path: Path) -> None:
    """The server would be of no use."""
    ended = run_here(tmp_path, "openai")
    assert ended.code == 3
    assert "p2pflows up" in ended.err
