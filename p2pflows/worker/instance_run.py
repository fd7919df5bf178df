"""One run of an instance of a class: mount it if it is not there yet, run it on a message, and take its state."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from p2pflows.errors import BadInput, CallError, FlowFailed, NotAllowed, UsageError, from_peer
from p2pflows.flows import config as configs
from p2pflows.flows.flow import Flow, build, dump_state, invoke
from p2pflows.flows.message import FlowMessage
from p2pflows.flows.overrides import check_overrides, declared_keys
from p2pflows.flows.run import CallResult, Target
from p2pflows.protocol import topics
from p2pflows.protocol.file_reference import may_refer
from p2pflows.protocol.instance_tasks import InstanceState, InstanceTask, MountPlan, begins_with
from p2pflows.protocol.run_result import Mounted, Subflow, write_run_result
from p2pflows.protocol.worker_frames import TaskSpec
from p2pflows.sent_files import with_files
from p2pflows.worker.loading import FlowClass
from p2pflows.worker.task_run import TaskRun

if TYPE_CHECKING:
    from p2pflows.models.keyring import Keyring

INITIAL_STATE = "initial_state"
"""A flow with this among its overridable keys lets others set its initial state."""


class InstanceRun:
    """One task of an instance.

    Args:
        spec: the task.
        loaded: the class.
        task: the data of the task.
        run: the port through which its flow sends and waits.
        keyring: API keys for the flow.
    """

    def __init__(
        self, spec: TaskSpec, loaded: FlowClass, task: InstanceTask, run: TaskRun, keyring: Keyring | None
    ) -> None:
        self._spec = spec
        self._loaded = loaded
        self._class = loaded.flow_class
        self._task = task
        self._run = run
        self._keyring = keyring
        self._mounted: Mounted | None = None
        self._flow: Flow | None = None

    def begin(self) -> Awaitable[None] | None:
        """Mount, build and run the flow.

        Returns:
            What the event loop has to await, for an asynchronous flow; else None.

        Raises:
            CallError: a subflow cannot be mounted, or the flow raised it.
        """
        if self._task.mount is not None:
            self._mount(self._task.mount)
        if self._spec.op == "mount":
            return None
        existing = self._task.state
        if self._mounted is not None:
            existing = InstanceState(self._mounted.config, self._mounted.subflows, None)
        assert existing is not None  # noqa: S101 - every task that runs an instance mounts or describes it
        self._flow = self._build(existing)
        return invoke(self._flow, self._message())

    async def finish(self, rest: Awaitable[None]) -> bytes:
        """Await the rest of an asynchronous flow, and return the result."""
        await rest
        return self.result()

    def result(self) -> bytes:
        """The effects of the run, as JSON."""
        state = None
        if self._flow is not None:
            after = dump_state(self._flow)
            state = None if begins_with(self._spec.data, after) else after
        return write_run_result(self._run.out, state, self._mounted)

    def _build(self, instance: InstanceState) -> Flow:
        targets = {key: Target(part.user, part.endpoint, part.instance) for key, part in instance.subflows.items()}
        try:
            config = self._with_keys(instance.config)
            flow = build(self._class, config, subflows=targets, run=self._run, state=instance.state)
            take_keys = getattr(flow, "set_api_infos", None)
            if take_keys is not None and self._keyring is not None:
                take_keys(self._keyring)
        except UsageError as error:
            raise FlowFailed(f"It cannot be built: {error.message}", error.hint) from error
        return flow

    def _with_keys(self, config: dict[str, Any]) -> dict[str, Any]:
        """A config in which the worker's keys stand for `???` under `api_infos`, in memory only.

        A class with `set_api_infos` gets the keys there. The configs of subflows stay as they are.
        """
        if self._keyring is None or hasattr(self._class, "set_api_infos"):
            return config
        from p2pflows.models.api_info import quick_load_api_keys

        own = {key: value for key, value in config.items() if key != configs.SUBFLOWS}
        return {**config, **quick_load_api_keys(own, self._keyring.api_infos)}

    def _message(self) -> FlowMessage:
        message = self._task.message
        assert message is not None  # noqa: S101 - every task that runs an instance has one
        fields: dict[str, Any] = {
            "data": with_files(message.data) if may_refer(self._spec.data) else message.data,
            "message_id": self._spec.message,
            "dst_flow": self._spec.endpoint,
            "user_id": self._spec.sender,
            "conversation": self._spec.conversation,
            "src_flow": message.source or "unknown",
        }
        match self._task.type:
            case "call":
                return FlowMessage(**fields, reply_data={"mode": "reply", "message": self._spec.message})
            case "post":
                return FlowMessage(**fields, reply_data={"mode": "no_reply"})
            case _:
                return FlowMessage(
                    **fields,
                    is_reply=True,
                    input_message_id=message.packaged or "",
                    subflow=message.subflow,
                    error=None if message.error is None else from_peer(message.error),
                )

    def _mount(self, plan: MountPlan) -> None:
        """Fix the config, and mount each subflow.

        The daemon releases what was mounted if the run fails.
        """
        config = self._merged_config(plan)
        try:
            configs.check_required(self._class, config)
            specs = configs.subflow_specs(config, me=self._run.user)
        except UsageError as error:  # something is left for the client to fill in
            raise BadInput(error.message, error.hint) from error
        pending = {key: self._ask_for(key, spec, plan.path) for key, spec in specs.items() if spec.instance is None}
        subflows = {}
        for key, spec in specs.items():
            subflow = Subflow(self._user_of(spec), spec.endpoint, spec.instance, shared=True)
            if key in pending:
                answer = self._run.wait(pending[key], None)
                subflow = _granted(key, subflow, answer)
            subflows[key] = subflow
        self._mounted = Mounted(config, subflows)
        if self._spec.op == "mount":
            self._build(InstanceState(config, subflows, plan.state))  # to see that it can be

    def _merged_config(self, plan: MountPlan) -> dict[str, Any]:
        try:
            defaults = self._loaded.defaults(plan.config)
            declared = declared_keys(defaults)
            if plan.overrides:
                check_overrides(defaults, plan.overrides, declared=declared, trusted=plan.trusted)
            if plan.state is not None and not plan.trusted and INITIAL_STATE not in declared:
                raise NotAllowed("Only its owner sets its initial state.", "Ask for it without one.")
        except UsageError as error:
            raise FlowFailed(error.message, error.hint) from error
        config = configs.merge(defaults, plan.overrides)
        if plan.overrides:
            try:
                self._class.check_config(config)
            except UsageError as error:
                raise BadInput(error.message, error.hint) from error
        return config

    def _user_of(self, spec: configs.SubflowSpec) -> str:
        return self._run.user if spec.user == configs.LOCAL else spec.user

    def _ask_for(self, key: str, spec: configs.SubflowSpec, path: Sequence[Sequence[str]]) -> Future[CallResult]:
        message = FlowMessage(
            data={
                "op": "mount",
                "endpoint": spec.endpoint,
                "config_overrides": spec.overrides,
                "path": path,
            }
        )
        return self._run.call(Target(self._user_of(spec), topics.INSTANCES), message, timeout=None, subflow=key)


def _granted(key: str, wanted: Subflow, answer: CallResult) -> Subflow:
    """The subflow with the instance that its owner's daemon has granted.

    Raises:
        CallError: the daemon refused, or its answer has a wrong form.
    """
    if answer.error is not None:
        kind = type(answer.error) if isinstance(answer.error, CallError) else FlowFailed
        error = kind(f"The subflow {key!r} cannot be mounted: {answer.error.message}", answer.error.hint)
        raise error.said_by(answer.error.user) if answer.error.user else error
    try:
        target = Target(answer.sender, wanted.endpoint, answer.data.get("instance"))
    except (UsageError, TypeError) as error:
        raise FlowFailed(
            f"The subflow {key!r} cannot be mounted: the daemon of its owner sent an answer of a wrong form.",
            "Ask its owner which release it is.",
        ) from error
    return replace(wanted, instance=target.instance, shared=answer.data.get("shared") is True)
