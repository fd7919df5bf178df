"""Five words for two users, which both compute from their user ids: who compares them finds a key that was swapped.

The words are those of the EFF large word list (eff_large_wordlist.txt, CC BY 3.0 US). They come out of Argon2id, so
that an attacker who tries keys pays for each of them (docs/decisions/0016-invitations.md).
"""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from p2pflows.errors import P2pflowsError

COUNT = 5
PASSES = 3
MEMORY_BYTES = 268_435_456
_SALT = b"p2pflows words 1"
_DIGEST_BYTES = 32


def words_of(one: str, other: str) -> str:
    """Return the words of two users, separated by spaces; the order of the users does not matter.

    It takes about half a second and 256 MB, so the daemon calls it in a thread.

    Args:
        one: a user id.
        other: a user id.

    Raises:
        P2pflowsError: there is not enough memory.
    """
    keys = b"".join(sorted(bytes.fromhex(user) for user in (one, other)))
    try:
        digest = argon2id.kdf(_DIGEST_BYTES, keys, _SALT, PASSES, MEMORY_BYTES)
    except (CryptoError, MemoryError, RuntimeError):
        raise P2pflowsError(
            "There is not enough memory for the words to compare: they take 256 MB.",
            "Free some memory, or compare the user ids in full: p2pflows id, p2pflows contacts list",
        ) from None
    number, listed = int.from_bytes(digest, "big"), word_list()
    chosen = []
    for _ in range(COUNT):
        number, place = divmod(number, len(listed))
        chosen.append(listed[place])
    return " ".join(chosen)


@cache
def word_list() -> tuple[str, ...]:
    """Return the word list, in its order."""
    text = files("p2pflows.protocol").joinpath("eff_large_wordlist.txt").read_text(encoding="ascii")
    return tuple(line.split()[1] for line in text.splitlines())
