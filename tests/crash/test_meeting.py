"""Two people accept one invitation while a daemon is killed: one of them comes in, and all three agree who."""

from __future__ import annotations

import itertools

import pytest
from simulation.machine import Machine
from simulation.world import World

POINTS = (
    "node.received", "journal.before_commit", "journal.after_commit", "node.published", "outbox.before_publish",
    "outbox.after_publish", "outbox.before_notice",
)  # fmt: skip
PASSAGES = (1, 3)
BROKER = "mqtt://broker"


def meet(world: World, doomed: Machine, point: str, passage: int) -> None:
    """Let Ann invite one user, two accept, and one daemon be killed; all start again."""
    ann, *guests = world.machines
    for one, other in itertools.permutations(world.machines, 2):
        one.contacts.remove(other.name)
    world.run(1.0)
    made = ann.ask(
        lambda node: node.people.invitations.create(
            name="friend", allow=[], uses=1, life_ms=3_600_000, own_name="", broker=BROKER
        )
    )
    world.run(0.5)
    doomed.faults.arm(point, passage)
    for guest in guests:
        guest.ask(lambda node: node.people.invitations.accept(made.result, "ann", ""))
    for _ in range(30):
        world.run(0.1)
        for machine in world.machines:
            machine.start()
    doomed.faults.disarm()
    for guest in guests:  # who was killed before the daemon had taken the command types it again
        guest.ask(lambda node: node.people.invitations.accept(made.result, "ann", ""))
    world.run(60)


@pytest.mark.parametrize("point", POINTS)
@pytest.mark.parametrize("who", range(3))
def test_one_invitation_lets_in_one_user_wherever_a_daemon_is_killed(who: int, point: str) -> None:
    """The winner and the inviter are contacts of each other, and the other guest of nobody."""
    kills = 0
    for passage in PASSAGES:
        with World(5, people=3) as world:
            ann, *guests = world.machines
            meet(world, world.machines[who], point, passage)
            kills += world.machines[who].kills
            book = ann.contacts.book()
            assert set(book.by_name) == {"friend"}, f"passage {passage}"
            for guest in guests:
                expected = {"ann": ann.user} if guest.user == book.by_name["friend"] else {}
                assert guest.contacts.book().by_name == expected, f"passage {passage}"
            assert ann.node is not None
            (row,) = ann.node.journal.invitations.all()
            assert (row.used, len(ann.node.journal.meetings.of(row.id))) == (1, 1)
    assert kills > 0
