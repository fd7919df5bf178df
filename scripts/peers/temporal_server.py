# /// script
# dependencies = ["temporalio>=1.9"]
# ///
"""Temporal: a workflow and its result, on the server for developers, which keeps each step; not signed."""

from __future__ import annotations

import asyncio
import sys
import uuid

from program import running, serve
from temporalio import workflow
from temporalio.client import Client
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker


@workflow.defn
class Echo:
    """Returns what it gets."""

    @workflow.run
    async def run(self, text: str) -> str:
        """Return the text."""
        return text


async def main() -> None:
    """Measure workflows that this process starts and a worker in another runs."""
    async with await WorkflowEnvironment.start_local() as environment:
        address = environment.client.service_client.config.target_host
        with running(sys.executable, __file__, address) as worker:

            async def exchange(text: str) -> None:
                run = environment.client.execute_workflow
                reply = await run(Echo.run, text, id=uuid.uuid4().hex, task_queue="echo")
                assert len(reply) == len(text)

            await serve(exchange, worker=worker.pid)


async def work(address: str) -> None:
    """Run workflows."""
    async with Worker(await Client.connect(address), task_queue="echo", workflows=[Echo]):
        print("ready", flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(work(sys.argv[1]) if sys.argv[1:] else main())
