"""Another user of the machine can neither change what the daemon obeys nor keep it from starting."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from p2pflows import files, strict_modes
from p2pflows.contacts import Contacts
from p2pflows.errors import UsageError
from p2pflows.home import Home
from p2pflowsd import __main__ as daemon


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """A private home with all its files."""
    home = Home(tmp_path / "home")
    home.path.mkdir(mode=0o700)
    for path in (home.key, home.contacts, home.config, home.journal, home.lock):
        path.write_text("", encoding="utf-8")
        path.chmod(0o600)
    return home


def test_a_private_home_is_used(home: Home) -> None:
    """Files that others can only read are fine, but for the key, which has a check of its own."""
    strict_modes.check_home(home)
    home.contacts.chmod(0o644)
    home.path.chmod(0o755)
    strict_modes.check_home(home)
    strict_modes.check_home(Home(home.path / "missing"))


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702, 0o1777])
def test_a_home_that_others_can_write_is_refused(home: Home, mode: int) -> None:
    """The error names the path, the mode and the command to run."""
    home.path.chmod(mode)
    with pytest.raises(UsageError) as refused:
        strict_modes.check_home(home)
    assert refused.value.message == f"{home.path} can be changed by other users (mode {mode:04o})."
    assert refused.value.hint == f"Run: chmod go-w {home.path}"


def test_hooks_that_others_can_write_are_refused(home: Home) -> None:
    """They are commands, which would run with all rights of the owner."""
    path = home.path / "hooks.yaml"
    path.write_text("hooks: []\n")
    path.chmod(0o666)
    with pytest.raises(UsageError, match="0666"):
        strict_modes.check_home(home)


@pytest.mark.parametrize("name", ["key", "contacts", "config", "journal", "lock"])
def test_a_file_that_others_can_write_is_refused(home: Home, name: str) -> None:
    """The key, the contacts, the settings, the journal and the lock alike."""
    path = getattr(home, name)
    path.chmod(0o620)
    with pytest.raises(UsageError, match="0620"):
        strict_modes.check_home(home)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_refused(home: Home) -> None:
    """Its owner could change it at any time, whatever its mode is."""
    os.chown(home.contacts, 65_534, -1)
    with pytest.raises(UsageError, match="another user"):
        strict_modes.check_home(home)


def test_contacts_that_others_can_write_are_not_obeyed_by_a_running_daemon(home: Home) -> None:
    """The last good content stays, and the problem is said."""
    contacts = Contacts(home.contacts)
    contacts.add("bob", "b2" * 32)
    contacts.reload_if_changed()
    home.contacts.write_text(f"contacts: {{mallory: {'e5' * 32}}}\n", encoding="utf-8")
    home.contacts.chmod(0o666)
    contacts.reload_if_changed()
    assert contacts.known.by_name == {"bob": "b2" * 32}
    assert contacts.problem is not None
    assert "0666" in contacts.problem.message


def test_the_daemon_refuses_such_a_home_before_it_obeys_it(home: Home) -> None:
    """`up` ends with the error, and makes nothing in the home."""
    home.path.chmod(0o777)
    home.key.unlink()
    ended = subprocess.run(
        [sys.executable, "-m", "p2pflowsd"], env={**os.environ, "P2PFLOWS_HOME": str(home.path)},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ended.returncode == 2
    assert f"chmod go-w {home.path}" in ended.stderr
    assert not home.key.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_cannot_hold_a_lock_file(home: Home) -> None:
    """Both lock files are private from their first byte, even if an older release has left a readable one."""
    home.path.chmod(0o755)
    home.path.parent.chmod(0o755)
    home.lock.chmod(0o644)
    with daemon._lock(home):
        assert home.lock.stat().st_mode & 0o777 == 0o600
    other = home.path / "contacts.lock"
    with files.exclusive_lock(other):
        assert other.stat().st_mode & 0o777 == 0o600
    home.lock.unlink()
    home.lock.symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic"), daemon._lock(home):
        pass
