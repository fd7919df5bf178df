"""The gate: who reaches what. Whatever is not allowed by name is denied."""

from __future__ import annotations

import pytest

from p2pflows.contacts import Book
from p2pflows.errors import UnknownUser, UsageError
from p2pflows.protocol import topics
from p2pflowsd.receiving.gate import Verdict, decide, may_call
from p2pflowsd.running.catalog import Served, check_allow

ME, BOB, CAROL, STRANGER, BLOCKED = ("a1" * 32, "b2" * 32, "c3" * 32, "d4" * 32, "e5" * 32)
BOOK = Book({"bob": BOB, "carol": CAROL}, frozenset({BLOCKED}))
EVERYBODY = {"me": ME, "bob": BOB, "carol": CAROL, "stranger": STRANGER, "blocked": BLOCKED}


def _served(allow: str) -> Served:
    return Served(endpoint="translate", kind="exec", target="cat", allow=allow)


def _decide(sender: str, allow: str | None, endpoint: str = "translate") -> Verdict:
    served = None if allow is None else _served(allow)
    return decide(sender, endpoint, me=ME, book=BOOK, served=served)


@pytest.mark.parametrize(
    ("allow", "who"),
    [
        ("me", {"me"}),
        ("contacts", {"me", "bob", "carol"}),
        ("anyone", {"me", "bob", "carol", "stranger"}),
        ("bob", {"me", "bob"}),
        ("bob,carol", {"me", "bob", "carol"}),
        (STRANGER, {"me", "stranger"}),
    ],
)
def test_a_rule_lets_in_whom_it_names_and_nobody_else(allow: str, who: set[str]) -> None:
    """Each allow rule covers exactly the users that it says, and its owner always."""
    assert {name for name, user in EVERYBODY.items() if may_call(user, _served(allow), me=ME, book=BOOK)} == who


@pytest.mark.parametrize("allow", ["me", "contacts", "anyone", "bob", BLOCKED])
def test_who_is_blocked_gets_nowhere(allow: str) -> None:
    """No rule, not even one that names them, lets in who is blocked."""
    assert _decide(BLOCKED, allow) is Verdict.NOT_ALLOWED


@pytest.mark.parametrize("allow", [None, "me", "contacts", "bob"])
def test_a_stranger_waits_and_learns_nothing(allow: str | None) -> None:
    """Whether an endpoint is served or not, an unknown sender's request is held just the same."""
    assert _decide(STRANGER, allow) is Verdict.HOLD


def test_a_stranger_reaches_what_is_open_to_anyone() -> None:
    """What its owner opened to anyone needs no introduction."""
    assert _decide(STRANGER, "anyone") is Verdict.PASS


def test_a_contact_is_told_why_not() -> None:
    """A contact hears whether an endpoint is not served, or not for them."""
    assert _decide(BOB, None) is Verdict.NOT_SERVED
    assert _decide(CAROL, "bob") is Verdict.NOT_ALLOWED
    assert _decide(BOB, "me") is Verdict.NOT_ALLOWED
    assert _decide(BOB, "contacts") is Verdict.PASS


def test_i_may_call_all_that_i_serve_and_hear_what_i_do_not() -> None:
    """Nobody is kept from their own flows."""
    assert _decide(ME, "me") is Verdict.PASS
    assert _decide(ME, None) is Verdict.NOT_SERVED


@pytest.mark.parametrize("endpoint", ["_other", "_reply", "_notice"])
def test_reserved_endpoints_reach_no_flow(endpoint: str) -> None:
    """Names of daemons are served by nobody."""
    assert _decide(BOB, None, endpoint) is Verdict.NOT_SERVED
    assert _decide(STRANGER, None, endpoint) is Verdict.HOLD


def test_anybody_may_ask_what_is_served() -> None:
    """The endpoint that lists flows is open; what it lists depends on who asks."""
    assert _decide(STRANGER, None, topics.FLOWS) is Verdict.PASS


@pytest.mark.parametrize(
    ("text", "rule"),
    [("me", "me"), ("contacts", "contacts"), (" anyone ", "anyone"), ("bob, carol", "bob,carol"), (STRANGER, STRANGER)],
)
def test_an_allow_rule_has_one_form(text: str, rule: str) -> None:
    """However it was written, a rule is kept in its normal form."""
    assert check_allow(text, BOOK, ME) == rule


@pytest.mark.parametrize("text", ["", ",", "me,bob", "contacts,anyone", "anyone,bob"])
def test_an_unclear_allow_rule_is_refused(text: str) -> None:
    """A rule that mixes words with names is not guessed at."""
    with pytest.raises(UsageError, match="unclear"):
        check_allow(text, BOOK, ME)


def test_an_allow_rule_for_nobody_known_is_refused() -> None:
    """A name that stands for nobody is found when it is given, not when they call."""
    with pytest.raises(UnknownUser):
        check_allow("bob,dave", BOOK, ME)
