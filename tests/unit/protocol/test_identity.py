"""The key file: created private, never replaced, and refused when another user may have changed it."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from p2pflows.errors import UsageError
from p2pflows.protocol import identity
from p2pflows.protocol.identity import Identity

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
not_as_root = pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Return the path of the key file in a new home."""
    return tmp_path / "home" / "identity.key"


@pytest.fixture
def open_umask() -> Iterator[None]:
    """Set a umask that allows every mode."""
    before = os.umask(0)
    yield
    os.umask(before)


def test_a_key_that_was_made_is_found_again(key: Path) -> None:
    """The loaded key has the user id of the created one."""
    assert identity.create(key).user_id == identity.load(key).user_id


def test_two_keys_are_two_users(tmp_path: Path) -> None:
    """Every created key is a new one."""
    assert identity.create(tmp_path / "a").user_id != identity.create(tmp_path / "b").user_id


@pytest.mark.usefixtures("open_umask")
def test_the_key_file_is_private_whatever_the_umask(key: Path) -> None:
    """The file has mode 0600, and its new folder 0700, even if the umask would allow more."""
    identity.create(key)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(key.parent.stat().st_mode) == 0o700


@pytest.mark.usefixtures("open_umask")
def test_the_key_is_never_readable_by_others_on_the_way(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every file that ever holds the seed is opened with mode 0600."""
    modes: list[int] = []
    plain_open = os.open

    def watched(path: str | os.PathLike[str], flags: int, mode: int = 0o777) -> int:
        handle = plain_open(path, flags, mode)
        modes.append(stat.S_IMODE(os.fstat(handle).st_mode))
        return handle

    def refuse(*_: object) -> None:
        raise AssertionError("a mode is mended afterwards")

    monkeypatch.setattr(os, "open", watched)
    monkeypatch.setattr(os, "chmod", refuse)
    monkeypatch.setattr(os, "fchmod", refuse)
    identity.create(key)
    assert modes == [0o600, 0o700]  # the file, then its folder, to make the name last


def test_making_a_key_leaves_nothing_else_behind(key: Path) -> None:
    """The temporary file that the key was written to is gone."""
    identity.create(key)
    assert [path.name for path in key.parent.iterdir()] == ["identity.key"]


def test_a_key_is_never_replaced(key: Path) -> None:
    """Creating a key where one exists fails, and leaves it unchanged."""
    identity.create(key)
    before = key.read_bytes()
    with pytest.raises(FileExistsError):
        identity.create(key)
    assert key.read_bytes() == before
    assert [path.name for path in key.parent.iterdir()] == ["identity.key"]


def test_of_many_who_make_a_key_at_once_one_wins(key: Path) -> None:
    """However many threads create a key at once, there is one key, and it is complete."""
    made: list[str] = []

    def make() -> None:
        try:
            made.append(identity.create(key).user_id)
        except FileExistsError:
            made.append("")

    threads = [threading.Thread(target=make) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [user for user in made if user] == [identity.load(key).user_id]


def test_a_dangling_link_is_not_followed_to_make_a_key(tmp_path: Path) -> None:
    """A link does not decide where the key is written."""
    (tmp_path / "identity.key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(FileExistsError):
        identity.create(tmp_path / "identity.key")
    assert not (tmp_path / "elsewhere").exists()


def test_a_missing_key_says_how_to_make_one(key: Path) -> None:
    """The error of a missing file names it, and the command that creates it."""
    with pytest.raises(UsageError, match="There is no identity") as error:
        identity.load(key)
    assert error.value.hint == "Make one with: p2pflows init"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe\x00",
        b"hello",
        b"p2pflows-ed25519-seed-1",
        b"p2pflows-ed25519-seed-1 zz",
        b"p2pflows-ed25519-seed-1 " + b"ab" * 31,
        b"p2pflows-ed25519-seed-1 " + b"ab" * 33,
        b"p2pflows-ed25519-seed-2 " + b"ab" * 32,
        b"p2pflows-ed25519-seed-1 " + b"ab" * 32 + b" more",
    ],
)
def test_a_damaged_key_is_refused_and_kept(key: Path, content: bytes) -> None:
    """A file that is not a complete key is a UsageError, and stays unchanged."""
    identity.create(key)
    key.write_bytes(content)
    with pytest.raises(UsageError, match="damaged, or is not a p2pflows key"):
        identity.load(key)
    assert key.read_bytes() == content


@pytest.mark.parametrize("mode", [0o604, 0o640, 0o620, 0o602, 0o644, 0o666, 0o777])
def test_a_key_that_others_can_read_or_write_is_refused(key: Path, mode: int) -> None:
    """A key file with any right for the group or for others is refused."""
    identity.create(key)
    key.chmod(mode)
    with pytest.raises(UsageError, match="can be read by other users") as error:
        identity.load(key)
    assert error.value.hint == f"Make it private: chmod 600 {key}"


@needs_root
def test_a_key_of_another_user_is_refused(key: Path) -> None:
    """A file that another user owns is refused, whatever its mode."""
    identity.create(key)
    os.chown(key, 12345, -1)
    with pytest.raises(UsageError, match="belongs to another user"):
        identity.load(key)


@not_as_root
def test_a_key_that_cannot_be_read_is_refused(key: Path) -> None:
    """A file without the right to read it is a UsageError."""
    identity.create(key)
    key.chmod(0)
    with pytest.raises(UsageError, match="cannot be read"):
        identity.load(key)


def test_a_link_in_place_of_the_key_is_refused(key: Path, tmp_path: Path) -> None:
    """A link is refused, even one to a good key."""
    identity.create(tmp_path / "other")
    key.parent.mkdir()
    key.symlink_to(tmp_path / "other")
    with pytest.raises(UsageError, match="not a regular file"):
        identity.load(key)


def test_a_folder_in_place_of_the_key_is_refused(key: Path) -> None:
    """A folder is a UsageError."""
    key.mkdir(parents=True)
    with pytest.raises(UsageError, match="cannot be read"):
        identity.load(key)


def test_the_seed_is_not_shown() -> None:
    """Printing an identity shows the user id and no secret."""
    me = Identity(bytes(range(32)))
    assert me.user_id in repr(me)
    assert bytes(range(32)).hex() not in repr(me)


def test_a_signature_holds_for_its_key_and_message_alone() -> None:
    """Another key, another message or a changed signature does not verify."""
    me, other = Identity(b"a" * 32), Identity(b"b" * 32)
    signature = me.sign(b"message")
    assert identity.verify(me.public, signature, b"message")
    assert not identity.verify(other.public, signature, b"message")
    assert not identity.verify(me.public, signature, b"massage")
    assert not identity.verify(me.public, bytes(64), b"message")
    assert not identity.verify(me.public, signature[:-1], b"message")
    assert not identity.verify(b"short", signature, b"message")


def test_derived_secrets_differ_by_purpose_and_user() -> None:
    """A secret depends on the purpose and the user, and is the same each time."""
    me, other = Identity(b"a" * 32), Identity(b"b" * 32)
    secrets = {me.derive("one"), me.derive("two"), other.derive("one")}
    assert len(secrets) == 3
    assert {len(secret) for secret in secrets} == {32}
    assert me.derive("one") in secrets
