"""Functions, async functions, modules and shell commands that one user serves and another user calls."""

from __future__ import annotations

import json
import time

import pytest
from support.network import Network
from support.people import Person
from support.processes import wait_until

from p2pflows.errors import BadInput, NotServed, UsageError

FLOWS = '''
"""Flows of bob's."""
import asyncio
import os
from pathlib import Path

from pydantic import BaseModel

from p2pflows import flow


@flow
def greet(name: str, times: int = 1) -> str:
    """Greet somebody.

    The rest of the docstring is for readers of the code.
    """
    print("this print must not end up in an answer")
    return " ".join([f"Hello {name}!"] * times)


@flow
async def slowly(seconds: float) -> dict[str, float]:
    await asyncio.sleep(seconds)
    return {"slept": seconds}


async def patiently(file: str) -> dict[str, bool]:
    while not Path(file).exists():
        await asyncio.sleep(0.02)
    return {"found": True}


class Order(BaseModel):
    what: str
    count: int


def order(given: Order) -> Order:
    return Order(what=given.what.upper(), count=given.count + 1)


def double(n: int) -> int:
    return 2 * n


def nothing() -> None:
    pass


not_callable = 3
'''
SUM = """#!/bin/sh
python3 -c 'import json, sys; print(json.dumps({"sum": sum(json.load(sys.stdin)["numbers"])}))'
"""


@pytest.fixture(scope="module")
def served(pair: tuple[Person, Person]) -> None:
    """Bob serves one flow of each kind, with the commands that a user would type."""
    bob = pair[1].ready()
    bob.write_file("flows.py", FLOWS)
    bob.write_file("sum.sh", SUM, executable=True)
    (bob.folder / "shop").mkdir(exist_ok=True)
    bob.write_file("shop/__init__.py", "")
    bob.write_file("shop/prices.py", "def price(item: str) -> float:\n    return len(item) / 4\n")
    bob.cli("serve", "greet", "flows.py:greet").ok()
    for name in ("slowly", "patiently", "order", "double", "nothing"):
        bob.request("serve", endpoint=name, kind="python", target=f"flows.py:{name}", cwd=str(bob.folder))
    bob.cli("serve", "sum", "--exec", "./sum.sh").ok()
    bob.cli("serve", "price", "shop.prices:price").ok()


@pytest.fixture
def flows(bob: Person, served: None) -> Person:  # noqa: ARG001 - it has to have been done
    """Bob, who serves the flows."""
    return bob


def test_serving_a_flow_by_mistake_replaces_no_human(flows: Person) -> None:
    """`serve User --exec ls` leaves the human there, unless --replace says so; what else is replaced is said."""
    refused = flows.cli("serve", "User", "--exec", "ls")
    assert (refused.code, refused.out) == (2, "")
    assert refused.err.startswith("Error [usage]: 'User' is you in person: nobody could ask you there any more.\n")
    assert "--replace" in refused.err
    assert {flow["endpoint"]: flow["kind"] for flow in flows.request("ls")["flows"]}["User"] == "human"
    taken = flows.cli("serve", "User", "--exec", "ls", "--replace").ok()
    assert taken.err.startswith("Serving User for contacts, in place of you in person. ")
    back = flows.cli("serve", "User", "--human").ok()
    assert back.err.startswith("Serving User for contacts, in place of the command ls. ")
    again = flows.cli("serve", "User", "--human").ok()
    assert again.err.startswith("Serving User for contacts, again. ")


def test_a_function(alice: Person, flows: Person) -> None:
    """The value of a function comes back as one JSON document; defaults are filled in, from JSON or from pairs."""
    assert alice.cli("call", "bob/greet", '{"name":"Ann"}').ok().out == '{"result":"Hello Ann!"}\n'
    result = alice.cli("call", "bob/greet", "name=Ann", "times=2").ok()
    assert result.out == '{"result":"Hello Ann! Hello Ann!"}\n'
    assert alice.cli("call", f"{flows.user_id}/greet", "-", stdin='{"name":"Bo"}').ok().document
    assert alice.cli("call", "bob/nothing").ok().out == '{"result":null}\n'


def test_an_async_function_and_models(alice: Person, flows: Person) -> None:
    """The dict of an async function is the data of the answer, and so is the dump of a pydantic model."""
    assert flows.name == "bob"
    assert alice.cli("call", "bob/slowly", "seconds=0.01").ok().document == {"slept": 0.01}
    result = alice.cli("call", "bob/order", "what=tea", "count=1").ok()
    assert result.document == {"what": "TEA", "count": 2}


def test_a_shell_command(alice: Person, flows: Person) -> None:
    """A command gets JSON on its stdin and the caller in its environment; its JSON or text is the answer."""
    assert alice.cli("call", "bob/sum", '{"numbers":[1,2,3.5]}').ok().out == '{"sum":6.5}\n'
    flows.cli("serve", "who", "--exec", 'echo "$P2PFLOWS_FROM_NAME $P2PFLOWS_FROM $P2PFLOWS_ENDPOINT"').ok()
    assert alice.request("call", address="bob/who")["data"] == {"text": f"alice {alice.user_id} who"}
    flows.cli("serve", "five", "--exec", "echo 5").ok()
    assert alice.request("call", address="bob/five")["data"] == {"result": 5}


def test_a_function_in_a_package(alice: Person, flows: Person) -> None:
    """`package.module:attr` is found from the folder in which it was served."""
    assert flows.name == "bob"
    assert alice.cli("call", "bob/price", "item=soap").ok().document == {"result": 1.0}


def test_a_user_calls_their_own_flow(flows: Person) -> None:
    """A user can call their own flows, as `me`."""
    assert flows.cli("call", "me/double", "n=21").ok().document == {"result": 42}


@pytest.mark.parametrize(
    ("endpoint", "data", "word"),
    [
        ("double", {"n": "two"}, "n"),
        ("double", {"n": 2.5}, "n"),
        ("double", {"n": True}, "n"),
        ("double", {"n": None}, "n"),
        ("double", {}, "n"),
        ("double", {"n": 1, "m": 2}, "m"),
        ("order", {"what": "tea", "count": "1"}, "count"),
    ],
)
def test_data_that_does_not_fit(
    alice: Person, flows: Person, endpoint: str, data: dict[str, object], word: str
) -> None:
    """Data of the wrong shape fails as `bad_input` with the name of the field, and the flow does not run."""
    assert flows.name == "bob"
    with pytest.raises(BadInput, match=rf"\b{word}\b"):
        alice.request("call", address=f"bob/{endpoint}", data=data)


def test_serving_again_runs_the_new_code(alice: Person, flows: Person) -> None:
    """After an edit the old code runs until the flow is served again; from then on the new code runs."""
    for target, file in (("edited.py:version", "edited.py"), ("shop.edited:version", "shop/edited.py")):
        flows.write_file(file, "def version() -> int:\n    return 1\n")
        flows.cli("serve", "version", target).ok()
        assert alice.request("call", address="bob/version")["data"] == {"result": 1}
        flows.write_file(file, "def version() -> int:\n    return 2\n")
        assert alice.request("call", address="bob/version")["data"] == {"result": 1}
        flows.cli("serve", "version", target).ok()
        assert alice.request("call", address="bob/version")["data"] == {"result": 2}


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("missing.py:f", "missing.py"),
        ("broken.py:f", "line 2"),
        ("raises.py:f", "ZeroDivisionError"),
        ("leaves.py:f", "SystemExit"),
        ("flows.py:nobody", "nobody"),
        ("flows.py:not_callable", "function"),
        ("no.such.package:f", "no"),
        ("flows.py", "flows.py"),
    ],
)
def test_what_does_not_load_is_refused(flows: Person, target: str, reason: str) -> None:
    """`serve` names what is wrong with a target, and serves nothing."""
    flows.write_file("broken.py", "x = 1\ndef f(:\n")
    flows.write_file("raises.py", "1 / 0\ndef f(): ...\n")
    flows.write_file("leaves.py", "import sys\nsys.exit(3)\n")
    with pytest.raises(UsageError) as refused:
        flows.request("serve", endpoint="bad", kind="python", target=target, cwd=str(flows.folder))
    assert reason in refused.value.message
    assert "bad" not in [flow["endpoint"] for flow in flows.request("ls")["flows"]]


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        ("./missing.sh", "missing.sh"),
        ("./flows.py", "executable"),
        ("echo 'unbalanced", "unbalanced"),
        ("no-such-program-at-all", "no-such-program-at-all"),
    ],
)
def test_a_command_that_cannot_run_is_refused(flows: Person, command: str, reason: str) -> None:
    """`serve` refuses a shell command that cannot run."""
    with pytest.raises(UsageError) as refused:
        flows.request("serve", endpoint="bad", kind="exec", target=command, cwd=str(flows.folder))
    assert reason in refused.value.message + refused.value.hint
    assert "bad" not in [flow["endpoint"] for flow in flows.request("ls")["flows"]]


def test_the_shell_says_why_it_does_not_serve(flows: Person) -> None:
    """On the command line a refused target is one plain error, with exit code 2."""
    flows.write_file("broken.py", "x = 1\ndef f(:\n")
    for words in (["missing.py:f"], ["broken.py:f"], ["--exec", "./missing.sh"], ["--exec", "x", "--human"]):
        result = flows.cli("serve", "bad", *words, "--json")
        assert (result.code, result.out) == (2, "")
        assert result.error["code"] == "usage"


def test_a_refused_target_leaves_the_old_one(alice: Person, flows: Person) -> None:
    """Serving a broken target under a name in use changes nothing for callers."""
    flows.write_file("steady.py", "def steady() -> int:\n    return 1\n")
    flows.cli("serve", "steady", "steady.py:steady").ok()
    flows.write_file("steady.py", "def steady( -> int:\n")
    assert flows.cli("serve", "steady", "steady.py:steady").code == 2
    assert alice.request("call", address="bob/steady")["data"] == {"result": 1}


def test_reserved_names_are_refused(flows: Person) -> None:
    """A name that the daemon uses itself, or that no topic can hold, cannot be served."""
    for name in ("_reply", "_flows", "a/b", "", "x" * 65, "ümlaut"):
        with pytest.raises(UsageError):
            flows.request("serve", endpoint=name, kind="exec", target="cat", cwd="/")


def test_a_neighbour_sees_what_is_served(alice: Person, flows: Person) -> None:
    """`ls CONTACT` and `describe ADDRESS` show what a neighbour serves, its schema, and whether I may call it."""
    flows.cli("serve", "secret", "flows.py:double", "--allow", "me").ok()
    listed = {flow["endpoint"]: flow for flow in alice.cli("ls", "bob", "--json").ok().document}
    assert {"User", "greet", "sum", "price"} <= set(listed)
    assert "secret" not in listed
    assert listed["greet"]["description"] == "Greet somebody."
    assert "secret" in [flow["endpoint"] for flow in flows.cli("ls", "--json").ok().document]
    shown = alice.cli("describe", "bob/greet", "--json").ok().document
    assert (shown["online"], shown["served"], shown["allowed"]) == (True, True, True)
    assert shown["dispatch_point"] == "default"
    assert set(shown["schema"]["properties"]) == {"name", "times"}
    assert shown["schema"]["required"] == ["name"]
    hidden = alice.cli("describe", "bob/secret", "--json").ok().document
    assert (hidden["served"], hidden["allowed"]) == (True, False)
    assert "schema" not in hidden
    missing = alice.cli("describe", "bob/missing", "--json").ok().document
    assert (missing["served"], missing["allowed"]) == (False, False)
    assert "Greet somebody." in alice.cli("describe", "bob/greet").ok().out
    assert "greet" in alice.cli("ls", "bob").ok().out


def test_unserve(alice: Person, flows: Person) -> None:
    """After `unserve` a flow is served to nobody, at once."""
    flows.cli("serve", "brief", "flows.py:double").ok()
    assert alice.request("call", address="bob/brief", data={"n": 1})["data"] == {"result": 2}
    flows.cli("unserve", "brief").ok()
    result = alice.cli("call", "bob/brief", "n=1", "--json")
    assert result.code == 1
    assert result.error["code"] == "not_served"
    again = flows.cli("unserve", "brief", "--json")
    assert again.code == 1
    assert again.error["code"] == "not_served"


def test_a_name_that_is_used_again(alice: Person, flows: Person) -> None:
    """A flow under a name that another flow had before is the one that runs, even if its file is the same."""
    for target, result in (("echo 1", 1), ("echo 2", 2)):
        flows.request("serve", endpoint="again", kind="exec", target=target, cwd="/")
        assert alice.request("call", address="bob/again")["data"] == {"result": result}
        flows.request("unserve", endpoint="again")
    for result in (3, 4):
        flows.write_file("again.py", f"def f() -> int:\n    return {result}\n")
        flows.request("serve", endpoint="again", kind="python", target="again.py:f", cwd=str(flows.folder))
        assert alice.request("call", address="bob/again")["data"] == {"result": result}
        flows.request("unserve", endpoint="again")


def test_what_waits_for_a_flow_that_is_unserved(alice: Person, flows: Person) -> None:
    """Calls that wait for a flow when it is unserved do not run, and fail at once."""
    flows.write_file("step.sh", "#!/bin/sh\ncat >> steps\nuntil test -e go; do sleep 0.05; done\n", executable=True)
    flows.request("serve", endpoint="step", kind="exec", target="./step.sh", cwd=str(flows.folder))
    calls = [alice.request("submit", address="bob/step", data={"n": n}, timeout=20)["id"] for n in range(4)]
    wait_until((flows.folder / "steps").exists)
    flows.request("unserve", endpoint="step")
    for call in calls[2:]:
        with pytest.raises(NotServed):
            alice.request("wait", id=call)
    (flows.folder / "go").touch()
    time.sleep(1)
    assert (flows.folder / "steps").read_text().count("\n") <= 2


def test_calls_of_one_sender_run_in_order(alice: Person, flows: Person) -> None:
    """The calls of one sender to one flow run one after the other; those to a parallel flow run side by side."""
    source = """
    import threading, time
    from pathlib import Path
    running = 0
    def count(n: int) -> int:
        global running
        running += 1
        most = running
        time.sleep(0.05)
        most = max(most, running)
        running -= 1
        return most
    """
    flows.write_file("count.py", "\n".join(line[4:] for line in source.splitlines()))
    lines = "".join(f'{{"n":{n}}}\n' for n in range(12))
    flows.cli("serve", "single", "count.py:count").ok()
    assert [line["result"] for line in alice.cli("call", "bob/single", "--lines", stdin=lines).ok().lines] == [1] * 12
    flows.cli("serve", "several", "count.py:count", "--parallel").ok()
    most = max(line["result"] for line in alice.cli("call", "bob/several", "--lines", stdin=lines).ok().lines)
    assert most > 1


def test_a_slow_flow_holds_up_no_other(alice: Person, flows: Person) -> None:
    """While a slow flow runs, other flows answer."""
    gate = flows.folder / "gate"
    slow = alice.request("submit", address="bob/patiently", data={"file": str(gate)})["id"]
    assert alice.request("call", address="bob/double", data={"n": 1}, timeout=30)["data"] == {"result": 2}
    gate.touch()
    assert alice.request("wait", id=slow)["data"] == {"found": True}


def call_with_lines(alice: Person, count: int) -> float:
    """Call with so many lines, and check that the answers are complete and in order; returns the seconds."""
    lines = "".join(f'{{"n":{n}}}\n' for n in range(count))
    result = alice.cli("call", "bob/double", "--lines", stdin=lines, timeout=180).ok()
    assert result.out == "".join(f'{{"result":{2 * n}}}\n' for n in range(count))
    assert result.err == ""
    return result.seconds


def test_ten_thousand_lines(alice: Person, flows: Person) -> None:
    """10,000 JSON lines through one command come back complete, in order, and quickly."""
    assert flows.name == "bob"
    assert call_with_lines(alice, 10_000) < 120
    alice.wait_for_status(lambda now: now["pending"] == 0)
    assert alice.status()["accepted"] >= 10_000


@pytest.mark.parametrize("program", ["iotcore"], indirect=True)
def test_two_thousand_lines_on_the_other_broker(network_on_each_broker: Network) -> None:
    """2,000 JSON lines come back complete and in order on each embedded broker."""
    alice, bob = network_on_each_broker.pair()
    bob.write_file("flows.py", FLOWS)
    bob.serve("double", "flows.py:double")
    call_with_lines(alice, 2_000)


def test_lines_that_fail_keep_their_place(alice: Person, flows: Person) -> None:
    """The error of a wrong line stands in the place of its answer, and the exit code reports that a line has failed."""
    assert flows.name == "bob"
    result = alice.cli("call", "bob/double", "--lines", "--json", stdin='{"n":1}\n{"n":"x"}\nnot json\n\n{"n":4}\n')
    first, second, third, last = result.lines
    assert (first, last) == ({"result": 2}, {"result": 8})
    assert second["error"]["code"] == "bad_input"
    assert third["error"]["code"] == "usage"
    assert result.code == 2
    assert "2 of 4" in result.error["message"]


def test_send_lines_prints_ids_in_order(alice: Person, flows: Person) -> None:
    """`send --lines` prints one id for each line, and the messages take effect in that order."""
    flows.write_file("append.sh", "#!/bin/sh\ncat >> got.jsonl\n", executable=True)
    flows.cli("serve", "append", "--exec", "./append.sh").ok()
    result = alice.cli("send", "bob/append", "--lines", stdin="".join(f'{{"n":{n}}}\n' for n in range(50))).ok()
    ids = result.out.split()
    assert len(set(ids)) == 50
    got = flows.folder / "got.jsonl"
    wait_until(lambda: got.exists() and got.read_text().count("\n") == 50)
    assert [json.loads(line)["n"] for line in got.read_text().splitlines()] == list(range(50))


def test_what_is_served_survives_a_restart(alice: Person, flows: Person) -> None:
    """After a restart or a kill -9 of the daemon everything is still served."""
    served = flows.request("ls")["flows"]
    assert flows.stop() == 0
    flows.start()
    assert flows.request("ls")["flows"] == served
    assert alice.cli("call", "bob/greet", "name=Ann", "--timeout", "20s").ok().document
    flows.kill_daemon()
    flows.start()
    assert flows.request("ls")["flows"] == served
    assert alice.cli("call", "bob/sum", '{"numbers":[1,1]}', "--timeout", "20s").ok().document == {"sum": 2}


def test_a_large_message(alice: Person, flows: Person) -> None:
    """Half a megabyte goes through whole, both ways."""
    flows.cli("serve", "back", "--exec", "cat").ok()
    for text in ("x" * 690_000, "ä" * 345_000, '"' * 345_000):
        result = alice.cli("call", "bob/back", "-", "--timeout", "20s", stdin=json.dumps({"text": text})).ok()
        assert result.document == {"text": text}
    flows.cli("serve", "quotes", "--exec", "python3 -c 'print(chr(34) * 690_000)'").ok()
    result = alice.cli("call", "bob/quotes", "--timeout", "20s", "--json")
    assert result.error["code"] == "flow_failed"
    assert result.error["message"].startswith("The answer is too large")
    assert "'quotes'" in result.error["hint"]
