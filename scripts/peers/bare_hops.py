"""The hops of a call, with the work that each promise needs and nothing else: the least that a call can cost.

client -> alice: SQLite commit with fsync, sign, seal -> broker -> bob: open, verify, keep -> worker -> bob: commit with
fsync, sign, seal -> broker -> alice: open, verify -> client. Four processes and the broker, blocking sockets, paho-mqtt
driven by hand. There are no contacts, streams, duplicates, refusals, leases or deadlines; only signatures are checked.
It makes one call at a time. Run with the URL of the broker as argument.
"""

from __future__ import annotations

import hashlib
import json
import os
import select
import socket
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import paho.mqtt.client as mqtt
import raw_paho
from nacl.public import Box, PrivateKey
from nacl.signing import SigningKey, VerifyKey
from program import WARM_UP, cases, running, say, text_of

_BUFFER = 1_000_000
_SIGNATURE = 64
_KEEPALIVE_S = 3_600
"""It sends no pings, and waits while other programs are measured."""
_SEEDS = {"alice": b"a" * 32, "bob": b"b" * 32}


def main() -> None:
    """Measure calls, one at a time."""
    url = sys.argv[1]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        roles = ("bob", "worker", "alice")
        command = (sys.executable, __file__, url)
        processes = {role: stack.enter_context(running(*command, role, str(folder))).pid for role in roles}
        client = _connect(folder / "alice.sock")

        def call(content: bytes) -> float:
            began = time.perf_counter()
            _send(client, content)
            json.loads(_receive(client))
            return time.perf_counter() - began

        say(processes=processes)
        for size, _, count in cases():
            content = json.dumps({"text": text_of(size)}).encode()
            for _ in range(WARM_UP):
                call(content)
            began = time.perf_counter()
            times = [call(content) for _ in range(count)]
            say(times=times, seconds=time.perf_counter() - began)


class _Side:
    """Alice or Bob: a journal, keys, a link to the broker, and one local connection."""

    def __init__(self, name: str, peer: str, url: str, folder: Path) -> None:
        self._peer = peer
        self._key = SigningKey(_SEEDS[name])
        self._theirs: VerifyKey = SigningKey(_SEEDS[peer]).verify_key
        self._box = Box(PrivateKey(_SEEDS[name]), PrivateKey(_SEEDS[peer]).public_key)
        self.db = sqlite3.connect(folder / f"{name}.db", isolation_level=None)
        self.db.execute("PRAGMA journal_mode = WAL")
        self.db.execute("PRAGMA synchronous = FULL")
        self.db.execute(
            "CREATE TABLE messages (n INTEGER PRIMARY KEY, id TEXT UNIQUE, peer TEXT, body BLOB, state TEXT)"
        )
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / f"{name}.sock"))
        self._listener.listen()
        self.link = raw_paho.connect(url, manual_ack=True, keepalive=_KEEPALIVE_S)
        granted: list[bool] = []
        self.link.on_subscribe = lambda *_: granted.append(True)
        self.link.subscribe(f"bench/bare/{name}", qos=1)
        while not granted:
            self.link.loop(0.1)

    def store(self, peer: str, body: bytes) -> None:
        """Write a message into the open transaction."""
        if not self.db.in_transaction:
            self.db.execute("BEGIN")
        row = (os.urandom(16).hex(), peer, body, "pending")
        self.db.execute("INSERT INTO messages (id, peer, body, state) VALUES (?, ?, ?, ?)", row)

    def send(self, kind: str, data: object) -> None:
        """Store a message, commit, and publish it."""
        fields = {"id": os.urandom(16).hex(), "type": kind, "to": self._peer, "expires": time.time_ns(), "data": data}
        body = json.dumps(fields).encode()
        self.store(self._peer, body)
        self.db.execute("COMMIT")
        sealed = self._box.encrypt(self._key.sign(hashlib.sha256(body).digest()).signature + body)
        self.link.publish(f"bench/bare/{self._peer}", bytes(sealed), qos=1)

    def open(self, sealed: bytes) -> bytes:
        """Decrypt a message, check its signature, and return its body."""
        plain = self._box.decrypt(sealed)
        body = plain[_SIGNATURE:]
        self._theirs.verify(hashlib.sha256(body).digest(), plain[:_SIGNATURE])
        return body

    def serve(self, local: Callable[[socket.socket], None], remote: Callable[[socket.socket, bytes], None]) -> None:
        """Handle messages until the process ends: `local` from the connection, `remote` from the broker."""
        print("ready", flush=True)
        connection, _ = self._listener.accept()
        broker = self.link.socket()
        assert broker is not None

        def message(_client: mqtt.Client, _data: object, message: mqtt.MQTTMessage) -> None:
            remote(connection, message.payload)
            self.link.ack(message.mid, message.qos)

        self.link.on_message = message
        poll = select.epoll()
        poll.register(broker, select.EPOLLIN)
        poll.register(connection, select.EPOLLIN)
        while True:
            for ready, _ in poll.poll():
                if ready == broker.fileno():
                    self.link.loop_read()
                    raw_paho.set_quick_ack(self.link)
                else:
                    local(connection)
            self.link.loop_write()
            while self.link.want_write():  # a large message does not fit into the buffer of the socket at once
                select.select([], [broker], [])
                self.link.loop_write()


def _alice(url: str, folder: Path) -> None:
    side = _Side("alice", "bob", url, folder)

    def answered(client: socket.socket, sealed: bytes) -> None:
        _send(client, json.dumps(json.loads(side.open(sealed))["data"]).encode())

    side.serve(lambda client: side.send("call", json.loads(_receive(client))), answered)


def _bob(url: str, folder: Path) -> None:
    side = _Side("bob", "alice", url, folder)

    def asked(worker: socket.socket, sealed: bytes) -> None:
        body = side.open(sealed)
        side.store("alice", body)
        _send(worker, json.dumps(json.loads(body)["data"]).encode())

    side.serve(lambda worker: side.send("reply", json.loads(_receive(worker))), asked)


def _worker(_url: str, folder: Path) -> None:
    daemon = _connect(folder / "bob.sock")
    print("ready", flush=True)
    while True:
        _send(daemon, json.dumps(json.loads(_receive(daemon))).encode())


def _send(connection: socket.socket, content: bytes) -> None:
    """Send a line on a local connection."""
    connection.sendall(content + b"\n")


def _receive(connection: socket.socket) -> bytes:
    """Receive a line from a local connection; end the process when the connection ends."""
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(_BUFFER)
        if not piece:
            sys.exit(0)
        line += piece
    return line


def _connect(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    return connection


if __name__ == "__main__":
    if sys.argv[2:]:
        {"alice": _alice, "bob": _bob, "worker": _worker}[sys.argv[2]](sys.argv[1], Path(sys.argv[3]))
    else:
        main()
