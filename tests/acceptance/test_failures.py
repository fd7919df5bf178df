"""Every failure of a call has its own kind and exit code, comes in time, and shows no traceback."""

from __future__ import annotations

import json
import secrets
import subprocess
import time

import pytest
from nacl.signing import SigningKey
from support.commands import CommandResult
from support.network import Network
from support.people import Person
from support.processes import free_port

from p2pflows.errors import UnknownUser
from p2pflows.protocol import identity

FLOWS = """
import os
import signal
import time

from p2pflows.errors import Declined


def double(n: int) -> int:
    return 2 * n


def raises(text: str) -> str:
    raise ValueError(f"I do not like {text!r}")


def declines() -> str:
    raise Declined("Ask again on Monday.")


def leaves() -> None:
    raise SystemExit(3)


def dies() -> None:
    os._exit(1)


def is_killed() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(seconds: float) -> float:
    time.sleep(seconds)
    return seconds


def odd() -> object:
    return object()


def large() -> str:
    return "x" * 800_000


def oddly_named() -> None:
    raise OSError("cannot open \\udcff\\udcfe")
"""


@pytest.fixture(scope="module")
def served(pair: tuple[Person, Person]) -> None:
    """Bob serves flows that fail in every way."""
    bob = pair[1].ready()
    file = bob.write_file("failing.py", FLOWS)
    names = ("double", "raises", "declines", "leaves", "dies", "is_killed", "sleeps", "odd", "large", "oddly_named")
    for name in names:
        bob.request("serve", endpoint=name, kind="python", target=f"{file}:{name}", cwd=str(bob.folder))
    bob.request("serve", endpoint="mine", kind="python", target=f"{file}:double", cwd=str(bob.folder), allow="me")
    bob.request(
        "serve", endpoint="fails", kind="exec", target="echo to stdout; echo it went wrong >&2; exit 3", cwd="/"
    )


@pytest.fixture
def flows(bob: Person, served: None) -> Person:  # noqa: ARG001 - it has to have been done
    """Bob, who serves the failing flows."""
    return bob


def check_failure(result: CommandResult, kind: str, code: int, *words: str) -> dict[str, str]:
    """Check that a command has failed with this kind and exit code; returns the error object."""
    assert result.out == ""
    error: dict[str, str] = result.error
    assert (error["code"], result.code) == (kind, code), error
    assert error["message"]
    for word in words:
        assert word in error["message"], error
    return error


def test_an_unknown_petname(alice: Person) -> None:
    """A call to an unknown petname fails at once, and the hint says how to add a contact."""
    error = check_failure(alice.cli("call", "nobody/User", "text=x", "--json"), "unknown_user", 3, "nobody")
    assert "contacts add" in error["hint"]


def test_an_unknown_user_id(alice: Person) -> None:
    """A call to a user id that the broker has never seen fails at the deadline."""
    stranger = SigningKey.generate().verify_key.encode().hex()
    result = alice.cli("call", f"{stranger}/User", "text=x", "--timeout", "1s", "--json")
    check_failure(result, "unknown_user", 3, stranger)
    assert result.seconds < 10


@pytest.mark.parametrize("user", ["00" * 32, "ff" * 32, "02" + "00" * 31, "01" + "00" * 31])
def test_a_user_id_that_is_no_key(alice: Person, user: str) -> None:
    """A user id that is no Ed25519 key, as half of all random ones, is refused at once, and does no harm later."""
    check_failure(alice.cli("call", f"{user}/User", "text=x", "--timeout", "2s", "--json"), "unknown_user", 3)
    for method, params in (("send", {"address": f"{user}/User", "data": {"text": "x"}}), ("ls", {"user": user})):
        with pytest.raises(UnknownUser):
            alice.request(method, **params)
    alice.wait_for_status(lambda now: now["pending"] == 0)


def test_random_user_ids(alice: Person) -> None:
    """The daemon answers a call to any random user id with `unknown_user`, and lives on."""
    for _ in range(8):
        with pytest.raises(UnknownUser):
            alice.request("call", address=f"{secrets.token_hex(32)}/User", data={"text": "x"}, timeout=0.2)


def test_an_offline_contact(alice: Person, network: Network) -> None:
    """A call to a contact whose daemon does not run fails as unreachable, at its deadline and not later."""
    dave = network.person("dave")
    alice.add_contact(dave)
    result = alice.cli("call", "dave/User", "text=x", "--timeout", "1s", "--json")
    check_failure(result, "unreachable", 3, "dave")
    assert 1 <= result.seconds < 10


def test_a_contact_who_left(network: Network) -> None:
    """A contact whose daemon was stopped or killed is unreachable; a message to them arrives once they are back."""
    alice, bob = network.pair(workers=False)
    bob.stop()
    result = alice.cli("call", "bob/User", "text=x", "--timeout", "1s", "--json")
    check_failure(result, "unreachable", 3, "bob", "offline")
    message = alice.cli("send", "bob/User", "text=later").ok().out.strip()
    (pending,) = alice.cli("outbox", "--json").ok().document["pending"]
    assert (pending["id"], pending["to"], pending["name"]) == (message, bob.user_id, "bob")
    bob.start()
    assert [prompt["id"] for prompt in bob.wait_for_prompts()] == [message]


def test_not_served(alice: Person, flows: Person) -> None:
    """A call to an endpoint that is not served fails at once."""
    assert flows.name == "bob"
    result = alice.cli("call", "bob/missing", "{}", "--json")
    check_failure(result, "not_served", 1, "missing")
    assert result.seconds < 10


def test_not_allowed(alice: Person, flows: Person) -> None:
    """A call to an endpoint that is not open to this caller fails at once."""
    assert flows.request("call", address="me/mine", data={"n": 1})["data"] == {"result": 2}
    result = alice.cli("call", "bob/mine", "n=1", "--json")
    check_failure(result, "not_allowed", 4, "mine")
    assert result.seconds < 10


def test_a_flow_that_raises(alice: Person, flows: Person) -> None:
    """The caller gets the type and text of an exception; its traceback stays in the owner's log."""
    result = alice.cli("call", "bob/raises", "text=tea", "--json")
    check_failure(result, "flow_failed", 1, "ValueError: I do not like 'tea'")
    assert "Traceback" in flows.log_text()
    check_failure(alice.cli("call", "bob/leaves", "{}", "--json"), "flow_failed", 1, "SystemExit: 3")
    check_failure(alice.cli("call", "bob/odd", "{}", "--json"), "flow_failed", 1, "object")
    check_failure(alice.cli("call", "bob/oddly_named", "{}", "--json"), "flow_failed", 1, "OSError: cannot open")


def test_a_flow_that_declines(alice: Person, flows: Person) -> None:
    """A flow can decline a call, as a human can."""
    assert flows.name == "bob"
    check_failure(alice.cli("call", "bob/declines", "{}", "--json"), "declined", 1, "Ask again on Monday.")


def test_a_command_that_fails(alice: Person, flows: Person) -> None:
    """The caller gets the exit code of a command and the end of its stderr."""
    assert flows.name == "bob"
    error = check_failure(
        alice.cli("call", "bob/fails", "{}", "--json"), "flow_failed", 1, "exit code 3", "it went wrong"
    )
    assert "to stdout" not in error["message"]


def test_a_worker_that_dies_at_every_attempt(alice: Person, flows: Person) -> None:
    """A flow that kills its worker fails after a few attempts; other flows go on."""
    endpoint = "is_killed"
    result = alice.cli("call", f"bob/{endpoint}", "{}", "--timeout", "40s", "--json")
    check_failure(result, "worker_lost", 1, "3 attempts")
    dead = flows.request("outbox")["dead"]
    assert [(letter["endpoint"], letter["attempts"]) for letter in dead if letter["endpoint"] == endpoint] == [
        (endpoint, 3)
    ]
    assert alice.request("call", address="bob/double", data={"n": 4}, timeout=30)["data"] == {"result": 8}


def test_a_worker_that_dies_at_every_attempt_before_a_deadline(alice: Person, flows: Person) -> None:
    """If the deadline comes before the last attempt, the call fails at the deadline."""
    assert flows.name == "bob"
    result = alice.cli("call", "bob/dies", "{}", "--timeout", "1s", "--json")
    assert result.error["code"] in ("deadline", "worker_lost")
    assert result.seconds < 10


@pytest.mark.parametrize("text", ['{"n":', "[1]", "nonsense", '{"n":NaN}'])
def test_bad_json(alice: Person, flows: Person, text: str) -> None:
    """Data that is no JSON object is refused before anything is sent, and the error names the position."""
    assert flows.name == "bob"
    accepted = alice.status()["accepted"]
    check_failure(alice.cli("call", "bob/double", "-", "--json", stdin=text), "usage", 2)
    assert alice.status()["accepted"] == accepted


def test_a_wrong_type(alice: Person, flows: Person) -> None:
    """Data that does not fit the flow's types fails as `bad_input`."""
    assert flows.name == "bob"
    check_failure(alice.cli("call", "bob/double", "n=two", "--json"), "bad_input", 2, "n")


def test_data_that_no_message_can_carry(alice: Person, flows: Person) -> None:
    """Data that is nested too deeply, or holds half a character, is refused at once, and the daemon lives on."""
    assert flows.name == "bob"
    for depth in (150, 300, 900):
        result = alice.cli("call", "bob/double", '{"n":' + "[" * depth + "]" * depth + "}", "--json")
        assert result.code == 2
        assert result.error["code"] in ("bad_input", "usage")
    assert alice.cli("call", "bob/double", "-", "--json", stdin='{"n":"\\ud800"}').code == 2
    for data in ('{"text":"\\ud800"}', '{"n":' + "[" * 90_000 + "]" * 90_000 + "}"):
        with_curl = [
            "curl",
            "-s",
            "--unix-socket",
            str(alice.home / "daemon.sock"),
            "http://p2pflows/v1/call",
            "-d",
            "@-",
        ]
        answer = subprocess.run(
            with_curl, input=f'{{"address":"bob/double","data":{data}}}', capture_output=True, text=True, check=True
        )
        assert set(json.loads(answer.stdout)) == {"error"}, answer.stdout
    assert alice.request("call", address="bob/double", data={"n": 1})["data"] == {"result": 2}


def test_too_large(alice: Person, flows: Person) -> None:
    """A message over the limit is refused before it is sent; an answer over the limit is the flow's fault."""
    assert flows.name == "bob"
    for size in (700_001, 3_000_000):
        data = json.dumps({"n": "x" * size})
        check_failure(alice.cli("call", "bob/double", "-", "--json", stdin=data), "too_large", 2)
    check_failure(alice.cli("call", "bob/large", "{}", "--json"), "flow_failed", 1)


def test_a_flow_slower_than_its_deadline(alice: Person, flows: Person) -> None:
    """A call whose flow is too slow fails at its deadline, to the second; the late result changes nothing."""
    result = alice.cli("call", "bob/sleeps", "seconds=2", "--timeout", "1s", "--json")
    check_failure(result, "deadline", 5)
    assert 1 <= result.seconds < 10
    time.sleep(1)
    flows.wait_for_status(lambda now: all(point["queued"] == 0 for point in now["workers"]))
    assert alice.request("call", address="bob/sleeps", data={"seconds": 0.0})["data"] == {"result": 0.0}


def test_no_worker(alice: Person, flows: Person) -> None:
    """A call to a dispatch point without workers fails at its deadline; serving there fails, too."""
    target = ["gpu", "failing.py:double", "--dispatch-point", "gpu"]
    check_failure(flows.cli("serve", *target, "--json"), "no_worker", 3, "gpu")
    worker = flows.start_worker("--dispatch-point", "gpu")
    flows.wait_for_status(lambda now: "gpu" in [point["dispatch_point"] for point in now["workers"]])
    flows.cli("serve", *target).ok()
    assert alice.request("call", address="bob/gpu", data={"n": 1}, timeout=30)["data"] == {"result": 2}
    worker.terminate()
    assert worker.wait(20) == 0
    result = alice.cli("call", "bob/gpu", "n=1", "--timeout", "1s", "--json")
    check_failure(result, "no_worker", 3, "gpu")
    assert 1 <= result.seconds < 10


def test_no_daemon(network: Network) -> None:
    """Without a daemon every command that needs one fails at once, and the hint says how to start it."""
    erin = network.person("erin")
    for words in (
        ["call", "me/User", "text=x"],
        ["send", "me/User", "text=x"],
        ["status"],
        ["call", "me/User", "--lines"],
    ):
        result = erin.cli(*words, "--json", stdin='{"text":"x"}\n' if "--lines" in words else None)
        assert "p2pflows up" in check_failure(result, "daemon_not_running", 3)["hint"]
        assert result.seconds < 10
    assert erin.cli("status").code == 3


def test_a_daemon_that_goes_away(network: Network) -> None:
    """When the daemon is killed, a waiting command says that the call is kept, and how to fetch the answer."""
    alice, bob = network.pair(workers=False)
    call = alice.start_command("call", "bob/User", "text=x", "--json")
    (prompt,) = bob.wait_for_prompts()
    alice.kill_daemon()
    result = call.wait()
    error = check_failure(result, "daemon_not_running", 3)
    assert prompt["id"] in error["hint"]
    alice.start(wait=False)
    bob.request("answer", id=prompt["id"], text="y")
    alice.ready()
    assert alice.cli("wait", prompt["id"]).ok().document == {"human_input": "y"}


def test_no_broker() -> None:
    """A daemon whose broker is out of reach runs, reports it, accepts messages, and blames nobody else."""
    network = Network(program=None, broker=f"mqtt://team:secret-word@127.0.0.1:{free_port()}")
    try:
        alice, bob = network.person("alice").without_workers(), network.person("bob")
        alice.add_contact(bob)
        alice.start(wait=False)
        alice.wait_for_status(lambda now: not now["broker"]["connected"])
        assert "not connected" in alice.cli("status").ok().out
        result = alice.cli("call", "bob/User", "text=x", "--timeout", "1s", "--json")
        message = check_failure(result, "unreachable", 3)["message"]
        assert message.startswith("Your own daemon has no connection to its broker. The broker mqtt://")
        assert "(connection refused)" in message
        alice.cli("send", "bob/User", "text=x").ok()
        assert "secret-word" not in alice.log_text() + alice.cli("status", "--json").ok().out
        assert alice.stop() == 0
    finally:
        network.close()


def test_wrong_use(alice: Person) -> None:
    """A command with wrong arguments fails as `usage` with a hint, and with nothing else."""
    for words in (
        ["call"],
        ["call", "bob"],
        ["call", "bob/User", "text=x", "--timeout", "soon"],
        ["call", "bob/User", "text=x", "text=y"],
        ["answer", "abcd1234", "text"],
        ["wait", "abcd"],
        ["contacts", "add", "bob2", "0" * 63],
        ["cal", "bob/User"],
        ["outbox", "retry", "abcd1234"],
        ["allow", "carol"],
    ):
        result = alice.cli(*words, "--json")
        assert result.code == 2, (words, result)
        assert set(result.error) == {"code", "message", "hint"}, words
        assert result.error["hint"], (words, result.error)


def test_a_contact_is_denied_by_petname(alice: Person) -> None:
    """`deny` and `allow` recognise the petname of a contact, and do not call it a malformed user id."""
    assert alice.cli("deny", "bob", "--json").error["message"] == "'bob' is a contact."
    allowed = alice.cli("allow", "bob")
    assert (allowed.code, allowed.err) == (0, "bob is a contact already; waiting messages accepted: 0.\n")


def test_people_read_the_same_errors_in_words(alice: Person) -> None:
    """Without --json an error is its kind, a sentence and a hint, on stderr alone."""
    result = alice.cli("call", "nobody/User", "text=x")
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("Error [unknown_user]: ")
    assert len(result.err.splitlines()) == 2


def test_a_damaged_key(network: Network) -> None:
    """A key file that is missing, readable by others, cut or foreign is one plain error of the daemon and of `id`."""
    erin = network.person("erin")
    key = erin.home / "identity.key"
    key.chmod(0o644)
    assert "chmod 600" in check_failure(erin.cli("id", "--json"), "usage", 2)["hint"]
    erin.start(wait=False)
    assert erin.daemon is not None
    assert erin.daemon.wait(10) == 2
    key.chmod(0o600)
    key.write_text(key.read_text()[:40])
    check_failure(erin.cli("id", "--json"), "usage", 2)
    key.unlink()
    check_failure(erin.cli("id", "--json"), "usage", 2)
    identity.create(key)
    erin.cli("id").ok()
    assert "Traceback" not in erin.log_text()


def test_a_damaged_home(network: Network) -> None:
    """The daemon names a file of the home that it cannot use, says what to do, and does not start."""
    erin = network.person("erin").without_workers()
    for name, content, word in (
        ("config.yaml", b"brokr: embedded\n", "brokr"),
        ("contacts.yaml", b"contacts: {bob: 12}\n", "contacts"),
        ("journal.sqlite3", b"garbage" * 1000, "journal"),
    ):
        file = erin.home / name
        file.write_bytes(content)
        erin.start(wait=False)
        assert erin.daemon is not None
        assert erin.daemon.wait(15) == 2
        line = erin.log_text().splitlines()[-2]
        assert line.startswith("Error [usage]")
        assert word in line
        assert file.read_bytes() == content
        file.unlink()
    assert "Traceback" not in erin.log_text()


def test_a_journal_with_a_hole(network: Network) -> None:
    """The daemon names a journal that has lost a page, and one that belongs to another key."""
    erin = network.person("erin").without_workers().start()
    assert erin.stop() == 0
    journal = erin.home / "journal.sqlite3"
    whole = journal.read_bytes()
    journal.write_bytes(whole[:4096] + b"\0" * 4096 + whole[8192:])
    erin.start(wait=False)
    assert erin.daemon is not None
    assert erin.daemon.wait(15) == 2
    assert "is damaged" in erin.log_text()
    journal.write_bytes(whole)
    (erin.home / "identity.key").unlink()
    identity.create(erin.home / "identity.key")
    erin.start(wait=False)
    assert erin.daemon.wait(15) == 2
    assert f"belongs to user {erin.user_id}" in erin.log_text()
    assert "bug" not in erin.log_text()
