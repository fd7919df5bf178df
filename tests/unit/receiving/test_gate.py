"""The gate: which sender may reach which endpoint. Whatever no rule allows is denied."""

from __future__ import annotations

import pytest

from p2pflows.contact_names import Names
from p2pflows.contacts import Book
from p2pflows.errors import UnknownUser, UsageError
from p2pflows.protocol import topics
from p2pflowsd.receiving.gate import Verdict, decide, may_call
from p2pflowsd.running.catalog import Served, check_allow, strangers_in

ME, BOB, CAROL, STRANGER, BLOCKED = ("a1" * 32, "b2" * 32, "c3" * 32, "d4" * 32, "e5" * 32)
BOOK = Book(Names.of({"bob": BOB, "carol": CAROL}), frozenset({BLOCKED}))
EVERYBODY = {"me": ME, "bob": BOB, "carol": CAROL, "stranger": STRANGER, "blocked": BLOCKED}


def _served(allow: str) -> Served:
    rule = check_allow(allow, BOOK, ME)
    return Served(endpoint="translate", kind="exec", target="cat", allow=rule, strangers=strangers_in(rule, BOOK))


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
def test_a_rule_covers_exactly_the_users_that_it_names(allow: str, who: set[str]) -> None:
    """Each allow rule covers the users that it names, the owner, and nobody else."""
    assert {name for name, user in EVERYBODY.items() if may_call(user, _served(allow), me=ME, book=BOOK)} == who


def test_a_rule_of_an_older_release_covers_only_contacts() -> None:
    """Whom a rule named as strangers is not known of flows that were served long ago; it covers none then."""
    served = Served(endpoint="x", kind="exec", target="cat", allow=f"{BOB},{STRANGER}", strangers=None)
    assert may_call(BOB, served, me=ME, book=BOOK)
    assert not may_call(STRANGER, served, me=ME, book=BOOK)


@pytest.mark.parametrize("allow", ["me", "contacts", "anyone", "bob", BLOCKED])
def test_no_rule_covers_a_blocked_user(allow: str) -> None:
    """A blocked user is not allowed, even by a rule that names them."""
    assert _decide(BLOCKED, allow) is Verdict.NOT_ALLOWED


@pytest.mark.parametrize("allow", [None, "me", "contacts", "bob"])
def test_a_request_of_a_stranger_is_held(allow: str | None) -> None:
    """An unknown sender cannot find out whether an endpoint is served: the request is held in both cases."""
    assert _decide(STRANGER, allow) is Verdict.HOLD


def test_a_stranger_reaches_what_is_open_to_anyone() -> None:
    """An unknown sender may call an endpoint that is open to anyone."""
    assert _decide(STRANGER, "anyone") is Verdict.PASS


def test_a_contact_learns_why_a_request_is_refused() -> None:
    """The verdict for a contact tells an endpoint that is not served from one that is not for them."""
    assert _decide(BOB, None) is Verdict.NOT_SERVED
    assert _decide(CAROL, "bob") is Verdict.NOT_ALLOWED
    assert _decide(BOB, "me") is Verdict.NOT_ALLOWED
    assert _decide(BOB, "contacts") is Verdict.PASS


def test_the_owner_may_call_everything_that_is_served() -> None:
    """No allow rule excludes the owner."""
    assert _decide(ME, "me") is Verdict.PASS
    assert _decide(ME, None) is Verdict.NOT_SERVED


@pytest.mark.parametrize("endpoint", ["_other", "_reply", "_notice"])
def test_reserved_endpoints_reach_no_flow(endpoint: str) -> None:
    """No flow is served under an endpoint that is reserved for daemons."""
    assert _decide(BOB, None, endpoint) is Verdict.NOT_SERVED
    assert _decide(STRANGER, None, endpoint) is Verdict.HOLD


def test_anybody_may_list_flows() -> None:
    """The endpoint that lists flows is open to everybody but blocked users; the list depends on the sender."""
    assert _decide(STRANGER, None, topics.FLOWS) is Verdict.PASS
    assert _decide(BLOCKED, None, topics.FLOWS) is Verdict.NOT_ALLOWED


def test_a_rule_that_names_a_contact_ends_with_the_contact() -> None:
    """A contact whom a rule names is a stranger after their removal; a stranger whom it names by id stays allowed."""
    rule = check_allow(f"bob,{STRANGER}", BOOK, ME)
    served = Served(endpoint="x", kind="exec", target="cat", allow=rule, strangers=strangers_in(rule, BOOK))
    later = Book(Names.of({"bob": CAROL}))
    assert [may_call(user, served, me=ME, book=later) for user in (BOB, CAROL, STRANGER)] == [False, False, True]


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("me", "me"),
        ("contacts", "contacts"),
        (" anyone ", "anyone"),
        ("bob, carol", f"{BOB},{CAROL}"),
        (STRANGER.upper(), STRANGER),
        (f"bob,{BOB}", BOB),
    ],
)
def test_an_allow_rule_has_one_form(text: str, rule: str) -> None:
    """A rule is stored with user ids, however it was written: a petname may stand for another user one day."""
    assert check_allow(text, BOOK, ME) == rule


@pytest.mark.parametrize("text", ["", ",", "me,bob", "contacts,anyone", "anyone,bob"])
def test_an_unclear_allow_rule_is_refused(text: str) -> None:
    """A rule that mixes the reserved words with names is refused."""
    with pytest.raises(UsageError, match="unclear"):
        check_allow(text, BOOK, ME)


def test_an_allow_rule_for_an_unknown_name_is_refused() -> None:
    """An unknown name in a rule is an error when the rule is set, not when somebody calls."""
    with pytest.raises(UnknownUser):
        check_allow("bob,dave", BOOK, ME)
