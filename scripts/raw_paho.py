"""What the benches speak MQTT with: a plain paho client, and processes that are told the broker's URL."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import paho.mqtt.client as mqtt

from p2pflows.links import broker_url

IN_FLIGHT = 64


def connected(url: str, *, manual_ack: bool = False) -> mqtt.Client:
    """A client that has sent its CONNECT, with the socket options that BENCH figures of others assume."""
    where = broker_url.parse(url)
    assert isinstance(where, broker_url.BrokerUrl)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, manual_ack=manual_ack)
    client.username_pw_set(where.username, where.password)
    client.max_inflight_messages_set(IN_FLIGHT * 2)

    def opened(_client: object, _data: object, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_QUICKACK", socket.TCP_NODELAY), 1)

    client.on_socket_open = opened
    client.connect(where.host, where.port)
    return client


def quick(client: mqtt.Client) -> None:
    """Ask for quick ACKs again, which Linux forgets."""
    sock = client.socket()
    if sock is not None and hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


@contextmanager
def process(url: str, *words: str) -> Iterator[None]:
    """A Python process that reads the broker's URL from stdin, and says something once it is ready."""
    started = subprocess.Popen([sys.executable, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert started.stdin is not None
    assert started.stdout is not None
    started.stdin.write(url + "\n")
    started.stdin.flush()
    started.stdout.readline()
    try:
        yield
    finally:
        started.kill()
        started.wait()
