"""Files between a daemon and peers that need not be honest."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support.file_desk import FileDesk, reference_to, seal, whole
from support.lone_daemon import Peer

from p2pflows.errors import FileLost, OverQuota, TooLarge
from p2pflows.protocol.envelope import BundleKind
from p2pflows.protocol.file_frames import MAX_FRAME_BYTES, Fetched, NoRoom, NotHere, Piece, Want
from p2pflows.protocol.message import Message
from p2pflows.settings.file_limits import FileLimits
from p2pflowsd.sending import files
from p2pflowsd.transfers import download, transfers
from p2pflowsd.transfers.store import Partial

SECRET = b"secret" * 1000


def run(test: Coroutine[Any, Any, None]) -> None:
    """Run a test on an event loop, for a limited time."""
    asyncio.run(asyncio.wait_for(test, 30))


async def until(condition: Any, seconds: float = 10.0) -> None:
    """Wait until a condition holds."""
    for _ in range(int(seconds / 0.005)):
        if condition():
            return
        await asyncio.sleep(0.005)
    raise AssertionError("it never came")


def post(ann: Peer, *references: Any, **fields: Any) -> bytes:
    """Return a sealed note of a peer with files."""
    data = {"api_output": "Look", "files": [reference.as_data() for reference in references]}
    return ann.bundle(ann.message(data=data, **fields))


def test_who_was_sent_a_file_may_fetch_it_and_nobody_else(tmp_path: Path) -> None:
    """A contact asks for a file that was sent to another one, and for one that is not there: the answer is the same."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann, carol = Peer(desk, 1, "ann"), Peer(desk, 2, "carol")
        file = await desk.put(SECRET)
        desk.send(ann, file)
        await desk.hears(ann, whole(file))
        [(frame, content)] = desk.said_to(ann)
        assert frame == Piece(file=file.id, start=0, n=1)
        assert content == SECRET
        await desk.hears(carol, whole(file))
        await desk.hears(carol, Want(file="0" * 32, start=0, end=1))
        assert desk.said_to(carol) == [(NotHere(file=file.id), b""), (NotHere(file="0" * 32), b"")]
        await desk.transfers.close()

    run(story())


def test_a_stranger_learns_nothing(tmp_path: Path) -> None:
    """Whatever a stranger asks for, nothing is opened and nothing said."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        mallory = Peer(desk, 3)
        file = await desk.put(SECRET)
        await desk.hears(mallory, whole(file))
        assert desk.said_to(mallory) == []
        assert desk.refused("unrelated") == 1
        await desk.transfers.close()

    run(story())


def test_a_right_ends_with_its_time(tmp_path: Path) -> None:
    """After the time for which files are kept, a recipient is told that there is no such file, though it is here.

    It stays as long as it is of use to somebody else.
    """

    async def story() -> None:
        desk = FileDesk(tmp_path, FileLimits(keep=7_200))
        ann, carol = Peer(desk, 1, "ann"), Peer(desk, 2, "carol")
        file = await desk.put(SECRET)
        desk.send(ann, file)
        desk.sleep(4_000)
        desk.send(carol, file)
        desk.sleep(3_300)
        await desk.hears(ann, whole(file))
        await desk.hears(carol, whole(file))
        assert desk.said_to(ann) == [(NotHere(file=file.id), b"")]
        assert [content for _, content in desk.said_to(carol)] == [SECRET]
        desk.sleep(7_200)
        await until(lambda: not (tmp_path / "files" / "kept" / file.sha256).exists())
        assert desk.states() == {}
        await desk.transfers.close()

    run(story())


def test_who_sends_nonsense_about_files_is_stopped(tmp_path: Path) -> None:
    """What is sealed well and says nothing is counted, and its sender is not read any more after a while."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann = Peer(desk, 1, "ann")
        for number in range(1_500):
            desk.transfers.receive(_delivery(desk, ann.bundle(b"%d" % number, kind=BundleKind.FILE)))
            if number % 100 == 0:
                await desk.settle()
        assert desk.refused("malformed") > 100
        assert desk.refused("rate_limited") > 0
        await desk.transfers.close()

    run(story())


def test_who_knows_a_hash_does_not_get_the_file_by_sending_it(tmp_path: Path) -> None:
    """A message that names the hash of a file of bob's does not make it its sender's: bob fetches it from them."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        desk.serve_human()
        mallory = Peer(desk, 1, "mallory")
        await desk.put(SECRET, "mine")
        stolen = reference_to(SECRET, "theirs")
        desk.receive("User", post(mallory, stolen))
        assert desk.states() == {"mine": "here", "theirs": "wanted"}
        assert isinstance(desk.send(mallory, stolen), FileLost)
        await desk.hears(mallory, whole(stolen))
        assert NotHere(file=stolen.id) in [frame for frame, _ in desk.said_to(mallory)]
        await desk.transfers.close()

    run(story())


async def _offered(desk: FileDesk, ann: Peer, content: bytes, **fields: Any) -> Any:
    """Let ann send a file to bob's human; return its reference once it was asked for."""
    desk.serve_human()
    file = reference_to(content, **fields)
    desk.receive("User", post(ann, file))
    await until(lambda: any(file.id in row.id for row in desk.journal.files.all()))
    return file


async def _asked(desk: FileDesk, ann: Peer) -> list[Want]:
    """Wait until bob asks ann for something; return what."""
    found: list[Want] = []

    def has_asked() -> bool:
        found.extend(frame for frame, _ in desk.said_to(ann) if isinstance(frame, Want))
        return bool(found)

    await until(has_asked)
    return found


def test_a_file_is_fetched_in_pieces(tmp_path: Path) -> None:
    """Bob asks, ann answers; the whole file is checked, kept readable for him alone, and ann learns that he has it."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann = Peer(desk, 1, "ann")
        content = bytes(range(256)) * 2000
        file = await _offered(desk, ann, content)
        while desk.states() != {"x.bin": "here"}:
            for frame, _ in desk.said_to(ann):
                assert isinstance(frame, Want)
                for start in range(frame.start, frame.end, 100_000):
                    piece = content[start : min(start + 100_000, frame.end)]
                    await desk.hears(ann, Piece(file=file.id, start=start, n=frame.n), piece)
            await asyncio.sleep(0.002)
        kept = tmp_path / "files" / "kept" / file.sha256
        assert kept.read_bytes() == content
        assert kept.stat().st_mode & 0o777 == 0o400
        await until(lambda: (Fetched(file=file.id), b"") in desk.said_to(ann))
        await desk.transfers.close()

    run(story())


def test_wrong_bytes_are_thrown_away_and_in_the_end_refused(tmp_path: Path) -> None:
    """A holder that sends other bytes than those of the hash is asked three times; then the file has failed."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann = Peer(desk, 1, "ann")
        file = await _offered(desk, ann, b"right")
        for _ in range(download.MAX_WRONG):
            want = (await _asked(desk, ann))[0]
            await desk.hears(ann, Piece(file=file.id, start=0, n=want.n), b"wrong")
        await until(lambda: desk.states() == {"x.bin": "failed"})
        assert "The daemon of ann sends other bytes" in desk.journal.files.all()[0].error
        assert not list((tmp_path / "files" / "kept").iterdir())
        await desk.transfers.close()

    run(story())


def test_pieces_that_were_not_asked_for_have_no_effect(tmp_path: Path) -> None:
    """Neither beyond the end, nor under an unknown number, nor from another user; who sends many, is stopped."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann, carol = Peer(desk, 1, "ann"), Peer(desk, 2, "carol")
        file = await _offered(desk, ann, b"12345")
        want = (await _asked(desk, ann))[0]
        await desk.hears(ann, Piece(file=file.id, start=0, n=want.n), b"123456")
        await desk.hears(ann, Piece(file=file.id, start=5, n=want.n), b"6")
        await desk.hears(ann, Piece(file=file.id, start=0, n=want.n + 7), b"12345")
        await desk.hears(carol, Piece(file=file.id, start=0, n=want.n), b"12345")
        assert desk.states() == {"x.bin": "wanted"}
        for number in range(2_000):
            frame = Piece(file=f"{number:032x}", start=0)
            desk.transfers.receive(_delivery(desk, seal(carol, desk.user, frame, b"x")))
            if number % 100 == 0:
                await desk.settle()
        assert desk.refused("rate_limited") > 0
        await desk.hears(ann, Piece(file=file.id, start=0, n=want.n), b"12345")
        await until(lambda: desk.states() == {"x.bin": "here"})
        await desk.transfers.close()

    run(story())


def _delivery(desk: FileDesk, payload: bytes) -> Any:
    from p2pflows.links.delivery import Delivery

    return Delivery(desk.transfers.topic, payload, retain=False)


def test_a_flood_of_packets_is_bounded(tmp_path: Path) -> None:
    """What comes faster than it is opened is dropped, and what is too large is not opened at all."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann = Peer(desk, 1, "ann")
        payload = seal(ann, desk.user, Want(file="0" * 32, start=0, end=1))
        for _ in range(1_000):
            desk.transfers.receive(_delivery(desk, payload))
        assert len(desk.transfers._unopened) == transfers.MAX_UNOPENED
        await desk.settle()
        await desk.hears_bytes(payload + bytes(MAX_FRAME_BYTES))
        await desk.hears_bytes(payload, retain=True)
        assert (desk.refused("malformed"), desk.refused("retained")) == (1, 1)
        await desk.transfers.close()

    run(story())


def test_a_bundle_about_a_file_means_nothing_elsewhere(tmp_path: Path) -> None:
    """On the topic of an endpoint it is refused, as a message is on the topic of files."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        desk.serve_human()
        ann = Peer(desk, 1, "ann")
        desk.receive("User", seal(ann, desk.user, Want(file="0" * 32, start=0, end=1)))
        assert desk.refused("wrong_topic") == 1
        await desk.hears_bytes(post(ann))
        assert desk.refused("malformed") == 1
        assert not desk.journal.prompts.has_id("0" * 32)
        await desk.transfers.close()

    run(story())


def test_a_file_that_is_gone_fails_at_once(tmp_path: Path) -> None:
    """`none` of its holder ends the wait, and that of nobody else."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann, carol = Peer(desk, 1, "ann"), Peer(desk, 2, "carol")
        file = await _offered(desk, ann, b"12345")
        await _asked(desk, ann)
        await desk.hears(carol, NotHere(file=file.id))
        assert desk.states() == {"x.bin": "wanted"}
        await desk.hears(ann, NotHere(file=file.id))
        await until(lambda: desk.states() == {"x.bin": "failed"})
        assert "no longer at the daemon of ann" in desk.journal.files.all()[0].error
        await desk.transfers.close()

    run(story())


@pytest.mark.parametrize("limits", [FileLimits(bytes=10), FileLimits(bytes_per_contact=10), FileLimits(max_size=10)])
def test_a_full_quota_says_so_on_both_sides(tmp_path: Path, limits: FileLimits) -> None:
    """A file that does not fit is not fetched: its sender is told so, and the owner reads it in the log."""

    async def story() -> None:
        desk = FileDesk(tmp_path, limits)
        ann = Peer(desk, 1, "ann")
        file = await _offered(desk, ann, b"12345678901")
        assert desk.states() == {"x.bin": "failed"}
        assert desk.said_to(ann) == [(NoRoom(file=file.id), b"")]
        assert desk.journal.log.newest(1)[0].what in (OverQuota.kind, TooLarge.kind)
        await desk.transfers.close()

    run(story())


def test_the_sender_is_told_of_a_full_quota(tmp_path: Path) -> None:
    """`refuse` of a recipient is in the owner's log, once; that of others is not."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann, carol = Peer(desk, 1, "ann"), Peer(desk, 2, "carol")
        file = await desk.put(SECRET, "photo.png")
        desk.send(ann, file)
        for peer in (carol, ann, ann):
            await desk.hears(peer, NoRoom(file=file.id))
        entries = [row for row in desk.journal.log.newest(10) if row.what == OverQuota.kind]
        assert [(row.peer, "photo.png" in row.detail) for row in entries] == [(ann.user, True)]
        assert desk.journal.file_grants.of(file.id)[0].state == "refused"
        await desk.transfers.close()

    run(story())


def test_a_full_store_refuses_an_own_file_at_once(tmp_path: Path) -> None:
    """Nothing of it is kept on the disk."""

    async def story() -> None:
        desk = FileDesk(tmp_path, FileLimits(bytes=10, max_size=20))
        for size, error in ((21, TooLarge), (11, OverQuota)):
            with pytest.raises(error):
                await desk.put(bytes(size))
        await desk.put(bytes(10))
        with pytest.raises(OverQuota):
            await desk.put(b"1")
        assert len(list((tmp_path / "files" / "kept").iterdir())) == 1
        assert not list((tmp_path / "files" / "partial").iterdir())
        await desk.transfers.close()

    run(story())


def test_no_message_without_its_file(tmp_path: Path) -> None:
    """A message that refers to a file that is not here is not accepted."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann = Peer(desk, 1, "ann")
        assert isinstance(desk.send(ann, reference_to(b"x")), FileLost)
        file = await desk.put(b"x")
        assert isinstance(desk.send(ann, file._replace(sha256="0" * 64)), FileLost)
        assert isinstance(desk.send(ann, file), str)
        await desk.transfers.close()

    run(story())


def test_a_restart_goes_on_where_it_was(tmp_path: Path) -> None:
    """What is here of a file stays; only the rest is asked for."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann = Peer(desk, 1, "ann")
        content = bytes(range(250)) * 1_000
        file = await _offered(desk, ann, content)
        want = (await _asked(desk, ann))[0]
        await desk.hears(ann, Piece(file=file.id, start=0, n=want.n), content[:100_000])
        await until(lambda: desk.transfers.store.partial_bytes(file.id) == 100_000)
        await desk.transfers.close()
        desk.restart()
        desk.attach()
        desk.said_to(ann)
        desk.transfers.start()
        want = (await _asked(desk, ann))[0]
        assert want.start == 100_000
        await desk.hears(ann, Piece(file=file.id, start=100_000, n=want.n), content[100_000:200_000])
        await desk.hears(ann, Piece(file=file.id, start=200_000, n=want.n), content[200_000:])
        await until(lambda: desk.states() == {"x.bin": "here"})
        await desk.transfers.close()

    run(story())


def test_a_message_body_is_what_was_signed() -> None:
    """A reference in a message is data like any other: readers that do not know it can read the message."""
    data = {"image": reference_to(b"x").as_data()}
    fields = {"id": "0" * 32, "type": "call", "from": "0" * 64, "to": "0" * 64, "endpoint": "scan"}
    message = Message.model_validate({**fields, "conversation": "0" * 32, "created": 1, "expires": 2, "data": data})
    assert Message.from_bytes(message.to_bytes()).data == data


def test_a_file_is_durable_before_it_may_be_referred_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bytes are synced, then their name, and only then the journal lists it for messages."""
    events: list[str] = []

    async def story() -> None:
        desk = FileDesk(tmp_path)

        def noting(event: str, function: Callable[..., Any]) -> Callable[..., Any]:
            def noted(*args: Any) -> Any:
                events.append(event)
                return function(*args)

            return noted

        monkeypatch.setattr(os, "fsync", noting("sync", os.fsync))
        monkeypatch.setattr(os, "link", noting("name", os.link))
        monkeypatch.setattr(desk.journal.files, "add", noting("journal", desk.journal.files.add))
        await desk.put(SECRET)
        await desk.transfers.close()

    run(story())
    assert events == ["sync", "name", "sync", "journal"]


def test_a_blocked_user_gets_no_answer(tmp_path: Path) -> None:
    """What was sent to somebody before they were denied is not sent to them any more, and nothing is opened."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann = Peer(desk, 1, "ann")
        file = await desk.put(SECRET)
        desk.send(ann, file)
        desk.contacts.remove("ann")
        desk.contacts.block(ann.user)
        desk.contacts.reload_if_changed()
        await desk.hears(ann, whole(file))
        assert desk.said_to(ann) == []
        assert desk.refused("blocked") == 1
        await desk.transfers.close()

    run(story())


def test_strangers_fetch_what_an_answer_sent_them_and_send_what_was_called_for(tmp_path: Path) -> None:
    """A stranger who was sent a file may fetch it, at the pace of strangers; whom we fetch from is not slowed."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        called, caller = Peer(desk, 3), Peer(desk, 4)
        file = await desk.put(SECRET)
        desk.send(caller, file)
        await desk.hears(caller, whole(file))
        assert [content for _, content in desk.said_to(caller)] == [SECRET]
        for number in range(300):
            desk.transfers.receive(
                _delivery(desk, seal(caller, desk.user, Want(file=file.id, start=0, end=1, n=number)))
            )
            await asyncio.sleep(0)
        assert desk.refused("rate_limited") > 0

        theirs = reference_to(bytes(500_000), "theirs")
        desk.do(lambda: desk.node.files.take_in([theirs], called.user, desk.clock.now()))
        for _ in range(300):
            for frame, _ in desk.said_to(called):
                assert isinstance(frame, Want)
                for start in range(frame.start, frame.end, 2_000):
                    piece = bytes(min(frame.end, start + 2_000) - start)
                    await desk.hears(called, Piece(file=theirs.id, start=start, n=frame.n), piece)
            if desk.states()["theirs"] == "here":
                break
            await asyncio.sleep(0.002)
        assert desk.states()["theirs"] == "here"
        await desk.transfers.close()

    run(story())


def test_a_full_disk_makes_a_file_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner reads why it waits; when there is room, it goes on with what is here."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann = Peer(desk, 1, "ann")
        file = await _offered(desk, ann, b"1234567890")
        append = Partial.append
        monkeypatch.setattr(transfers, "DISK_WAIT_S", 0.2)

        def full(partial: Partial, content: bytes) -> None:
            append(partial, content[:4])
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(Partial, "append", full)
        want = (await _asked(desk, ann))[0]
        await desk.hears(ann, Piece(file=file.id, start=0, n=want.n), b"1234567890")
        await until(lambda: "The disk is full" in desk.journal.files.all()[0].error)
        assert desk.journal.log.newest(1)[0].what == "disk"
        assert desk.states() == {"x.bin": "wanted"}
        monkeypatch.setattr(Partial, "append", append)
        want = (await _asked(desk, ann))[0]
        assert want.start == 4
        await desk.hears(ann, Piece(file=file.id, start=4, n=want.n), b"567890")
        await until(lambda: desk.states() == {"x.bin": "here"})
        assert desk.journal.files.all()[0].error == ""
        await desk.transfers.close()

    run(story())


def test_files_have_their_turn(tmp_path: Path) -> None:
    """Two of one user at a time, four of all; the others are asked for when these are here."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann, bea, cat = (Peer(desk, number, name) for number, name in ((1, "ann"), (2, "bea"), (3, "cat")))
        contents = {peer: [f"{peer.user} {number}".encode() for number in range(3)] for peer in (ann, bea, cat)}
        for peer, each in contents.items():
            first = int(peer.user[:6], 16) * 10
            wanted = [reference_to(each[n], f"{peer.user[:4]} {n}", first + n) for n in range(3)]
            desk.do(partial(desk.node.files.take_in, wanted, peer.user, 0))
        await until(lambda: len(desk.transfers._active) == transfers.MAX_ACTIVE)
        active = [download.row.peer for download in desk.transfers._active.values()]
        assert [active.count(peer.user) for peer in contents] == [2, 2, 0]
        for _ in range(1_000):
            for peer in contents:
                for frame, _ in desk.said_to(peer):
                    if isinstance(frame, Want):
                        number = int(frame.file, 16) % 10
                        await desk.hears(peer, Piece(file=frame.file, start=0, n=frame.n), contents[peer][number])
            if set(desk.states().values()) == {"here"}:
                break
            await asyncio.sleep(0.005)
        assert set(desk.states().values()) == {"here"}
        await desk.transfers.close()

    run(story())


def test_pieces_get_smaller_if_the_broker_hangs_up(tmp_path: Path) -> None:
    """Some brokers end the connection at a packet that is too large for them, and say nothing."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann = Peer(desk, 1, "ann")
        file = await desk.put(bytes(200_000))
        desk.send(ann, file)
        for most in (131_072, 65_536, 32_768):
            await desk.hears(ann, Want(file=file.id, start=0, end=200_000, n=most))
            assert max(len(content) for _, content in desk.said_to(ann)) == most
            desk.transfers.link_down()
        desk.link.max_packet = 10_000
        await desk.hears(ann, Want(file=file.id, start=0, end=200_000, n=9))
        assert sum(len(content) for _, content in desk.said_to(ann)) == 200_000
        assert desk.link.too_large == 0
        await desk.transfers.close()

    run(story())


def test_a_daemon_knows_so_many_files_and_no_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond that, neither an own file nor that of another user is taken, and offers are not remembered."""

    async def story() -> None:
        monkeypatch.setattr(files, "MAX_FILES", 3)
        desk = FileDesk(tmp_path)
        for number in range(3):
            desk.do(partial(desk.node.files.put, reference_to(b"x", number=number)))
        assert isinstance(desk.do(lambda: desk.node.files.put(reference_to(b"x", number=9))), OverQuota)
        ann = Peer(desk, 1, "ann")
        other = reference_to(b"y", number=10)
        assert isinstance(desk.do(lambda: desk.node.files.take_in([other], ann.user, 0)), OverQuota)
        desk.do(lambda: desk.node.files.take_in_what_fits([other], ann.user, 0, 0))
        desk.do(lambda: desk.node.files.take_in_what_fits([other], ann.user, 0))
        assert desk.node.files.usage().files == 3
        await desk.transfers.close()

    run(story())


def test_bytes_that_are_put_again_while_they_are_removed_stay(tmp_path: Path) -> None:
    """Whatever the order, a file that is listed has its bytes."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        file = await desk.put(SECRET)
        for _ in range(20):
            row = desk.do(partial(desk.node.files.find, file.id))
            putting = asyncio.create_task(desk.put(SECRET))
            await asyncio.sleep(desk.random.random() / 200)
            desk.do(partial(desk.node.files.remove, row))
            file = await putting
            await asyncio.sleep(0.01)
            assert (tmp_path / "files" / "kept" / file.sha256).read_bytes() == SECRET
        await desk.transfers.close()

    run(story())


def test_who_waits_for_a_file_hears_of_it_in_whatever_moment_it_comes(tmp_path: Path) -> None:
    """Also if it arrives between the question how it stands and the wait."""

    async def story() -> None:
        desk = FileDesk(tmp_path)
        ann = Peer(desk, 1, "ann")
        file = await _offered(desk, ann, b"12345")
        await _asked(desk, ann)
        with desk.transfers.waiting_for(file.id) as settled:
            desk.do(partial(desk.node.files.arrived, file.id))
            await asyncio.wait_for(settled, 1)
        assert desk.transfers._waiting == {}
        await desk.transfers.close()

    run(story())
