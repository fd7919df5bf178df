"""A user's keys: created once, kept in one private file; and the verification of other users' signatures.

A user id is an Ed25519 public key (RFC 8032) in lower-case hex. The key file holds the 32-byte seed in hex.
Sealing uses the X25519 form of the same keys (RFC 7748, the birational map of its section 4.1).
"""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from nacl.bindings import crypto_sign_ed25519_pk_to_curve25519, crypto_sign_ed25519_sk_to_curve25519
from nacl.encoding import RawEncoder
from nacl.exceptions import CryptoError
from nacl.hash import blake2b
from nacl.public import Box, PrivateKey, PublicKey
from nacl.signing import SigningKey, VerifyKey

from p2pflows import files
from p2pflows.errors import UsageError

SEED_BYTES = 32
SIGNATURE_BYTES = 64
_HEADER = "p2pflows-ed25519-seed-1"


class Identity:
    """A user's secret keys; `repr` shows only the user id."""

    def __init__(self, seed: bytes) -> None:
        self._key = SigningKey(seed)
        self._box_key = PrivateKey(crypto_sign_ed25519_sk_to_curve25519(seed + bytes(self._key.verify_key)))
        self._seed = seed
        self.public = bytes(self._key.verify_key)
        self.user_id = self.public.hex()

    def __repr__(self) -> str:
        return f"Identity({self.user_id})"

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte Ed25519 signature of a message."""
        return self._key.sign(message).signature

    def box_with(self, peer: bytes) -> Box:
        """Return the NaCl box shared with a peer. Keep it: making one takes 55 µs.

        Args:
            peer: the peer's Ed25519 public key, 32 bytes.

        Raises:
            ValueError: the bytes are not a usable public key.
        """
        try:
            return Box(self._box_key, PublicKey(crypto_sign_ed25519_pk_to_curve25519(peer)))
        except (CryptoError, RuntimeError) as error:
            raise ValueError("not a usable Ed25519 public key") from error

    def derive(self, purpose: str) -> bytes:
        """Return a 32-byte secret for one purpose (keyed BLAKE2b); it does not reveal the seed."""
        return blake2b(purpose.encode(), key=self._seed, person=b"p2pflows derive", encoder=RawEncoder)


def verify(public: bytes, signature: bytes, message: bytes) -> bool:
    """Return whether the holder of an Ed25519 public key signed the message."""
    try:
        VerifyKey(public).verify(message, signature)
    except (CryptoError, ValueError):
        return False
    return True


def check_user_id(user: str) -> str:
    """Return a user id if it is a public key, as about half of all texts of its form are not.

    Raises:
        UsageError: it is not; nobody can have it.
    """
    try:
        crypto_sign_ed25519_pk_to_curve25519(bytes.fromhex(user))
    except (CryptoError, RuntimeError, ValueError):
        raise UsageError(
            f"Nobody can have the user id {user}: it is not a public key.",
            "A digit may be wrong. Copy it again; its owner can print it with: p2pflows id",
        ) from None
    return user


def create(path: Path) -> Identity:
    """Create a key file with mode 0600; an existing file is never replaced.

    Raises:
        FileExistsError: the file exists already.
        OSError: the folder cannot be written.
    """
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    seed = secrets.token_bytes(SEED_BYTES)
    files.create(path, f"{_HEADER} {seed.hex()}\n")
    return Identity(seed)


def load(path: Path) -> Identity:
    """Read the key file.

    Raises:
        UsageError: the file is missing, readable by others, owned by another user, or not a p2pflows key.
    """
    try:
        info = path.lstat()
        content = path.read_text(encoding="ascii").split()
    except FileNotFoundError:
        raise UsageError(f"There is no identity at {path}.", "Make one with: p2pflows init") from None
    except UnicodeDecodeError:
        content = []
    except OSError as error:
        raise UsageError(f"The key file cannot be read: {error}.", f"Check who owns {path}.") from error
    if not stat.S_ISREG(info.st_mode):
        raise UsageError(
            f"The key file {path} is not a regular file.", "Put the key file itself there, with mode 0600."
        )
    if info.st_uid != os.geteuid():
        raise UsageError(
            f"The key file {path} belongs to another user.", f"Take ownership of it: chown {os.geteuid()} {path}"
        )
    if info.st_mode & 0o077:
        raise UsageError(f"The key file {path} can be read by other users.", f"Make it private: chmod 600 {path}")
    try:
        header, text = content
        seed = bytes.fromhex(text)
    except ValueError:
        header, seed = "", b""
    if header != _HEADER or len(seed) != SEED_BYTES:
        raise UsageError(
            f"The key file {path} is damaged, or is not a p2pflows key.",
            "Restore your backup. Without one, move the file away and run: p2pflows init (you get a new user id)",
        )
    return Identity(seed)
