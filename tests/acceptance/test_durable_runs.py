"""Runs that outlive their worker and their daemon: each call is sent once, and each step is taken once."""

from __future__ import annotations

import contextlib
import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import flow_classes
import pytest
from flow_classes import notes
from support.network import Network
from support.people import Person
from support.processes import kill_process, wait_until

import p2pflows
from p2pflows import FlowProxy, serving
from p2pflows.client import Client
from p2pflows.contacts import Contacts
from p2pflows.errors import BadInput, Cancelled, DeadlinePassed, FlowFailed, WorkerLost

WAIT = 30.0
POINTS = {"steady": 4, "narrow": 1, "kill": 4, "often": 1, "deadly": 1, "crowded": 4}
"""Dispatch points with a worker of bob's each, and its slots; the worker of some is killed now and then."""
MAX_WAITING = {"crowded": 1}
"""How many waiting runs the worker of a point keeps, if that is not the usual number."""


class Owner:
    """A user who serves flow classes.

    Args:
        person: the user.
        human: the user id of the human whom some of the flows ask.
    """

    def __init__(self, person: Person, human: str) -> None:
        self.person = person
        self.client: Client = p2pflows.connect(person.home)
        self._human = human
        self._count = 0

    def serve(self, class_name: str, point: str = "default", **settings: Any) -> tuple[str, Path]:
        """Serve a flow class; returns a new endpoint, and the file for the notes of its runs."""
        self._count += 1
        endpoint = f"{class_name}{self._count}"
        file = self.person.folder / endpoint
        config = {"file": str(file), **settings.pop("config", {})}
        if issubclass(getattr(flow_classes, class_name), flow_classes.Asker):
            config["subflows_config"] = {"Human": {"flow_endpoint": "User", "user_id": self._human}}
        settings = {"dispatch_point": point, "config": config, **settings}
        assert serving.serve_flow(self.client, f"flow_classes.{class_name}", endpoint, **settings)
        return endpoint, file


class Caller:
    """Alice, who calls flows, and who is the human whom some of them ask.

    Args:
        person: alice.
    """

    def __init__(self, person: Person) -> None:
        self.person = person
        self.client: Client = p2pflows.connect(person.home)

    def get(self, owner: Owner, endpoint: str) -> FlowProxy:
        """Mount an instance of a flow."""
        return serving.get_flow_instance(self.client, endpoint, owner.person.user_id, timeout=WAIT)

    def prompts(self, question: str) -> list[dict[str, Any]]:
        """All prompts with this text, past ones too."""
        return [prompt for prompt in self.person.prompts(everything=True) if prompt["text"] == question]

    def wait_for_prompt(self, question: str) -> dict[str, Any]:
        """Wait for the only prompt with this text."""
        wait_until(lambda: bool(self.prompts(question)), WAIT)
        (prompt,) = self.prompts(question)
        return prompt

    def answer(self, question: str, text: str) -> None:
        """Answer the only prompt with this text."""
        prompt = self.wait_for_prompt(question)
        assert prompt["status"] == "open"
        self.person.request("answer", id=prompt["id"], text=text)

    def wait_for_prompt_status(self, question: str, status: str) -> None:
        """Wait until the only prompt with this text has a status."""
        wait_until(lambda: [prompt["status"] for prompt in self.prompts(question)] == [status], WAIT)


@pytest.fixture(scope="module")
def users() -> Iterator[tuple[Caller, Owner, Owner]]:
    """Alice, who asks and answers; bob, who serves at several dispatch points; and carol, whose daemon is killed."""
    network = Network()
    people = alice, bob, carol = [network.person(name) for name in ("alice", "bob", "carol")]
    alice.without_workers()
    workers = [
        {"dispatch_point": point, "concurrency": slots, "max_waiting": MAX_WAITING.get(point, 256)}
        for point, slots in POINTS.items()
    ]
    (bob.home / "config.yaml").write_text(json.dumps({"workers": workers}))
    for person in people:
        book = Contacts(person.home / "contacts.yaml")
        for other in people:
            if other is not person:
                book.add(other.name, other.user_id)
        person.start(wait=False)
    try:
        for person in people:
            person.ready()
        asking = Caller(alice)
        owners = [Owner(person, alice.user_id) for person in (bob, carol)]
        with contextlib.chdir(Path(flow_classes.__file__).parent):
            yield asking, owners[0], owners[1]
        for client in (asking.client, *(owner.client for owner in owners)):
            client.close()
    finally:
        network.close()


@pytest.fixture
def alice(users: tuple[Caller, Owner, Owner]) -> Caller:
    """The user who calls and answers."""
    return users[0]


@pytest.fixture
def bob(users: tuple[Caller, Owner, Owner]) -> Owner:
    """A user who serves, and whose workers are killed."""
    return users[1]


@pytest.fixture
def carol(users: tuple[Caller, Owner, Owner]) -> Owner:
    """A user who serves, and whose daemon is killed."""
    users[2].person.ready()
    return users[2]


def processes_of(file: Path) -> list[int]:
    """The processes in which a flow has run, one for each attempt."""
    return [int(line.removeprefix("run:")) for line in notes(file) if line.startswith("run:")]


def start_call(proxy: FlowProxy, data: Mapping[str, Any], timeout: float | None = WAIT) -> p2pflows.FlowFuture:
    """Call an instance without waiting for the answer."""
    return proxy.get_reply_future(proxy.package_input_message(data), timeout)


def kill_worker(file: Path) -> None:
    """Kill -9 the worker of the latest run, and wait until another worker runs it."""
    before = processes_of(file)
    kill_process(before[-1])
    wait_until(lambda: len(processes_of(file)) > len(before), WAIT)
    assert processes_of(file)[-1] not in before


# Killed.


def test_a_form_survives_the_worker_that_asked_for_it(alice: Caller, bob: Owner) -> None:
    """The human is asked once, a wrong answer is refused with the field, and the new run gets the model."""
    endpoint, file = bob.serve("FormAsker", "kill")
    future = start_call(alice.get(bob, endpoint), {"question": "When, and how many?"})
    prompt = alice.wait_for_prompt("When, and how many?")
    kill_worker(file)
    with pytest.raises(BadInput, match="'replicas' must be at most 9"):
        alice.person.request("answer", id=prompt["id"], words=["replicas=10", "when=2026-12-24"])
    with pytest.raises(BadInput, match="'when' must be a date"):
        alice.person.request("answer", id=prompt["id"], words=["replicas=3", "when=tomorrow"])
    alice.person.request("answer", id=prompt["id"], words=["replicas=3", "when=2026-12-24"], remark="not later")
    assert future.get_data(WAIT) == {"days": 7, "remark": "not later", "by": alice.person.user_id}
    assert len(alice.prompts("When, and how many?")) == 1


def test_a_worker_is_killed_while_a_human_thinks(alice: Caller, bob: Owner) -> None:
    """The human is asked once, each recorded step is taken once, and the caller gets the right answer."""
    endpoint, file = bob.serve("Asker", "kill")
    proxy = alice.get(bob, endpoint)
    future = start_call(proxy, {"question": "worker?"})
    alice.wait_for_prompt("worker?")
    kill_worker(file)
    alice.answer("worker?", "yes")
    first, second = processes_of(file)
    assert future.get_data() == {
        "answer": "yes",
        "steps": ["before:worker?", "after:worker?"],
        "asked": ["worker?"],
        "pid": second,
    }
    assert notes(file) == [f"run:{first}", "before:worker?", f"run:{second}", "after:worker?"]
    again = start_call(proxy, {"question": "again?"})
    alice.answer("again?", "no")
    assert again.get_data()["asked"] == ["worker?", "again?"]
    assert len(alice.prompts("worker?")) == 1


def test_a_waiting_run_outlives_any_number_of_workers(alice: Caller, bob: Owner) -> None:
    """The death of a worker while a run waits is no attempt: a run outlives more deaths than it has attempts."""
    endpoint, file = bob.serve("Asker", "often")
    future = start_call(alice.get(bob, endpoint), {"question": "often?"})
    for _ in range(4):
        wait_until(lambda: is_parked(bob, "often"), WAIT)
        kill_worker(file)
    alice.answer("often?", "still here")
    assert future.get_data()["answer"] == "still here"
    assert [line for line in notes(file) if not line.startswith("run:")] == ["before:often?", "after:often?"]
    assert len(processes_of(file)) == 5


def point_of(owner: Owner, point: str) -> dict[str, Any]:
    """What `status` shows of a dispatch point."""
    (shown,) = [shown for shown in owner.person.status()["workers"] if shown["dispatch_point"] == point]
    return dict(shown)


def is_parked(owner: Owner, point: str) -> bool:
    """Whether a task waits at a dispatch point while its worker has a slot for another task."""
    shown = point_of(owner, point)
    return bool(shown.get("waiting") == 1 and shown["free"] >= 1)


def test_runs_that_wait_longest_begin_again(alice: Caller, bob: Owner) -> None:
    """A worker with too many waiting runs ends the oldest; they go on from their records, and repeat only the rest."""
    questions = [f"crowd-{number}?" for number in range(4)]
    started = []
    for question in questions:
        endpoint, file = bob.serve("Asker", "crowded")
        started.append((file, start_call(alice.get(bob, endpoint), {"question": question})))
        alice.wait_for_prompt(question)
    wait_until(lambda: point_of(bob, "crowded").get("suspended") == 3, WAIT)
    shown = point_of(bob, "crowded")
    assert (shown["waiting"], shown["queued"], shown["slots"], shown["free"]) == (4, 0, 4, 4)
    for question, (file, future) in zip(questions, started, strict=True):
        alice.answer(question, f"yes to {question}")
        assert future.get_data()["answer"] == f"yes to {question}"
        began_again = question != questions[-1]
        assert [line.partition(":")[0] for line in notes(file)] == ["run", "before"] + ["run"] * began_again + ["after"]
        assert len(alice.prompts(question)) == 1


def test_a_run_that_kills_its_workers(alice: Caller, bob: Owner) -> None:
    """A run that kills its worker three times fails; its step is taken once, and its instance takes more messages."""
    endpoint, file = bob.serve("Deadly", "deadly")
    proxy = alice.get(bob, endpoint)
    with pytest.raises(WorkerLost):
        proxy.call({}, WAIT)
    assert len(processes_of(file)) in (3, 4)
    assert notes(file).count("step") == 1
    assert proxy.call({"spare": True}, WAIT) == {"count": 1}


def test_a_run_that_asks_another_question(alice: Caller, bob: Owner) -> None:
    """A run that asks another question when it runs again fails, and its first question is withdrawn."""
    endpoint, file = bob.serve("Fickle", "kill")
    future = start_call(alice.get(bob, endpoint), {})
    wait_until(lambda: bool(processes_of(file)), WAIT)
    question = f"fickle-{processes_of(file)[0]}"
    alice.wait_for_prompt(question)
    kill_worker(file)
    with pytest.raises(FlowFailed, match="did not repeat the calls"):
        future.get_data()
    alice.wait_for_prompt_status(question, "cancelled")
    assert alice.prompts(f"fickle-{processes_of(file)[1]}") == []


def test_large_steps_are_taken_once(alice: Caller, bob: Owner) -> None:
    """A run that starts again finds all its recorded results, although they do not fit into one frame with the task."""
    endpoint, file = bob.serve("Bulky", "kill")
    future = start_call(alice.get(bob, endpoint), {"question": "bulky?"})
    alice.wait_for_prompt("bulky?")
    kill_worker(file)
    alice.answer("bulky?", "yes")
    assert future.get_data() == {"answer": "yes", "steps": [[str(n), 150_000] for n in range(4)]}
    assert [line for line in notes(file) if line.startswith("step:")] == [f"step:{n}" for n in range(4)]


@pytest.mark.parametrize("victims", ["daemon", "both"])
def test_a_daemon_is_killed_while_humans_think(alice: Caller, carol: Owner, victims: str) -> None:
    """Runs that wait, and messages kept for a later run, outlive the daemon; each answer reaches its question."""
    questions = {class_name: f"{class_name}-{victims}?" for class_name in ("Asker", "LaterAsker", "AsyncAsker")}
    served = {class_name: carol.serve(class_name) for class_name in questions}
    futures = {
        class_name: start_call(alice.get(carol, served[class_name][0]), {"question": question})
        for class_name, question in questions.items()
    }
    texts = [questions["Asker"], questions["LaterAsker"], *(f"{questions['AsyncAsker']}-{n}" for n in (1, 2))]
    for text in texts:
        alice.wait_for_prompt(text)
    workers = carol.person.workers()
    carol.person.kill_daemon()
    if victims == "both":
        for pid in workers:
            kill_process(pid)
    alice.answer(texts[0], "meanwhile")
    carol.person.start()
    wait_until(lambda: len(processes_of(served["Asker"][1])) == len(processes_of(served["AsyncAsker"][1])) == 2, WAIT)
    for text in texts[1:]:
        alice.answer(text, f"to {text}")
    answer = {class_name: future.get_data() for class_name, future in futures.items()}
    assert answer["Asker"]["answer"] == "meanwhile"
    assert answer["LaterAsker"] == {"answer": f"to {texts[1]}"}
    assert answer["AsyncAsker"] == {"answers": [f"to {texts[2]}", f"to {texts[3]}"]}
    assert [len(alice.prompts(text)) for text in texts] == [1, 1, 1, 1]
    assert [line for line in notes(served["Asker"][1]) if not line.startswith("run:")] == [
        f"before:{texts[0]}",
        f"after:{texts[0]}",
    ]


def test_a_worker_outlives_its_daemon(alice: Caller, carol: Owner) -> None:
    """A run whose worker lives continues when the daemon is back; it does not run a second time."""
    carol.person.start_worker("--dispatch-point", "apart")
    wait_for_worker(carol, "apart")
    endpoint, file = carol.serve("Asker", "apart")
    future = start_call(alice.get(carol, endpoint), {"question": "apart?"})
    alice.wait_for_prompt("apart?")
    carol.person.kill_daemon()
    alice.answer("apart?", "yes")
    carol.person.start()
    assert future.get_data()["answer"] == "yes"
    assert len(processes_of(file)) == 1


def wait_for_worker(owner: Owner, point: str) -> None:
    """Wait until a dispatch point has a worker."""
    owner.person.wait_for_status(lambda now: any(shown["dispatch_point"] == point for shown in now["workers"]), WAIT)


def test_a_worker_that_must_end_leaves_its_waiting_runs(alice: Caller, bob: Owner) -> None:
    """A worker that must end does not wait for a human; another worker continues its run."""
    first = bob.person.start_worker("--dispatch-point", "leave", "--concurrency", "1")
    wait_for_worker(bob, "leave")
    endpoint, file = bob.serve("Asker", "leave")
    future = start_call(alice.get(bob, endpoint), {"question": "leave?"})
    alice.wait_for_prompt("leave?")
    started = time.monotonic()
    first.send_signal(signal.SIGTERM)
    assert first.wait(WAIT) == 0
    assert time.monotonic() - started < 25  # of a run that it waits for, it waits 30
    second = bob.person.start_worker("--dispatch-point", "leave", "--concurrency", "1")
    alice.answer("leave?", "go on")
    assert (future.get_data()["answer"], processes_of(file)) == ("go on", [first.pid, second.pid])
    assert [line for line in notes(file) if not line.startswith("run:")] == ["before:leave?", "after:leave?"]


# Waiting.


def test_nested_calls_need_one_slot(alice: Caller, bob: Owner) -> None:
    """Composites that wait for composites, four levels deep and several at once, need only one slot (D37)."""
    below, _ = bob.serve("Counter", "narrow")
    for _ in range(4):
        config = {"subflows_config": {"next": {"flow_endpoint": below}}}
        below, _ = bob.serve("Relay", "narrow", config=config)
    proxies = [alice.get(bob, below) for _ in range(3)]
    futures = [start_call(proxy, {"path": ["next"] * 4}) for proxy in (*proxies, *proxies)]
    answer = [future.get_data() for future in futures]
    assert [each["count"] for each in answer] == [1, 1, 1, 2, 2, 2]
    assert {each["levels"] for each in answer} == {4}


def test_a_future_that_is_given_up(alice: Caller, bob: Owner) -> None:
    """A timeout of a future leaves the call alive; cancelling it withdraws the question (D35)."""
    endpoint, _ = bob.serve("Impatient", "steady")
    answer = alice.get(bob, endpoint).call({"question": "impatient?"}, WAIT)
    assert answer == {"early": None, "late": "deadline", "withdrawn": True, "final": "cancelled", "again": False}
    alice.wait_for_prompt_status("impatient?", "cancelled")


@pytest.mark.parametrize("class_name", ["Asker", "LaterAsker", "AsyncAsker"])
@pytest.mark.parametrize("end_of_it", ["cancel", "deadline"])
def test_questions_of_a_cancelled_call_are_withdrawn(
    alice: Caller, bob: Owner, class_name: str, end_of_it: str
) -> None:
    """When the caller of a composite cancels, or their deadline passes, its own questions are withdrawn (D46)."""
    endpoint, _ = bob.serve(class_name, "steady")
    question = f"{class_name}-{end_of_it}?"
    shown = f"{question}-1" if class_name == "AsyncAsker" else question
    proxy = alice.get(bob, endpoint)
    future = start_call(proxy, {"question": question}, timeout=WAIT if end_of_it == "cancel" else 1.0)
    alice.wait_for_prompt(shown)
    if end_of_it == "cancel":
        assert future.cancel()
        with pytest.raises(Cancelled):
            future.get_data()
        alice.wait_for_prompt_status(shown, "cancelled")
    else:
        with pytest.raises(DeadlinePassed):
            future.get_data()
        alice.wait_for_prompt_status(shown, "expired")


def test_an_instance_goes_on_after_a_withdrawn_run(alice: Caller, bob: Owner) -> None:
    """The state changes of a withdrawn run are dropped, and the next message runs."""
    endpoint, _ = bob.serve("Asker", "steady")
    proxy = alice.get(bob, endpoint)
    futures = [start_call(proxy, {"question": f"turn {n}?"}) for n in (1, 2)]
    alice.wait_for_prompt("turn 1?")
    futures[0].cancel()
    alice.answer("turn 2?", "yes")
    assert futures[1].get_data()["asked"] == ["turn 2?"]


# What a run leaves behind.


def test_state_and_messages_go_together(alice: Caller, bob: Owner) -> None:
    """When a run fails, for whatever reason, both its state changes and its messages are dropped (D38, D39, D45)."""
    config = {"subflows_config": {"Human": {"flow_endpoint": "User", "user_id": alice.person.user_id}}}
    endpoint, _ = bob.serve("Careless", "steady", config=config)
    proxy = alice.get(bob, endpoint)
    assert proxy.call({"text": "kept 1"}, WAIT) == {"count": 1, "keys": ["count"]}
    for data, error, word in (
        ({"raise": "It broke."}, FlowFailed, r"ValueError: It broke\."),
        ({"keep": "lock"}, FlowFailed, r"handle\.inner is of type lock"),
        ({"keep": "much"}, FlowFailed, "'heap'"),
        ({"send": "much"}, FlowFailed, "is too large: it has"),
    ):
        with pytest.raises(error, match=word):
            proxy.call({"text": "dropped", **data}, WAIT)
    assert proxy.call({"text": "kept 2"}, WAIT) == {"count": 2, "keys": ["count"]}
    alice.wait_for_prompt("kept 2")
    assert len(alice.prompts("kept 1")) == 1
    assert alice.prompts("dropped") == []


def test_a_kept_message_is_answered_once(alice: Caller, bob: Owner) -> None:
    """The first answer to a message counts, whichever run sends it; later answers have no effect (D32)."""
    endpoint, _ = bob.serve("Keeper", "steady")
    proxy = alice.get(bob, endpoint)
    future = start_call(proxy, {"question": "Why?"})
    for answers in (["first", "second"], ["third"]):
        assert proxy.call({"answer": answers}, WAIT) == {"kept": {"question": "Why?"}}
    assert future.get_data() == {"answer": "first"}
    assert future.get_data() == {"answer": "first"}


def test_nobody_answers_for_another(alice: Caller, bob: Owner) -> None:
    """A flow that knows the id of another instance's request cannot answer that request (D31)."""
    keeper, _ = bob.serve("Keeper", "steady")
    forger, _ = bob.serve("Forger", "steady")
    proxy = alice.get(bob, keeper)
    address, instance = f"bob/{keeper}", proxy.flow_config["flow_id"]
    sent = alice.person.request("submit", address=address, instance=instance, data={"question": "Who?"}, timeout=WAIT)
    assert alice.get(bob, forger).call({"request": sent["id"]}, WAIT) == {"done": True}
    assert proxy.call({"answer": ["its own"]}, WAIT) == {"kept": {"question": "Who?"}}
    assert alice.person.request("wait", id=sent["id"], timeout=WAIT)["data"] == {"answer": "its own"}


def test_messages_of_one_sender_keep_their_order(alice: Caller, bob: Owner) -> None:
    """Posts to one instance run one by one in the order sent, each on the state that the previous one left."""
    endpoint, file = bob.serve("Noter", "steady")
    proxy = alice.get(bob, endpoint)
    for n in range(30):
        proxy.send_message(proxy.package_input_message({"text": str(n)}))
    wait_until(lambda: len(notes(file)) == 30, WAIT)
    assert notes(file) == [f"{n}:{n + 1}" for n in range(30)]


def test_a_step_that_cannot_be_recorded(alice: Caller, bob: Owner) -> None:
    """A step whose result cannot be recorded fails the flow."""
    endpoint, _ = bob.serve("BadStep", "steady")
    with pytest.raises(FlowFailed, match="JSON"):
        alice.get(bob, endpoint).call({}, WAIT)


async def test_progress_comes_before_the_answer(alice: Caller, bob: Owner) -> None:
    """The progress of a flow reaches the caller in order, and before the answer."""
    endpoint, _ = bob.serve("Talker", "steady")
    words = [f"word-{n}" for n in range(20)]
    heard: list[dict[str, Any]] = []
    async with p2pflows.connect_async(alice.person.home) as me:
        hear: Callable[[dict[str, Any]], None] = heard.append
        assert await me.call(f"bob/{endpoint}", {"words": words}, timeout=WAIT, on_progress=hear) == {"words": words}
    assert heard == [{"word": word} for word in words]
