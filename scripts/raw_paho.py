"""Plain paho clients for the benchmarks, and processes that get the URL of the broker."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import paho.mqtt.client as mqtt

from p2pflows.links import broker_url

IN_FLIGHT = 64


def connect(url: str, *, manual_ack: bool = False) -> mqtt.Client:
    """Connect a client, with the socket options that make paho fastest."""
    address = broker_url.parse(url)
    assert isinstance(address, broker_url.BrokerUrl)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, manual_ack=manual_ack)
    client.username_pw_set(address.username, address.password)
    client.max_inflight_messages_set(IN_FLIGHT * 2)

    def opened(_client: object, _data: object, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_QUICKACK", socket.TCP_NODELAY), 1)

    client.on_socket_open = opened
    client.connect(address.host, address.port)
    return client


def set_quick_ack(client: mqtt.Client) -> None:
    """Ask for quick ACKs again, because Linux resets this option."""
    sock = client.socket()
    if sock is not None and hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


@contextmanager
def process(url: str, *arguments: str) -> Iterator[None]:
    """Run a Python process that reads the URL of the broker from stdin, and prints a line when it is ready."""
    started = subprocess.Popen([sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
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
