"""Runs of classes in a simulated worker: they perform the actions of a script, as `TaskRun` does for real flows.

Nothing blocks: a script that has to wait is suspended, and resumed when the result is there.
"""

from __future__ import annotations

import json
from typing import Any, Protocol

from simulation.flows import Action, Call, Cancel, Pause, Script, SendProgress, Step, Wait

from p2pflows.errors import Cancelled, FlowFailed, P2pflowsError
from p2pflows.protocol import asks
from p2pflows.protocol.asks import Ask, AskContent, AskResult, CancelCall
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.worker_frames import ErrorInfo, TaskResult
from p2pflows.worker.lanes import HeldTask


class Host(Protocol):
    """What a run needs from its worker."""

    def ask(self, ask: Ask) -> None:
        """Ask the daemon for something."""

    def park(self, task: HeldTask) -> None:
        """Free the slot of a task that waits for a call."""

    def unpark(self, task: HeldTask) -> None:
        """Give a task a slot again."""

    def pause(self, run: ScriptedRun, seconds: float) -> None:
        """Resume a run in some seconds."""

    def send_progress(self, task: HeldTask, data: dict[str, Any]) -> None:
        """Send progress to the caller of a task."""

    def add_result(self, task: HeldTask, kind: str, k: int, what: Any) -> None:
        """Note the result that a run got of a call or step."""

    def on_ended(self, task: HeldTask, result: TaskResult) -> None:
        """Store the result of a run that has ended."""


class ScriptedRun:
    """A run of a task.

    Args:
        task: the task.
        script: its actions.
        host: the worker that runs it.
    """

    def __init__(self, task: HeldTask, script: Script, host: Host) -> None:
        self._task = task
        self._script = script
        self._host = host
        self._count = 0
        self._last = 0  # the number of the last call or step
        self._results: dict[int, AskResult] = {}
        self._waits_for: int | None = None
        self._is_step = False
        self._stopped = False
        self._ended = False

    def resume(self, value: Any = None) -> None:
        """Perform the actions of the script until it has to wait.

        Args:
            value: what the action for which it waited returns.
        """
        error: P2pflowsError | None = None
        while not self._ended:
            try:
                action = self._script.send(value) if error is None else self._script.throw(error)
            except StopIteration as end:
                self._end(None, json.dumps(end.value, ensure_ascii=False).encode())
                return
            except P2pflowsError as failure:
                self._end(ErrorInfo(failure.kind, failure.message), b"null")
                return
            value, error = None, None
            try:
                if not self._perform(action):
                    return
                value = self._value_of(action)
            except P2pflowsError as failure:
                error = failure

    def _perform(self, action: Action) -> bool:
        """Perform an action; return False if the script has to wait for its result."""
        match action:
            case Pause(seconds):
                self._host.pause(self, seconds)
                return False
            case SendProgress(data):
                self._host.send_progress(self._task, data)
            case Call():
                self._last = self._call(action)
            case Cancel(k):
                if k not in self._results:
                    self._ask(CancelCall(call=k), -1 - k)
            case Step():
                self._last = self._step(action)
                return self._has_result(self._last, is_step=True)
            case Wait(k):
                return self._has_result(k, is_step=False)
        return True

    def _value_of(self, action: Action) -> Any:
        """Return the result of an action that was performed."""
        match action:
            case Call():
                return self._last
            case Step():
                return self._take_result("step_result", self._last)
            case Wait(k):
                return self._take_result("call_result", k)
        return None

    def deliver(self, k: int, result: AskResult) -> None:
        """Take the result of a call or step, and resume the script if it waits for this one."""
        self._results.setdefault(k, result)
        if self._waits_for == k and not self._ended:
            self._waits_for = None
            if not self._is_step:
                self._host.unpark(self._task)
            try:
                value = self._take_result("step_result" if self._is_step else "call_result", k)
            except P2pflowsError as failure:
                self._end(ErrorInfo(failure.kind, failure.message), b"null")
            else:
                self.resume(value)

    def stop(self) -> None:
        """Withdraw the run: it ends now if it waits, and otherwise at its next action that needs the daemon."""
        self._stopped = True
        if self._waits_for is not None and not self._ended:
            self._end(ErrorInfo(Cancelled.kind, "The run was withdrawn while it waited."), b"null")

    def _call(self, call: Call) -> int:
        k, self._count = self._count, self._count + 1
        fingerprint = derived_id("call", call.user, call.endpoint, call.instance, json.dumps(call.data, sort_keys=True))
        record = self._task.spec.records.get(k)
        if record is not None and record.fingerprint != fingerprint:
            raise FlowFailed("It ran differently than before its worker died.")
        if record is None or record.result is None:
            self._ask(
                asks.Call(
                    user=call.user, endpoint=call.endpoint, instance=call.instance, data=call.data,
                    source=call.subflow, timeout=call.timeout, fingerprint=fingerprint,
                ),
                k,
            )  # fmt: skip
        else:
            self._results[k] = record.result
        return k

    def _step(self, step: Step) -> int:
        k, self._count = self._count, self._count + 1
        record = self._task.spec.records.get(k)
        if record is not None and record.fingerprint != "step":
            raise FlowFailed("It ran differently than before its worker died.")
        if record is None or record.result is None:
            self._ask(asks.Step(value=step.compute() if record is None else None, fingerprint="step"), k)
        else:
            self._results[k] = record.result
        return k

    def _ask(self, content: AskContent, k: int) -> None:
        if self._stopped:
            raise Cancelled("The run was withdrawn.")
        self._host.ask(Ask(self._task.spec.id, k, content))

    def _has_result(self, k: int, *, is_step: bool) -> bool:
        """Return whether a result is there; otherwise let the run wait for it."""
        if k in self._results:
            return True
        if self._stopped:
            raise Cancelled("The run was withdrawn while it waited.")
        self._waits_for, self._is_step = k, is_step
        if not is_step:
            self._host.park(self._task)
        return False

    def _take_result(self, kind: str, k: int) -> Any:
        value = self._results[k].as_json()
        if kind == "step_result" and "value" in value:
            self._host.add_result(self._task, kind, k, value["value"])
            return value["value"]
        result = {name: value[name] for name in ("id", "from", "data", "error") if name in value}
        self._host.add_result(self._task, "call_result", k, result)
        if kind == "step_result":
            raise FlowFailed(str(value))
        return result

    def _end(self, error: ErrorInfo | None, data: bytes) -> None:
        self._ended = True
        self._script.close()
        self._host.on_ended(self._task, TaskResult(self._task.spec.id, error, data))
