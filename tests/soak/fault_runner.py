"""Makes the planned faults happen to real processes and connections."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from soak.brokers import Broker
from soak.fault_plan import Fault
from soak.frame_proxy import FrameFaults
from soak.history_log import HistoryLog
from soak.participant import Participant

_WORKER_TIMEOUT_S = 15.0
"""How long a kill waits for a worker to be there."""
_MAX_JUMP_S = 3_600
_FRAME_FAULTS: dict[str, Callable[[float], dict[str, float]]] = {
    "delay": lambda draw: {"delay_s": 0.02 + draw * 0.5},
    "repeat": lambda draw: {"repeat": 0.05 + draw * 0.4},
    "reorder": lambda draw: {"reorder": 0.05 + draw * 0.4},
    "drop": lambda draw: {"drop": 0.02 + draw * 0.3},
}


class FaultRunner:
    """Performs the faults of a plan.

    Args:
        participants: the victims.
        brokers: the brokers.
        log: gets a line at each beginning and end.

    Attributes:
        happened: when each fault began, and its name.
        counts: how often each fault has happened.
    """

    def __init__(self, participants: list[Participant], brokers: Sequence[Broker], log: HistoryLog) -> None:
        self.happened: list[tuple[float, str]] = []
        self.counts: Counter[str] = Counter()
        self._participants = participants
        self._brokers = brokers
        self._broker_busy = asyncio.Lock()
        self._log = log

    async def run(self, plan: list[Fault]) -> None:
        """Perform all faults, each at its time; return when the last one is over."""
        began = self._log.elapsed()
        async with asyncio.TaskGroup() as group:
            for fault in plan:
                await asyncio.sleep(began + fault.at - self._log.elapsed())
                group.create_task(self._perform(fault))

    def heal(self) -> None:
        """Undo what could still be wrong."""
        for participant in self._participants:
            participant.proxy.faults = FrameFaults()
            participant.proxy.go_on()
            participant.clock.jump_to(0)

    async def _perform(self, fault: Fault) -> None:
        victim = self._participants[fault.victim]
        name = "" if fault.name.endswith("broker") else victim.name
        self.happened.append((self._log.elapsed(), fault.name))
        self._log.write(fault.name, name, seconds=round(fault.seconds, 2))
        if await self._cause(fault, victim):
            self.counts[fault.name] += 1
        self._log.write(f"end of {fault.name}", name)

    async def _cause(self, fault: Fault, victim: Participant) -> bool:
        """Let a fault happen; return whether it did."""
        match fault.name:
            case "kill daemon":
                await victim.kill_daemon(fault.seconds)
            case "kill worker":
                return await self._kill_worker(victim)
            case "pause daemon" | "pause worker":
                await victim.pause(fault.seconds, worker=fault.name == "pause worker")
            case "jump clock":
                victim.clock.jump_to(round((fault.draw * 2 - 1) ** 3 * _MAX_JUMP_S * 1000))
                await asyncio.sleep(fault.seconds)
                victim.clock.jump_to(0)
            case "restart broker" | "empty broker":
                await self._restart_broker(fault)
            case "partition":
                await victim.partition(fault.seconds)
            case "half-open":
                await victim.half_open(fault.seconds)
            case "disconnect":
                victim.proxy.disconnect()
            case "cut frame":
                victim.proxy.cut_next_frame()
            case _:
                await self._disturb_frames(fault, victim)
        return True

    async def _kill_worker(self, victim: Participant) -> bool:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_WORKER_TIMEOUT_S):
                while not await victim.kill_worker():  # noqa: ASYNC110 - nobody reports a new process
                    await asyncio.sleep(0.2)
                return True
        return False

    async def _restart_broker(self, fault: Fault) -> None:
        broker = self._brokers[int(fault.draw * len(self._brokers))]
        async with self._broker_busy:
            await broker.kill(forget=fault.name == "empty broker")
            await asyncio.sleep(fault.seconds)
            await broker.start()

    async def _disturb_frames(self, fault: Fault, victim: Participant) -> None:
        changes: dict[str, Any] = _FRAME_FAULTS[fault.name](fault.draw)
        victim.proxy.faults = dataclasses.replace(victim.proxy.faults, **changes)
        await asyncio.sleep(fault.seconds)
        victim.proxy.faults = dataclasses.replace(victim.proxy.faults, **dict.fromkeys(changes, 0.0))
        if fault.name == "drop":
            victim.proxy.disconnect()  # MQTT sends again what was lost on the next connection only
