"""A note for several people: all of them get it, or nobody does."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.desk import Desk, Neighbour, control_of

from p2pflows.errors import BadInput, P2pflowsError
from p2pflowsd.api.methods import Methods


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    """Bob's daemon."""
    desk = Desk(tmp_path)
    yield desk
    desk.journal.close()


@pytest.fixture
def team(desk: Desk) -> list[Neighbour]:
    """Three contacts, two of them in a group."""
    found = [Neighbour(desk, 10 + number, f"member{number}") for number in range(3)]
    desk.contacts.add_to_group("team", [member.user for member in found[:2]])
    return found


async def tell(desk: Desk, *who: str, text: str = "Lunch at one") -> list[dict[str, Any]]:
    """Leave a note."""
    found = await Methods.of(control_of(desk)).run("tell", {"who": list(who), "text": text})
    desk.passes(0.1)
    return list(found["sent"])


def notes(team: list[Neighbour]) -> list[int]:
    """How many notes each has got."""
    return [sum(message["type"] == "post" for message in member.gets("User")) for member in team]


async def test_everybody_gets_it_once(desk: Desk, team: list[Neighbour]) -> None:
    """A group and its members count once each."""
    sent = await tell(desk, "@team", "member1", "member2")
    assert [each["name"] for each in sent] == ["member0", "member1", "member2"]
    assert notes(team) == [1, 1, 1]


@pytest.mark.parametrize(
    ("who", "text", "told"),
    [
        (["member0", "nobody", "member1"], "Hi", "nobody"),
        (["member0", "@others"], "Hi", "others"),
        (["member0", "member1/a b"], "Hi", "a b"),
        (["member0", ""], "Hi", "names nobody"),
        (["member0"], " ", "empty"),
        (["member0"], "x" * 800_000, "bytes"),
        ([], "Hi", "1 to 50"),
    ],
)
async def test_one_who_cannot_get_it_keeps_it_from_all(
    desk: Desk, team: list[Neighbour], who: list[str], text: str, told: str
) -> None:
    """The error says who or what is wrong, and nothing was sent."""
    with pytest.raises(P2pflowsError, match=told):
        await tell(desk, *who, text=text)
    desk.passes(1)
    assert notes(team) == [0, 0, 0]
    assert desk.journal.outgoing.pending() == []


@pytest.mark.parametrize("method", ["send", "submit"])
async def test_what_no_human_can_read_is_refused_at_once(desk: Desk, team: list[Neighbour], method: str) -> None:
    """What is under the key of the text must be one; a text that was typed is one, also if it reads as a number."""
    methods = Methods.of(control_of(desk))
    for data in ({"text": 5}, {"api_output": None}, {"prompt": ["x"]}, {"text": " ", "more": "x"}):
        with pytest.raises(BadInput, match="needs a text"):
            await methods.run(method, {"address": "member0/User", "data": data})
    assert desk.journal.outgoing.pending() == []
    await methods.run(method, {"address": "member0/User", "data": {"text": 5}, "typed": {"text": "5"}})
    await methods.run(method, {"address": "member0/User", "data": {"query": "What a flow there takes is not known."}})
    await methods.run(method, {"address": "member0/User", "data": {"text": 5, "api_output": "Hi"}})
    assert team[0].user in {row.peer for row in desk.journal.outgoing.pending()}
