"""The environment of the processes that run beside the daemon, and of what they start: no password and no key."""

from __future__ import annotations

import os
from collections.abc import Collection

SECRET = frozenset({"P2PFLOWS_BROKER", "P2PFLOWS_WORKER_TOKEN"})
"""Environment variables that may hold a password or token, which none of them needs."""


def without_secrets(hidden: Collection[str]) -> dict[str, str]:
    """Return the daemon's own environment without passwords.

    Args:
        hidden: further variables that are left out: those that hold keys of workers.
    """
    return {name: value for name, value in os.environ.items() if name not in SECRET and name not in hidden}
