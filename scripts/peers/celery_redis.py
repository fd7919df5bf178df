# /// script
# dependencies = ["celery[redis]>=5.4"]
# ///
"""Celery over Redis: a task and its result, 4 worker processes. Redis keeps both in memory; not signed."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor

from celery import Celery
from program import free_port, running, serve

PORT = int(os.environ.get("BENCH_REDIS_PORT") or free_port())
MAX_IN_FLIGHT = 1_024
URL = f"redis://127.0.0.1:{PORT}/0"
app = Celery("celery_redis", broker=URL, backend=URL, redis_max_connections=MAX_IN_FLIGHT * 2)


@app.task(name="echo")
def echo(text: str) -> str:
    """Return the text."""
    return text


async def main() -> None:
    """Measure tasks of this process that worker processes run."""
    environment = {**os.environ, "BENCH_REDIS_PORT": str(PORT), "PYTHONPATH": os.path.dirname(__file__)}  # noqa: PTH120
    worker = (
        sys.executable,
        "-m",
        "celery",
        "-A",
        "celery_redis",
        "worker",
        "--concurrency",
        "4",
        "--loglevel",
        "error",
    )
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        running("redis-server", "--port", str(PORT), "--save", "", "--dir", folder, port=PORT) as server,
        running(*worker, env=environment, port=PORT) as started,
        ThreadPoolExecutor(MAX_IN_FLIGHT) as threads,
    ):
        loop = asyncio.get_running_loop()

        def call(text: str) -> None:
            assert len(echo.delay(text).get(timeout=120)) == len(text)

        async def exchange(text: str) -> None:
            await loop.run_in_executor(threads, call, text)

        await serve(exchange, server=server.pid, worker=started.pid)


if __name__ == "__main__":
    asyncio.run(main())
