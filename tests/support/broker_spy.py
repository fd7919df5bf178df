"""An attacker who controls the broker: a spy reads every packet, and a forger writes packets of any content."""

from __future__ import annotations

import secrets
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Self

from paho.mqtt.client import Client, MQTTMessage
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion
from paho.mqtt.subscribeoptions import SubscribeOptions

from p2pflows.protocol import topics
from p2pflows.protocol.envelope import NONCE_BYTES, BundleKind, Envelope
from p2pflows.protocol.identity import Identity
from p2pflows.protocol.ids import new_id
from p2pflows.protocol.message import Message

_TIMEOUT_S = 30.0
_HOUR_MS = 3_600_000


class Seen(NamedTuple):
    """One packet that the spy has seen."""

    topic: str
    payload: bytes
    retain: bool


class Spy:
    """A client of the broker that reads and keeps every packet.

    Args:
        port: the port of the embedded broker.
        folder: the folder of the embedded broker, with its password.
    """

    def __init__(self, port: int, folder: Path) -> None:
        self.seen: list[Seen] = []
        self._subscribed = threading.Event()
        self._client = Client(
            CallbackAPIVersion.VERSION2, client_id=f"spy-{secrets.token_hex(8)}", protocol=MQTTProtocolVersion.MQTTv5
        )
        self._client.username_pw_set("local", (folder / "password").read_text().strip())
        self._client.on_message = self._on_message
        self._client.on_connect = lambda *_: self._subscribe()
        self._client.on_subscribe = lambda *_: self._subscribed.set()
        self._client.connect("127.0.0.1", port)

    def __enter__(self) -> Self:
        self._client.loop_start()
        assert self._subscribed.wait(_TIMEOUT_S)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
        """Publish a packet, and wait until the broker has it."""
        self._client.publish(topic, payload, qos=1, retain=retain).wait_for_publish(_TIMEOUT_S)

    def first(self, condition: Callable[[Seen], Any]) -> Seen:
        """Wait for the first packet that fulfils a condition."""
        deadline = time.monotonic() + _TIMEOUT_S
        at = 0
        while True:
            for packet in self.seen[at:]:
                at += 1
                if condition(packet):
                    return packet
            assert time.monotonic() < deadline, "no such packet passed"
            time.sleep(0.02)

    def on(self, topic: str, after: int = 0) -> Seen:
        """Wait for the first packet on a topic, from a position in `seen` on."""
        passed = self.seen[:after]
        return self.first(lambda packet: packet.topic == topic and packet not in passed)

    def _subscribe(self) -> None:
        sock = self._client.socket()
        if isinstance(sock, socket.socket):
            # Without it each publish waits 40 ms for the one before it.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        options = SubscribeOptions(qos=1, retainAsPublished=True)
        self._client.subscribe("p2pflows/#", options=options)

    def _on_message(self, _client: Client, _data: Any, message: MQTTMessage) -> None:
        self.seen.append(Seen(message.topic, bytes(message.payload), message.retain))


class Forger:
    """Writes messages and bundles with the key of a user, correct or wrong in every detail, without a daemon."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.user_id = identity.user_id
        self.envelope = Envelope(identity)
        self._epoch = int(time.time() * 1000)
        self._next: dict[tuple[str, str], int] = {}

    def message(self, recipient: str, endpoint: str, **changes: Any) -> Message:
        """The next message of a stream, correct but for the changes."""
        now = int(time.time() * 1000)
        message_id = new_id(now, secrets.token_bytes(10))
        seq = self._next.get((recipient, endpoint), 0)
        if "seq" not in changes and endpoint != topics.REPLY:
            self._next[recipient, endpoint] = seq + 1
        fields: dict[str, Any] = {
            "id": message_id,
            "type": "post",
            "from": self.user_id,
            "to": recipient,
            "endpoint": endpoint,
            "conversation": message_id,
            "epoch": self._epoch,
            "seq": seq,
            "created": now,
            "expires": now + _HOUR_MS,
            "data": {"text": "forged"},
        }
        return Message.model_validate({**fields, **changes})

    def seal(self, recipient: str, *bodies: bytes, kind: BundleKind = BundleKind.MESSAGES) -> bytes:
        """A bundle for a recipient."""
        return self.envelope.seal(kind, recipient, bodies, secrets.token_bytes(NONCE_BYTES))

    def bundle(self, recipient: str, endpoint: str, **changes: Any) -> bytes:
        """A bundle with one message."""
        return self.seal(recipient, self.message(recipient, endpoint, **changes).to_bytes())
