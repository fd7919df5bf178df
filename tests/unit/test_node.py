"""What daemons do in situations that random lives seldom meet; each was a bug once."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from simulation import flows
from simulation.broker import Packet
from simulation.checker import check
from simulation.machine import ClientRequest, Machine
from simulation.world import ECHO, HUMAN, MAX_LIFETIME_S, World

from p2pflows.errors import JournalFailed
from p2pflows.protocol import topics
from p2pflows.protocol.envelope import BundleKind, Envelope
from p2pflows.protocol.message import Message, Type
from p2pflows.settings.limits import Limits
from p2pflowsd.journal import JournalError
from p2pflowsd.journal.rows import OutgoingRow
from p2pflowsd.node import Node, Request
from p2pflowsd.sending.presence import Presence
from p2pflowsd.sending.send_queue import MAX_CACHED_BYTES

LARGE_BYTES = 200_000


@pytest.fixture
def world() -> Iterator[World]:
    """Ann, bob and cyd, connected, and known to one another."""
    with World(seed=11, people=3) as world:
        world.run(0.5)
        yield world


def forge(world: World, sender: Machine, to: Machine, endpoint: str, **fields: Any) -> None:
    """Publish a message that a sender's own daemon would not have written."""
    now = sender.clock.now()
    whom = {"from": sender.user, "to": to.user, "endpoint": endpoint}
    when = {"epoch": now, "created": now, "expires": now + 60_000}
    body = {"id": "0" * 32, "type": Type.CALL, "conversation": "0" * 32, **whom, **when, **fields}
    message = Message.model_validate(body).to_bytes()
    bundle = Envelope(sender.identity).seal(BundleKind.MESSAGES, to.user, [message], world.random.randbytes(24))
    world.broker.route(topics.inbox(to.user, endpoint), bundle, retain=False)


def test_an_id_of_somebody_else(world: World) -> None:
    """Who gives a question the id of another's question gets an error, and the first question stays as it is."""
    ann, bob, cyd = world.machines
    asked = ann.send(Type.CALL, bob, HUMAN, {"text": "shall we?"}, 60)
    world.run(0.5)
    forge(world, cyd, bob, HUMAN, id=asked.result, data={"text": "shall we not?"})
    world.run(0.5)
    assert bob.open_prompts() == [(asked.result, "call")]
    bob.answer(asked.result, "yes")
    world.run(0.5)
    assert ann.state_of(asked.result) == "done"


def test_questions_long_after(world: World) -> None:
    """A question is asked although an earlier one, whose request is forgotten by now, is still remembered."""
    ann, bob, _ = world.machines
    for _ in range(2):
        asked = ann.send(Type.CALL, bob, HUMAN, {"text": "shall we?"}, 20)
        world.run(0.5)
        bob.answer(asked.result, "yes")
        world.run(0.5)
        assert ann.state_of(asked.result) == "done"
        world.timeline.sleep(700)
        world.run(130)
    assert check(world.facts) == []


def test_strangers_in_order(world: World) -> None:
    """What a stranger wrote goes on in the order of writing once the stranger is allowed, however it arrived."""
    _, bob, cyd = world.machines
    bob.contacts.remove("cyd")
    world.broker.packet_faults.reorder = 0.9
    for number in range(8):
        cyd.send(Type.CALL, bob, ECHO, {"number": number}, 60)
        world.run(0.01)
    world.run(8)
    world.broker.packet_faults.reorder = 0.0
    world.run(8)
    bob.ask(lambda node: node.admission.allow(cyd.user, "cyd"))
    assert world.settle() == []
    assert check(world.facts) == []
    released = [fact.id for fact in world.facts if fact.kind == "incoming_moved" and fact.about["was"] == "held"]
    assert released == [fact.id for fact in world.facts if fact.kind == "confirmed" and fact.node == cyd.user][:8]


def test_a_stranger_with_many_gaps(world: World) -> None:
    """A stranger cannot fill the journal, not even with messages whose turn never comes."""
    _, bob, cyd = world.machines
    bob.contacts.remove("cyd")
    for number in range(2 * Limits().requests_per_stranger):
        forge(world, cyd, bob, ECHO, id=f"{number:032x}", seq=2 * number, epoch=1)
    world.run(5)
    assert bob.rows("incoming") == Limits().requests_per_stranger


def test_proofs_of_repetitions(world: World) -> None:
    """A bundle that comes again leaves nothing behind."""
    ann, bob, _ = world.machines
    world.broker.packet_faults.repeat = 1.0
    for _ in range(5):
        ann.send(Type.POST, bob, ECHO, {}, 60)
        world.run(1)
    assert (bob.rows("incoming"), bob.rows("bundles")) == (5, 0)


def test_a_gap_after_a_long_night(world: World) -> None:
    """A stream that has waited long for a lost message asks for it soon once the broker is back."""
    ann, bob, _ = world.machines
    lost = ann.send(Type.POST, bob, ECHO, {"number": 1}, 5)
    world.broker.packet_faults.drop = 1.0
    world.run(0.1)
    world.broker.packet_faults.drop = 0.0
    ann.send(Type.POST, bob, ECHO, {"number": 2}, 7200)
    world.run(0.1)
    ann.kill()
    world.run(60)
    bob.cut(3600)
    world.run(1000)
    world.broker.forget()
    ann.start()
    world.run(1)
    bob.cut(0.0)
    world.run(3)
    assert ann.state_of(lost.result) == "expired"
    assert bob.unsettled() == []


def test_a_recipient_connects_later_to_a_broker_that_has_forgotten_all(world: World) -> None:
    """A call whose recipient was not there yet when it was sent again comes as soon as they are."""
    ann, bob, _ = world.machines
    asked = ann.send(Type.CALL, bob, ECHO, {}, 600)
    world.run(0.0)
    world.broker.forget()
    bob.cut(40.0)
    world.run(41.0)
    assert ann.state_of(asked.result) == "done"


def test_a_retried_dead_letter_expires(world: World) -> None:
    """A dead letter that is retried where no worker is left ends in an error at its new deadline."""
    ann, bob, _ = world.machines
    asked = ann.send(Type.POST, bob, ECHO, {"seconds": 60}, 600)
    for _ in range(3):
        world.start_worker(bob)
        world.run(3)
        world.kill_worker(bob, noticed=True)
        world.run(0.5)
    world.timeline.sleep(700)
    world.run(1)
    bob.ask(lambda node: node.retries.retry(asked.result))
    world.run(1)
    assert bob.unsettled() == [f"bob ready {asked.result}"]
    world.timeline.sleep(24 * 3600)
    world.run(1)
    assert bob.unsettled() == []


def test_an_old_last_will(world: World) -> None:
    """A last will that arrives after its worker came back does not count the worker as dead."""
    ann, bob, _ = world.machines
    worker = world.workers["bob"]
    will = worker.last_will
    assert will is not None
    worker.link.cut(0.1)
    world.run(3)
    asked = ann.send(Type.CALL, bob, ECHO, {"seconds": 8}, 60)
    world.run(1)
    world.broker.route(will.topic, will.payload, retain=False)
    world.run(9)
    assert ann.state_of(asked.result) == "done"
    assert [fact.id for fact in world.facts if fact.kind == "run_started"] == [asked.result]


def test_a_worker_says_goodbye(world: World) -> None:
    """A worker that ends in order finishes what it runs and is gone at once; what it had not begun runs elsewhere."""
    ann, bob, _ = world.machines
    asked = [ann.send(Type.CALL, bob, ECHO, {"seconds": 1}, 60) for _ in range(4)]
    world.run(0.5)
    world.workers["bob"].stop()
    world.run(1.5)
    assert bob.dispatch_status()["workers"] == 0
    world.start_worker(bob)
    world.run(6)
    assert [ann.state_of(one.result) for one in asked] == ["done"] * 4
    assert len([fact for fact in world.facts if fact.kind == "run_started"]) == 4


def state_of(machine: Machine, endpoint: str = flows.PAIR) -> list[Any]:
    """The messages that each of a machine's composites has counted; None for one whose state is as at its begin."""
    found = machine._reader.execute("SELECT state FROM instances WHERE endpoint = ? ORDER BY created", (endpoint,))
    return [None if state is None else json.loads(state)["seen"] for (state,) in found]


def test_late_answers_of_a_failed_request(world: World) -> None:
    """A request whose deadline passes leaves the state as it was; what answers it later runs nothing."""
    ann, bob, _ = world.machines
    asked = ann.send(Type.CALL, bob, flows.PAIR, {"subflow_data": {"seconds": 5}}, 2)
    world.run(1)
    assert state_of(bob) == [[asked.result]]
    world.run(10)
    assert ann.state_of(asked.result) == "expired"
    assert state_of(bob) == [None]
    assert [fact.id for fact in world.facts if fact.kind == "run_started" and fact.about["endpoint"] == flows.PAIR] == [
        asked.result
    ]
    assert [*world.settle(), *check(world.facts)] == []


def test_a_run_for_a_failed_request(world: World) -> None:
    """What a run goes on with for a request whose deadline passes meanwhile is not kept."""
    ann, bob, _ = world.machines
    asked = ann.send(Type.CALL, bob, flows.PAIR, {"subflow_data": {"reply_data": {"answer_seconds": 5}}}, 2)
    world.run(1)
    assert (
        len([fact for fact in world.facts if fact.kind == "run_started" and fact.about["endpoint"] == flows.PAIR]) == 2
    )
    world.run(10)
    assert ann.state_of(asked.result) == "expired"
    assert state_of(bob) == [None]
    assert [*world.settle(), *check(world.facts)] == []


def test_a_run_beside_a_failed_request(world: World) -> None:
    """A run that has begun from a state goes on with it, although the request that made it fails meanwhile."""
    ann, bob, _ = world.machines
    conversation = "c" * 32
    first = ann.send(Type.CALL, bob, flows.HUB, {"subflow_data": {"seconds": 8}}, 2, conversation=conversation)
    world.run(1)
    then = ann.send(Type.CALL, bob, flows.HUB, {"seconds": 3}, 60, conversation=conversation)
    world.run(12)
    assert (ann.state_of(first.result), ann.state_of(then.result)) == ("expired", "done")
    (seen,) = state_of(bob, flows.HUB)
    assert seen[:2] == [first.result, then.result]
    assert [*world.settle(), *check(world.facts)] == []


def test_a_reset_before_a_failure(world: World) -> None:
    """What was reset stays so, although a request fails that was not answered yet."""
    ann, bob, _ = world.machines
    ann.send(Type.CALL, bob, topics.INSTANCES, {"op": "mount", "endpoint": flows.PAIR}, 60)
    world.run(1)
    ((_, instance),) = ann.mounted(bob)
    first = ann.send(Type.CALL, bob, flows.PAIR, {}, 60, instance=instance)
    world.run(1)
    ann.send(Type.CALL, bob, flows.PAIR, {"subflow_data": {"seconds": 8}}, 2, instance=instance)
    world.run(1)
    ann.send(Type.CALL, bob, topics.INSTANCES, {"op": "reset", "instance": instance}, 60)
    world.run(1)
    assert state_of(bob) == [None]
    world.run(8)
    assert first.result not in (state_of(bob)[0] or [])


def test_answers_for_a_deleted_conversation(world: World) -> None:
    """What a deleted instance had asked is withdrawn, and is no answer for the next one of the same conversation."""
    ann, bob, cyd = world.machines
    conversation = "c" * 32
    ann.send(Type.POST, bob, flows.PAIR, {"human": True}, 60, conversation=conversation)
    world.run(1)
    (instance,) = bob.conversations()
    bob.ask(lambda node: node.changes.delete(instance, recursive=True))
    world.run(0.5)
    again = ann.send(Type.CALL, bob, flows.PAIR, {}, 60, conversation=conversation)
    world.run(1)
    for prompt, _ in cyd.open_prompts():
        cyd.answer(prompt, "yes")
    world.run(1)
    assert ann.state_of(again.result) == "done"
    assert [*world.settle(), *check(world.facts)] == []


def test_a_mount_that_fails_after_days(world: World) -> None:
    """What was mounted for a tree that does not come about goes again, however long the tree was waited for."""
    ann, bob, cyd = world.machines
    cyd.kill()
    asked = ann.send(Type.CALL, bob, topics.INSTANCES, {"op": "mount", "endpoint": flows.PAIR}, 3 * 24 * 3600)
    world.run(2)
    assert bob.rows("instances") == 1
    for _ in range(40):
        world.timeline.sleep(2 * 3600)
        world.run(2)
    assert ann.state_of(asked.result) == "expired"
    assert bob.rows("instances") == 0
    assert [*world.settle(), *check(world.facts)] == []


@pytest.mark.parametrize(
    "data", [{"op": "mount"}, {"op": "mount", "endpoint": "no name"}, {"op": "mount", "endpoint": 1}, {"op": "delete"}]
)
def test_a_request_for_no_instance(world: World, data: dict[str, Any]) -> None:
    """A request about instances that is none is answered so."""
    ann, bob, _ = world.machines
    asked = ann.send(Type.CALL, bob, topics.INSTANCES, data, 60)
    world.run(1)
    assert ann.state_of(asked.result) == "failed"


@pytest.mark.parametrize("order", [("ann", "bob"), ("bob", "ann")])
def test_who_began_goes_on_first(world: World, order: tuple[str, str]) -> None:
    """A restart does not let another request overtake the run that is mounting a singleton for all."""
    bob, cyd = world.machines[1:]
    people = {machine.name: machine for machine in world.machines}
    cyd.kill()
    people[order[0]].clock.skew_ms, people[order[1]].clock.skew_ms = 2000, -2000
    asked = []
    for name in order:
        asked.append((people[name], people[name].send(Type.CALL, bob, flows.HUB, {}, 600)))
        world.run(1)
    world.kill_worker(bob, noticed=True)
    world.run(0.1)
    bob.kill()
    world.run(3)
    bob.start()
    world.start_worker(bob)
    cyd.start()
    world.run(20)
    runs = [fact.id for fact in world.facts if fact.kind == "run_started" and fact.about["endpoint"] == flows.HUB]
    assert runs[:2] == [asked[0][1].result] * 2
    assert [person.state_of(one.result) for person, one in asked] == ["done"] * 2
    assert [*world.settle(), *check(world.facts)] == []


def test_a_dead_letter_had_mounted(world: World) -> None:
    """A dead letter that runs again in an instance which another request has made keeps nothing that it had mounted."""
    ann, bob, cyd = world.machines
    conversation = "c" * 32
    dead = ann.send(Type.CALL, bob, flows.PAIR, {"seconds": 60}, 600, conversation=conversation)
    for _ in range(3):
        world.start_worker(bob)
        world.run(3)
        world.kill_worker(bob, noticed=True)
        world.run(0.5)
    assert bob.dead_letters() == [dead.result]
    world.start_worker(bob)
    again = ann.send(Type.CALL, bob, flows.PAIR, {}, 600, conversation=conversation)
    world.run(3)
    assert ann.state_of(again.result) == "done"
    bob.ask(lambda node: node.retries.retry(dead.result))
    world.run(70)
    assert bob.rows("instances") == 2
    assert cyd.rows("instances") == 1
    assert [*world.settle(), *check(world.facts)] == []


def test_deleted_in_order(world: World) -> None:
    """What waits for an instance that is deleted fails in the order in which it was sent, however it arrived."""
    ann, bob, _ = world.machines
    ann.send(Type.CALL, bob, topics.INSTANCES, {"op": "mount", "endpoint": flows.COUNTER}, 60)
    world.run(1)
    ((_, instance),) = ann.mounted(bob)
    world.broker.packet_faults.reorder = 0.9
    for _ in range(8):
        ann.send(Type.CALL, bob, flows.COUNTER, {"seconds": 60}, 600, instance=instance)
        world.run(0.01)
    world.broker.packet_faults.reorder = 0.0
    world.run(10)
    bob.ask(lambda node: node.changes.delete(instance, recursive=True))
    assert [*world.settle(), *check(world.facts)] == []
    failed = [fact.id for fact in world.facts if fact.kind == "incoming_moved" and fact.about["state"] == "failed"]
    assert failed == [fact.id for fact in world.facts if fact.kind == "confirmed" and fact.node == ann.user][1:9]


def test_a_lost_withdrawal(world: World) -> None:
    """A worker that was not reached when a run was withdrawn is told again, and goes on with what came behind."""
    ann, bob, cyd = world.machines
    conversation = "c" * 32
    cyd.kill()
    first = ann.send(Type.CALL, bob, flows.PAIR, {}, 3, conversation=conversation)
    world.run(2)
    world.workers["bob"].link.cut(2)
    world.run(4)
    assert ann.state_of(first.result) == "expired"
    cyd.start()
    then = ann.send(Type.CALL, bob, flows.PAIR, {}, 60, conversation=conversation)
    world.run(15)
    assert ann.state_of(then.result) == "done"


def _memory_of_large_messages(world: World, kind: Type, count: int) -> tuple[int, list[ClientRequest]]:
    """Let ann send bob large messages; return how many bytes stay in memory, and what was sent."""
    ann, bob, _ = world.machines
    sent = []
    tracemalloc.start()
    for _ in range(count):
        sent.append(ann.send(kind, bob, ECHO, {"text": "x" * LARGE_BYTES}, MAX_LIFETIME_S))
        world.run(0.01)
        world.facts.clear()  # they hold it all
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return held, sent


def test_a_long_absence_costs_little_memory(world: World) -> None:
    """What waits for a neighbour lies in the journal; all of it comes when they are back."""
    ann, bob, _ = world.machines
    bob.kill()
    held, sent = _memory_of_large_messages(world, Type.POST, count=180)
    assert held < 2 * MAX_CACHED_BYTES < len(sent) * LARGE_BYTES
    bob.start()
    world.run(60)
    assert {ann.state_of(each.result) for each in sent} == {"done"}


def test_what_waits_for_a_worker_lies_in_the_journal(world: World) -> None:
    """However much that is, and all of it is run once there is one."""
    ann, bob, _ = world.machines
    world.workers["bob"].kill()
    world.run(5)
    held, sent = _memory_of_large_messages(world, Type.CALL, count=60)
    assert held < len(sent) * LARGE_BYTES / 4
    world.start_worker(bob)
    world.run(60)
    assert {ann.state_of(each.result) for each in sent} == {"done"}


FILLED = [(kind, endpoint) for kind in (Type.CALL, Type.POST) for endpoint in (ECHO, HUMAN, flows.COUNTER, flows.GUIDE)]


@pytest.mark.parametrize(("kind", "endpoint"), FILLED)
def test_a_nearly_full_disk_loses_nothing(world: World, kind: Type, endpoint: str) -> None:
    """With room for some commits only, a message is stored before its receipt leaves, or it comes again."""
    ann, bob, _ = world.machines
    asked = []
    for number in range(30):
        for machine in (ann, bob):
            machine.fill_disk(world.random.randrange(6))
        text = f"{number} " + "x" * world.random.choice((10, 3_000, 9_000))
        asked.append(ann.send(kind, bob, endpoint, {"text": text}, 500))
        world.run(world.random.choice((0.1, 0.5, 2.5)))
        for prompt, _ in bob.open_prompts()[:1]:
            bob.answer(prompt, text)
    assert any(isinstance(each.result, JournalFailed) for each in asked) or ann.kills + bob.kills
    assert world.settle() == []
    assert check(world.facts) == []
    accepted = [each.result for each in asked if isinstance(each.result, str)]
    assert 3 < len(accepted) < len(asked)
    received = {fact.id for fact in world.facts if fact.kind == "received" and fact.node == bob.user}
    assert set(accepted) <= received
    kept = {fact.id for fact in world.facts if fact.kind == "accepted" and fact.node == ann.user}
    assert {fact.id for fact in world.facts if fact.kind == "received" and fact.about["peer"] == ann.user} <= kept


def test_a_dead_node_does_nothing_more(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """A node whose commit failed takes no batch, and none of what it had drafted leaves."""
    ann, bob, _ = world.machines
    node = bob.node
    assert node is not None
    node.journal._db.execute("PRAGMA max_page_count = 1")
    with pytest.raises(JournalError):
        node.process_batch([], [Request(lambda: _store_much(node), lambda _result: None)])
    published: list[object] = []

    def publish(*packet: object, retain: bool) -> None:
        published.append((*packet, retain))

    monkeypatch.setattr(world.broker, "route", publish)
    for enter in (partial(node.process_batch, []), node.link_up, node.close, node.publish_card):
        with pytest.raises(JournalError, match="earlier failure"):
            enter()
    world.run(0.1)
    assert [packet for packet in published if ann.user in str(packet)] == []


def _store_much(node: Node) -> None:
    for _ in range(50):
        node.messages.send(Type.POST, node.user, ECHO, {"text": "x" * 9_000}, life_ms=60_000)


def test_two_callers_of_one_singleton_get_their_own_answers(world: World) -> None:
    """A singleton that keeps one request in mind answers each caller what that caller asked."""
    ann, bob, cyd = world.machines
    calls = [
        (one, {"number": number, "subflow_data": {"seconds": 0.3}}, one.send)
        for number, one in enumerate([ann, cyd, ann, bob, cyd, cyd, ann])
    ]
    asked = [(one, data, send(Type.CALL, bob, flows.CLERK, data, 60)) for one, data, send in calls]
    world.run(15)
    for one, data, told in asked:
        assert one.state_of(told.result) == "done"
        answer = one._reader.execute("SELECT answer FROM outgoing WHERE id = ?", (told.result,)).fetchone()[0]
        assert json.loads(answer) == {"echo": data}
    assert [*world.settle(), *check(world.facts)] == []


@pytest.mark.parametrize("end", ["deadline", "withdrawal", "deletion", "restart"])
def test_the_next_request_has_its_turn_however_the_one_before_ends(world: World, end: str) -> None:
    """A request that never gets its answer leaves the instance in step for the next one."""
    ann, bob, cyd = world.machines
    first = ann.send(Type.CALL, bob, flows.CLERK, {"human": True}, 8 if end == "deadline" else 500)
    world.run(1)
    then = cyd.send(Type.CALL, bob, flows.CLERK, {"number": 1}, 60)
    world.run(2)
    assert cyd.state_of(then.result) == "stored"
    match end:
        case "withdrawal":
            ann.ask(lambda node: node.messages.cancel(first.result))
        case "deletion":
            ((instance,),) = bob._reader.execute("SELECT id FROM instances WHERE endpoint = ?", (flows.CLERK,))
            bob.ask(lambda node: node.changes.delete(instance, recursive=True))
        case "restart":
            bob.kill()
            bob.start()
            world.run(4)
            assert cyd.state_of(then.result) == "stored"
            ((question, _),) = cyd.open_prompts()
            cyd.answer(question, "yes")
    world.run(9)
    assert cyd.state_of(then.result) == ("failed" if end == "deletion" else "done")
    last = cyd.send(Type.CALL, bob, flows.CLERK, {"number": 2}, 60)
    world.run(3)
    assert cyd.state_of(last.result) == "done"
    assert [*world.settle(), *check(world.facts)] == []


def test_a_post_keeps_its_turn_until_what_it_asked_has_ended(world: World) -> None:
    """A call waits behind a post whose question to a human is open."""
    ann, bob, cyd = world.machines
    ann.send(Type.POST, bob, flows.CLERK, {"human": True}, 60)
    world.run(1)
    then = cyd.send(Type.CALL, bob, flows.CLERK, {"number": 1}, 60)
    world.run(2)
    assert cyd.state_of(then.result) == "stored"
    ((question, _),) = cyd.open_prompts()
    cyd.answer(question, "yes")
    world.run(2)
    assert cyd.state_of(then.result) == "done"
    assert [*world.settle(), *check(world.facts)] == []


def test_a_call_that_nothing_can_answer_fails_at_once(world: World) -> None:
    """A run that ends without an answer, an open call or the request in its state fails its call."""
    ann, bob, _ = world.machines
    asked = ann.send(Type.CALL, bob, flows.MUTE, {}, 500)
    world.run(1)
    assert ann.state_of(asked.result) == "failed"
    answer = ann._reader.execute("SELECT answer FROM outgoing WHERE id = ?", (asked.result,)).fetchone()[0]
    assert json.loads(answer)["message"] == "'mute' ended without an answer."
    assert world.settle() == []


def test_a_call_ends_in_time_although_the_clock_is_set_back(world: World) -> None:
    """A client waits for no longer than its timeout when the wall clock goes back by an hour meanwhile."""
    ann, _, cyd = world.machines
    asked = ann.send(Type.CALL, cyd, HUMAN, {"text": "still there?"}, 20)
    world.run(2)
    ann.clock.skew_ms -= 3_600_000
    world.run(15)
    assert ann.state_of(asked.result) == "stored"
    world.run(5)
    assert ann.state_of(asked.result) == "expired"


def test_a_clock_that_is_set_back_and_right_again_ends_no_call(world: World) -> None:
    """A call goes on to its own deadline when the wall clock goes back by an hour, and forward again soon after."""
    ann, _, cyd = world.machines
    asked = ann.send(Type.CALL, cyd, HUMAN, {"text": "still there?"}, 60)
    world.run(2)
    for change in (-3_600_000, 3_600_000, -7_200_000, 7_200_000):
        ann.clock.skew_ms += change
        world.run(5)
    assert ann.state_of(asked.result) == "stored"
    world.run(37)
    assert ann.state_of(asked.result) == "stored"
    world.run(3)
    assert ann.state_of(asked.result) == "expired"


def test_a_daemon_that_stood_still_does_not_blame_its_worker(world: World) -> None:
    """A task outlives three pauses of its daemon, each longer than the timeout of a heartbeat."""
    ann, bob, _ = world.machines
    asked = ann.send(Type.CALL, bob, ECHO, {"seconds": 70}, 500)
    world.run(1)
    for _ in range(3):
        world.timeline.sleep(17)
        world.run(3)
    world.run(30)
    assert ann.state_of(asked.result) == "done"
    assert len([fact for fact in world.facts if fact.kind == "run_started" and fact.id == asked.result]) == 1
    assert "stood still for 1" in str(bob.node and bob.node.journal.log.newest(100, 0))


@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_is_taken_away_is_noticed(world: World, replaced: bool) -> None:
    """A daemon whose journal was removed, or replaced by another file, accepts nothing more."""
    ann, bob, _ = world.machines
    path = bob._path
    path.rename(path.with_suffix(".moved"))
    if replaced:
        path.write_bytes(path.with_suffix(".moved").read_bytes())
    world.run(1)
    node = bob.node
    assert node is None or node._alive._is_dead
    assert ann.send(Type.POST, bob, ECHO, {}, 60) is not None
    if node is not None and not replaced:
        with pytest.raises(JournalError, match="removed or replaced"):
            node.journal.reopened()
    path.with_suffix(".moved").rename(path)


def test_clients_that_wait_go_on_with_the_next_node(world: World) -> None:
    """A client whose daemon had to reopen its journal hears the answer to its call."""
    ann, _, cyd = world.machines
    heard: list[object] = []
    asked = ann.send(Type.CALL, cyd, HUMAN, {"text": "still there?"}, 60)
    world.run(1)
    old = ann.node
    assert old is not None
    old.waiters.wait(row_of(ann, asked.result), lambda state, _answer: heard.append(str(state)))
    ann.kill()
    ann.start()
    assert ann.node is not None
    ann.node.waiters.take_over(old.waiters)
    cyd.answer(asked.result, "yes")
    world.run(1)
    assert heard == ["done"]


def row_of(machine: Machine, message_id: str) -> OutgoingRow:
    """A message of a machine."""
    row = machine.node.journal.outgoing.find(message_id) if machine.node is not None else None
    assert row is not None
    return row


DAY_MS = 24 * 3_600_000


@pytest.mark.parametrize("endpoint", [ECHO, HUMAN])
def test_a_clock_that_was_ahead_for_one_send_does_not_block_the_stream(world: World, endpoint: str) -> None:
    """A message that was accepted with a clock a day ahead arrives once the clock is right, and then those after it."""
    ann, bob, _ = world.machines
    ann.clock.skew_ms += DAY_MS
    first = ann.send(Type.CALL, bob, endpoint, {"text": "first"}, 60)
    world.run(1)
    ann.clock.skew_ms -= DAY_MS
    second = ann.send(Type.CALL, bob, endpoint, {"text": "second"}, 60)
    world.run(2)
    assert [ann.state_of(asked.result) for asked in (first, second)] == ["done" if endpoint == ECHO else "stored"] * 2
    if endpoint == HUMAN:
        assert [fact.id for fact in world.facts if fact.kind == "prompt_added"] == [first.result, second.result]
        world.run(58)
        assert ann.state_of(first.result) == "expired"


def test_a_clock_that_was_behind_for_a_while_ends_no_request(world: World) -> None:
    """A request that waits for its recipient goes on when the clock goes back by a day, and forward again soon."""
    ann, bob, _ = world.machines
    bob.kill()
    call = ann.send(Type.CALL, bob, ECHO, {}, 60)
    post = ann.send(Type.POST, bob, ECHO, {}, 60)
    world.run(1)
    for change in (-DAY_MS, DAY_MS, -2 * DAY_MS, 2 * DAY_MS):
        ann.clock.skew_ms += change
        world.run(3)
    assert [ann.state_of(asked.result) for asked in (call, post)] == ["pending"] * 2
    bob.start()
    world.run(30)
    assert [ann.state_of(asked.result) for asked in (call, post)] == ["done"] * 2


def test_an_answer_of_a_clock_that_was_ahead_arrives(world: World) -> None:
    """An answer that was given with a clock a day ahead reaches the caller once the clock is right."""
    ann, bob, _ = world.machines
    asked = ann.send(Type.CALL, bob, HUMAN, {"text": "when?"}, 2 * DAY_MS / 1000)
    world.run(1)
    bob.clock.skew_ms += DAY_MS
    bob.answer(asked.result, "tomorrow")
    world.run(1)
    assert ann.state_of(asked.result) == "stored"
    bob.clock.skew_ms -= DAY_MS
    world.run(2)
    assert ann.state_of(asked.result) == "done"


def test_a_restart_with_a_clock_that_is_right_again(world: World) -> None:
    """What a daemon accepted with a clock a day ahead is delivered if the clock was set right while it was down."""
    ann, bob, _ = world.machines
    ann.clock.skew_ms += DAY_MS
    asked = ann.send(Type.CALL, bob, ECHO, {}, 60)
    world.run(1)
    ann.kill()
    ann.clock.skew_ms -= DAY_MS
    ann.start()
    world.run(2)
    assert ann.state_of(asked.result) == "done"


def test_two_daemons_with_one_identity_notice_each_other(world: World) -> None:
    """A live status of another start, or a later one, shows that the home was copied; an own earlier one does not."""
    ann, *_ = world.machines
    assert ann.node is not None
    earlier, later = (Presence(ann.identity, ann.node.boot + step).mine(online=True) for step in (-1, 1))
    topic = topics.status(ann.user)
    assert topic in ann.node.subscriptions()
    ann.node.process_batch([Packet(topic, earlier, retain=True)])
    assert not ann.node.has_twin
    ann.node.process_batch([Packet(topic, ann.node.presence.mine(online=True), retain=False)])
    assert not ann.node.has_twin
    ann.node.process_batch([Packet(topic, later, retain=True)])
    assert ann.node.has_twin
    world.run(0.1)
    assert "Another daemon runs with this identity" in str(ann.node.journal.log.newest(10, 0))


def answer_to(machine: Machine, request: ClientRequest) -> dict[str, Any]:
    """Return the answer or the error with which a message of a machine has ended."""
    query = "SELECT answer FROM outgoing WHERE id = ?"
    found = machine._reader.execute(query, (request.result,)).fetchone()
    return dict(json.loads(found[0]))


@pytest.mark.parametrize(("skew_ms", "side"), [(3_540_000, "ahead"), (-3_540_000, "behind")])
def test_clocks_that_differ_are_told(world: World, skew_ms: int, side: str) -> None:
    """A sender whose clock is wrong reads by how much in the error, the log and the status, until it is right."""
    ann, bob, _ = world.machines
    ann.clock.skew_ms, bob.clock.skew_ms = skew_ms, 0
    world.run(1)
    asked = ann.send(Type.CALL, bob, ECHO, {}, 10)
    world.run(11)
    message = f"bob refused the message: your clocks differ by 59 min; yours is {side}."
    assert (answer_to(ann, asked)["kind"], answer_to(ann, asked)["message"]) == ("unreachable", message)
    assert ann.node is not None
    assert ann.node.outbox.peer_clocks.known() == {bob.user: pytest.approx(-skew_ms, abs=1_000)}
    assert [row.detail for row in ann.node.journal.log.newest(9, 0)] == [
        f"They refused a message of yours: your clocks differ by 59 min; yours is {side}."
    ]
    ann.clock.skew_ms = 0
    world.run(1)
    assert ann.node.outbox.peer_clocks.known() == {}


def test_a_clock_is_told_to_contacts_only(world: World) -> None:
    """A user who is not a contact learns nothing of our clock from a message that is too old."""
    ann, bob, _ = world.machines
    bob.contacts.remove("ann")
    ann.clock.skew_ms, bob.clock.skew_ms = -3_540_000, 0
    world.run(1)
    asked = ann.send(Type.CALL, bob, ECHO, {}, 10)
    world.run(11)
    assert answer_to(ann, asked)["message"] == "bob is online, but did not confirm the message."
    assert ann.node is not None
    assert ann.node.outbox.peer_clocks.known() == {}


def test_a_clock_that_is_right_again_is_forgotten(world: World) -> None:
    """A difference is shown no more once the other side takes the message that it has refused."""
    ann, bob, _ = world.machines
    bob.clock.skew_ms = ann.clock.skew_ms - 600_000
    asked = ann.send(Type.CALL, bob, ECHO, {}, 60)
    world.run(1)
    assert ann.node is not None
    assert set(ann.node.outbox.peer_clocks.known()) == {bob.user}
    bob.clock.skew_ms = ann.clock.skew_ms
    world.run(4)
    assert ann.state_of(asked.result) == "done"
    assert ann.node.outbox.peer_clocks.known() == {}


def test_a_late_report_makes_no_clock_look_wrong(world: World) -> None:
    """A refusal that reaches its sender hours later, because the broker held it back, says nothing about the clocks."""
    ann, bob, _ = world.machines
    bob.clock.skew_ms = ann.clock.skew_ms - 600_000
    ann.send(Type.CALL, bob, ECHO, {}, 24 * 3600)
    world.run(0.02)
    ann.cut(7200)
    world.run(5)
    world.timeline.sleep(7200)
    world.run(10)
    assert ann.node is not None
    assert all(abs(offset) <= 600_000 for offset in ann.node.outbox.peer_clocks.known().values())


def test_a_cancel_from_another_stream_has_no_effect(world: World) -> None:
    """A request is withdrawn by a cancel of its sender to the same endpoint, and by no other."""
    ann, bob, cyd = world.machines
    asked = ann.send(Type.CALL, bob, HUMAN, {"text": "shall we?"}, 60)
    world.run(0.5)
    for number, (sender, endpoint) in enumerate([(ann, ECHO), (cyd, HUMAN), (ann, topics.INSTANCES)]):
        forge(world, sender, bob, endpoint, id=f"{number:032x}", type=Type.CANCEL, cause=asked.result)
        world.run(0.5)
        assert bob.open_prompts() == [(asked.result, "call")]
    forge(world, ann, bob, HUMAN, id="9" * 32, type=Type.CANCEL, cause=asked.result)
    world.run(0.5)
    assert bob.open_prompts() == []


def test_a_withdrawn_call_gets_no_answer(world: World) -> None:
    """Its recipient sends nothing back, because its sender has ended it already."""
    ann, bob, _ = world.machines
    asked = ann.send(Type.CALL, bob, HUMAN, {"text": "shall we?"}, 60)
    world.run(0.5)
    ann.ask(lambda node: node.messages.cancel(asked.result))
    world.run(1)
    assert ann.state_of(asked.result) == "cancelled"
    assert [fact.id for fact in world.facts if fact.kind == "accepted" and fact.node == bob.user] == []
    assert [*world.settle(), *check(world.facts)] == []


def test_calls_that_an_older_journal_lacks_are_sent_again(world: World) -> None:
    """Questions whose receipts were sent after the copy of a journal was made are asked again once it is put back."""
    ann, bob, _ = world.machines
    before = ann.send(Type.CALL, bob, HUMAN, {"text": "number 0?"}, 600)
    world.run(0.5)
    copy = world.folder / "copy.sqlite3"
    bob.back_up(copy)
    asked = [before, *(ann.send(Type.CALL, bob, HUMAN, {"text": f"number {n}?"}, 600) for n in (1, 2, 3))]
    world.run(0.5)
    assert [ann.state_of(call.result) for call in asked] == ["stored"] * 4
    bob.restore(copy)
    world.run(3)
    ids = [call.result for call in asked]
    assert sorted(prompt for prompt, _ in bob.open_prompts()) == sorted(ids)
    assert [fact.id for fact in world.facts if fact.kind == "prompt_added"] == [*ids, *ids[1:]]
    assert [ann.state_of(call.result) for call in asked] == ["stored"] * 4
    for prompt, _ in bob.open_prompts():
        bob.answer(prompt, "yes")
    world.run(0.5)
    assert [ann.state_of(call.result) for call in asked] == ["done"] * 4
    assert [*world.settle(), *check(world.facts)] == []


def test_a_journal_that_is_replaced_soon_after_a_start(world: World) -> None:
    """Calls are sent again also when their recipient has come back twice within a few seconds."""
    ann, bob, _ = world.machines
    copy = world.folder / "copy.sqlite3"
    bob.back_up(copy)
    asked = ann.send(Type.CALL, bob, HUMAN, {"text": "still there?"}, 600)
    world.run(0.5)
    bob.kill()
    bob.start()
    world.run(1)
    bob.restore(copy)
    world.run(6)
    assert bob.open_prompts() == [(asked.result, "call")]


def test_calls_that_an_older_journal_lacks_survive_a_restart_of_their_sender(world: World) -> None:
    """The body of a stored call is there until the call ends, so that it can be sent again later."""
    ann, bob, _ = world.machines
    copy = world.folder / "copy.sqlite3"
    bob.back_up(copy)
    asked = [ann.send(Type.CALL, bob, HUMAN, {"text": f"number {n}?"}, 600) for n in range(3)]
    world.run(0.5)
    bob.kill()
    ann.kill()
    ann.start()
    bob.restore(copy)
    world.run(3)
    assert len(bob.open_prompts()) == 3
    for prompt, _ in bob.open_prompts():
        bob.answer(prompt, "yes")
    world.run(0.5)
    assert [ann.state_of(call.result) for call in asked] == ["done"] * 3
    assert ann._reader.execute("SELECT count(body) FROM outgoing").fetchone() == (0,)


def test_a_restart_alone_repeats_nothing(world: World) -> None:
    """A recipient that restarts with its own journal takes a call that is sent again for a repetition."""
    ann, bob, _ = world.machines
    asked = [ann.send(Type.CALL, bob, HUMAN, {"text": f"number {n}?"}, 600) for n in range(3)]
    world.run(0.5)
    bob.kill()
    world.run(0.5)
    bob.start()
    world.run(3)
    assert bob.node is not None
    assert bob.node.journal.counters["refused.replayed"] == 1
    assert [ann.state_of(call.result) for call in asked] == ["stored"] * 3
    assert len([fact for fact in world.facts if fact.kind == "prompt_added"]) == 3
    assert [*world.settle(), *check(world.facts)] == []


@pytest.mark.parametrize("end", ["expired", "cancelled"])
def test_what_waits_behind_a_message_that_has_ended_goes_on_at_once(world: World, end: str) -> None:
    """A recipient that waits for a message learns at once that it has ended, and does not wait until it asks again."""
    ann, bob, _ = world.machines
    ann.clock.skew_ms = bob.clock.skew_ms - 3_600_000
    first = ann.send(Type.CALL, bob, HUMAN, {"text": "first"}, 100)
    second = ann.send(Type.CALL, bob, HUMAN, {"text": "second"}, 4 * 3600)
    world.run(99)
    assert [ann.state_of(call.result) for call in (first, second)] == ["pending", "stored"]
    if end == "cancelled":
        ann.ask(lambda node: node.messages.cancel(first.result))
        world.run(0.3)
    else:
        world.run(1.5)
    assert ann.state_of(first.result) == end
    assert bob.open_prompts() == [(second.result, "call")]


def test_a_contact_cannot_flood_the_human(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """An asker has so many open questions; the next is refused, others still ask, and all can be declined at once."""
    ann, bob, cyd = world.machines
    assert bob.node is not None
    monkeypatch.setattr(bob.node.inbox, "_max_open_of_peer", 5)
    asked = [ann.send(Type.CALL, bob, HUMAN, {"text": str(number)}, 300) for number in range(7)]
    asked.append(cyd.send(Type.POST, bob, HUMAN, {"text": "a note"}, 300))
    world.run(2)
    assert [ann.state_of(each.result) for each in asked[:7]] == ["stored"] * 5 + ["failed"] * 2
    assert len(bob.open_prompts()) == 6
    declined = [bob.ask(lambda node: node.inbox.end_some(ann.user, "too much", 3)) for _ in range(3)]
    world.run(2)
    assert [each.result.total() for each in declined] == [3, 2, 0]
    assert [kind for _, kind in bob.open_prompts()] == ["post"]
    again = ann.send(Type.CALL, bob, HUMAN, {"text": "again"}, 300)
    world.run(1)
    assert ann.state_of(again.result) == "stored"


def test_a_peer_without_instances_answers(world: World) -> None:
    """Who serves no class answers each operation on instances as the protocol says."""
    ann, bob, _ = world.machines
    for flow in bob.serves:
        if flow.kind == "class":
            bob.ask(partial(_unserve, endpoint=flow.endpoint))
    world.run(1)
    operations = (
        {"op": "list"},
        {"op": "mount", "endpoint": ECHO},
        {"op": "mount", "endpoint": flows.PAIR},
        {"op": "delete", "instance": "0" * 32},
        {"op": "reset", "instance": "0" * 32},
    )
    asked = [ann.send(Type.CALL, bob, topics.INSTANCES, data, 60) for data in operations]
    world.run(1)
    answers = [answer_to(ann, request) for request in asked]
    assert answers[0] == {"instances": []}
    assert answers[1] == {"instance": None, "endpoint": ECHO, "kind": "python", "shared": True}
    assert [answer["kind"] for answer in answers[2:]] == ["not_served", "not_allowed", "not_allowed"]


def _unserve(node: Node, endpoint: str) -> None:
    node.serving.unserve(endpoint)


def test_an_answer_to_a_withdrawn_call_is_confirmed_and_ignored(world: World) -> None:
    """It was on its way when the call was withdrawn: it gets a receipt, and nothing else happens."""
    ann, bob, _ = world.machines
    asked = ann.send(Type.CALL, bob, HUMAN, {"text": "shall we?"}, 60)
    world.run(0.5)
    ann.cut(2)
    bob.answer(asked.result, "yes")
    ann.ask(lambda node: node.messages.cancel(asked.result))
    world.run(10)
    assert ann.state_of(asked.result) == "cancelled"
    assert ann.node is not None
    assert ann.node.journal.counters["refused.replayed"] >= 1
    assert bob.unsettled() == []
