"""Network namespaces cut programs off; only root can make them."""

from __future__ import annotations

from pathlib import Path

import pytest
from soak.partitions import Namespace, NamespaceFailed


def link_of(namespace: Namespace) -> Path:
    """Where Linux shows its link."""
    return Path("/sys/class/net", namespace.link)


async def test_a_partition() -> None:
    """A program in the namespace reaches this machine, no longer after the cut, and nothing is left at the end."""
    try:
        namespace = Namespace(249)
    except NamespaceFailed as error:
        pytest.skip(str(error))
    try:
        assert await namespace.is_connected()
        namespace.cut()
        assert not await namespace.is_connected()
    finally:
        namespace.close()
    assert not link_of(namespace).exists()
