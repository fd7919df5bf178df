# /// script
# dependencies = ["uagents>=0.20"]
# ///
"""uAgents: a signed message to an agent in another process and its signed response, over HTTP; nothing is registered.

What is sent is not kept.
"""

from __future__ import annotations

import asyncio
import logging
import sys

from program import free_port, running, serve
from uagents import Agent, Context, Model
from uagents.communication import send_sync_message
from uagents.crypto import Identity
from uagents.resolver import RulesBasedResolver

SEED = "p2pflows benchmark: an agent that returns what it gets"


class Text(Model):
    """The text that travels there and back."""

    text: str


async def main() -> None:
    """Measure messages of this process to an agent in another."""
    port = free_port()
    with running(sys.executable, __file__, str(port), port=port) as agent:
        idle: list[Identity] = []  # an agent has one open request of each sender
        address = Identity.from_seed(SEED, 0).address
        resolver = RulesBasedResolver({address: f"http://127.0.0.1:{port}/submit"})

        async def exchange(text: str) -> None:
            sender = idle.pop() if idle else Identity.generate()
            reply = await send_sync_message(
                address, Text(text=text), response_type=Text, sender=sender, resolver=resolver
            )
            idle.append(sender)
            assert isinstance(reply, Text), reply
            assert len(reply.text) == len(text)

        await serve(exchange, agent=agent.pid)


def run(port: int) -> None:
    """Run the agent."""
    agent = Agent(
        name="echo",
        seed=SEED,
        port=port,
        enable_agent_inspector=False,
        publish_agent_details=False,
        report_events=False,
        log_level=logging.ERROR,
    )

    @agent.on_message(model=Text, replies=Text)
    async def echo(ctx: Context, sender: str, message: Text) -> None:
        await ctx.send(sender, message)

    agent.run()


if __name__ == "__main__":
    run(int(sys.argv[1])) if sys.argv[1:] else asyncio.run(main())
