"""What happens to the journal of a running daemon, or is put in its place: both sides say so, and all goes on."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from operator import itemgetter
from pathlib import Path
from typing import Any

import pytest
from support.network import Network
from support.people import Person
from support.processes import wait_until

from p2pflows.errors import JournalFailed

OLDER = "replaced by an older copy"


def journal_of(person: Person) -> Path:
    """The path of a person's journal."""
    return person.home / "journal.sqlite3"


def copy_of(person: Person) -> Path:
    """Copy the journal of a daemon that runs, as `sqlite3 .backup` does."""
    copy = person.folder / "copy.sqlite3"
    with closing(sqlite3.connect(journal_of(person))) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target)
    return copy


def send(one: Person, other: Person, text: str) -> str:
    """Send a note to the human of a person; return its id."""
    sent: str = one.request("send", address=f"{other.name}/User", data={"text": text})["id"]
    return sent


def texts(person: Person) -> list[str]:
    """Everything that a person was ever asked or told, in the order in which it came."""
    return [prompt["text"] for prompt in sorted(person.prompts(everything=True), key=itemgetter("received"))]


def restored(person: Person) -> set[str | None]:
    """Whose journals were replaced by older copies, as a person's status says."""
    return {each["name"] for each in person.status()["restored"]}


def notes(person: Person, what: str) -> list[dict[str, Any]]:
    """The entries of one kind in a person's log."""
    return [entry for entry in person.request("log")["entries"] if entry["what"] == what]


def put_back(person: Person, copy: Path, *, home: bool = False) -> None:
    """Kill a daemon, put an older copy of its journal in place, and start it; with `home`, as in a copied home."""
    person.kill_daemon()
    for file in person.home.glob("journal.sqlite3*"):
        file.unlink()
    if home:
        (person.home / "last_change").unlink()
    shutil.copyfile(copy, journal_of(person))
    person.start()


@pytest.mark.parametrize("home", [False, True], ids=["journal", "home"])
def test_a_copy_that_is_put_back_is_noticed_by_both(network: Network, home: bool) -> None:
    """Who puts back an older copy is told what is lost, as are their contacts; calls come again, and all goes on."""
    alice, bob = network.pair(workers=False)
    send(alice, bob, "old")
    send(bob, alice, "old")
    alice.wait_for_prompts()
    bob.wait_for_prompts()
    alice.wait_for_status(lambda now: now["pending"] == 0)
    copy = copy_of(alice)
    noted = (alice.home / "last_change").read_bytes()
    send(alice, bob, "lost in alice's journal")
    send(bob, alice, "lost note")
    call = bob.request("submit", address="alice/User", data={"text": "call"}, timeout=60)["id"]
    alice.wait_for_prompts(3)
    bob.wait_for_prompts(2)
    for person in (alice, bob):
        person.wait_for_status(lambda now: now["pending"] == 0)
    wait_until(lambda: (alice.home / "last_change").read_bytes() > noted)
    put_back(alice, copy, home=home)
    (prompt,) = [prompt for prompt in alice.wait_for_prompts(2) if prompt["text"] == "call"]
    bob.wait_for_status(lambda now: "alice" in {each["name"] for each in now["restored"]})
    send(alice, bob, "new")
    bob.wait_for_prompts(3)
    alice.request("answer", id=prompt["id"], text="Yes.")
    assert bob.request("wait", id=call, timeout=30)["data"] == {"human_input": "Yes."}
    send(bob, alice, "new")
    wait_until(lambda: texts(alice) == ["old", "call", "new"])
    assert texts(bob) == ["old", "lost in alice's journal", "new"]
    for person in (alice, bob):
        person.wait_for_status(lambda now: now["pending"] == 0 and not now["blocked"])
    assert (restored(alice), restored(bob)) == ({"me"}, {"alice"})
    assert all(OLDER in entry["detail"] for person in (alice, bob) for entry in notes(person, "restored"))
    assert any("1 call is sent again" in entry["detail"] for entry in notes(bob, "restored"))
    assert "older journals of me" in alice.cli("status").ok().out
    assert "older journals of alice" in bob.cli("status").ok().out
    if not home:
        assert "an older copy, which ends at 20" in notes(alice, "restored")[0]["detail"]


def test_an_empty_journal_in_place_of_a_used_one(network: Network) -> None:
    """A daemon whose journal is gone says until when there was one."""
    alice = network.person("alice").without_workers().start()
    alice.request("send", address="me/User", data={"text": "x"})
    alice.wait_for_prompts()
    assert restored(alice) == set()
    alice.stop()
    journal_of(alice).unlink()
    alice.start()
    assert restored(alice) == {"me"}
    assert "replaced by an empty one" in notes(alice, "restored")[0]["detail"]
    alice.stop()
    alice.start()
    assert len(notes(alice, "restored")) == 1


def remove_log(alice: Person, _copy: Path) -> None:
    """Remove the log of a journal."""
    for file in alice.home.glob("journal.sqlite3-*"):
        file.unlink()


def move_away_and_back(alice: Person, copy: Path) -> None:
    """Move a journal away, and back once the daemon has noticed."""
    sent = alice.request("send", address="me/User", data={"text": "a note"})["id"]
    alice.request("wait", id=sent, timeout=15)
    moved = journal_of(alice).rename(copy.with_name("moved"))
    alice.wait_for_status(lambda now: now["problem"] is not None)
    for reading in ("inbox", "outbox", "log", "requests", "status"):
        assert alice.cli(reading).code == 0
    assert alice.request("wait", id=sent, timeout=5)["state"] == "delivered"
    shutil.move(moved, journal_of(alice))


def overwrite(alice: Person, copy: Path) -> None:
    """Overwrite a journal with an older copy."""
    shutil.copyfile(copy, journal_of(alice))


def replace(alice: Person, copy: Path) -> None:
    """Put another file in the place of a journal."""
    shutil.move(copy, journal_of(alice))


@pytest.mark.parametrize(
    ("change", "keeps_all"),
    [(remove_log, True), (move_away_and_back, True), (overwrite, False), (replace, False)],
)
def test_the_files_of_a_running_daemon_change(
    change: Callable[[Person, Path], None], keeps_all: bool, pair_without_workers: tuple[Person, Person]
) -> None:
    """A daemon notices what other programs do to its journal, says so, and goes on with what is there then."""
    alice, bob = pair_without_workers
    send(alice, bob, "first")
    bob.wait_for_prompts()
    alice.wait_for_status(lambda now: now["pending"] == 0)
    copy = copy_of(alice)
    alice.stop()
    alice.start()  # so that its log is moved into the journal
    waiting = alice.start_command("call", "bob/User", "text=second", "--timeout", "60s", "--json")
    (second,) = [prompt for prompt in bob.wait_for_prompts(2) if prompt["text"] == "second"]
    change(alice, copy)
    wait_until(lambda: "was removed or replaced" in alice.log_text())
    expected = ["first", "second", "third"]
    try:
        send(alice, bob, "refused")
    except JournalFailed as error:
        assert "daemon goes on by itself" in error.hint  # noqa: PT017 - it may go on already
    else:
        expected.insert(2, "refused")
    alice.wait_for_status(lambda now: now["problem"] is None)
    bob.request("answer", id=second["id"], text="Yes.")
    send(bob, alice, "hello")
    alice.wait_for_prompts()
    if keeps_all:
        assert waiting.wait().ok().document == {"human_input": "Yes."}
    else:
        assert OLDER in waiting.wait().error["message"]
    send(alice, bob, "third")
    wait_until(lambda: texts(bob) == expected)
    assert restored(alice) == (set() if keeps_all else {"me"})
    assert "was removed or replaced" in notes(alice, "disk")[-1]["detail"]
    assert alice.stop() == 0
    with closing(sqlite3.connect(journal_of(alice))) as db:
        assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    assert "Traceback" not in alice.log_text()


def test_the_last_words_of_a_daemon_without_its_journal(network: Network) -> None:
    """A daemon that is stopped after its journal was removed does not say that everything is kept."""
    alice = network.person("alice").without_workers().start()
    for file in alice.home.glob("journal.sqlite3*"):
        file.unlink()
    assert alice.stop() == 1
    assert "Error [disk]: The journal cannot be written: the file was removed or replaced" in alice.log_text()
    assert "everything accepted is kept" not in alice.log_text()
