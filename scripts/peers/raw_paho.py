"""Raw paho-mqtt: a publish at QoS 1 there, and one back. Neither signed nor kept; no dispatch, no order of effects.

Run with the URL of the broker as argument.
"""

from __future__ import annotations

import socket
import sys
import threading
import time

import paho.mqtt.client as mqtt
from program import WARM_UP, cases, running, say, text_of

from p2pflows.links import broker_url

MAX_IN_FLIGHT = 4_096


def connect(url: str, *, manual_ack: bool = False, keepalive: int = 60) -> mqtt.Client:
    """Connect a client, with the socket options that make paho fastest.

    Args:
        url: the address of the broker.
        manual_ack: whether the program acknowledges messages by itself.
        keepalive: seconds after which the broker wants to hear of a silent client.
    """
    address = broker_url.parse(url)
    assert isinstance(address, broker_url.BrokerUrl)
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=mqtt.MQTTv5, manual_ack=manual_ack)
    client.username_pw_set(address.username, address.password)
    client.max_inflight_messages_set(MAX_IN_FLIGHT)

    def opened(_client: object, _data: object, sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, "TCP_QUICKACK", socket.TCP_NODELAY), 1)

    client.on_socket_open = opened
    client.connect(address.host, address.port, keepalive)
    return client


def set_quick_ack(client: mqtt.Client) -> None:
    """Ask for quick ACKs again, because Linux resets this option."""
    sock = client.socket()
    if sock is not None and hasattr(socket, "TCP_QUICKACK"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def main() -> None:
    """Measure a client of this process against an echo in another."""
    url = sys.argv[1]
    with running(sys.executable, __file__, url, "--echo") as echo:
        client = connect(url)
        slots = threading.Semaphore(0)

        def message(*_: object) -> None:
            set_quick_ack(client)
            slots.release()

        client.on_message = message
        subscribed = threading.Event()
        client.on_subscribe = lambda *_: subscribed.set()
        client.subscribe("bench/back", qos=1)
        client.loop_start()
        subscribed.wait(10)

        def exchange(size: int, in_flight: int, count: int) -> list[float]:
            payload = text_of(size).encode()
            times = []
            sent = 0
            for done in range(count):
                began = time.perf_counter()
                while sent < count and sent - done < in_flight:
                    client.publish("bench/there", payload, qos=1)
                    sent += 1
                slots.acquire()
                times.append(time.perf_counter() - began)
            return times

        say(processes={"echo": echo.pid})
        for size, in_flight, count in cases():
            exchange(size, 1, WARM_UP)
            began = time.perf_counter()
            times = exchange(size, in_flight, count)
            say(times=times, seconds=time.perf_counter() - began)


def _echo(url: str) -> None:
    client = connect(url)

    def message(_client: object, _data: object, message: mqtt.MQTTMessage) -> None:
        set_quick_ack(client)
        client.publish("bench/back", message.payload, qos=1)

    client.on_message = message
    client.on_subscribe = lambda *_: print("ready", flush=True)
    client.subscribe("bench/there", qos=1)
    client.loop_forever()


if __name__ == "__main__":
    _echo(sys.argv[1]) if "--echo" in sys.argv else main()
