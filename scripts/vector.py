"""Adds a case to tests/vectors/bundle.json or channel.json, for a new field of a message, notice or worker frame.

    python scripts/vector.py messages 'a call with a priority' 07 '{"id":"01a2...",...}'
    python scripts/vector.py notice 'a notice of one receipt' 08 '{"to":"8a88...","received":["01a2..."]}'
    python scripts/vector.py results 'a worker that drains' 58 '{"worker":"w-00112233aabbccdd",...}' 'BLOB'
    python scripts/vector.py dispatch 'a task is cancelled' 59 '{"worker":"w-00112233aabbccdd",...}'

A case that exists never changes.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from nacl.secret import SecretBox

from p2pflows.protocol import framing, strict_json, topics
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.envelope import HEADER_BYTES, NONCE_BYTES, BundleKind, Envelope
from p2pflows.protocol.identity import SIGNATURE_BYTES, Identity
from p2pflowsd.running.worker_tokens import point_key

VECTORS = Path(__file__).parent.parent / "tests" / "vectors"
SEED_1, SEED_2 = b"\1" * 32, b"\2" * 32
POINT, WORKER = "gpu", "w-00112233aabbccdd"


def bundle(
    name: str, kind: BundleKind, bodies: list[str], nonce: bytes, *, seeds: tuple[bytes, bytes]
) -> dict[str, Any]:
    """Return what the vectors hold about a bundle.

    Args:
        name: what the case shows.
        kind: messages or notice.
        bodies: each exactly as it is sent.
        nonce: 24 bytes that no other case uses.
        seeds: those of sender and recipient, 32 bytes each.
    """
    sender, recipient = map(Identity, seeds)
    parts = [body.encode() for body in bodies]
    sealed = Envelope(sender).seal(kind, recipient.user_id, parts, nonce)
    proof = Envelope(recipient).open(sealed).proof
    signature, hashes = proof[:SIGNATURE_BYTES], proof[SIGNATURE_BYTES:]
    return {
        "name": name,
        "sender_seed": seeds[0].hex(),
        "recipient": recipient.user_id,
        "kind": int(kind),
        "nonce": nonce.hex(),
        "bodies": bodies,
        "signed": (b"p2pflows bundle 1\0" + sealed[:HEADER_BYTES] + recipient.public + hashes).hex(),
        "signature": signature.hex(),
        "framed": framing.pack(parts).hex(),
        "bundle": sealed.hex(),
    }


def frame(
    name: str, topic: str, header: dict[str, Any], blobs: list[str], nonce: bytes, *, key: bytes
) -> dict[str, Any]:
    """Return what the vectors hold about a frame between a daemon and a worker.

    Args:
        name: what the case shows.
        topic: where it is published.
        header: its fields.
        blobs: what travels beside the header.
        nonce: 24 bytes that no other case uses.
        key: that of the dispatch point, 32 bytes.
    """
    plain = SecretBox(key).decrypt(Channel(key).seal(topic, header, [blob.encode() for blob in blobs]))
    return {
        "name": name,
        "key": key.hex(),
        "topic": topic,
        "nonce": nonce.hex(),
        "header": header,
        "blobs": blobs,
        "frame": SecretBox(key).encrypt(plain, nonce).hex(),
    }


def main() -> None:
    """Add the case that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kind", choices=["messages", "notice", "results", "dispatch"])
    parser.add_argument("name", help="what the case shows")
    parser.add_argument("nonce", help="two hex digits that no other case uses; they are repeated to a nonce")
    parser.add_argument(
        "content", nargs="+", help="bodies exactly as they are sent; or the header of a frame, and blobs"
    )
    given = parser.parse_args()
    nonce = bytes.fromhex(given.nonce) * NONCE_BYTES
    owner = Identity(SEED_1)
    match given.kind:
        case "messages":
            new = bundle(given.name, BundleKind.MESSAGES, given.content, nonce, seeds=(SEED_1, SEED_2))
        case "notice":
            new = bundle(given.name, BundleKind.NOTICE, given.content, nonce, seeds=(SEED_2, SEED_1))
        case "results":
            topic, header = topics.results(owner.user_id, POINT), strict_json.loads(given.content[0].encode())
            new = frame(given.name, topic, header, given.content[1:], nonce, key=point_key(owner, POINT))
        case _:
            topic, header = topics.dispatch(owner.user_id, POINT, WORKER), strict_json.loads(given.content[0].encode())
            new = frame(given.name, topic, header, given.content[1:], nonce, key=point_key(owner, POINT))
    path = VECTORS / ("bundle.json" if "bundle" in new else "channel.json")
    vectors = json.loads(path.read_text(encoding="utf-8"))
    if new["nonce"] in [known["nonce"] for known in vectors["cases"]]:
        parser.error(f"another case has the nonce {given.nonce}")
    vectors["cases"].append(new)
    path.write_text(json.dumps(vectors, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
