"""Ask whether a broker works: one short connection, timed."""

from __future__ import annotations

import asyncio
import os

from p2pflows.links.broker_url import BrokerUrl
from p2pflows.links.mqtt_connection import Connection, NoAnswer, first_set
from p2pflows.protocol import topics

_TOPIC = f"{topics.PREFIX}/probe"


async def probe(url: BrokerUrl, timeout: float) -> float:  # noqa: ASYNC109 - the limit is part of the question
    """Connect to a broker, subscribe, and disconnect.

    A daemon probes its embedded broker again and again, so a probe must leave nothing behind in it. iotcore keeps
    about 10 KB for every message that a short connection publishes, and a little for every client id; so nothing is
    published, and all probes of a process share one client id.

    Args:
        url: the broker.
        timeout: seconds that connecting and subscribing may take together.

    Returns:
        The seconds from SUBSCRIBE to SUBACK.

    Raises:
        BrokerRefused: the broker refuses us (a PermissionError).
        TimeoutError: the broker did not answer in time.
        OSError: no broker listens there, or it closed the connection.
    """
    loop = asyncio.get_running_loop()
    granted = asyncio.Event()

    def after_read(connection: Connection) -> None:
        if connection.granted:
            granted.set()

    connection = Connection(
        url, f"probe-{os.getpid()}", session_seconds=0, clean=True, will=None, after_read=after_read
    )
    try:
        async with asyncio.timeout(timeout):
            await connection.open()
            subscribed_at = loop.time()
            connection.subscribe([_TOPIC])
            await first_set(granted, connection.ended)
        if not granted.is_set():
            raise NoAnswer(connection.reason)
        took = loop.time() - subscribed_at
        await connection.close()
    finally:
        connection.abort()
    return took
