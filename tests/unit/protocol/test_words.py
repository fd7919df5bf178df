"""The words of two users."""

from __future__ import annotations

from hashlib import sha256
from importlib.resources import files

import pytest
from nacl.exceptions import CryptoError
from nacl.pwhash import argon2id

from p2pflows.errors import P2pflowsError
from p2pflows.protocol import words

ALICE, BOB, EVE = "a1" * 32, "b2" * 32, "e5" * 32
_PUBLISHED = "addd35536511597a02fa0a9ff1e5284677b8883b83e986e43f15a3db996b903e"


def test_both_users_see_the_same_words_and_a_swapped_key_others() -> None:
    """The order of the users does not matter; any other key gives other words."""
    found = words.words_of(ALICE, BOB)
    assert found == words.words_of(BOB, ALICE)
    assert len(found.split(" ")) == words.COUNT
    assert set(found.split(" ")) <= set(words.word_list())
    assert words.words_of(ALICE, EVE) != found


def test_the_list_is_the_one_that_the_eff_published() -> None:
    """No word is missing or repeated, and the file is unchanged, beside its licence."""
    folder = files("p2pflows.protocol")
    assert sha256(folder.joinpath("eff_large_wordlist.txt").read_bytes()).hexdigest() == _PUBLISHED
    assert len(set(words.word_list())) == len(words.word_list()) == 6**5
    assert "CC BY 3.0 US" in folder.joinpath("eff_large_wordlist.LICENSE.txt").read_text(encoding="ascii")


def test_too_little_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small machine gets an error that says what to do instead."""

    def fail(*_: object) -> bytes:
        raise CryptoError

    monkeypatch.setattr(argon2id, "kdf", fail)
    with pytest.raises(P2pflowsError, match="256 MB"):
        words.words_of(ALICE, BOB)
