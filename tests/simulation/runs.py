"""One run of a simulated worker's class: what its script wants becomes asks to the daemon, as `TaskRun` does it.

Nothing blocks: a script that has to wait is left where it stands, and goes on when its answer has come.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from simulation.flows import Call, Pause, Script, Step, Tell, Wait, Wish, Withdraw

from p2pflows.errors import Cancelled, FlowFailed, P2pflowsError
from p2pflows.protocol import asks
from p2pflows.protocol.asks import Ask, AskContent, AskResult, CancelCall
from p2pflows.protocol.message import derived_id
from p2pflows.protocol.worker_frames import ErrorInfo, TaskResult
from p2pflows.worker.lanes import HeldTask


class Host(Protocol):
    """What a run needs of its worker."""

    def ask(self, ask: Ask) -> None:
        """Have the daemon keep something."""

    def park(self, task: HeldTask) -> None:
        """The task waits for others."""

    def unpark(self, task: HeldTask) -> None:
        """The task goes on."""

    def pause(self, run: ScriptedRun, seconds: float) -> None:
        """Let the run go on in so many seconds."""

    def tell(self, task: HeldTask, data: dict[str, Any]) -> None:
        """Tell the caller something."""

    def saw(self, task: HeldTask, kind: str, k: int, what: Any) -> None:
        """The run has learned what came of a call, or the result of a step."""

    def ended(self, task: HeldTask, result: TaskResult) -> None:
        """The run has its end."""


class ScriptedRun:
    """A run of a task.

    Args:
        task: the task.
        script: what it does.
        host: the worker.
    """

    def __init__(self, task: HeldTask, script: Script, host: Host) -> None:
        self._task = task
        self._script = script
        self._host = host
        self._count = 0
        self._last = 0
        """The number of the last call or step."""
        self._told: dict[int, AskResult] = {}
        self._waits_for: int | None = None
        self._is_step = False
        self._stopped = False
        self._over = False

    def go_on(self, value: Any = None) -> None:
        """Let the script do all that it can without waiting."""
        error: P2pflowsError | None = None
        while not self._over:
            try:
                wish = self._script.send(value) if error is None else self._script.throw(error)
            except StopIteration as end:
                self._end(None, json.dumps(end.value, ensure_ascii=False).encode())
                return
            except P2pflowsError as wrong:
                self._end(ErrorInfo(wrong.kind, wrong.message), b"null")
                return
            value, error = None, None
            try:
                if not self._grant(wish):
                    return
                value = self._gives(wish)
            except P2pflowsError as wrong:
                error = wrong

    def _grant(self, wish: Wish) -> bool:
        """Do what the script wants; False if it has to wait for that."""
        match wish:
            case Pause(seconds):
                self._host.pause(self, seconds)
                return False
            case Tell(data):
                self._host.tell(self._task, data)
            case Call():
                self._last = self._call(wish)
            case Withdraw(k):
                if k not in self._told:
                    self._ask(CancelCall(call=k), -1 - k)
            case Step():
                self._last = self._step(wish)
                return self._is_told(self._last, is_step=True)
            case Wait(k):
                return self._is_told(k, is_step=False)
        return True

    def _gives(self, wish: Wish) -> Any:
        """What the script goes on with."""
        match wish:
            case Call():
                return self._last
            case Step():
                return self._learned("step_result", self._last)
            case Wait(k):
                return self._learned("call_result", k)
        return None

    def deliver(self, k: int, result: AskResult) -> None:
        """What the run waits for has come."""
        self._told.setdefault(k, result)
        if self._waits_for == k and not self._over:
            self._waits_for = None
            if not self._is_step:
                self._host.unpark(self._task)
            try:
                learned = self._learned("step_result" if self._is_step else "call_result", k)
            except P2pflowsError as wrong:
                self._end(ErrorInfo(wrong.kind, wrong.message), b"null")
            else:
                self.go_on(learned)

    def stop(self) -> None:
        """The run is withdrawn: if it waits, it ends; else it does so as soon as it wants something."""
        self._stopped = True
        if self._waits_for is not None and not self._over:
            self._end(ErrorInfo(Cancelled.kind, "The run was withdrawn while it waited."), b"null")

    def _call(self, call: Call) -> int:
        k, self._count = self._count, self._count + 1
        mark = derived_id("call", call.user, call.endpoint, call.instance, json.dumps(call.data, sort_keys=True))
        record = self._task.spec.records.get(k)
        if record is not None and record.fingerprint != mark:
            raise FlowFailed("It ran differently than before its worker died.")
        if record is None or record.result is None:
            self._ask(
                asks.Call(
                    user=call.user, endpoint=call.endpoint, instance=call.instance, data=call.data,
                    source=call.subflow, timeout=call.timeout, fingerprint=mark,
                ),
                k,
            )  # fmt: skip
        else:
            self._told[k] = record.result
        return k

    def _step(self, step: Step) -> int:
        k, self._count = self._count, self._count + 1
        record = self._task.spec.records.get(k)
        if record is not None and record.fingerprint != "step":
            raise FlowFailed("It ran differently than before its worker died.")
        if record is None or record.result is None:
            self._ask(asks.Step(value=step.compute() if record is None else None, fingerprint="step"), k)
        else:
            self._told[k] = record.result
        return k

    def _ask(self, content: AskContent, k: int) -> None:
        if self._stopped:
            raise Cancelled("The run was withdrawn.")
        self._host.ask(Ask(self._task.spec.id, k, content))

    def _is_told(self, k: int, *, is_step: bool) -> bool:
        """Whether the answer is there; else the run waits for it."""
        if k in self._told:
            return True
        if self._stopped:
            raise Cancelled("The run was withdrawn while it waited.")
        self._waits_for, self._is_step = k, is_step
        if not is_step:
            self._host.park(self._task)
        return False

    def _learned(self, kind: str, k: int) -> Any:
        value = self._told[k].as_json()
        if kind == "step_result" and "value" in value:
            self._host.saw(self._task, kind, k, value["value"])
            return value["value"]
        told = {name: value[name] for name in ("id", "from", "data", "error") if name in value}
        self._host.saw(self._task, "call_result", k, told)
        if kind == "step_result":
            raise FlowFailed(str(value))
        return told

    def _end(self, error: ErrorInfo | None, data: bytes) -> None:
        self._over = True
        self._script.close()
        self._host.ended(self._task, TaskResult(self._task.spec.id, error, data))
