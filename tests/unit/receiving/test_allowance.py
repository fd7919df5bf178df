"""How much work senders may cause: each for itself, and strangers all together."""

from __future__ import annotations

import pytest
from simulation.timeline import Timeline, TimelineClock

from p2pflows.protocol.envelope import Refused
from p2pflowsd.receiving import allowance
from p2pflowsd.receiving.allowance import StrangersAllowance, TokenBucket, UselessAllowance

ANN = "a" * 64


@pytest.fixture
def timeline() -> Timeline:
    """The time."""
    return Timeline()


def test_a_bucket_holds_no_more_than_its_burst(timeline: Timeline) -> None:
    """Whoever was silent for a day may not send for a day at once."""
    bucket = TokenBucket(TimelineClock(timeline), rate=10, burst_s=2)
    assert (bucket.has(20), bucket.has(21)) == (True, False)
    bucket.take(20)
    assert (bucket.has(1), bucket.seconds_until(5)) == (False, 0.5)
    timeline.sleep(100)
    assert (bucket.has(20), bucket.has(21), bucket.seconds_until(5)) == (True, False, 0.0)


def test_strangers_share_what_all_may(timeline: Timeline) -> None:
    """Each has a share, and ever new keys bring no more than what is for all."""
    strangers = StrangersAllowance(TimelineClock(timeline))
    read = [sum(strangers.may_read(f"{sender:064x}") for _ in range(80)) for sender in range(4)]
    assert read == [50, 50, 0, 0]
    opened = sum(strangers.may_open(f"{sender:064x}", 0) for sender in range(2_000))
    assert opened == allowance.PACKET_RATE * allowance.PACKET_BURST_S


def test_ever_new_senders_fill_no_memory(timeline: Timeline, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those who sent nothing for longest are forgotten."""
    monkeypatch.setattr(allowance, "MAX_SENDERS", 3)
    strangers, useless = StrangersAllowance(TimelineClock(timeline)), UselessAllowance(TimelineClock(timeline))
    for sender in range(9):
        strangers.may_read(f"{sender:064x}")
        useless.charge(f"{sender:064x}", 1)
    assert len(strangers._messages._of_one) <= 3
    assert len(useless._buckets) <= 3


def test_who_sends_much_that_has_no_effect_is_not_read_for_a_while(timeline: Timeline) -> None:
    """Who sends what has an effect is not even remembered."""
    useless = UselessAllowance(TimelineClock(timeline))
    useless.charge(ANN, 0)
    assert useless._buckets == {}
    useless.charge(ANN, int(allowance.USELESS_RATE * allowance.USELESS_BURST_S))
    useless.check(ANN)
    useless.charge(ANN, 1)
    with pytest.raises(Refused, match="rate_limited"):
        useless.check(ANN)
    useless.check("b" * 64)
    timeline.sleep(1)
    useless.check(ANN)
