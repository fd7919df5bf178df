"""One neighbour's calls take nothing from others: turns, limits, and what was spent at models, on real daemons."""

from __future__ import annotations

import json

from support.people import Person

FLOWS = '''
import os
import time
from pathlib import Path

from p2pflows import AtomicFlow, CompositeFlow


def slow(n: int) -> int:
    """Take a while, and leave a line."""
    time.sleep(0.2)
    with (Path(__file__).parent / "order").open("a") as file:
        file.write(f"{n}\\n")
    return n


class Model(AtomicFlow):
    """Says that a model read and wrote as many tokens as it is told."""

    default_config = {"name": "Model", "description": "Spends."}

    def run(self, input_message):
        self.step(lambda: self.note_tokens("tiny", tokens_in=input_message.data["tokens"], tokens_out=1))
        return {"done": True}


class Helper(CompositeFlow):
    """Asks Model; its first run dies before it answers."""

    default_config = {
        "name": "Helper", "description": "Lets others spend.", "subflows_config": {"Model": {"flow_endpoint": "Model"}}
    }

    def run(self, input_message):
        answer = self.subflows["Model"].call(input_message.data)
        died = Path(__file__).parent / "died"
        if not died.exists():
            died.touch()
            os._exit(1)
        return answer
'''


def test_twenty_calls_of_a_neighbour_do_not_keep_the_owner_waiting(alice: Person, bob: Person) -> None:
    """With one slot, bob's own call runs after what runs already, not after all that waits."""
    bob.write_file("turns.py", FLOWS)
    bob.start_worker("--dispatch-point", "turns", "--concurrency", "1")
    bob.wait_for_status(lambda now: any(each["dispatch_point"] == "turns" for each in now["workers"]))
    bob.serve("slow", "turns.py:slow", "--dispatch-point", "turns")
    alice.request("call", address="bob/slow", data={"n": 0}, timeout=20)
    ids = [alice.request("submit", address="bob/slow", data={"n": n}, timeout=60)["id"] for n in range(20)]
    bob.wait_for_status(lambda now: any(each["queued"] > 10 for each in now["workers"]))
    bob.request("call", address="me/slow", data={"n": 99}, timeout=30)
    assert [alice.request("wait", id=each)["data"]["result"] for each in ids] == list(range(20))
    order = (bob.folder / "order").read_text().split()
    assert order.index("99") < 10, order


def test_over_the_limit_is_an_exit_code_of_its_own(alice: Person, bob: Person) -> None:
    """The caller reads when to come again, a script finds the seconds, and `describe` shows the limits to the owner."""
    bob.write_file("limited.py", FLOWS)
    bob.serve("limited", "limited.py:slow", "--limit-per-caller", "rate=2/h", "--limit", "at_once=1,open=50")
    assert [alice.cli("call", "bob/limited", f"n={n}").code for n in range(2)] == [0, 0]
    over = alice.cli("call", "bob/limited", "n=3")
    assert over.code == 6
    assert "allows each caller 2 calls per h, and that is reached" in over.err
    assert "Come again in 30 min." in over.err
    content = json.loads(alice.cli("call", "bob/limited", "n=3", "--json").err)
    assert content["code"] == "busy"
    assert 1_700 < content["retry_after_s"] <= 1_800
    assert bob.cli("call", "me/limited", "n=4").code == 0, "a limit per caller is none for the owner"
    shown = bob.cli("describe", "me/limited").out
    assert "at_once=1, open=50" in shown
    assert "rate=2/h" in shown
    wrong = bob.cli("serve", "limited", "limited.py:slow", "--limit", "rate=2/week")
    assert wrong.code == 2
    assert "such as 30/min" in wrong.err


def spent_by_alice(bob: Person) -> tuple[int, int]:
    """Return how many requests, and tokens that models read, bob has on the account of alice, also from other tests."""
    entries = bob.request("usage")["entries"]
    return next(((entry["calls"], entry["tokens_in"]) for entry in entries if entry["caller"] == "alice"), (0, 0))


def test_what_a_neighbour_spends_through_other_flows_is_theirs(alice: Person, bob: Person) -> None:
    """Alice's call of Helper spends at Model: once, though a worker died on the way, and for her account and limit."""
    bob.write_file("spending_flows.py", FLOWS)
    assert bob.cli("serve", "Model", "--class", "spending_flows.py:Model").code == 0
    limit = ("--limit-per-caller", "tokens_per_day=1k")
    calls, tokens = spent_by_alice(bob)
    assert bob.cli("serve", "Helper", "--class", "spending_flows.py:Helper", *limit).code == 0
    assert alice.request("call", address="bob/Helper", data={"tokens": 999}, timeout=60)["data"] == {"done": True}
    assert spent_by_alice(bob) == (calls + 1, tokens + 999)
    assert alice.cli("call", "bob/Helper", "tokens:=5").code == 6
    endpoints = {entry["endpoint"] for entry in bob.request("usage", by="endpoint")["entries"]}
    assert endpoints & {"Model", "Helper"} == {"Model"}, "it is spent once, where the model was asked"
    table = bob.cli("usage", "--by", "model").out.splitlines()
    assert table[0].split() == ["MODEL", "REQUESTS", "TOKENS", "IN", "CACHED", "TOKENS", "OUT", "COST"]
    assert ["tiny", "1", "999", "0", "1"] in [row.split() for row in table]
    assert "No such option" in bob.cli("usage", "--weeks", "3").err
