"""What is fuzzed: for each kind of input one function that feeds it to the code that reads it.

A target gets a sequence of inputs, because what a daemon does with one may depend on those before. An input may raise
what the target allows; any other exception is a finding, and so is an input that takes too long.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.desk import Desk, Hand, control_of
from support.lone_daemon import LoneDaemon, Packet, Peer
from support.memory_disk import memory_disk

from p2pflows.errors import P2pflowsError, UsageError
from p2pflows.links import broker_url
from p2pflows.openai_server.chat_request import BadRequest, read_request
from p2pflows.openai_server.conversations import Conversations
from p2pflows.protocol import file_frames, framing, strict_json, topics
from p2pflows.protocol.channel import BadFrame, Channel, read_token
from p2pflows.protocol.envelope import BundleKind, Envelope, Refused
from p2pflows.protocol.file_reference import may_refer, references_in
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.message import Message, Type
from p2pflows.protocol.notice import Notice
from p2pflows.protocol.progress import Numbering, Reader, joined
from p2pflows.protocol.worker_frames import DaemonFrame
from p2pflowsd.api.methods import METHODS, Methods
from p2pflowsd.api.sessions import Session
from p2pflowsd.running.worker_tokens import point_key
from p2pflowsd.sending import presence

VECTORS = Path(__file__).parents[1] / "vectors"
TEMPORARY = "P2PFLOWS_FUZZ_FOLDER"
"""The environment variable with the folder for the journals of fuzzed daemons; by default a memory disk."""
MAX_CPU_S = 2.0
"""How much processor time one input may take; all known ones take milliseconds."""
KNOWN_IDS = [f"{number:032x}" for number in range(6)]
"""The ids of messages that the fuzzed daemon has sent and received."""

Feed = Callable[[bytes], object]
"""Takes one input."""


class TooSlow(Exception):
    """An input took more processor time than any may take."""


@dataclass(frozen=True)
class Target:
    """One kind of input.

    Attributes:
        opened: makes what reads the inputs, and returns the function that feeds it one.
        seeds: inputs to begin with.
        allowed: what an input may raise.
        lasts: how many inputs one reader gets; then a new one begins, so that findings stay short.
    """

    opened: Callable[[], AbstractContextManager[Feed]]
    seeds: Callable[[], list[bytes]]
    allowed: tuple[type[Exception], ...] = ()
    lasts: int = 200


def feed(target: Target, one: Feed, data: bytes) -> None:
    """Feed a target one input.

    Raises:
        TooSlow: it took too long.
        Exception: anything that the target does not allow.
    """
    began = time.process_time()
    with contextlib.suppress(*target.allowed):
        one(data)
    if (took := time.process_time() - began) > MAX_CPU_S:
        raise TooSlow(f"an input of {len(data)} bytes took {took:.1f} s")


def replay(target: Target, inputs: Sequence[bytes]) -> None:
    """Feed a new reader some inputs.

    Raises:
        Exception: one of them is a finding.
    """
    with target.opened() as one:
        for data in inputs:
            feed(target, one, data)


# What needs no daemon.


@contextlib.contextmanager
def _envelope() -> Iterator[Feed]:
    """A bundle as it comes from the broker."""
    yield Envelope(Identity(b"\2" * 32)).open


@contextlib.contextmanager
def _bundle() -> Iterator[Feed]:
    """The framed bodies in a box of somebody who signs anything."""
    sender, recipient = Identity(b"\1" * 32), Envelope(Identity(b"\2" * 32))
    sealing, user = Envelope(sender), Identity(b"\2" * 32).user_id

    def read(data: bytes) -> None:
        try:
            bodies = framing.unpack(data)
        except framing.FramingError:
            bodies = [data]
        opened = recipient.open(sealing.seal(BundleKind.MESSAGES, user, bodies[:2_000] or [b""], b"\0" * 24))
        for body in opened.bodies:
            with contextlib.suppress(ValueError):
                message = Message.from_bytes(body)
                assert Message.from_bytes(message.to_bytes()) == message
        with contextlib.suppress(ValueError):
            notice = Notice.from_bodies(opened.bodies)
            assert Notice.from_bodies([notice.to_bytes()]) == notice

    yield read


@contextlib.contextmanager
def _file_frame() -> Iterator[Feed]:
    """The framed bodies of a bundle about a file."""

    def read(data: bytes) -> None:
        try:
            bodies = framing.unpack(data)
        except framing.FramingError:
            bodies = [data]
        with contextlib.suppress(ValueError):
            frame, content = file_frames.unpack(bodies or [b""])
            assert file_frames.unpack(file_frames.pack(frame, content)) == (frame, content)

    yield read


@contextlib.contextmanager
def _reference() -> Iterator[Feed]:
    """Data of a message that may refer to files."""

    def read(data: bytes) -> None:
        with contextlib.suppress(ValueError):
            value = strict_json.loads_exact(data)
            found = references_in(value)
            assert not found or may_refer(data)
            assert references_in([reference.as_data() for reference in found]) == found

    yield read


@contextlib.contextmanager
def _token() -> Iterator[Feed]:
    """What somebody pastes as a worker token; the digits may be left to this function."""

    def read(data: bytes) -> None:
        text = data.decode("utf-8", "surrogateescape")
        for token in (text, "p2pflows-worker-1." + data.hex()):
            with contextlib.suppress(UsageError):
                enrolment = read_token(token)
                assert read_token(enrolment.token()) == enrolment
                broker_url.parse(enrolment.broker)

    yield read


@contextlib.contextmanager
def _broker() -> Iterator[Feed]:
    """A broker URL, as in config.yaml, a token or a command line."""

    def read(data: bytes) -> None:
        url = broker_url.parse(data.decode("utf-8", "surrogateescape"))
        if isinstance(url, broker_url.BrokerUrl):
            assert broker_url.parse(url.with_secret()) == url
            str(url)

    yield read


@contextlib.contextmanager
def _chat_request() -> Iterator[Feed]:
    """The body of a request for a chat completion, with its conversation looked up and remembered."""
    conversations = Conversations()

    def read(data: bytes) -> None:
        request = read_request(data)
        assert request.beginning()["query"] or request.question.pictures
        json.dumps(request.continuation())
        conversations.take(request.model, request.before)
        conversations.put(request.model, [*request.before, request.question], KNOWN_IDS[0])

    yield read


@contextlib.contextmanager
def _progress() -> Iterator[Feed]:
    """Reports of a call, a line of JSON each."""

    def read(data: bytes) -> None:
        reader, numbering = Reader(), Numbering()
        for line in data.splitlines():
            try:
                report = strict_json.loads(line)
            except ValueError:
                continue
            if isinstance(report, dict):
                reader.read(report)
                joined(report, numbering.number(report), 1_000)

    yield read


@contextlib.contextmanager
def _daemon_frame() -> Iterator[Feed]:
    """A frame to a worker, from somebody who has the key."""
    channel = Channel(b"\5" * 32)

    def read(data: bytes) -> None:
        header, blobs = _header_and_blobs(data)
        opened = channel.open("t", channel.seal("t", header, blobs))
        DaemonFrame.read(*opened)

    yield read


# What a daemon takes in.


@contextlib.contextmanager
def _desk() -> Iterator[Desk]:
    """A daemon that serves a human, a function and a class, and waits for answers of a contact."""
    folder = Path(tempfile.mkdtemp(prefix="p2pflows-fuzz-", dir=os.environ.get(TEMPORARY) or memory_disk()))
    desk = Desk(folder)
    try:
        desk.serve_human()
        desk.serves("f", kind="python", allow="contacts")
        desk.serves("C", allow="contacts")
        yield desk
    finally:
        desk.journal.close()
        shutil.rmtree(folder, ignore_errors=True)


def _with_mail(desk: LoneDaemon, peer: Peer) -> None:
    """Let a daemon send calls to a peer under known ids, and miss a request of theirs."""

    def send() -> None:
        for number, message_id in enumerate(KNOWN_IDS):
            desk.node.outbox.accept(
                Type.CALL if number % 2 else Type.POST, peer.user, "x", {"n": number},
                expires=desk.clock.now() + 600_000, message_id=message_id,
            )  # fmt: skip

    desk.do(send)
    peer.send(peer.message(id=KNOWN_IDS[0], epoch=5, seq=0), peer.message(id=KNOWN_IDS[1], epoch=5, seq=4))


def _settle(desk: LoneDaemon) -> None:
    for pause in (0.03, 1.1):
        desk.timeline.sleep(pause)
        desk.node.process_batch([])


@contextlib.contextmanager
def _message() -> Iterator[Feed]:
    """The body of a message of a contact, with the times and the users filled in if it names none."""
    with _desk() as desk:
        peer = Peer(desk, 66, "mallory")
        _with_mail(desk, peer)

        def read(data: bytes) -> None:
            body, endpoint = _completed(desk, peer, data)
            desk.receive(endpoint, peer.bundle(body))
            _settle(desk)

        yield read


@contextlib.contextmanager
def _notice() -> Iterator[Feed]:
    """The body of a notice of a contact."""
    with _desk() as desk:
        peer = Peer(desk, 66, "mallory")
        _with_mail(desk, peer)

        def read(data: bytes) -> None:
            for body in (data, _with_fields(data, {"to": desk.user})):
                desk.receive(topics.NOTICE, peer.bundle(body, kind=BundleKind.NOTICE))
            _settle(desk)

        yield read


@contextlib.contextmanager
def _topic() -> Iterator[Feed]:
    """The topic of a delivery; in it, `ME` stands for the user id of the daemon, and `PEER` for one of a contact."""
    with _desk() as desk:
        peer = Peer(desk, 66, "mallory")
        payload = peer.bundle(peer.message())

        def read(data: bytes) -> None:
            try:
                topic = data.decode().replace("ME", desk.user).replace("PEER", peer.user)
            except UnicodeDecodeError:
                topic = ""  # as the link has it
            for retain in (False, True):
                desk.node.process_batch([Packet(topic, payload, retain)])
            _settle(desk)

        yield read


@contextlib.contextmanager
def _presence() -> Iterator[Feed]:
    """A status of a contact, as it comes and signed; and a card, which has the same form."""
    with _desk() as desk:
        peer = Peer(desk, 66, "mallory")
        _with_mail(desk, peer)
        identity = Identity(bytes([66]) * 32)
        mine = topics.status(desk.user)

        def read(data: bytes) -> None:
            for signer, topic in ((identity, topics.status(peer.user)), (desk.identity, mine)):
                signed = signer.sign(presence._DOMAIN + topic.encode() + b"\0" + data) + data
                desk.node.process_batch([Packet(topic, data), Packet(topic, signed), Packet(topic, signed, True)])
            card = topics.card(peer.user)
            presence.open_signed(peer.user, card, identity.sign(presence._DOMAIN + card.encode() + b"\0" + data) + data)
            desk.node.presence.online(peer.user)
            _settle(desk)

        yield read


@contextlib.contextmanager
def _worker_frame() -> Iterator[Feed]:
    """A frame of a worker with the right key: a JSON header, and blobs after the first zero bytes."""
    with _desk() as desk:
        hand = Hand(desk, "b", "w")
        peer = Peer(desk, 66, "mallory")
        peer.send(peer.message("f", epoch=5, seq=0, type="call"), endpoint="f")
        peer.send(peer.message("C", epoch=5, seq=0, type="call"), endpoint="C")
        count = 1
        topic = topics.results(desk.user, "b")
        channel = Channel(point_key(desk.identity, "b"))
        tasks = [task["task"] for task, _ in hand.takes()]

        def read(data: bytes) -> None:
            nonlocal count
            header, blobs = _header_and_blobs(data)
            desk.node.process_batch([Packet(topic, channel.seal(topic, header, blobs))])
            count += 1
            usual = {
                "worker": "w", "boot": desk.node.boot, "n": count, "seen": 0, "slots": 4, "held": [], "results": [],
                "draining": False, "bye": False,
            }  # fmt: skip
            fields = {name: value for name, value in (usual | header).items() if name != "held" or value is not None}
            text = json.dumps(fields)
            for number, task in enumerate(tasks):
                text = text.replace(f"TASK{number}", task)
            desk.node.process_batch([Packet(topic, channel.seal(topic, json.loads(text), blobs))])
            _settle(desk)
            tasks.extend(task["task"] for task, _ in hand.takes())
            del tasks[:-6]

        yield read


class _Transport(asyncio.WriteTransport):
    """Where a session writes to: nowhere."""

    def __init__(self) -> None:
        super().__init__()
        self.sent = 0
        self._closing = False

    def write(self, data: bytes | bytearray | memoryview[Any]) -> None:
        json.loads(bytes(data))
        self.sent += len(data)

    def is_closing(self) -> bool:
        return self._closing

    def close(self) -> None:
        self._closing = True

    def abort(self) -> None:
        self._closing = True

    def get_write_buffer_size(self) -> int:
        return 0


def _watched(methods: Methods, unexpected: list[BaseException]) -> Methods:
    """Return methods that keep every exception that no method may raise."""

    def watched(method: Callable[[dict[str, Any]], Awaitable[Any]]) -> Callable[[dict[str, Any]], Awaitable[Any]]:
        async def run(params: dict[str, Any]) -> Any:
            try:
                return await method(params)
            except (P2pflowsError, asyncio.CancelledError):
                raise
            except BaseException as error:
                unexpected.append(error)
                raise

        return run

    return Methods({name: watched(method) for name, method in methods.by_name.items()}, methods.start_call)


@contextlib.contextmanager
def _control() -> Iterator[Feed]:
    """Lines of a client on the control socket, with all methods of a daemon behind them."""
    with _desk() as desk, asyncio.Runner() as runner:
        peer = Peer(desk, 66, "mallory")
        _with_mail(desk, peer)
        unexpected: list[BaseException] = []

        methods = _watched(Methods.of(control_of(desk)), unexpected)

        async def read_lines(data: bytes) -> None:
            session = Session(methods, set())
            session.connection_made(_Transport())
            session.data_received(data + b"\n")
            tasks = list(session._tasks)
            for _ in range(4):
                await asyncio.sleep(0)
            session.connection_lost(None)
            await asyncio.gather(*tasks, return_exceptions=True)

        def read(data: bytes) -> None:
            runner.run(read_lines(data))
            if unexpected:
                raise unexpected.pop()
            _settle(desk)

        yield read


# Inputs to begin with.


def _load(name: str) -> dict[str, Any]:
    return dict(json.loads((VECTORS / f"{name}.json").read_text(encoding="utf-8")))


def _bundles() -> list[bytes]:
    cases = _load("bundle")["cases"] + _load("refused")["cases"]
    return [bytes.fromhex(case["bundle"]) for case in cases]


def _framed_bodies() -> list[bytes]:
    return [framing.pack([body.encode() for body in case["bodies"]]) for case in _load("bundle")["cases"]]


def _messages() -> list[bytes]:
    bodies = [case["body"].encode() for group in ("cases", "reads", "malformed") for case in _load("message")[group]]
    fields: list[dict[str, Any]] = [
        {"type": "call", "endpoint": "C", "data": {}, "seq": 1},
        {"type": "call", "endpoint": "f", "data": {"a": [1, {}]}, "seq": 0},
        {"type": "reply", "endpoint": "_reply", "cause": KNOWN_IDS[1], "data": {"text": "x"}},
        {"type": "error", "endpoint": "_reply", "cause": KNOWN_IDS[3], "data": {"kind": "flow_failed", "message": "x"}},
        {"type": "cancel", "endpoint": "User", "cause": KNOWN_IDS[0], "epoch": 5, "seq": 2},
        {"type": "call", "endpoint": "_flows", "data": {"endpoint": "C"}},
        {"type": "call", "endpoint": "_instances", "data": {"op": "list"}},
        {"type": "call", "endpoint": "_instances", "data": {"op": "mount", "endpoint": "C", "config_overrides": {}}},
        {"type": "call", "endpoint": "_instances", "data": {"op": "reset", "instance": KNOWN_IDS[2]}},
        {"type": "call", "endpoint": "_instances", "data": {"op": "delete", "instance": KNOWN_IDS[2]}},
    ]
    return bodies + [json.dumps(each).encode() for each in fields]


def _notices() -> list[bytes]:
    ids = KNOWN_IDS
    lines: dict[str, Any] = {
        "received": ids[:2], "held": ids[1:3], "waiting": ids[2:4], "untimely": [[ids[1], 2**40]],
        "refused": [[ids[3], "requests_full"]], "gaps": [["x", 5, 0]], "skips": [["User", 5, 4]],
        "rewound": [["x", 5, ids[5]]], "positions": [["x", 6, 1]], "progress": [[ids[1], {"a": 1}]],
    }  # fmt: skip
    bodies = [json.dumps({name: value}).encode() for name, value in lines.items()]
    vectors = [
        body.encode()
        for case in _load("bundle")["cases"]
        for body in case["bodies"]
        if case["kind"] == BundleKind.NOTICE
    ]
    return [*bodies, json.dumps(lines).encode(), *vectors]


def _topics() -> list[bytes]:
    tops = [case["topic"] for case in _load("delivery").get("cases", []) if "topic" in case]
    own = ["in/User", "in/_notice", "in/_reply", "results/b", "dispatch/b/w", "status", "card"]
    return [topic.encode() for topic in tops] + [
        f"p2pflows/1/{who}/{end}".encode() for who in ("ME", "PEER") for end in own
    ]


def _statuses() -> list[bytes]:
    return [
        b'{"boot":1,"online":true}',
        b'{"boot":9007199254740991,"online":false}',
        b'{"boot":2,"user":"","flows":[{"endpoint":"f"}]}',
        b"",
    ]


def _frames() -> list[bytes]:
    headers: list[dict[str, Any]] = [
        {"results": [{"task": "TASK0", "error": None}]},
        {"results": [{"task": "TASK1", "error": {"kind": "flow_failed", "message": "x", "type": "E"}}]},
        {"results": [{"task": "TASK1", "error": None}], "draining": True},
        {"held": ["TASK0"], "parked": ["TASK0"], "overdue": [["TASK0", "f", 3]]},
        {"asks": [{"task": "TASK0", "k": 0, "op": "step", "value": 1, "mark": "m"}]},
        {
            "asks": [
                {"task": "TASK0", "k": 1, "op": "call", "user": "ab" * 32, "endpoint": "f", "data": {}, "mark": "m"}
            ]
        },
        {"asks": [{"task": "TASK0", "k": -1, "op": "cancel", "call": 0}]},
        {"waits": [["TASK0", 0]], "progress": [{"task": "TASK0", "data": {"a": 1}}]},
        {"held": None, "received": ["TASK1"], "parked": ["TASK0"], "unparked": ["TASK0"]},
        {"suspended": [["TASK1", [0, 1]]]},
        {"bye": True},
        {"bye": True, "draining": True},
    ]
    seeds = [json.dumps(header).encode() + b"\0{}" * len(header.get("results", ())) for header in headers]
    turn = {
        "out": [{"op": "reply", "request": KNOWN_IDS[0], "data": {}}],
        "state": {},
        "mounted": {"config": {}, "subflows": {}},
    }
    seeds.append(
        json.dumps(headers[1] | {"results": [{"task": "TASK1", "error": None}]}).encode()
        + b"\0"
        + json.dumps(turn).encode()
    )
    for case in _load("channel")["cases"]:
        header = case.get("header")
        if isinstance(header, dict):
            seeds.append(json.dumps(header).encode())
    return seeds


def _tokens() -> list[bytes]:
    vectors = _load("token")
    texts = [case["token"] for group in ("cases", "refused") for case in vectors[group]]
    return [text.encode() for text in texts] + [json.dumps(case["enrolment"]).encode() for case in vectors["cases"]]


def _brokers() -> list[bytes]:
    return [
        b"embedded", b"embedded:1883", b"mqtt://host", b"mqtts://u:p%40@host:8883?ca_file=/etc/ssl/ca.crt",
        b"mqtt://[::1]:1883", b"mqtt://user@host",
    ]  # fmt: skip


def _chat_requests() -> list[bytes]:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    said = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "a"}, part]},
    ]
    answered = [*said, {"role": "assistant", "content": None}, {"role": "user", "content": "b"}]
    about = {"model": "bob/Assistant", "stream": True, "stream_options": {"include_usage": True}, "n": 1, "tools": []}
    return [json.dumps({**about, "messages": messages}).encode() for messages in (said, answered, [])]


def _reports() -> list[bytes]:
    cases = json.loads((VECTORS / "progress.json").read_text(encoding="utf-8"))["cases"]
    return ["\n".join(json.dumps(report) for report in case["reports"]).encode() for case in cases]


def _requests() -> list[bytes]:
    params: dict[str, dict[str, Any]] = {
        "id": {}, "status": {}, "call": {"address": "mallory/x", "data": {}, "timeout": 1.5},
        "submit": {"address": "User", "data": {"text": "x"}},
        "send": {"address": "mallory/x", "data": {}, "source": "s"},
        "wait": {"id": KNOWN_IDS[0][-8:], "timeout": 0.1}, "cancel": {"id": KNOWN_IDS[1]}, "inbox": {"all": True},
        "conversations": {"limit": 5}, "answer": {"id": KNOWN_IDS[0], "text": "yes"},
        "decline": {"id": KNOWN_IDS[0], "reason": "no"}, "decline_all": {"user": "mallory", "reason": ""},
        "serve": {"endpoint": "g", "kind": "human", "allow": "mallory"}, "unserve": {"endpoint": "g"},
        "delete_endpoint": {"endpoint": "g"}, "mount": {"address": "mallory/C", "config_overrides": {}},
        "instances": {"user": "me"}, "delete_instance": {"user": "me", "instance": KNOWN_IDS[0]},
        "reset_instance": {"user": "me", "instance": KNOWN_IDS[0]}, "ls": {"user": "mallory"},
        "describe": {"address": "User"}, "requests": {}, "allow": {"user": "ab" * 32, "name": "carol"},
        "deny": {"user": "ab" * 32}, "outbox": {}, "retry": {"id": KNOWN_IDS[0]}, "log": {"limit": 3},
        "worker_token": {"dispatch_point": "b"}, "watch": {},
    }  # fmt: skip
    params["serve class"] = {
        "endpoint": "D", "kind": "class", "target": "x:D", "cwd": "/", "dispatch_point": "b", "schema": {},
        "config": {"a": 1}, "overridable": ["a"], "subflows": {"s": {"endpoint": "f"}},
    }  # fmt: skip
    params = {method: {} for method in METHODS} | params
    return [
        json.dumps({"id": 1, "method": method.split()[0], "params": values}).encode()
        for method, values in params.items()
    ]


# Forms of inputs.


def _header_and_blobs(data: bytes) -> tuple[dict[str, Any], list[bytes]]:
    """Return the JSON object before the first zero byte, and the parts between the others."""
    head, *blobs = data.split(b"\0")
    try:
        header = json.loads(head)
    except (ValueError, RecursionError):
        header = {"worker": head.decode(errors="replace")}
    return header if isinstance(header, dict) else {"results": header}, blobs


def _with_fields(data: bytes, fields: dict[str, Any]) -> bytes:
    """Return a JSON object with some fields set; other texts as they are."""
    try:
        content = json.loads(data)
        return json.dumps(content | fields).encode() if isinstance(content, dict) else data
    except (ValueError, RecursionError):
        return data


def _completed(desk: LoneDaemon, peer: Peer, data: bytes) -> tuple[bytes, str]:
    """Return the body of a message with the fields that it lacks, and the endpoint to which it goes."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return data, "User"
    if not isinstance(content, dict):
        return data, "User"
    now, message_id = desk.clock.now(), desk.random.randbytes(16).hex()
    usual = {
        "id": message_id, "type": "post", "endpoint": "User", "conversation": message_id, "epoch": 5,
        "data": {"text": "x"},
    }  # fmt: skip
    content = usual | content | {"from": peer.user, "to": desk.user, "created": now, "expires": now + 60_000}
    endpoint = content["endpoint"]
    if not (isinstance(endpoint, str) and topics.is_name(endpoint)):
        endpoint = "User"
    return json.dumps(content).encode(errors="replace"), endpoint


def _file_frames() -> list[bytes]:
    cases = json.loads((VECTORS / "file.json").read_text())["cases"]
    return [bytes.fromhex(case["framed"]) for case in cases]


def _references() -> list[bytes]:
    content = json.loads((VECTORS / "file.json").read_text())
    return [json.dumps(case["data"]).encode() for group in ("references", "malformed") for case in content[group]]


TARGETS: dict[str, Target] = {
    "envelope": Target(_envelope, _bundles, (Refused,)),
    "bundle": Target(_bundle, _framed_bodies, (Refused,)),
    "message": Target(_message, _messages),
    "notice": Target(_notice, _notices),
    "topic": Target(_topic, _topics),
    "presence": Target(_presence, _statuses),
    "worker_frame": Target(_worker_frame, _frames),
    "daemon_frame": Target(_daemon_frame, _frames, (BadFrame,)),
    "token": Target(_token, _tokens),
    "broker": Target(_broker, _brokers, (UsageError,)),
    "chat_request": Target(_chat_request, _chat_requests, (BadRequest,)),
    "progress": Target(_progress, _reports),
    "file_frame": Target(_file_frame, _file_frames),
    "reference": Target(_reference, _references),
    "control": Target(_control, _requests),
}
