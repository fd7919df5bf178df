"""Limits of calls: what is over one is refused with when to come again, the others of an endpoint notice nothing."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.lone_daemon import LoneDaemon, Peer

from p2pflows.errors import UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.envelope import Envelope
from p2pflows.protocol.message import Type
from p2pflows.protocol.spent import Spent, add_up, read_all
from p2pflows.settings.call_limits import CallLimits
from p2pflows.settings.prices import Price
from p2pflowsd.lifecycle import IncomingState
from p2pflowsd.receiving import limiter
from p2pflowsd.running import spending
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.spending import Spending, Total

EPOCH = 5
MODEL = "tiny"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[LoneDaemon]:
    """A daemon of an owner with two contacts."""
    daemon = LoneDaemon(tmp_path)
    yield daemon
    daemon.journal.close()


class Caller(Peer):
    """A contact who calls again and again."""

    seq = 0

    def call(self) -> dict[str, Any] | None:
        """Call, and return the error that comes back; None if the call waits."""
        call = f"{self.seq:02x}{self.user[:30]}"
        body = self.message("Assistant", type=Type.CALL, epoch=EPOCH, seq=self.seq, data={"query": "hi"}, id=call)
        self.seq += 1
        self.send(body, endpoint="Assistant")
        replies = [each["data"] for each in self.received(topics.REPLY) if each["cause"] == call]
        return replies[0] if replies else None


def serve(daemon: LoneDaemon, **fields: Any) -> None:
    """Serve a function of which no worker is there, so that calls stay open."""
    limits = {name: CallLimits.read(value) for name, value in fields.items()}
    flow = Served(endpoint="Assistant", kind="python", target="f.py:f", dispatch_point="default").model_copy(
        update=limits
    )
    daemon.do(lambda: daemon.node.catalog.put(flow))


def open_rows(daemon: LoneDaemon) -> list[int]:
    """The calls that wait."""
    return [row.row_id for row in daemon.journal.incoming.in_state(IncomingState.READY)]


def end_one(daemon: LoneDaemon) -> None:
    """Let the oldest open call end."""
    daemon.do(lambda: daemon.node._leases.drop(open_rows(daemon)[0]))
    daemon.do(lambda: daemon.journal.incoming.move(open_rows(daemon)[0], IncomingState.DONE))


def test_a_caller_over_the_rate_hears_when_to_come_again(daemon: LoneDaemon) -> None:
    """The other caller is not concerned, and after that time there is room again."""
    bob, carol = Caller(daemon, 1, "bob"), Caller(daemon, 2, "carol")
    serve(daemon, limits_per_caller={"rate": "3/min"})
    assert [bob.call() for _ in range(3)] == [None] * 3
    error = bob.call()
    assert error is not None
    assert (error["kind"], error["retry_after_s"]) == ("busy", 20)
    assert (error["message"], error["hint"]) == (
        "'Assistant' allows each caller 3 calls per min, and that is reached.", "Come again in 20 s.",
    )  # fmt: skip
    assert carol.call() is None
    daemon.sleep(20)
    assert bob.call() is None
    assert bob.call() is not None


def test_open_calls_are_counted_until_they_end_also_over_a_restart(daemon: LoneDaemon) -> None:
    """A caller with a full queue is refused, and has room again when one of the calls has ended."""
    bob, carol = Caller(daemon, 1, "bob"), Caller(daemon, 2, "carol")
    serve(daemon, limits_per_caller={"open": 2}, limits={"open": 3})
    assert [bob.call() for _ in range(2)] == [None] * 2
    error = bob.call()
    assert error is not None
    assert error["kind"] == "busy"
    assert error["hint"] == "Come again when one of them has ended."
    assert carol.call() is None
    over = carol.call()
    assert over is not None
    assert "all callers together 3 open calls" in over["message"]
    daemon.restart()
    assert bob.call() is not None
    end_one(daemon)
    assert bob.call() is not None, "who is over the limit does not let the daemon count all calls again and again"
    daemon.sleep(limiter.LOOK_AGAIN_S)
    assert bob.call() is None
    assert bob.call() is not None


def test_what_is_no_open_call_of_what_is_served_is_not_counted(daemon: LoneDaemon) -> None:
    """A restart leaves out answers that wait for their run, and calls to what is there no more."""
    bob = Caller(daemon, 1, "bob")
    serve(daemon, limits_per_caller={"open": 1})
    with daemon.journal.transaction():
        daemon.journal.incoming.add_answer(
            "9" * 32, peer=bob.user, kind=Type.REPLY, endpoint="Assistant", conversation="9" * 32, body=b"{}",
            now=daemon.clock.now(), expires=daemon.clock.now() + 10**6, instance="i", root_request=None,
        )  # fmt: skip
    daemon.restart()
    assert bob.call() is None
    daemon.sleep(0.1)
    with daemon.journal.transaction():
        daemon.journal._db.execute("UPDATE incoming SET endpoint = 'gone' WHERE type = 'call'")
    daemon.restart()
    assert bob.call() is None


def test_a_call_that_the_journal_has_forgotten_is_not_open(daemon: LoneDaemon) -> None:
    """It makes room like one that has ended."""
    bob = Caller(daemon, 1, "bob")
    serve(daemon, limits_per_caller={"open": 1})
    assert bob.call() is None
    with daemon.journal.transaction():
        daemon.journal._db.execute("UPDATE incoming SET n = n + 100")
    assert bob.call() is None


def test_the_owner_has_no_limit_per_caller(daemon: LoneDaemon) -> None:
    """Only what holds for all callers together holds for the owner."""
    me = Caller(daemon, 1)
    me.identity, me.user, me._envelope = daemon.identity, daemon.user, Envelope(daemon.identity)
    serve(daemon, limits_per_caller={"open": 1}, limits={"open": 2})
    assert [me.call() is None for _ in range(3)] == [True, True, False]


def test_another_rate_holds_at_once(daemon: LoneDaemon) -> None:
    """A caller who has used up the old one has the new one; the wait for it is in the unit that fits."""
    bob = Caller(daemon, 1, "bob")
    for rate, hint in (("1/h", "Come again in 60 min."), ("4/day", "Come again in 6 h."), ("2/min", "in 30 s.")):
        serve(daemon, limits_per_caller={"rate": rate})
        over = None
        while over is None:
            over = bob.call()
        assert over["hint"].endswith(hint)
    assert not daemon.node.admission._limiter._open, "without such a limit, no open calls are remembered"


def test_a_refused_call_counts_for_no_limit(daemon: LoneDaemon) -> None:
    """Whoever is over the limit of open calls does not lose from their rate by trying."""
    bob = Caller(daemon, 1, "bob")
    serve(daemon, limits_per_caller={"open": 1, "rate": "5/h"})
    assert bob.call() is None
    assert all(bob.call() is not None for _ in range(10))
    end_one(daemon)
    daemon.sleep(limiter.LOOK_AGAIN_S)
    assert bob.call() is None


def test_callers_beyond_count_are_forgotten_oldest_first(daemon: LoneDaemon, monkeypatch: pytest.MonkeyPatch) -> None:
    """Strangers may be any number, so only so many are known."""
    monkeypatch.setattr(limiter, "MAX_CALLERS", 2)
    serve(daemon, limits_per_caller={"open": 5, "rate": "9/h"})
    for seed in range(1, 6):
        assert Caller(daemon, seed, f"user{seed}").call() is None
    admission = daemon.node.admission._limiter
    assert (len(admission._open), len(admission._rates)) == (2, 2)


def spend(daemon: LoneDaemon, tokens: int, model: str = MODEL) -> None:
    """Let the run of the oldest open call spend tokens."""
    row = daemon.journal.incoming.get(open_rows(daemon)[0])
    assert row is not None
    daemon.do(lambda: daemon.node.spending.add(row, [Spent(model, tokens, 0)]))


def test_a_caller_without_tokens_left_waits_for_midnight(daemon: LoneDaemon) -> None:
    """What was spent outlives a restart, is nobody else's, and is forgiven the next day."""
    bob, carol = Caller(daemon, 1, "bob"), Caller(daemon, 2, "carol")
    serve(daemon, limits_per_caller={"tokens_per_day": 1_000}, limits={"tokens_per_day": 1_500})
    assert bob.call() is None
    spend(daemon, 999)
    assert bob.call() is None
    spend(daemon, 1)
    error = bob.call()
    assert error is not None
    left_s = (spending.DAY_MS - daemon.clock.now() % spending.DAY_MS) / 1000
    assert 0 <= error["retry_after_s"] - left_s <= 1
    daemon.restart()
    assert bob.call() is not None
    assert carol.call() is None
    spend(daemon, 600)
    assert carol.call() is not None, "all together have spent what all together may"
    daemon.sleep(left_s + 1)
    assert (bob.call(), carol.call()) == (None, None)


def test_cost_follows_the_prices(daemon: LoneDaemon) -> None:
    """A million tokens that cost 2 and 8; those that the server had at hand cost less."""
    bob = Caller(daemon, 1, "bob")
    serve(daemon, limits_per_caller={"cost_per_day": 0.5})
    assert bob.call() is None
    row = daemon.journal.incoming.get(open_rows(daemon)[0])
    assert row is not None
    node = daemon.node
    priced = Spending(
        user=daemon.user, journal=daemon.journal, clock=daemon.clock,
        prices={MODEL: Price(tokens_in=2, tokens_out=8, cached=0.5)},
    )  # fmt: skip
    daemon.do(lambda: priced.add(row, [Spent(MODEL, 100_000, 50_000, 40_000), Spent("unknown", 9_999, 0)]))
    assert priced.today("Assistant", bob.user) == Total(159_999, 0.54)
    node.admission._limiter._spending = priced
    error = bob.call()
    assert error is not None
    assert "a cost of 0.5 a day" in error["message"]


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("at_once=2", {"at_once": 2}),
        (" open = 20 , rate=30/min ", {"open": 20, "rate": "30/min"}),
        ("tokens_per_day=100k,cost_per_day=0.5", {"tokens_per_day": 100_000, "cost_per_day": 0.5}),
        ("tokens_per_day=1.5M", {"tokens_per_day": 1_500_000}),
    ],
)
def test_limits_as_they_are_typed(text: str, limits: dict[str, Any]) -> None:
    """Names and numbers, with commas."""
    assert CallLimits.parse(text) == limits


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "No limit"),
        ("at_once", "'at_once' is no limit"),
        ("at_once=", "is no limit"),
        ("at_once=0", "from 1"),
        ("at_once=1.5", "whole number"),
        ("open=5000", "1,000"),
        ("rate=30", "30/min"),
        ("rate=30/week", "30/min"),
        ("rate=0/s", "30/min"),
        ("tokens_per_day=lots", "whole number"),
        ("cost_per_day=0", "over 0"),
        ("cost_per_day=nan", "over 0"),
        ("speed=2", "There is no limit 'speed'"),
    ],
)
def test_limits_that_are_none_are_refused(text: str, said: str) -> None:
    """The error says which one, and what it must be."""
    with pytest.raises(UsageError) as caught:
        CallLimits.parse(text)
    assert said in caught.value.message
    assert "at_once=2" in caught.value.hint


def test_what_was_spent_travels_in_few_entries() -> None:
    """A worker adds up by model; a daemon takes no other form, and no negative number that would give tokens back."""
    many = [Spent(f"m{n}", 1, 2, 1) for n in range(150)]
    sums = add_up([*many, Spent("m0", 5, 5)])
    assert len(sums) == 100
    assert sums[0] == Spent("m0", 6, 7, 1)
    assert sum(each.tokens_in for each in sums) == 155
    assert read_all([list(each) for each in sums]) == sums
    for entry in (
        ["m", -1, 0, 0],
        ["m", 1.0, 0, 0],
        ["m", True, 0, 0],
        ["m", 1, 0],
        [1, 1, 1, 1],
        "m",
        None,
        ["m", 10**13, 0, 0],
    ):
        with pytest.raises(ValueError, match=r"spent|counts"):
            read_all([entry])
    with pytest.raises(ValueError, match="list"):
        read_all([["m", 1, 1, 1]] * 101)
