"""Two daemons with one identity, as with a copied home: one goes on, the other says why it ends, nothing is lost."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.network import Network
from support.people import Person
from support.processes import wait_until

END_S = 20


@pytest.fixture
def network() -> Iterator[Network]:
    """Alice and bob; alice's daemon runs the broker."""
    network = Network()
    network.pair(workers=False)
    try:
        yield network
    finally:
        network.close()


def copy_of(network: Network, person: Person) -> Person:
    """Another person with a copy of somebody's home, as it is now."""
    home = network.folder / f"{person.name}-copy"
    shutil.copytree(person.home, home, ignore=shutil.ignore_patterns("*.sock", "*.lock", "lock"))
    (home / "identity.key").rename(home / "kept.key")
    copied = network.person(f"{person.name}-copy", home)
    (home / "kept.key").replace(home / "identity.key")
    copied.user_id = person.user_id
    copied.has_workers = False
    return copied


def ends(person: Person) -> int:
    """Wait until a daemon has ended by itself; returns its exit code."""
    assert person.daemon is not None
    return person.daemon.wait(END_S)


def says(person: Person) -> str:
    """What a daemon has said."""
    return Path(person.log).read_text()


def ask(alice: Person, bob: Person, text: str) -> None:
    """Let alice ask bob, and bob answer."""
    call = alice.request("submit", address="bob/User", data={"text": text}, timeout=30)["id"]
    (prompt,) = bob.wait_for_prompts()
    bob.request("answer", id=prompt["id"], text="yes")
    assert alice.request("wait", id=call)["data"]["human_input"] == "yes"


def test_a_copied_home_steps_back_or_takes_over(network: Network) -> None:
    """The second daemon ends and names both starts; with --take-over the first one does, and calls go to the second."""
    alice, bob = network.people
    alice.request("submit", address="bob/User", data={"text": "Still there?"}, timeout=300)
    bob.wait_for_prompts()
    copied = copy_of(network, bob)
    copied.start(wait=False)
    assert ends(copied) == 2
    said = says(copied)
    assert "Another daemon runs with this identity: it started at 20" in said
    assert "p2pflows up --take-over" in said
    assert "Traceback" not in said
    assert bob.is_running
    (prompt,) = bob.prompts()
    bob.request("decline", id=prompt["id"], reason="Ask again.")
    ask(alice, bob, "And now?")
    assert bob.status()["problem"] is None

    late = alice.request("submit", address="bob/User", data={"text": "Who answers?"}, timeout=300)["id"]
    bob.wait_for_prompts()
    shutil.rmtree(copied.home)
    network.people.remove(copied)
    copied = copy_of(network, bob)
    copied.daemon_command = [*copied.daemon_command, "--take-over"]
    copied.start()
    assert ends(bob) == 2
    assert "Another daemon with this identity has taken over: it started at 20" in says(bob)
    (prompt,) = copied.wait_for_prompts()
    copied.request("answer", id=prompt["id"], text="the second")
    assert alice.request("wait", id=late)["data"]["human_input"] == "the second"
    ask(alice, copied, "One more?")
    assert copied.is_running

    bob.daemon = None
    bob.start(wait=False)
    assert ends(bob) == 2
    assert copied.is_running


def test_a_killed_daemon_starts_again_at_once(network: Network) -> None:
    """What a daemon that was killed has left at the broker keeps its successor from nothing."""
    alice, bob = network.people
    bob.kill_daemon()
    bob.start()
    ask(alice, bob, "Back?")
    assert subprocess.run([*bob.daemon_command], env=bob.environment, capture_output=True, check=False).returncode == 2
    assert bob.is_running
    wait_until(lambda: bob.status()["problem"] is None)
