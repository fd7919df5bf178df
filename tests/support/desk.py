"""A daemon without sockets, and bare hands around it: neighbours and workers that say whatever a test wants."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from p2pflows.protocol import topics
from p2pflows.protocol.channel import Channel
from p2pflows.protocol.envelope import BundleKind, Envelope
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.message import Message
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.node import Request
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.worker_tokens import point_key, token_key
from p2pflowsd.transfers.transfers import Transfers
from support.lone_daemon import HOUR_MS, LoneDaemon, Packet


class Desk(LoneDaemon):
    """Bob's daemon; whatever arrives is taken in and answered at once."""

    def serves(self, endpoint: str, point: str = "b", **settings: Any) -> None:
        """Serve a class, or something else."""
        kind = settings.pop("kind", "class")
        target = "" if kind == "human" else "x:X"
        settings = {"subflows": {}, **settings} if kind == "class" else settings
        self.do(
            lambda: self.node.catalog.put(
                Served(endpoint=endpoint, kind=kind, target=target, dispatch_point=point, **settings)
            )
        )

    def arrives(self, topic: str, payload: bytes, *, is_local: bool = True) -> None:
        """Take something in, and let so much time pass that all is said that there is to say."""
        self.node.process_batch([Packet(topic, payload, is_local=is_local)])
        self.passes(0.03)
        self.passes(0.03)

    def passes(self, seconds: float) -> None:
        """Let time pass."""
        self.timeline.sleep(seconds)
        self.node.process_batch([])

    def log(self) -> list[tuple[str, str]]:
        """What the owner's log says: what, and about whom."""
        return [(entry.what, entry.peer) for entry in self.journal.log.newest(1_000)]


def control_of(desk: LoneDaemon) -> Daemon:
    """Return a daemon as the methods of the control API see it; each step is a batch of its own."""

    def submit(step: Callable[[], Any], on_outcome: Callable[[Any], None], *, reads_only: bool = False) -> None:
        del reads_only
        desk.node.process_batch([], [Request(step, on_outcome)])

    async def broker() -> str:
        return "mqtt://localhost"

    about = {"broker": {"url": "mqtt://localhost", "connected": True}}
    daemon = Daemon(node=lambda: desk.node, submit=submit, about=lambda: about, broker_url=broker)
    daemon.transfers = Transfers(
        identity=desk.identity,
        folder=desk.folder / "files",
        node=lambda: desk.node,
        submit=submit,
        link=desk.link,
        is_writable=lambda: True,
        clock=desk.clock,
        entropy=desk.random.randbytes,
        log=logging.getLogger("test"),
    )
    return daemon


class Neighbour:
    """Somebody with a key and a bare hand instead of a daemon."""

    def __init__(self, desk: Desk, seed: int, name: str | None = None) -> None:
        self.desk = desk
        self.me = Identity(bytes([seed]) * 32)
        self.user = self.me.user_id
        self.envelope = Envelope(self.me)
        self._places: dict[str, int] = {}
        self._read: dict[str, list[dict[str, Any]]] = {}
        self._bundles: dict[str, int] = {}
        if name is not None:
            desk.contacts.add(name, self.user)

    def sends(self, endpoint: str, data: dict[str, Any], **changes: Any) -> str:
        """Send a call, right but for the changes; gives its id."""
        now = self.desk.clock.now()
        message_id = self.desk.random.randbytes(16).hex()
        place = self._places.get(endpoint, 0)
        self._places[endpoint] = place + (endpoint != topics.REPLY)
        fields = {
            "id": message_id, "type": "call", "from": self.user, "to": self.desk.user, "endpoint": endpoint,
            "conversation": message_id, "epoch": 5, "seq": place, "created": now, "expires": now + HOUR_MS,
            "data": data, **changes,
        }  # fmt: skip
        message = Message.model_validate(fields)
        self.publishes(endpoint, message.to_bytes())
        return message.id

    def mounts(self, endpoint: str, **order: Any) -> str:
        """Ask for an instance; gives the request's id."""
        return self.sends(topics.INSTANCES, {"op": "mount", "endpoint": endpoint, **order})

    def publishes(self, endpoint: str, *bodies: bytes, kind: BundleKind = BundleKind.MESSAGES) -> None:
        """Publish what need not be a message."""
        bundle = self.envelope.seal(kind, self.desk.user, bodies, self.desk.random.randbytes(24))
        self.desk.arrives(topics.inbox(self.desk.user, endpoint), bundle)

    def hears(self, request: str | None = None) -> list[dict[str, Any]]:
        """The data of all answers, or of those to one request."""
        found = self._heard(topics.REPLY)
        return [answer.get("data", {}) for answer in found if request in (None, answer["cause"])]

    def hears_error(self, request: str) -> str:
        """The kind of the error that a request got."""
        (answer,) = self.hears(request)
        return str(answer["kind"])

    def gets(self, endpoint: str) -> list[dict[str, Any]]:
        """All messages to an endpoint of this neighbour, once each."""
        return list({message["id"]: message for message in self._heard(endpoint)}.values())

    def gets_notices(self) -> list[dict[str, Any]]:
        """All notices to this neighbour."""
        return self._heard(topics.NOTICE)

    def _heard(self, endpoint: str) -> list[dict[str, Any]]:
        read, at = self._read.setdefault(endpoint, []), self._bundles.get(endpoint, 0)
        bundles = self.desk.link.sent.get(topics.inbox(self.user, endpoint), [])[at:]
        self._bundles[endpoint] = at + len(bundles)
        read += [json.loads(body) for bundle in bundles for body in self.envelope.open(bundle).bodies]
        return read


class Hand:
    """A worker of our own making: it has the key of one point, or of a token for it, and says what it likes."""

    def __init__(self, desk: Desk, point: str, name: str, *, token: str = "", is_local: bool = True) -> None:
        self.desk, self.point, self.name = desk, topics.queue_of(point, token), name
        self._is_local = is_local
        self._channel = Channel(token_key(desk.identity, point, token) if token else point_key(desk.identity, point))
        self._count = 0
        self._read = self._told = 0
        self._answers: list[dict[str, Any]] = []
        self.says()

    def says(self, blobs: tuple[bytes, ...] = (), **header: Any) -> None:
        """Send a frame, right but for what is given."""
        self._count += 1
        topic = topics.results(self.desk.user, self.point)
        told = {
            "worker": self.name, "boot": self.desk.node.boot, "n": self._count, "seen": 0, "slots": 4, "held": [],
            "results": [], "draining": False, "bye": False, **header,
        }  # fmt: skip
        if told["held"] is None:  # as in a frame that says only what has changed
            del told["held"]
        self.desk.arrives(topic, self._channel.seal(topic, told, blobs), is_local=self._is_local)

    def takes(self) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """The tasks since the last time, each with its order."""
        topic = topics.dispatch(self.desk.user, self.point, self.name)
        fresh = self.desk.link.sent.get(topic, [])[self._read :]
        self._read += len(fresh)
        opened = [self._channel.open(topic, payload) for payload in fresh]
        return [
            (task, json.loads(blob))
            for header, blobs in opened
            for task, blob in zip(header["tasks"], blobs, strict=True)
        ]

    def frames(self) -> list[dict[str, Any]]:
        """The headers of all frames from the daemon."""
        topic = topics.dispatch(self.desk.user, self.point, self.name)
        return [self._channel.open(topic, payload)[0] for payload in self.desk.link.sent.get(topic, [])]

    def refusal(self) -> str:
        """Why the last frame from the daemon says that it takes nothing from this worker; "" if it does."""
        frames = self.frames()
        return str(frames[-1].get("refused", "")) if frames else ""

    def is_told(self) -> list[dict[str, Any]]:
        """The answers to what tasks asked, from the beginning."""
        topic = topics.dispatch(self.desk.user, self.point, self.name)
        fresh = self.desk.link.sent.get(topic, [])[self._told :]
        self._told += len(fresh)
        self._answers += [each for payload in fresh for each in self._channel.open(topic, payload)[0]["answers"]]
        return self._answers

    def ends(self, task: dict[str, Any], content: Any = None, error: Any = None) -> None:
        """Say how a task ended."""
        blob = json.dumps(content).encode()
        self.says((blob,), results=[{"task": task["task"], "error": error}])

    def answers(self, task: dict[str, Any], order: dict[str, Any], data: dict[str, Any], **turn: Any) -> None:
        """End a run of an instance as an honest worker would: its request is answered, and what is new is mounted."""
        if order.get("mount") is not None:
            turn["mounted"] = {"config": {}, "subflows": {}, **turn.get("mounted", {})}
        out = [] if task["op"] == "mount" else [{"op": "reply", "request": task["message"], "data": data}]
        self.ends(task, {"out": [*out, *turn.pop("out", [])], **turn})
