# /// script
# dependencies = ["a2a-over-mqtt>=0.1"]
# ///
"""A2A over MQTT: a task for an agent in another process, and its states up to the result.

Neither signed nor kept. Its requester makes a connection for each task. Run with the URL of the broker as argument.
"""

from __future__ import annotations

import asyncio
import sys
import uuid
from urllib.parse import unquote, urlsplit

from a2a_over_mqtt import (
    REPLY_ARTIFACT,
    A2ARequest,
    MqttConfig,
    Requester,
    Responder,
    TopicSpace,
    build_card,
)
from program import running, serve

AGENT = "echo"
TOPICS = TopicSpace(org="bench", unit="default")
MAX_AT_ONCE = 1_024


def config(url: str) -> MqttConfig:
    """Return how the broker is reached."""
    parts = urlsplit(url)
    return MqttConfig(
        host=parts.hostname or "localhost",
        port=parts.port or 1883,
        username=unquote(parts.username or ""),
        password=unquote(parts.password or ""),
    )


class Echo(Responder):
    """Returns what it gets."""

    async def on_request(self, request: A2ARequest, stream: object) -> str:
        """Return the text of a request."""
        del stream
        return str(request.text)


async def main(url: str) -> None:
    """Measure tasks of this process for an agent in another."""
    with running(sys.executable, __file__, url, "--agent") as agent:
        requester = Requester(config(url), TOPICS, requester_id="caller")

        async def exchange(text: str) -> None:
            number = uuid.uuid4().hex
            request = A2ARequest(text=text, request_id=number)
            replies = [reply async for reply in requester.stream(AGENT, request.to_json(), number)]
            assert (REPLY_ARTIFACT, text) in replies, replies

        await serve(exchange, agent=agent.pid)


async def run(url: str) -> None:
    """Run the agent."""
    card = build_card(name=AGENT, description="Returns what it gets.", url=url)
    agent = Echo(agent_id=AGENT, mqtt=config(url), topics=TOPICS, card=card, max_concurrent=MAX_AT_ONCE)
    task = asyncio.create_task(agent.run())
    await asyncio.sleep(1)  # it does not say when it has subscribed
    print("ready", flush=True)
    await task


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1]) if "--agent" in sys.argv else main(sys.argv[1]))
