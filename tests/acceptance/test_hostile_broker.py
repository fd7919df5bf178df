"""An attacker who controls the broker learns nothing and changes nothing, and every attempt is counted."""

from __future__ import annotations

import base64
import json
import secrets
import subprocess
import time
from collections.abc import Iterator

import pytest
from support.broker_spy import Forger, Seen, Spy
from support.network import MOSQUITTO, Network
from support.people import Person
from support.processes import kill_process, wait_until

from p2pflows.protocol import identity, topics
from p2pflows.protocol.channel import Channel, read_token
from p2pflows.protocol.envelope import BundleKind, Refused
from p2pflows.protocol.notice import Notice

CANARY = "canary-4d1f7a-sings"


class Scene:
    """Alice and bob, a spy on their broker, and mallory, a contact of bob without a daemon."""

    def __init__(self, network: Network) -> None:
        self.network = network
        # Alice's daemon first, so that the broker is hers, and lives on when bob is killed.
        self.alice = network.person("alice").without_workers().start()
        self.bob = network.person("bob").without_workers().start()
        self.worker = self.start_remote_worker()
        self.alice.add_contact(self.bob)
        self.bob.add_contact(self.alice)
        self.mallory = Forger(identity.create(network.folder / "mallory" / "identity.key"))
        for person in (self.alice, self.bob):
            person.request("allow", user=self.mallory.user_id, name="mallory")
        self.bob.write_file("trace.sh", "#!/bin/sh\ncat >> traces\n", executable=True)
        for endpoint in ("trace", "other"):
            self.bob.serve(endpoint, "--exec", "./trace.sh")
        self.spy = Spy(network.port, network.broker_folder)

    def start_remote_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker of bob with a token, as on another machine, so that its frames pass through the broker."""
        token = self.bob.request("worker_token", dispatch_point="default")["token"]
        self.results = topics.results(self.bob.user_id, read_token(token).queue)
        worker = self.bob.start_worker("--token", token)
        self.bob.wait_for_status(lambda now: bool(now["workers"]))
        return worker

    @property
    def traces(self) -> list[object]:
        """The data of all runs of bob's flows."""
        file = self.bob.folder / "traces"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def inbox(self, endpoint: str, person: Person | None = None) -> str:
        """The topic of an endpoint, by default of bob."""
        return topics.inbox((person or self.bob).user_id, endpoint)

    def captured_post(self, **data: object) -> Seen:
        """Let a post from alice take effect at bob; returns its packet."""
        start, before = len(self.spy.seen), len(self.traces)
        self.alice.request("send", address="bob/trace", data=data)
        wait_until(lambda: len(self.traces) == before + 1)
        return self.spy.on(self.inbox("trace"), start)

    def check_refused(
        self, packets: list[tuple[str, bytes]], *reasons: str, by: Person | None = None, retain: bool = False
    ) -> None:
        """Check that these packets have no effect at bob, and that each is counted under one of the reasons."""
        person = by or self.bob
        before = person.status()["refused"]
        traces, prompts, received = self.traces, self.bob.prompts(everything=True), self.bob.status()["received"]
        for topic, payload in packets:
            self.spy.publish(topic, payload, retain=retain)

        def counted() -> int:
            now = person.status()["refused"]
            return sum(now.get(reason, 0) - before.get(reason, 0) for reason in reasons)

        wait_until(lambda: counted() >= len(packets))
        assert counted() == len(packets)
        assert self.traces == traces
        assert self.bob.prompts(everything=True) == prompts
        assert self.bob.status()["received"] == received

    def answers_honest_call(self) -> bool:
        """Whether an honest call is answered."""
        answer = self.alice.request("call", address="bob/trace", data={"honest": True}, timeout=20)
        return bool(answer["data"] == {"text": ""})


@pytest.fixture(scope="module", params=["mosquitto", pytest.param("iotcore", marks=pytest.mark.slow)])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    """The scene on each embedded broker."""
    if request.param == "mosquitto" and not MOSQUITTO:
        pytest.skip("mosquitto is not installed")
    network = Network(request.param)
    try:
        scene = Scene(network)
        with scene.spy:
            yield scene
            assert scene.answers_honest_call()
    finally:
        network.close()


def test_nothing_readable_passes(scene: Scene) -> None:
    """No byte that passes the broker, in any common encoding, holds what people say or a key."""
    alice, bob = scene.alice, scene.bob
    call = alice.request("submit", address="bob/User", data={"text": CANARY})["id"]
    (prompt,) = bob.wait_for_prompts()
    bob.request("answer", id=prompt["id"], text=f"answer {CANARY}")
    assert alice.request("wait", id=call)["data"] == {"human_input": f"answer {CANARY}"}
    bob.serve("back", "--exec", f"cat; echo {CANARY} >&2")
    assert alice.request("call", address="bob/back", data={"deep": [CANARY]})["data"] == {"deep": [CANARY]}
    bob.serve("fails", "--exec", f"echo {CANARY} >&2; exit 3")
    assert alice.cli("call", "bob/fails", f"x={CANARY}").code == 1
    alice.cli("ls", "bob").ok()
    alice.cli("describe", "bob/back").ok()
    token = bob.cli("worker-token", "default").ok().out.strip()
    password = (scene.network.broker_folder / "password").read_text().strip()
    secret = [CANARY.encode(), read_token(token).key, password.encode()]
    for person in (alice, bob):
        seed = bytes.fromhex((person.home / "identity.key").read_text().split()[1])
        secret += [seed, person.me.derive("dispatch point default")]
    forms = [
        form.lower()
        for plain in secret
        for form in (plain, plain.hex().encode(), base64.b64encode(plain)[:24], base64.urlsafe_b64encode(plain)[:24])
    ]
    wait_until(lambda: len(scene.spy.seen) > 20)
    for packet in scene.spy.seen:
        passed = (packet.topic.encode() + b" " + packet.payload).lower()
        assert not any(form in passed for form in forms), packet.topic
    kept = b"".join(file.read_bytes() for file in scene.network.broker_folder.glob("*.db")).lower()
    assert CANARY.encode() not in kept


def test_a_changed_bit(scene: Scene) -> None:
    """A bundle with a changed bit, a bundle cut short and a bundle made longer have no effect."""
    payload = scene.captured_post(bit=1).payload
    places = [0, 1, 2, 20, 33, 34, 57, 58, 80, len(payload) // 2, len(payload) - 1]
    bent = [bytes([*payload[:at], payload[at] ^ 1, *payload[at + 1 :]]) for at in places]
    bent += [payload[:-1], payload[:60], payload + b"x", payload[:34]]
    reasons = ("malformed", "wrong_version", "bad_seal", "bad_signature", "rate_limited", "wrong_topic", "replayed")
    scene.check_refused([(scene.inbox("trace"), one) for one in bent], *reasons)


def test_a_replay(scene: Scene) -> None:
    """A bundle that is published again, at once or after a restart, has no second effect."""
    packet = scene.captured_post(replay=1)
    scene.check_refused([(packet.topic, packet.payload)] * 3, "replayed")
    scene.bob.kill_daemon()
    scene.bob.start()
    scene.check_refused([(packet.topic, packet.payload)] * 2, "replayed")


def test_a_replayed_question_and_answer(scene: Scene) -> None:
    """A replayed question is not asked again, and a replayed answer answers nothing else."""
    start = len(scene.spy.seen)
    call = scene.alice.request("submit", address="bob/User", data={"text": "Once?"})["id"]
    (prompt,) = scene.bob.wait_for_prompts()
    question = scene.spy.on(scene.inbox("User"), start)
    scene.check_refused([(question.topic, question.payload)], "replayed")
    start = len(scene.spy.seen)
    scene.bob.request("answer", id=prompt["id"], text="Once.")
    assert scene.alice.request("wait", id=call)["data"] == {"human_input": "Once."}
    answer = scene.spy.on(scene.inbox("_reply", scene.alice), start)
    scene.check_refused([(question.topic, question.payload)], "replayed")
    other = scene.alice.request("submit", address="bob/User", data={"text": "Another?"})["id"]
    (prompt,) = scene.bob.wait_for_prompts()
    scene.check_refused([(answer.topic, answer.payload)] * 2, "replayed", by=scene.alice)
    scene.bob.request("answer", id=prompt["id"], text="Another.")
    assert scene.alice.request("wait", id=other)["data"] == {"human_input": "Another."}


def test_a_copy_to_another_topic(scene: Scene) -> None:
    """A bundle that is copied to the topic of another endpoint reaches no flow there."""
    payload = scene.captured_post(copy=1).payload
    elsewhere = [scene.inbox(endpoint) for endpoint in ("other", "User", "missing", "_reply", "_notice", "_flows")]
    scene.check_refused([(topic, payload) for topic in elsewhere], "wrong_topic")


def test_a_copy_to_another_recipient(scene: Scene) -> None:
    """A bundle that is copied to another user cannot be opened there."""
    payload = scene.captured_post(copy=2).payload
    scene.check_refused([(scene.inbox("User", scene.alice), payload)], "bad_seal", by=scene.alice)
    inner = scene.mallory.message(scene.alice.user_id, "trace").to_bytes()
    scene.check_refused([(scene.inbox("trace"), scene.mallory.seal(scene.bob.user_id, inner))], "wrong_recipient")


def test_times_that_are_wrong(scene: Scene) -> None:
    """A message past its deadline, from the future, or without an end has no effect."""
    now = int(time.time() * 1000)
    day = 24 * 3_600_000
    bob = scene.bob.user_id
    expired = [scene.mallory.bundle(bob, "trace", seq=0, created=now - 2 * day, expires=now - ago) for ago in (1, day)]
    scene.check_refused([(scene.inbox("trace"), bundle) for bundle in expired], "expired")
    lasting = [
        scene.mallory.bundle(bob, "trace", seq=0, expires=now + 31 * day),
        scene.mallory.bundle(bob, "trace", seq=0, created=now + day, expires=now + 2 * day),
        scene.mallory.bundle(bob, "trace", seq=0, created=2**62, expires=2**62),
    ]
    scene.check_refused([(scene.inbox("trace"), bundle) for bundle in lasting], "too_long_lived")


def test_somebody_elses_name(scene: Scene) -> None:
    """Mallory cannot send in the name of alice, neither inside her own seal nor with alice's key on the outside."""
    bob = scene.bob.user_id
    inside = scene.mallory.bundle(bob, "trace", seq=0, **{"from": scene.alice.user_id})
    scene.check_refused([(scene.inbox("trace"), inside)], "wrong_sender")
    honest = scene.mallory.bundle(bob, "trace", seq=0)
    outside = honest[:2] + scene.alice.me.public + honest[34:]
    scene.check_refused([(scene.inbox("trace"), outside)], "bad_seal")


def test_a_reply_from_the_wrong_person(scene: Scene) -> None:
    """Only the user who was asked can answer: mallory's answer to a question for bob is refused."""
    call = scene.alice.request("submit", address="bob/User", data={"text": "Bob?"})["id"]
    (prompt,) = scene.bob.wait_for_prompts()
    alice = scene.alice.user_id
    forged = scene.mallory.bundle(alice, "_reply", type="reply", cause=call, data={"human_input": "forged"})
    failed = scene.mallory.bundle(alice, "_reply", type="error", cause=call, data={"kind": "declined"})
    topic = scene.inbox("_reply", scene.alice)
    scene.check_refused([(topic, forged), (topic, failed)], "replayed", by=scene.alice)
    stored = Notice(to=alice, received=[call], held=[call], waiting=[call]).to_bytes()
    scene.spy.publish(scene.inbox("_notice", scene.alice), scene.mallory.seal(alice, stored, kind=BundleKind.NOTICE))
    scene.bob.request("answer", id=prompt["id"], text="Bob.")
    assert scene.alice.request("wait", id=call)["data"] == {"human_input": "Bob."}


def test_a_retained_message(scene: Scene) -> None:
    """A retained message in an inbox has no effect, neither when it comes nor when the daemon subscribes again."""
    bundle = scene.mallory.bundle(scene.bob.user_id, "other", seq=0)
    topic = scene.inbox("other")
    if scene.network.program == "mosquitto":
        scene.check_refused([(topic, bundle)], "retained", retain=True)
    else:
        # iotcore hides the mark from who is subscribed already; what is left is a replay.
        scene.spy.publish(topic, bundle)
        wait_until(lambda: {"text": "forged"} in scene.traces)
        scene.check_refused([(topic, bundle)], "retained", "replayed", retain=True)
    traces = scene.traces
    scene.bob.kill_daemon()
    scene.bob.start()
    assert scene.answers_honest_call()
    assert scene.traces == [*traces, {"honest": True}]
    scene.spy.publish(topic, b"", retain=True)


def test_garbage_everywhere(scene: Scene) -> None:
    """The daemon outlives garbage on every topic of its user, and counts it."""
    bob = scene.bob.user_id
    worker = scene.spy.first(lambda packet: f"{bob}/dispatch/" in packet.topic).topic
    reasons = (
        "malformed", "wrong_version", "bad_seal", "rate_limited", "unrelated", "bad_frame", "wrong_topic",
        "bad_signature",
    )  # fmt: skip
    garbage = [b"x", b"{}", b"\0" * 58, b"\1\1" + b"\0" * 200, secrets.token_bytes(500), b"\xff" * 100_000]
    counted = [scene.inbox(name) for name in ("trace", "User", "_reply", "_notice", "_flows", "nobody", "x" * 200)]
    counted += [scene.results, topics.results(bob, "default"), topics.results(bob, "no-such-point")]
    scene.check_refused([(topic, one) for topic in counted for one in garbage], *reasons)
    scene.check_refused([(topics.status(scene.alice.user_id), one) for one in garbage], *reasons)
    for topic in (worker, topics.card(bob), topics.status(bob), f"p2pflows/1/{bob}", f"p2pflows/1/{bob}/in/ü"):
        for one in garbage:
            scene.spy.publish(topic, one)
    assert scene.answers_honest_call()


def test_many_results_topics(scene: Scene) -> None:
    """Frames for dispatch points that do not exist leave nothing behind in the daemon."""
    points = [point["dispatch_point"] for point in scene.bob.status()["workers"]]
    frames = [(topics.results(scene.bob.user_id, f"point-{n}"), b"x" * 100) for n in range(50)]
    scene.check_refused(frames, "bad_frame")
    assert [point["dispatch_point"] for point in scene.bob.status()["workers"]] == points


def test_frames_with_another_key(scene: Scene) -> None:
    """An attacker without the key of a dispatch point can play neither its worker nor its daemon."""
    bob, start = scene.bob.user_id, len(scene.spy.seen)
    assert scene.answers_honest_call()
    wrong = Channel(secrets.token_bytes(32))
    results = scene.results
    header = {
        "worker": "w-0123456789abcdef", "boot": 2**60, "n": 1, "seen": 0, "slots": 256, "held": [],
        "results": [], "pid": 1, "host": "x", "draining": False, "bye": False,
    }  # fmt: skip
    scene.check_refused(
        [(results, wrong.seal(results, header)), (results, wrong.seal("p2pflows/x", header))], "bad_frame"
    )
    worker = scene.spy.first(
        lambda packet: f"{bob}/dispatch/" in packet.topic and packet not in scene.spy.seen[:start]
    ).topic
    stop = {
        "worker": worker.rpartition("/")[2],
        "boot": 2**60,
        "n": 1,
        "tasks": [],
        "done": [],
        "cancel": [],
        "stop": True,
    }
    scene.spy.publish(worker, wrong.seal(worker, stop))
    assert scene.answers_honest_call()


def test_replayed_worker_frames(scene: Scene) -> None:
    """Replayed and copied frames between daemon and worker run nothing and answer nothing."""
    bob, start = scene.bob.user_id, len(scene.spy.seen)
    assert scene.answers_honest_call()
    results = scene.results
    wait_until(lambda: any(packet.topic == results for packet in scene.spy.seen[start:]))
    time.sleep(0.3)
    passed = scene.spy.seen[start:]
    answered = [packet for packet in passed if packet.topic == results]
    tasks = [packet for packet in passed if f"{bob}/dispatch/" in packet.topic]
    assert answered
    assert tasks
    traces = scene.traces
    scene.check_refused([(packet.topic, packet.payload) for packet in answered], "replayed")
    for packet in tasks:
        scene.spy.publish(packet.topic, packet.payload)
    scene.check_refused(
        [(topics.results(bob, "other-point"), answered[0].payload), (results, tasks[0].payload)], "bad_frame"
    )
    time.sleep(0.5)
    assert scene.traces == traces
    assert scene.answers_honest_call()
    assert scene.traces == [*traces, {"honest": True}]


def test_frames_of_a_worker_that_is_gone(scene: Scene) -> None:
    """Frames captured before the daemon and its worker were killed have no effect on their successors."""
    bob, start = scene.bob.user_id, len(scene.spy.seen)
    assert scene.answers_honest_call()
    time.sleep(0.3)
    passed = [
        packet for packet in scene.spy.seen[start:] if f"{bob}/results/" in packet.topic or "/dispatch/" in packet.topic
    ]
    traces = scene.traces
    scene.bob.kill_daemon()
    kill_process(scene.worker.pid)
    scene.bob.start()
    scene.worker = scene.start_remote_worker()
    for packet in passed * 2:
        scene.spy.publish(packet.topic, packet.payload)
    assert scene.answers_honest_call()
    assert scene.traces == [*traces, {"honest": True}]
    (point,) = scene.bob.status()["workers"]
    assert (point["workers"], point["slots"]) == (1, 4)


def test_a_hostile_contact(scene: Scene) -> None:
    """Whatever a contact seals correctly and fills with nonsense does no harm."""
    bob = scene.bob.user_id
    bodies = [
        b"",
        b"nonsense",
        b"{}",
        b"[]",
        b'{"id":1}',
        b"\xff\xfe",
        b"[" * 5_000,
        scene.mallory.message(bob, "trace", seq=0).to_bytes().replace(b'"post"', b'"reply"'),
        scene.mallory.message(bob, "trace", seq=0).to_bytes().replace(b'"post"', b'"shout"'),
        scene.mallory.message(bob, "trace", seq=0).to_bytes().replace(b'"forged"', b'"\\ud800"'),
        scene.mallory.message(bob, "trace", seq=0).to_bytes().replace(b'"forged"', b"NaN,"),
        scene.mallory.message(bob, "trace", seq=0).to_bytes().replace(b'"forged"', b"[" * 300 + b"]" * 300),
    ]
    packets = [(scene.inbox("trace"), scene.mallory.seal(bob, body)) for body in bodies]
    scene.check_refused(packets, "malformed", "wrong_topic")
    notices = [
        b"{}",
        b"nonsense",
        json.dumps({"to": bob, "gaps": [["x", -1, 2]]}).encode(),
        json.dumps({"to": scene.alice.user_id, "received": []}).encode(),
    ]
    sealed = [(scene.inbox("_notice"), scene.mallory.seal(bob, body, kind=BundleKind.NOTICE)) for body in notices]
    scene.check_refused(sealed, "malformed", "wrong_recipient")
    for notice in (
        Notice(
            to=bob,
            gaps=[("nothing", 2**62, 2**62), ("trace", 0, 0)],
            skips=[("trace", 2**62, 2**62), ("new", 1, 2**62)],
        ),
        Notice(to=bob, received=["0" * 32], held=["f" * 32], waiting=["1" * 32], rewound=[("trace", 2**62, "0" * 32)]),
    ):
        scene.spy.publish(scene.inbox("_notice"), scene.mallory.seal(bob, notice.to_bytes(), kind=BundleKind.NOTICE))
    far = scene.mallory.message(bob, "far", type="call", epoch=2**62, seq=2**62).to_bytes()
    twice = scene.mallory.message(bob, "missing", type="cancel", seq=0, cause="0" * 32).to_bytes()
    scene.spy.publish(scene.inbox("far"), scene.mallory.seal(bob, far))
    scene.spy.publish(scene.inbox("missing"), scene.mallory.seal(bob, twice, twice, twice))
    scene.spy.publish(scene.inbox("missing"), scene.mallory.seal(bob, *[b"x"] * 3_000))
    assert scene.answers_honest_call()


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"flows": 3, "served": True},
        {"flows": [{"endpoint": "x", "description": {}}], "served": "\x1b[31m"},
        {
            "flows": [{"endpoint": "x", "description": "\x1b[31m"}],
            "served": True,
            "allowed": True,
            "schema": {"properties": {"\x1b": 1}},
        },
    ],
)
def test_a_hostile_contact_answers(scene: Scene, answer: dict[str, object]) -> None:
    """`ls` and `describe` survive whatever a neighbour's daemon answers."""
    for words in (["ls", "mallory"], ["describe", "mallory/x"]):
        start = len(scene.spy.seen)
        command = scene.alice.start_command(*words)
        packet = scene.spy.on(topics.inbox(scene.mallory.user_id, "_flows"), start)
        call = json.loads(scene.mallory.envelope.open(packet.payload).bodies[0])["id"]
        reply = scene.mallory.bundle(scene.alice.user_id, "_reply", type="reply", cause=call, data=answer)
        scene.spy.publish(scene.inbox("_reply", scene.alice), reply)
        result = command.wait()
        assert "\x1b" not in result.out + result.err
        assert "bug" not in result.err, (words, result)


def test_bundles_open_for_nobody_else(scene: Scene) -> None:
    """A bundle from alice to bob cannot be opened with mallory's key, nor with a new one."""
    payload = scene.captured_post(private=1).payload
    with pytest.raises(Refused, match="bad_seal"):
        scene.mallory.envelope.open(payload)


def test_a_flood_of_strangers(scene: Scene) -> None:
    """While strangers flood an inbox, contacts are served, and each refusal is counted."""
    before = scene.bob.status()["refused"].get("rate_limited", 0)
    strangers = [Forger(identity.Identity(secrets.token_bytes(32))) for _ in range(10)]
    flood = [stranger.bundle(scene.bob.user_id, "trace") for stranger in strangers for _ in range(60)]
    for bundle in flood:
        scene.spy.publish(scene.inbox("trace"), bundle)
    started = time.monotonic()
    assert scene.answers_honest_call()
    assert time.monotonic() - started < 5
    now = scene.bob.wait_for_status(lambda now: now["refused"].get("rate_limited", 0) > before)
    assert now["requests"] <= 10
    assert all(request["messages"] <= 20 for request in scene.bob.request("requests")["requests"])
