# /// script
# dependencies = ["autogen-core>=0.4", "autogen-ext[grpc]>=0.4"]
# ///
"""AutoGen core: a message to an agent in another process and its response, over its gRPC host.

Neither signed nor kept.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass

from autogen_core import AgentId, MessageContext, RoutedAgent, message_handler
from autogen_core._serialization import try_get_known_serializers_for_type
from autogen_ext.runtimes.grpc import GrpcWorkerAgentRuntime, GrpcWorkerAgentRuntimeHost
from program import free_port, running, serve


@dataclass
class Text:
    """The text that travels there and back."""

    text: str


class Echo(RoutedAgent):
    """Returns what it gets."""

    def __init__(self) -> None:
        super().__init__("echo")

    @message_handler
    async def echo(self, message: Text, ctx: MessageContext) -> Text:
        """Return the message."""
        del ctx
        return message


async def main() -> None:
    """Measure messages of this process to an agent in another."""
    address = f"127.0.0.1:{free_port()}"
    with (
        running(sys.executable, __file__, address, "host") as host,
        running(sys.executable, __file__, address, "agent") as agent,
    ):
        runtime = GrpcWorkerAgentRuntime(host_address=address)
        runtime.add_message_serializer(try_get_known_serializers_for_type(Text))
        await runtime.start()
        target = AgentId("echo", "default")

        async def exchange(text: str) -> None:
            reply = await runtime.send_message(Text(text), target)
            assert len(reply.text) == len(text)

        await serve(exchange, host=host.pid, agent=agent.pid)


async def run(address: str, role: str) -> None:
    """Run the host, or the agent."""
    if role == "host":
        host = GrpcWorkerAgentRuntimeHost(address=address)
        host.start()
    else:
        runtime = GrpcWorkerAgentRuntime(host_address=address)
        await runtime.start()
        await Echo.register(runtime, "echo", Echo)
    print("ready", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]) if sys.argv[1:] else main())
