"""The key that clients of the server need."""

from __future__ import annotations

import os
import secrets
import stat
from pathlib import Path

from p2pflows import files
from p2pflows.errors import UsageError

_PREFIX = "sk-p2pflows-"
_KEY_BYTES = 24
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


def load_or_create(path: Path) -> tuple[str, bool]:
    """Return the key in a file, and whether it was made just now.

    Raises:
        UsageError: the file holds no key, others can read it, or it cannot be read or written.
    """
    again = f"To get a new key, remove the file {path}."
    try:
        info = path.stat()
        key = path.read_text(encoding="ascii").strip()
    except FileNotFoundError:
        return _create(path), True
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"The key of the OpenAI server cannot be read: {error}.", again) from error
    if info.st_uid != os.geteuid() or info.st_mode & _OTHERS:
        raise UsageError(f"Other users of this machine can read the key in {path}.", again)
    if not key.startswith(_PREFIX) or len(key) < len(_PREFIX) + _KEY_BYTES:
        raise UsageError(f"There is no key of the OpenAI server in {path}.", again)
    return key, False


def _create(path: Path) -> str:
    key = _PREFIX + secrets.token_hex(_KEY_BYTES)
    try:
        files.create(path, f"{key}\n")
    except OSError as error:
        raise UsageError(f"The key of the OpenAI server cannot be kept: {error}.", f"Check {path.parent}.") from error
    return key
