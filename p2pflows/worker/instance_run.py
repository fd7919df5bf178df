"""One run of an instance of a class: mounted first if it is not there yet, then run on a message, then its state."""

from __future__ import annotations

import json
from collections.abc import Awaitable
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

from p2pflows.errors import BadInput, CallError, FlowFailed, NotAllowed, UsageError, from_peer
from p2pflows.flows import config as configs
from p2pflows.flows.flow import Flow, build, invoke, take_state
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.overrides import check_overrides, declared_keys
from p2pflows.flows.run import Answer, Target
from p2pflows.protocol import topics
from p2pflows.protocol.strict_json import compact
from p2pflows.worker.frames import Task
from p2pflows.worker.loading import FlowClass
from p2pflows.worker.task_run import TaskRun

if TYPE_CHECKING:
    from p2pflows.models.keyring import Keyring

INITIAL_STATE = "initial_state"
"""What a flow lists among its overridable keys to let others begin with a state of their own."""


class InstanceRun:
    """One task of an instance.

    Args:
        task: the task; its data is `order` as JSON.
        loaded: the class.
        order: what the daemon tells of the instance (docs/PROTOCOL.md, Dispatch).
        run: what its flow sends and waits through.
        keyring: keys for the flow, if it wants any.
    """

    def __init__(
        self, task: Task, loaded: FlowClass, order: dict[str, Any], run: TaskRun, keyring: Keyring | None
    ) -> None:
        self._task = task
        self._class = loaded.flow_class
        self._order = order
        self._run = run
        self._keyring = keyring
        self._mounted: dict[str, Any] | None = None
        self._flow: Flow | None = None
        self._before = b""

    def begin(self) -> Awaitable[None] | None:
        """Mount, build and run; gives what the event loop has to go on with, for an asynchronous flow.

        Raises:
            CallError: a subflow cannot be had, or the flow says so.
        """
        mount = self._order.get("mount")
        if mount is not None:
            self._mount(mount)
        if self._task.op == "mount":
            return None
        config, subflows, state = (
            (self._mounted["config"], self._mounted["subflows"], None)
            if self._mounted is not None
            else (self._order["config"], self._order["subflows"], self._order["state"])
        )
        self._build(config, subflows, state)
        assert self._flow is not None  # noqa: S101 - built just now
        self._before = b"" if state is None else compact(state).encode()
        return invoke(self._flow, self._message())

    async def go_on(self, going_on: Awaitable[None]) -> bytes:
        """Wait for an asynchronous flow; gives the result."""
        await going_on
        return self.result()

    def result(self) -> bytes:
        """What the run leaves behind, as JSON: messages, state, and what was mounted."""
        content: dict[str, Any] = {"out": self._run.out}
        if self._mounted is not None:
            content["mounted"] = self._mounted
        if self._flow is not None:
            state = take_state(self._flow)
            if state != self._before:
                content["state"] = json.loads(state)
        return compact(content).encode()

    def _build(self, config: dict[str, Any], subflows: dict[str, Any], state: dict[str, Any] | None) -> None:
        targets = {key: Target(part["user"], part["endpoint"], part["instance"]) for key, part in subflows.items()}
        stored = None if state is None else json.dumps(state, ensure_ascii=False).encode()
        try:
            flow = build(self._class, config, subflows=targets, run=self._run, state=stored)
            take_keys = getattr(flow, "set_api_infos", None)
            if take_keys is not None and self._keyring is not None:
                take_keys(self._keyring)
        except UsageError as error:
            raise FlowFailed(f"It cannot be built: {error.message}", error.hint) from error
        self._flow = flow

    def _message(self) -> FlowMessage:
        about, kind = self._order["about"], self._order["type"]
        fields: dict[str, Any] = {
            "data": self._order["data"],
            "message_id": self._task.message,
            "dst_flow": self._task.endpoint,
            "user_id": self._task.sender,
            "conversation": self._task.conversation,
            "src_flow": about.get("source") or "unknown",
        }
        if kind in ("call", "post"):
            wants = {"mode": "reply", "message": self._task.message} if kind == "call" else {"mode": "no_reply"}
            return FlowMessage(**fields, reply_data=wants)
        error = about.get("error")
        return FlowMessage(
            **fields,
            is_reply=True,
            input_message_id=about["packaged"],
            subflow=about["subflow"],
            error=None if error is None else from_peer(error),
        )

    def _mount(self, mount: dict[str, Any]) -> None:
        """Settle the config, and get an instance of each subflow.

        Whatever was mounted for a tree that does not come about, the daemon takes back.
        """
        config = self._settled(mount)
        try:
            configs.check_required(self._class, config)
            specs = configs.subflow_specs(config, me=self._run.user)
        except UsageError as error:  # something is still to be filled in, by whoever asks
            raise BadInput(error.message, error.hint) from error
        asked = {
            key: (spec, None if spec.instance is not None else self._ask(key, spec, mount["path"]))
            for key, spec in specs.items()
        }
        subflows = {}
        for key, (spec, pending) in asked.items():
            part = {"instance": spec.instance, "shared": True}
            if pending is not None:
                part = _granted(key, spec.endpoint, self._run.wait(pending, None))
            subflows[key] = {
                "user": self._user(spec),
                "endpoint": spec.endpoint,
                "instance": part["instance"],
                "shared": part["shared"],
            }
        self._mounted = {"config": config, "subflows": subflows}
        if self._task.op == "mount":
            self._build(config, subflows, mount["state"])
            self._flow = None  # its state is that of its first run

    def _settled(self, mount: dict[str, Any]) -> dict[str, Any]:
        try:
            defaults = configs.effective_config(self._class, mount["config"], complete=False)
            declared = declared_keys(defaults)
            check_overrides(defaults, mount["overrides"], declared=declared, trusted=mount["trusted"])
            if mount["state"] is not None and not mount["trusted"] and INITIAL_STATE not in (declared or []):
                raise NotAllowed("Only its owner gives it a state to begin with.", "Ask for it without one.")
        except UsageError as error:
            raise FlowFailed(error.message, error.hint) from error
        return configs.merge(defaults, mount["overrides"])

    def _user(self, spec: configs.SubflowSpec) -> str:
        return self._run.user if spec.user == configs.LOCAL else spec.user

    def _ask(self, key: str, spec: configs.SubflowSpec, path: list[Any]) -> Future[Answer]:
        message = FlowMessage(
            data={
                "op": "mount",
                "endpoint": spec.endpoint,
                "config_overrides": spec.overrides,
                "path": path,
            }
        )
        return self._run.call(Target(self._user(spec), topics.INSTANCES), message, timeout=None, subflow=key)


def _granted(key: str, endpoint: str, answer: Answer) -> dict[str, Any]:
    """The subflow's instance, as its owner's daemon tells, which may be anything.

    Raises:
        CallError: there is none.
    """
    if answer.error is not None:
        kind = type(answer.error) if isinstance(answer.error, CallError) else FlowFailed
        raise kind(f"The subflow {key!r} cannot be had: {answer.error.message}", answer.error.hint)
    try:
        target = Target(answer.sender, endpoint, answer.data.get("instance"))
    except (UsageError, TypeError) as error:
        raise FlowFailed(
            f"The subflow {key!r} cannot be had: the daemon of its owner does not answer as a daemon should.",
            "Ask its owner which release it is.",
        ) from error
    return {"instance": target.instance, "shared": answer.data.get("shared") is True}
