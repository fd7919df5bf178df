"""Workers of a dispatch point: started here or elsewhere, killed, and replaced."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from support.network import Network
from support.people import Person
from support.processes import kill_process, wait_until

from p2pflows.errors import DeadlinePassed, NotAllowed, NoWorker

FLOWS = '''
import os
import time
from pathlib import Path

HERE = Path(__file__).parent


def pid() -> int:
    return os.getpid()


def note(n: int) -> None:
    with (HERE / "notes").open("a") as file:
        file.write(f"{n}\\n")


def slow(seconds: float) -> int:
    """Sleep; leaves a file while it runs."""
    (HERE / f"runs-{os.getpid()}").touch()
    time.sleep(seconds)
    (HERE / f"runs-{os.getpid()}").unlink(missing_ok=True)
    return os.getpid()


def held() -> int:
    """Run until the file `go` is there; leaves a file while it runs."""
    (HERE / f"runs-{os.getpid()}").touch()
    while not (HERE / "go").exists():
        time.sleep(0.02)
    return os.getpid()


def fragile() -> str:
    """Kill the worker unless somebody has mended it."""
    with (HERE / "attempts").open("a") as file:
        file.write("x")
    if not (HERE / "mended").exists():
        os._exit(1)
    return "fine"
'''


@pytest.fixture(autouse=True)
def forget_runs(bob: Person) -> None:
    """Remove what runs of other tests left: a run that was killed, or that still sleeps, keeps its file."""
    for file in bob.folder.glob("runs-*"):
        file.unlink(missing_ok=True)


@pytest.fixture
def point(bob: Person, request: pytest.FixtureRequest) -> str:
    """A dispatch point for one test, for which bob's daemon starts no workers."""
    bob.write_file("gpu.py", FLOWS)
    return f"gpu{abs(hash(request.node.name)) % 10_000}"


def workers_of(bob: Person, point: str) -> dict[str, Any]:
    """The entry of a dispatch point in `status`."""
    shown = [shown for shown in bob.status()["workers"] if shown["dispatch_point"] == point]
    return shown[0] if shown else {"workers": 0, "slots": 0, "free": 0, "queued": 0}


def wait_for_workers(bob: Person, point: str, count: int) -> None:
    """Wait until a dispatch point has so many workers."""
    wait_until(lambda: workers_of(bob, point)["workers"] == count, 20)


def running_processes(bob: Person) -> list[int]:
    """The processes in which the slow flow runs now."""
    return [int(file.name.removeprefix("runs-")) for file in bob.folder.glob("runs-*")]


def start_worker_elsewhere(
    bob: Person, token: str, folder: Path, *words: str, on_stdin: bool = False
) -> subprocess.Popen[bytes]:
    """Start a worker as on another machine: with an empty home, and nothing of bob's but a token."""
    kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH") if name in os.environ}
    environment = {**kept, "HOME": str(folder), "P2PFLOWS_HOME": str(folder / "home")}
    if not on_stdin:
        environment["P2PFLOWS_WORKER_TOKEN"] = token
        return bob.start_worker(*words, environment=environment)
    process = subprocess.Popen(
        [sys.executable, "-P", "-m", "p2pflows", "worker", "--token", "-", *words],
        env=environment,
        cwd=folder,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdin is not None
    process.stdin.write(token.encode() + b"\n")
    process.stdin.close()
    bob.end_at_close(process)
    return process


def test_a_worker_of_another_point(alice: Person, bob: Person, point: str) -> None:
    """`p2pflows worker` serves its dispatch point with the slots that it is given, and ends on Ctrl-C."""
    worker = bob.start_worker("--dispatch-point", point, "--concurrency", "2")
    wait_for_workers(bob, point, 1)
    shown = {"workers": 1, "slots": 2, "free": 2, "queued": 0, "keys": 0}
    assert workers_of(bob, point) == {"dispatch_point": point, **shown}
    bob.serve("pid", "gpu.py:pid", "--dispatch-point", point)
    assert alice.request("call", address="bob/pid", timeout=30)["data"] == {"result": worker.pid}
    assert bob.request("describe", address="me/pid")["dispatch_point"] == point
    worker.send_signal(signal.SIGINT)
    assert worker.wait(15) == 0
    wait_for_workers(bob, point, 0)


def test_a_worker_on_another_machine(alice: Person, bob: Person, point: str, tmp_path: Path) -> None:
    """With a token a worker runs from an empty home, without bob's key, and leaves nothing there."""
    token = bob.cli("worker-token", point).ok().out.strip()
    worker = start_worker_elsewhere(bob, token, tmp_path)
    wait_for_workers(bob, point, 1)
    bob.serve("pid", "gpu.py:pid", "--dispatch-point", point)
    assert alice.request("call", address="bob/pid", timeout=30)["data"] == {"result": worker.pid}
    environment = Path(f"/proc/{worker.pid}/environ").read_bytes() + Path(f"/proc/{worker.pid}/cmdline").read_bytes()
    assert token.encode() not in environment.replace(b"P2PFLOWS_WORKER_TOKEN=" + token.encode(), b"")
    assert not (tmp_path / "home" / "identity.key").exists()
    worker.terminate()
    assert worker.wait(15) == 0


def test_a_token_on_stdin(bob: Person, point: str, tmp_path: Path) -> None:
    """A token can come on stdin, so that no process list shows it; a wrong or cut one is refused."""
    token = bob.cli("worker-token", point, "--json").ok().document["token"]
    start_worker_elsewhere(bob, token, tmp_path, on_stdin=True)
    wait_for_workers(bob, point, 1)
    for wrong in (token[:-2], "nonsense", token.replace("p2pflows", "q2pflows")):
        result = bob.cli("worker", "--token", wrong)
        assert result.code == 2
        assert "p2pflows worker-token" in result.err
    result = bob.cli("worker", "--token", token, "--dispatch-point", "other")
    assert result.code == 2
    assert "other" in result.err


def test_posts_wait_for_a_worker(alice: Person, bob: Person, point: str) -> None:
    """Posts to a dispatch point without workers wait, and run in their order once a worker comes."""
    first = bob.start_worker("--dispatch-point", point)
    wait_for_workers(bob, point, 1)
    bob.serve("note", "gpu.py:note", "--dispatch-point", point)
    first.kill()
    first.wait()
    wait_for_workers(bob, point, 0)
    ids = [alice.request("send", address="bob/note", data={"n": n})["id"] for n in range(5)]
    wait_until(lambda: workers_of(bob, point)["queued"] == 5)
    assert alice.request("wait", id=ids[-1], timeout=30)["state"] == "delivered"
    bob.kill_daemon()
    bob.start()
    assert not (bob.folder / "notes").exists()
    bob.start_worker("--dispatch-point", point)
    wait_until(lambda: workers_of(bob, point)["queued"] == 0 and workers_of(bob, point)["workers"] == 1, 20)
    assert (bob.folder / "notes").read_text().split() == list("01234")


def test_a_worker_killed_in_the_middle(alice: Person, bob: Person, point: str) -> None:
    """When a worker is killed during a task, another worker runs the task, and the caller gets the answer."""
    workers = [bob.start_worker("--dispatch-point", point, "--concurrency", "1") for _ in range(2)]
    wait_for_workers(bob, point, 2)
    bob.serve("slow", "gpu.py:slow", "--dispatch-point", point)
    call = alice.request("submit", address="bob/slow", data={"seconds": 1.0}, timeout=40)["id"]
    wait_until(lambda: len(running_processes(bob)) == 1)
    (victim,) = running_processes(bob)
    assert victim in [worker.pid for worker in workers]
    kill_process(victim)
    (bob.folder / f"runs-{victim}").unlink()
    other = next(worker.pid for worker in workers if worker.pid != victim)
    assert alice.request("wait", id=call)["data"] == {"result": other}
    assert workers_of(bob, point)["workers"] == 1


def test_a_worker_that_must_end(alice: Person, bob: Person, point: str) -> None:
    """A worker that must end finishes the task that it runs; another worker runs the task that it had not begun."""
    first = bob.start_worker("--dispatch-point", point, "--concurrency", "1")
    wait_for_workers(bob, point, 1)
    bob.serve("slow", "gpu.py:slow", "--dispatch-point", point)
    calls = [alice.request("submit", address="bob/slow", data={"seconds": 1.0}, timeout=40)["id"] for _ in range(2)]
    wait_until(lambda: len(running_processes(bob)) == 1)
    first.terminate()
    second = bob.start_worker("--dispatch-point", point, "--concurrency", "1")
    assert alice.request("wait", id=calls[0])["data"] == {"result": first.pid}
    assert first.wait(15) == 0
    assert alice.request("wait", id=calls[1])["data"] == {"result": second.pid}


@pytest.mark.slow
def test_a_worker_that_hangs(alice: Person, bob: Person, point: str) -> None:
    """A worker that is stopped counts as dead after a while, and another worker runs its tasks."""
    first = bob.start_worker("--dispatch-point", point)
    wait_for_workers(bob, point, 1)
    bob.serve("pid", "gpu.py:pid", "--dispatch-point", point)
    first.send_signal(signal.SIGSTOP)
    try:
        call = alice.request("submit", address="bob/pid", timeout=60)["id"]
        wait_until(lambda: workers_of(bob, point)["queued"] == 1)
        second = bob.start_worker("--dispatch-point", point)
        assert alice.request("wait", id=call)["data"] == {"result": second.pid}
    finally:
        first.send_signal(signal.SIGCONT)
    wait_for_workers(bob, point, 2)


def test_a_worker_outlives_its_daemon(alice: Person, bob: Person, point: str) -> None:
    """A task that runs while its daemon is killed and restarted runs once, and its result counts."""
    worker = bob.start_worker("--dispatch-point", point)
    wait_for_workers(bob, point, 1)
    bob.serve("slow", "gpu.py:slow", "--dispatch-point", point)
    call = alice.request("submit", address="bob/slow", data={"seconds": 3.0}, timeout=40)["id"]
    wait_until(lambda: len(running_processes(bob)) == 1)
    bob.kill_daemon()
    bob.start()
    bob.start_worker("--dispatch-point", point)
    assert alice.request("wait", id=call)["data"] == {"result": worker.pid}


def test_dead_letters(alice: Person, bob: Person) -> None:
    """A post whose worker dies at each of three attempts is a dead letter; `outbox retry` runs it again."""
    bob.write_file("gpu.py", FLOWS)
    bob.serve("fragile", "gpu.py:fragile")
    sent = alice.cli("send", "bob/fragile", "{}").ok().out.strip()

    def letters() -> list[dict[str, Any]]:
        return [letter for letter in bob.request("outbox")["dead"] if letter["id"] == sent]

    wait_until(lambda: bool(letters()), 30)
    assert bob.status()["dead"] >= 1
    assert (bob.folder / "attempts").read_text() == "xxx"
    (letter,) = letters()
    assert letter in bob.cli("outbox", "--json").ok().document["dead"]
    assert (letter["from"], letter["name"]) == (alice.user_id, "alice")
    assert (letter["endpoint"], letter["attempts"]) == ("fragile", 3)
    assert sent[-8:] in bob.cli("outbox").ok().out
    bob.kill_daemon()
    bob.start()
    assert len(letters()) == 1
    bob.write_file("mended", "")
    bob.cli("outbox", "retry", sent[-8:]).ok()
    wait_until(lambda: (bob.folder / "attempts").read_text() == "xxxx")
    wait_until(lambda: not letters())
    assert bob.cli("outbox", "retry", sent[-8:]).code == 2


def test_a_failed_post_can_be_sent_again(alice: Person, bob: Person) -> None:
    """A failed post shows in what its sender has asked, with the reason, and can be sent again."""
    bob.serve("fails", "--exec", "test -e mended2")
    sent = alice.cli("send", "bob/fails", "{}").ok().out.strip()

    def failed() -> dict[str, Any]:
        return {each["id"]: each for each in alice.request("asked")["asked"] if each["outcome"] == "failed"}

    wait_until(lambda: sent in failed())
    assert failed()[sent]["error"]["code"] == "flow_failed"
    bob.write_file("mended2", "")
    again = alice.cli("outbox", "retry", sent[-8:], "--json").ok().document["id"]
    assert alice.request("wait", id=again, timeout=30)["state"] == "delivered"


def test_workers_of_the_config(network: Network) -> None:
    """`up` starts the workers that `config.yaml` names, restarts them, and ends them."""
    bob = network.person("bob")
    workers = [{"dispatch_point": "a", "concurrency": 1}, {"dispatch_point": "b", "concurrency": 3}]
    (bob.home / "config.yaml").write_text(json.dumps({"workers": workers}))
    bob.start()
    wait_for_workers(bob, "a", 1)
    wait_for_workers(bob, "b", 1)
    assert (workers_of(bob, "a")["slots"], workers_of(bob, "b")["slots"]) == (1, 3)
    before = bob.workers()
    assert len(before) == 2
    kill_process(before[0])
    wait_until(lambda: len(bob.workers()) == 2 and bob.workers() != before, 10)
    wait_for_workers(bob, "a", 1)
    wait_for_workers(bob, "b", 1)
    started = time.monotonic()
    assert bob.stop() == 0
    assert time.monotonic() - started < 10


def occupy(alice: Person, count: int) -> None:
    """Let calls of a function that does not end pass their deadlines."""
    calls = [alice.request("submit", address="bob/stuck", data={"seconds": 60}, timeout=1)["id"] for _ in range(count)]
    for call in calls:
        with pytest.raises(DeadlinePassed):
            alice.request("wait", id=call, timeout=20)


def test_a_worker_whose_slots_are_all_occupied_is_replaced(alice: Person, bob: Person) -> None:
    """When all runs of the daemon's own worker go on after their deadlines, another worker takes its place."""
    dead_letters = bob.status()["dead"]
    bob.write_file("gpu.py", FLOWS)
    bob.serve("stuck", "gpu.py:slow", "--parallel")
    bob.serve("pid", "gpu.py:pid")
    before = alice.request("call", address="bob/pid", timeout=30)["data"]
    waiting = alice.request("submit", address="bob/stuck", data={"seconds": 0.1}, timeout=60)["id"]
    alice.request("wait", id=waiting, timeout=20)
    occupy(alice, workers_of(bob, "default")["slots"])
    after = alice.request("call", address="bob/pid", timeout=30)["data"]
    assert after != before
    bob.serve("again", "gpu.py:pid")
    assert "it is replaced" in bob.log_text()
    logged = [entry for entry in bob.request("log")["entries"] if entry["what"] == "overdue"]
    assert "stuck" in {entry["endpoint"] for entry in logged}
    assert "overdue" not in workers_of(bob, "default")
    assert bob.status()["dead"] == dead_letters


def test_slots_that_are_occupied(alice: Person, bob: Person, point: str) -> None:
    """Slots with runs that nobody waits for are shown; flows still load; a call says that there is no worker."""
    bob.start_worker("--dispatch-point", point, "--concurrency", "2")
    wait_for_workers(bob, point, 1)
    bob.serve("stuck", "gpu.py:slow", "--parallel", "--dispatch-point", point)
    bob.serve("pid", "gpu.py:pid", "--dispatch-point", point)
    occupy(alice, 2)
    wait_until(lambda: len(workers_of(bob, point).get("overdue", ())) == 2 and workers_of(bob, point)["free"] == 0)
    assert {each["endpoint"] for each in workers_of(bob, point)["overdue"]} == {"stuck"}
    assert f"A slot of {point} is occupied by a run of stuck" in bob.cli("status").ok().err
    bob.serve("again", "gpu.py:pid", "--dispatch-point", point)
    with pytest.raises(NoWorker):
        alice.request("call", address="bob/pid", timeout=2)


def test_a_revoked_token(alice: Person, bob: Person, point: str, tmp_path: Path) -> None:
    """`worker-token revoke` ends a worker elsewhere at once; its run goes to another, and the token is of no use."""
    made = bob.cli("worker-token", point, "--expires", "30d", "--name", "big", "--json").ok().document
    far = start_worker_elsewhere(bob, made["token"], tmp_path, "--concurrency", "1")
    wait_for_workers(bob, point, 1)
    bob.serve("held", "gpu.py:held", "--dispatch-point", point)
    call = alice.request("submit", address="bob/held", timeout=40)["id"]
    wait_until(lambda: running_processes(bob) == [far.pid])
    near = bob.start_worker("--dispatch-point", point, "--concurrency", "1")
    wait_for_workers(bob, point, 2)
    (listed,) = [token for token in bob.cli("worker-token", "list", "--json").ok().document if token["name"] == "big"]
    assert (listed["id"], listed["state"], listed["workers"]) == (made["id"], "good", 1)
    assert "Disconnected: 1." in bob.cli("worker-token", "revoke", made["id"][:6]).ok().err
    assert far.wait(15) == NotAllowed.exit_code
    (bob.folder / "go").touch()
    assert alice.request("wait", id=call)["data"] == {"result": near.pid}
    assert re.search(rf"{made['id']} +{point} .* revoked +0 +big", bob.cli("worker-token", "list").ok().out)
    again = bob.cli("worker", "--token", made["token"])
    assert again.code == NotAllowed.exit_code
    assert f"was revoked. Ask for another: p2pflows worker-token {point}" in again.err


def test_a_worker_elsewhere_says_that_files_do_not_reach_it(
    alice: Person, bob: Person, point: str, tmp_path: Path
) -> None:
    """The error says where to run the flow instead; nothing waits for a file that cannot come."""
    source = "from p2pflows import File\n\ndef size(file: File) -> int:\n    return len(file.read_bytes())\n"
    bob.write_file("size.py", source)
    token = bob.cli("worker-token", point).ok().out.strip()
    start_worker_elsewhere(bob, token, tmp_path)
    wait_for_workers(bob, point, 1)
    bob.serve("size", "size.py:size", "--dispatch-point", point)
    (alice.folder / "x.bin").write_bytes(b"\xff")
    failed = alice.cli("call", "bob/size", "file=@x.bin")
    assert failed.code == 1
    assert "This worker runs on another machine than its daemon" in failed.err
    assert "Run the flow at a worker on the daemon's machine" in failed.err
