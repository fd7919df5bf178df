"""When the power is cut, the disk may have any part of what was not synced: nothing that was promised is missing."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from simulation.disk import Disk, Event, Mark
from simulation.power_cut import Remains
from simulation.promises import Promises, broken
from simulation.random_lives import RandomActions
from simulation.timeline import Timeline, TimelineClock
from support.lone_daemon import RecordedLink

from p2pflows.contacts import Contacts
from p2pflows.errors import UsageError
from p2pflows.protocol.identity import Identity
from p2pflowsd import journal
from p2pflowsd.faults import NoFaults
from p2pflowsd.journal import Journal, JournalError
from p2pflowsd.node import Node, Request

IS_SLOW = bool(os.environ.get("P2PFLOWS_SLOW_TESTS"))
SEEDS = range(3, 15) if IS_SLOW else (3, 5)
CUTS = 1_000 if IS_SLOW else 60
"""How often the power is cut in one recorded life."""
STEPS = 150
CHECKPOINT_PAGES = 40
"""After how many pages SQLite moves them from the log into the database, so that short lives have many checkpoints."""


@dataclass
class Life:
    """What two simulated daemons did to their disk, and what they promised meanwhile."""

    events: list[Event]
    identities: dict[str, Identity]
    paths: dict[str, Path]


def record(seed: int, patch: pytest.MonkeyPatch) -> Life:
    """Let two daemons live random lives on a disk that records."""
    disk = Disk(checkpoint_pages=CHECKPOINT_PAGES)
    with patch.context() as lives:
        disk.install(lives)
        promises = Promises(disk, lives, seed)
        with promises.world as world:
            world.run(0.5)
            actions = RandomActions(world, Random(seed))  # noqa: S311 - a simulation, no secrets
            for _ in range(STEPS):
                actions.step()
            return Life(
                list(disk.events),
                {machine.name: machine.identity for machine in world.machines},
                {machine.name: world.folder / machine.name / "journal.sqlite3" for machine in world.machines},
            )


def check_cuts(life: Life, folder: Path, random: Random, cuts: int) -> Counter[str]:
    """Cut the power at some moments, and start both daemons on what remains; return what was promised how often."""
    remains, promises, reached = Remains(), [], 0
    for moment in sorted(random.sample(range(len(life.events) + 1), min(cuts, len(life.events)))):
        passed = life.events[reached:moment]
        reached = moment
        remains.follow(passed)
        promises += [event.what for event in passed if isinstance(event, Mark)]
        files = remains.after_cut(random)
        for name, identity in life.identities.items():
            start_on(files, life.paths[name], folder / f"{moment}-{name}", identity, random)
            db = sqlite3.connect(folder / f"{moment}-{name}" / "journal.sqlite3")
            with closing(db):
                made = [promise for promise in promises if promise.who == name]
                assert broken(made, db) == [], f"{name} after event {moment} of {len(life.events)}"
    return Counter(promise.what for promise in promises)


def start_on(files: dict[str, bytes], path: Path, folder: Path, identity: Identity, random: Random) -> None:
    """Put files that remained into a folder, and start a daemon there."""
    folder.mkdir()
    for name, content in files.items():
        if name.startswith(str(path)):
            (folder / Path(name).name).write_bytes(content)
    if random.random() < 0.5:
        (folder / f"{path.name}-shm").write_bytes(random.randbytes(32_768))
    opened = Journal(folder / path.name, identity.user_id, NoFaults())
    assert opened._db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    node = Node(
        identity=identity, journal=opened, contacts=Contacts(folder / "contacts.yaml"), link=RecordedLink(),
        clock=TimelineClock(Timeline()), entropy=random.randbytes, faults=NoFaults(),
    )  # fmt: skip
    node.process_batch([])
    opened.close()


@pytest.mark.parametrize("seed", SEEDS)
def test_nothing_promised_is_missing(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the power is cut, the journal is intact, the daemon starts, and everything it has promised is there."""
    life = record(seed, monkeypatch)
    promised = check_cuts(life, tmp_path, Random(seed), CUTS)  # noqa: S311 - decides when, guards nothing
    assert promised.total() > 50


def test_all_promises_are_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    """The recorded lives have a promise of each kind."""
    lives = [record(seed, monkeypatch) for seed in SEEDS]
    assert {event.what.what for life in lives for event in life.events if isinstance(event, Mark)} == {
        "an id was returned to a client",
        "a request was published",
        "a receipt was published",
        "a receipt of an answer was published",
        "an answer was published",
        "a PUBACK was sent",
        "a status was published",
        "a worker may forget a result",
        "a human's answer was accepted",
    }


@pytest.mark.parametrize("synchronous", ["OFF", "NORMAL"])
def test_weaker_syncs_would_be_noticed(synchronous: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With fewer syncs than the journal makes, these tests find damage or missing rows."""
    weaker = ("journal_mode = WAL", f"synchronous = {synchronous}")
    monkeypatch.setattr(journal, "_PRAGMAS", weaker)
    life = record(SEEDS[0], monkeypatch)
    with pytest.raises((AssertionError, UsageError, JournalError)):
        check_cuts(life, tmp_path, Random(SEEDS[0]), CUTS)  # noqa: S311 - decides when, guards nothing


def test_an_early_receipt_would_be_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If a daemon published before its commit, these tests would find missing rows."""

    def publish_first(node: Node, requests: Sequence[Request], *, ticks: bool) -> None:
        with monkeypatch.context() as early:
            early.setattr(node.journal, "commit", lambda **_: None)
            commit_and_publish(node, requests, ticks=ticks)
        node.journal.commit(count_now=ticks)

    commit_and_publish = Node._commit_and_publish
    with monkeypatch.context() as wrong:
        wrong.setattr(Node, "_commit_and_publish", publish_first)
        life = record(SEEDS[0], wrong)
    with pytest.raises(AssertionError, match=r"was published|was returned|was sent"):
        check_cuts(life, tmp_path, Random(SEEDS[0]), CUTS)  # noqa: S311 - decides when, guards nothing
