"""The line of an invitation: what survives a mail, and what is refused."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from p2pflows.errors import UsageError
from p2pflows.protocol import bech32m, invitation
from p2pflows.protocol.invitation import PREFIX, Invitation, parse, proof, proves

ALICE, BOB, EVE = "a1" * 32, "b2" * 32, "e5" * 32
INVITATION = Invitation(ALICE, bytes(range(16)), 1_800_000_000, "mqtts://broker.example.org", "alice")
LINE = INVITATION.to_text()


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=16, max_size=16),
    st.integers(0, 2**32 - 1),
    st.text(st.characters(codec="utf-8"), max_size=60),
    st.text(st.characters(codec="utf-8"), max_size=60),
)
def test_a_line_says_what_it_was_made_of(user: bytes, secret: bytes, expires: int, broker: str, name: str) -> None:
    """Every field survives."""
    invitation = Invitation(user.hex(), secret, expires, broker, name)
    assert parse(invitation.to_text()) == invitation


@given(st.integers(0, len(LINE) - 1), st.characters(codec="utf-8"))
def test_a_line_that_was_changed_by_one_character_is_refused(place: int, character: str) -> None:
    """Whatever the character and wherever it stands; only capitals do not matter."""
    changed = LINE[:place] + character + LINE[place + 1 :]
    if changed.lower() == LINE:
        assert parse(changed) == INVITATION
        return
    with pytest.raises(UsageError):
        parse(changed)


@given(st.integers(1, len(LINE) - 1))
def test_a_line_that_lost_or_repeats_a_character_is_refused(place: int) -> None:
    """A slip of the pen, too."""
    for changed in (LINE[:place] + LINE[place + 1 :], LINE[:place] + LINE[place] + LINE[place:]):
        if changed != LINE:
            with pytest.raises(UsageError):
                parse(changed)


@given(
    st.lists(st.integers(1, len(LINE) - 1), max_size=6),
    st.sampled_from([" ", "\n", "\r\n> ", "=\n", "\u200b", "\u00ad"]),
)
def test_a_line_survives_a_mail(places: list[int], gap: str) -> None:
    """Line breaks, quote marks, hidden characters, capitals, a greeting before and a name below do not matter."""
    text = LINE
    for place in sorted(set(places), reverse=True):
        text = text[:place] + gap + text[place:]
    assert parse(text) == parse(text.upper()) == INVITATION
    assert parse(f"Hi Bob!\n\n> p2pflows accept '{text}'\n\n-- \nCheers, Alice 2026") == INVITATION


def test_the_whole_command_is_short_enough_for_a_chat() -> None:
    """It stays below 200 characters with a broker and a name of usual length."""
    assert len(f"p2pflows accept {LINE}") < 180


@pytest.mark.parametrize("text", ["", "hello", "p2pf", ALICE, "bc1qw508d6qejxtdg4y5r3zarvary0c5xw7kv8f3t4"])
def test_another_text_is_no_invitation(text: str) -> None:
    """The error says how an invitation begins."""
    with pytest.raises(UsageError, match="no invitation") as error:
        parse(text)
    assert "p2pf1" in error.value.hint


@pytest.mark.parametrize(
    "data",
    [b"", b"\x01", b"\x01" + bytes(52), *(b"\x01" + bytes(52) + cut for cut in (b"\5abc", b"\3abc\5de")), bytes(60)],
)
def test_bytes_that_are_no_invitation_are_refused(data: bytes) -> None:
    """A right checksum is not enough."""
    with pytest.raises(UsageError):
        parse(bech32m.encode(PREFIX, data))


def test_what_a_later_release_adds_is_ignored() -> None:
    """Fields may be added at the end; another version is refused, and the error says whose release is old."""
    _, data = bech32m.decode(LINE)
    assert parse(bech32m.encode(PREFIX, data + b"more")) == INVITATION
    with pytest.raises(UsageError, match="newer release"):
        parse(bech32m.encode(PREFIX, b"\x02" + data[1:]))


def test_a_text_of_any_size_takes_no_long_search() -> None:
    """Neither a long text nor one that begins an invitation again and again."""
    with pytest.raises(UsageError, match="too long"):
        parse(LINE + "x" * 20_000)
    begun = time.perf_counter()
    with pytest.raises(UsageError, match="changed on its way"):
        parse("p2pf1 " + "q " * 9_990)
    with pytest.raises(UsageError, match="changed on its way"):
        parse("p2pf1 " * 3_300)
    assert time.perf_counter() - begun < 10


def test_only_the_first_beginnings_of_an_invitation_are_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever pastes a text with thousands of them does not wait for thousands of checks of each."""
    tried: list[str] = []

    def decode(text: str) -> tuple[str, bytes]:
        tried.append(text)
        raise ValueError(text)

    monkeypatch.setattr(bech32m, "decode", decode)
    with pytest.raises(UsageError, match="changed on its way"):
        parse("p2pf1 " * 3_300)
    assert 0 < len(tried) <= invitation._MAX_STARTS * bech32m.MAX_CHARS


def test_a_proof_is_bound_to_both_users_and_the_line() -> None:
    """A proof is of no use to another user, for another user, or for another line; no part of the secret is in it."""
    right = INVITATION.proof(BOB)
    other_line = Invitation(ALICE, bytes(16), INVITATION.expires, INVITATION.broker)
    others = {
        INVITATION.proof(EVE),
        proof(INVITATION.secret, EVE, BOB, INVITATION.id),
        other_line.proof(BOB),
        proof(INVITATION.secret, ALICE, BOB, other_line.id),
        INVITATION.id,
    }
    assert right not in others
    assert len(others) == 5
    assert proves(right, INVITATION.proof(BOB))
    assert not any(proves(other, right) for other in others)
    assert INVITATION.secret.hex() not in repr(INVITATION) + INVITATION.id + right


@pytest.mark.parametrize(("broker", "name"), [("mqtt://host", "x" * 256), ("mqtt://" + "x" * 249, "alice")])
def test_a_name_or_an_address_that_is_too_long_is_refused(broker: str, name: str) -> None:
    """A line stays a line."""
    with pytest.raises(UsageError, match="too long"):
        Invitation(ALICE, bytes(16), 1, broker, name).to_text()
