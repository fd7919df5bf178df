"""What others want is sent in turn, and waits in bounded numbers."""

from __future__ import annotations

from pathlib import Path

from p2pflows.protocol.file_frames import MAX_PIECE_BYTES, Want
from p2pflowsd.transfers.uploads import MAX_USERS, MAX_WAITING_BYTES, MAX_WAITING_PARTS, Uploads

PATH = Path("/x")
SIZE = 1_000_000_000


def want(start: int, end: int, n: int = 1) -> Want:
    """Ask for a part of a file."""
    return Want(file="0" * 32, start=start, end=end, n=n)


def waiting(uploads: Uploads) -> int:
    """Take everything; return how many bytes that were."""
    total = 0
    while uploads:
        total += sum(part.end - part.start for part in uploads.take(10**9))
    return total


def test_a_part_is_sent_in_pieces() -> None:
    """None is larger than a piece may be, and together they are what was wanted, in order."""
    uploads = Uploads()
    assert uploads.add("ann", want(10, 300_000, 7), PATH, SIZE)
    parts = uploads.take(10**9)
    assert [(part.start, part.end) for part in parts] == [(10, 131_082), (131_082, 262_154), (262_154, 300_000)]
    assert {part.n for part in parts} == {7}
    assert not uploads


def test_users_take_turns() -> None:
    """Who asked for much waits for the next one after each go."""
    uploads = Uploads()
    uploads.add("ann", want(0, 1_000_000), PATH, SIZE)
    uploads.add("bob", want(0, 1_000), PATH, SIZE)
    assert [uploads.take(MAX_PIECE_BYTES)[0].peer for _ in range(3)] == ["ann", "bob", "ann"]


def test_a_flood_of_wants_is_bounded() -> None:
    """Of one user, of small parts, and of many users: the rest is dropped, and they ask again."""
    uploads = Uploads()
    for number in range(1_000):
        assert uploads.add("ann", want(number * 10**6, (number + 1) * 10**6), PATH, SIZE)
    assert waiting(uploads) == MAX_WAITING_BYTES
    for number in range(1_000):
        assert uploads.add("ann", want(number, number + 1), PATH, SIZE)
    assert waiting(uploads) == MAX_WAITING_PARTS
    for number in range(1_000):
        assert uploads.add(f"user {number}", want(0, 1), PATH, SIZE)
    assert waiting(uploads) == MAX_USERS
    assert uploads.add("ann", want(0, 10**15), PATH, SIZE)
    assert waiting(uploads) == MAX_WAITING_BYTES


def test_what_there_is_not_is_no_part() -> None:
    """Beyond the end of the file, or nothing at all; its sender is charged for it."""
    uploads = Uploads()
    assert not uploads.add("ann", want(100, 200), PATH, 100)
    assert not uploads.add("ann", want(50, 50), PATH, 100)
    assert not uploads.add("ann", want(60, 50), PATH, 100)
    assert not uploads
    assert uploads.add("ann", want(50, 200), PATH, 100)
    assert waiting(uploads) == 50
