"""Which bundles were opened a short time ago, so that whoever repeats one costs next to nothing.

What a bundle says is in the journal, or was refused. Its sender seals it anew to send it again, so nothing is missed.
"""

from __future__ import annotations

from p2pflows.protocol.envelope import HEADER_BYTES, NONCE_BYTES

MAX_BUNDLES = 10_000
"""How many bundles are remembered; the first one is forgotten first."""


class SeenBundles:
    """The endpoints, headers and nonces of the last bundles that were opened; only their senders can seal others so."""

    def __init__(self) -> None:
        self._seen: dict[bytes, None] = {}

    def has(self, endpoint: str, bundle: bytes) -> bool:
        """Return whether a bundle, or another one of the same sender and nonce, was opened at an endpoint before."""
        return _key(endpoint, bundle) in self._seen

    def add(self, endpoint: str, bundle: bytes) -> None:
        """Remember a bundle that was opened at an endpoint."""
        self._seen[_key(endpoint, bundle)] = None
        if len(self._seen) > MAX_BUNDLES:
            del self._seen[next(iter(self._seen))]


def _key(endpoint: str, bundle: bytes) -> bytes:
    return bundle[: HEADER_BYTES + NONCE_BYTES] + endpoint.encode()
