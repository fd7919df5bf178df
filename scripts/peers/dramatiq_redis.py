# /// script
# dependencies = ["dramatiq[redis]>=1.17"]
# ///
"""Dramatiq over Redis: a task and its result, one worker process with 8 threads.

Redis keeps both in memory; not signed.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend
from program import free_port, running, serve

PORT = int(os.environ.get("BENCH_REDIS_PORT") or free_port())
MAX_IN_FLIGHT = 1_024
broker = RedisBroker(host="127.0.0.1", port=PORT)
broker.add_middleware(Results(backend=RedisBackend(host="127.0.0.1", port=PORT)))
dramatiq.set_broker(broker)


@dramatiq.actor(store_results=True)
def echo(text: str) -> str:
    """Return the text."""
    return text


async def main() -> None:
    """Measure tasks of this process that a worker process runs."""
    environment = {**os.environ, "BENCH_REDIS_PORT": str(PORT), "PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    worker = (sys.executable, "-m", "dramatiq", "dramatiq_redis", "--processes", "1", "--threads", "8")
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        running("redis-server", "--port", str(PORT), "--save", "", "--dir", folder, port=PORT) as server,
        running(*worker, env=environment, port=PORT) as started,
        ThreadPoolExecutor(MAX_IN_FLIGHT) as threads,
    ):
        loop = asyncio.get_running_loop()

        def call(text: str) -> None:
            assert len(echo.send(text).get_result(block=True, timeout=120_000)) == len(text)

        async def exchange(text: str) -> None:
            await loop.run_in_executor(threads, call, text)

        await serve(exchange, server=server.pid, worker=started.pid)


if __name__ == "__main__":
    asyncio.run(main())
