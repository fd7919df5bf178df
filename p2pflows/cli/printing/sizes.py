"""Numbers of bytes, as people read them."""

from __future__ import annotations


def as_size(count: int) -> str:
    """Return a number of bytes in words: 300 MB."""
    for unit, name in ((1_000_000_000, "GB"), (1_000_000, "MB"), (1_000, "kB")):
        if count >= unit:
            return f"{count / unit:.3g} {name}" if count < 1_000 * unit else f"{count // unit:,} {name}"
    return f"{count} B"
