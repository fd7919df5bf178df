"""How the memory of a process that handles large messages is managed."""

from __future__ import annotations

import contextlib
import ctypes

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
"""Names of settings (`M_TRIM_THRESHOLD` and `M_MMAP_THRESHOLD` in glibc's malloc.h)."""
_LARGEST_KEPT_BYTES = 4 * 2**20
_KEPT_BYTES = 16 * 2**20


def keep_large_buffers() -> None:
    """Let this process keep a few megabytes that it has freed, where the C library is glibc.

    By default glibc gives each buffer of some 100 KB back to the system when it is freed, and the system clears every
    page of the next one. To seal a body of 256 KB, which takes a handful of buffers, takes half the time without that.
    """
    with contextlib.suppress(OSError, AttributeError):
        set_option = ctypes.CDLL(None).mallopt
        set_option(_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        set_option(_TRIM_THRESHOLD, _KEPT_BYTES)
