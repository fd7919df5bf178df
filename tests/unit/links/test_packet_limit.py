"""Finding out the largest packet of a broker that hangs up on larger ones."""

from __future__ import annotations

from p2pflows.links.packet_limit import LOSSES, MIN_BUNDLE_BYTES, PacketLimit

MOST = 1_048_576


def lose(limit: PacketLimit, *unacknowledged: int, times: int = 1) -> list[int | None]:
    """Lose some connections in the same way."""
    return [limit.on_lost(unacknowledged) for _ in range(times)]


def test_the_packet_that_ends_each_connection_is_the_limit() -> None:
    """After two losses packets go one at a time; the second loss with the same packet names it."""
    limit = PacketLimit(MOST)
    limit.on_taken(500)
    assert lose(limit, 300, 100_000, 2_000, times=LOSSES) == [None, None]
    assert (limit.is_careful, limit.max_bundle) == (True, 1)
    limit.on_taken(300)
    assert lose(limit, 100_000) == [None]
    assert lose(limit, 100_050) == [100_000]
    assert (limit.max_packet, limit.is_found, limit.is_careful) == (99_999, True, False)
    assert limit.max_bundle <= 50_000


def test_a_network_that_fails_shows_no_limit() -> None:
    """Losses with nothing under way, or with packets of a size that the broker takes, mean nothing."""
    limit = PacketLimit(MOST)
    limit.on_taken(150_000)
    assert lose(limit, times=5) + lose(limit, 100_000, 20, times=5) == [None] * 10
    assert (limit.is_careful, limit.max_packet) == (False, MOST)


def test_two_packets_that_were_lost_once_each_show_no_limit() -> None:
    """Only a packet of the same size, twice in a row, is at fault."""
    limit = PacketLimit(MOST)
    lose(limit, 100_000, times=LOSSES)
    assert lose(limit, 100_000) + lose(limit, 30_000) + lose(limit, 100_000) == [None] * 3
    limit.on_taken(100_000)
    assert lose(limit, 100_000, times=5) == [None] * 5
    assert limit.max_packet == MOST


def test_bundles_shrink_until_they_pass() -> None:
    """Where each message alone passes, and many in one packet do not, the packets get smaller each time."""
    limit = PacketLimit(MOST)
    sizes = []
    for _ in range(12):
        lose(limit, min(limit.max_bundle, 128_000), times=LOSSES)
        limit.on_stable()
        sizes.append(limit.max_bundle)
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] == 64_000
    assert sizes[-1] == MIN_BUNDLE_BYTES
