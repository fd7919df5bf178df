"""Adds a case to tests/vectors/bundle.json: bodies that one of two fixed users sealed for the other.

    python scripts/vector.py 'a notice of one receipt' notice 07 '{"to":"8a88...","received":["01a2..."]}'

A new field of a message or notice needs a new case. A case that exists never changes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from p2pflows.protocol import framing
from p2pflows.protocol.envelope import HEADER_BYTES, NONCE_BYTES, BundleKind, Envelope
from p2pflows.protocol.identity import SIGNATURE_BYTES, Identity

BUNDLES = Path(__file__).parent.parent / "tests" / "vectors" / "bundle.json"
SEED_1, SEED_2 = b"\1" * 32, b"\2" * 32


def case(name: str, kind: BundleKind, bodies: list[str], nonce: bytes, *, seeds: tuple[bytes, bytes]) -> dict[str, Any]:
    """Return what the vectors hold about one bundle.

    Args:
        name: what the case shows.
        kind: messages or notice.
        bodies: each exactly as it is sent.
        nonce: 24 bytes that no other case uses.
        seeds: those of sender and recipient, 32 bytes each.
    """
    sender, recipient = map(Identity, seeds)
    parts = [body.encode() for body in bodies]
    bundle = Envelope(sender).seal(kind, recipient.user_id, parts, nonce)
    proof = Envelope(recipient).open(bundle).proof
    signature, hashes = proof[:SIGNATURE_BYTES], proof[SIGNATURE_BYTES:]
    return {
        "name": name,
        "sender_seed": seeds[0].hex(),
        "recipient": recipient.user_id,
        "kind": int(kind),
        "nonce": nonce.hex(),
        "bodies": bodies,
        "signed": (b"p2pflows bundle 1\0" + bundle[:HEADER_BYTES] + recipient.public + hashes).hex(),
        "signature": signature.hex(),
        "framed": framing.pack(parts).hex(),
        "bundle": bundle.hex(),
    }


def main() -> None:
    """Add the case that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="what the case shows")
    parser.add_argument("kind", choices=[kind.name.lower() for kind in BundleKind])
    parser.add_argument("nonce", help="two hex digits that no other case uses; they are repeated to a nonce")
    parser.add_argument("body", nargs="+", help="a body, exactly as it is sent")
    given = parser.parse_args()
    kind, nonce = BundleKind[given.kind.upper()], bytes.fromhex(given.nonce) * NONCE_BYTES
    vectors = json.loads(BUNDLES.read_text(encoding="utf-8"))
    if nonce.hex() in [known["nonce"] for known in vectors["cases"]]:
        parser.error(f"another case has the nonce {given.nonce}")
    seeds = (SEED_2, SEED_1) if kind is BundleKind.NOTICE else (SEED_1, SEED_2)
    vectors["cases"].append(case(given.name, kind, given.body, nonce, seeds=seeds))
    BUNDLES.write_text(json.dumps(vectors, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
