"""Why a link to a broker is down: the latest reason, whatever was reported before."""

from __future__ import annotations

import asyncio

import pytest

from p2pflows.errors import UsageError
from p2pflows.links import mqtt
from p2pflows.links.broker_url import BrokerUrl


async def test_the_latest_reason_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A reason that comes again is not reported again, but it is what holds."""
    monkeypatch.setattr(mqtt, "_REFUSED_DELAY_S", 0.001)
    reasons = ["one", "two", "one"]
    seen: list[str] = []
    reported: list[str] = []

    async def broker() -> BrokerUrl:
        seen.append(link.why_not("p2pflows/1/x"))
        if not reasons:
            asyncio.get_running_loop().call_soon(running.cancel)
            await asyncio.sleep(10)
        raise UsageError(f"Reason {reasons.pop(0)}.", "Do this.")

    def ignore(*_: object) -> None:
        pass

    def nothing() -> list[str]:
        return []

    link = mqtt.MqttLink(
        broker=broker, client_id="c1", persistent=False, subscriptions=nothing, will=lambda: None,
        on_deliveries=ignore, on_up=ignore, on_down=ignore, on_problem=reported.append,
    )  # fmt: skip
    running = asyncio.create_task(link.run())
    with pytest.raises(asyncio.CancelledError):
        await running
    assert seen == ["", "Reason one. Do this.", "Reason two. Do this.", "Reason one. Do this."]
    assert reported == ["Reason one. Do this.", "Reason two. Do this."]
