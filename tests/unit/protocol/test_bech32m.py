"""Bech32m, with the test vectors of BIP-350."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.protocol import bech32m

ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_LONG = "an84characterslonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11d6pts4"


@pytest.mark.parametrize(
    "text",
    [
        "A1LQFN3A",
        "a1lqfn3a",
        "an83characterlonghumanreadablepartthatcontainsthetheexcludedcharactersbioandnumber11sg7hg6",
        "abcdef1l7aum6echk45nj3s0wdvt2fg8x9yrzpqzd3ryx",
        "1" + "1" + "l" * 82 + "ludsr8",
        "split1checkupstagehandshakeupstreamerranterredcaperredlc445v",
        "?1v759aa",
    ],
)
def test_the_valid_texts_of_bip_350_are_taken(text: str) -> None:
    """Each has the right checksum, in capitals or in small letters."""
    prefix, _ = bech32m.split(text)
    assert text.lower().startswith(f"{prefix}1")


@pytest.mark.parametrize(
    "text",
    [
        "\x201xj0phk", "\x7f1g6xzxy", "\x801vctc34", "qyrz8wqd2c9m", "1qyrz8wqd2c9m", "y1b0jsk6g", "lt1igcx5c0",
        "in1muywd", "mm1crxm3i", "au1s5cgom", "M1VUXWEZ", "16plkw9", "1p2gdwpf",
        "A12UEL5L",  # the checksum of Bech32, its predecessor
        "a1lqfN3a",
        "",
    ],
)  # fmt: skip
def test_the_invalid_texts_of_bip_350_are_refused(text: str) -> None:
    """Each has a mistake of another kind."""
    with pytest.raises(ValueError):  # noqa: PT011 - the reason differs
        bech32m.split(text)


def test_a_text_may_be_longer_than_an_address() -> None:
    """The only invalid text of BIP-350 that is taken is the one that is too long for an address."""
    assert bech32m.split(_LONG)[0] == _LONG.rpartition("1")[0]
    with pytest.raises(ValueError, match="too long"):
        bech32m.encode("p2pf", bytes(700))


@given(st.binary(max_size=400))
def test_bytes_survive(data: bytes) -> None:
    """What was encoded is decoded."""
    text = bech32m.encode("p2pf", data)
    assert bech32m.decode(text) == bech32m.decode(text.upper()) == ("p2pf", data)


@given(st.binary(min_size=1, max_size=400), st.data())
def test_up_to_three_changed_characters_are_always_found(data: bytes, draw: st.DataObject) -> None:
    """No text is one, two or three characters away from another."""
    text = bech32m.encode("p2pf", data)
    places = draw.draw(st.lists(st.integers(5, len(text) - 1), min_size=1, max_size=3, unique=True))
    changed = list(text)
    for place in places:
        changed[place] = draw.draw(st.sampled_from([other for other in ALPHABET if other != text[place]]))
    with pytest.raises(ValueError, match="checksum"):
        bech32m.decode("".join(changed))


def test_padding_that_says_something_is_refused() -> None:
    """There is one text for each bytes: the bits that fill up the last character are zero."""
    for values in ([0, 1], [0, 0, 0]):
        text = "p2pf1" + "".join(ALPHABET[value] for value in [*values, *bech32m._checksum("p2pf", values)])
        assert bech32m.split(text) == ("p2pf", values)
        with pytest.raises(ValueError, match="last character"):
            bech32m.decode(text)
