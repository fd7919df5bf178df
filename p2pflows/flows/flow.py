# ruff: noqa: SLF001 - build and invoke are the worker's half of the class Flow
"""Flow, AtomicFlow and CompositeFlow: what an author subclasses; and what a worker does with such a class.

A flow object is made anew for each message: its config is fixed when its instance is made, and of its attributes only
`flow_state` is kept. In this order: `flow_config` and `subflows` are there, the base constructor calls
`set_up_flow_state`, the class's own constructor goes on, and the stored state is laid over what they left.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar

from pydantic import BaseModel

from p2pflows.errors import FlowFailed, P2pflowsError, UsageError
from p2pflows.flows import state as codec
from p2pflows.flows.config import SUBFLOWS, check_required, effective_config, merge, subflow_specs
from p2pflows.flows.message import FlowMessage, log
from p2pflows.flows.proxy import FlowProxy, check_message, package, send_reply
from p2pflows.flows.run import Run, Target, outside

Models = tuple[type[BaseModel], ...]

_F = TypeVar("_F", bound="Flow")


class Flow:
    """The base of all flows. A subclass writes `run`, and answers by returning a dict or by `send_message`.

    Made by hand it can package messages and keep a state; it sends and waits only while a worker runs it.

    Args:
        flow_config: a config, or nothing.
        kwargs: keys of the config; both are laid over the defaults of the class.
    """

    REQUIRED_KEYS_CONFIG: ClassVar[list[str]] = ["name", "description"]
    """Keys that the config must have, beside those that the bases of a class require."""
    state_models: ClassVar[Models] = ()
    """The pydantic classes that come back from the state as what they were."""
    handles_errors: ClassVar[bool] = False
    """Whether a subflow's error enters `run`, as `input_message.error`; else it ends the run."""

    flow_config: dict[str, Any]
    flow_state: dict[str, Any]
    subflows: dict[str, FlowProxy]
    _run: Run | None
    _fresh_state: dict[str, Any] | None = None

    def __init__(self, flow_config: Mapping[str, Any] | None = None, **kwargs: Any) -> None:
        if "flow_config" not in vars(self):
            _prepare(self, effective_config(type(self), merge(flow_config or {}, kwargs)), {}, None)
        self.set_up_flow_state()

    @classmethod
    def instantiate_from_default_config(cls, **overrides: Any) -> Self:
        """A flow with the class's default config and these keys laid over it."""
        return cls.instantiate_with_overrides(overrides)

    @classmethod
    def instantiate_with_overrides(cls, overrides: Mapping[str, Any]) -> Self:
        """A flow with the class's default config and a mapping laid over it."""
        return cls.instantiate_from_config(effective_config(cls, overrides))

    @classmethod
    def instantiate_from_config(cls, config: Mapping[str, Any]) -> Self:
        """A flow with this config, whole as it is."""
        return build(cls, config, subflows={}, run=None, state=None)

    @classmethod
    def get_config(cls, **overrides: Any) -> dict[str, Any]:
        """The default config of the class with these keys laid over it."""
        return effective_config(cls, overrides)

    @classmethod
    def type(cls) -> str:
        """What kind of flow the class is."""
        return "Flow"

    @property
    def name(self) -> str:
        """What the config calls this flow."""
        return str(self.flow_config["name"])

    def set_up_flow_state(self) -> None:
        """Start the state; a subclass extends it. The config and the subflows are there."""
        self.flow_state = {}

    def run(self, input_message: FlowMessage) -> Any:  # noqa: ARG002 - what a subclass is given
        """Take one message; may be async. A dict or message that it returns is the answer, None is no answer."""
        raise UsageError(
            f"{type(self).__name__} cannot run, as it has no run method.", "Write: def run(self, input_message): ..."
        )

    def __call__(self, input_message: FlowMessage) -> Awaitable[None] | None:
        """Run one message as a worker does."""
        return invoke(self, input_message)

    def package_input_message(
        self,
        data: Mapping[str, Any] | FlowMessage,
        dst_flow: str = "unknown",
        reply_data: dict[str, Any] | None = None,
    ) -> FlowMessage:
        """A new message from this flow, with a copy of the data.

        Raises:
            UsageError: the data is no dict.
        """
        private, unsent = self._private_keys(), self.flow_config.get("unsent_keys") or []
        return package(
            data,
            name=self.name,
            run=self._run,
            dst_flow=dst_flow,
            reply_data=reply_data,
            private_keys=private,
            unsent_keys=unsent,
        )

    def package_output_message(
        self, input_message: FlowMessage, response: Mapping[str, Any] | FlowMessage
    ) -> FlowMessage:
        """The answer to a message that came in now, or that was kept in the state by an earlier run.

        Raises:
            UsageError: the response is no dict.
        """
        answer = self.package_input_message(response, input_message.src_flow, input_message.reply_data)
        answer.input_message_id = input_message.input_message_id
        answer.conversation = input_message.conversation
        answer.is_reply = True
        return answer

    def send_message(self, message: FlowMessage) -> None:
        """Send an answer to whoever waits for it; when nobody does, it is dropped.

        Raises:
            UsageError: it answers nothing, or no worker runs this flow.
        """
        if not check_message(message).is_reply:
            raise UsageError(
                "A flow itself sends answers only.", "Send other messages through a subflow: self.subflows[key]."
            )
        send_reply(self._running(), message, self._private_keys())

    def step(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function once, however often this run starts over; its result must be JSON.

        Raises:
            UsageError: the function is async, or no worker runs this flow.
        """
        if inspect.iscoroutinefunction(function):
            raise UsageError("A step cannot be async.", "Give a plain function.")
        return self._running().step(functools.partial(function, *args, **kwargs))

    def progress(self, data: Mapping[str, Any]) -> None:
        """Tell whoever waits something before the answer; it may be lost.

        Raises:
            FlowFailed: JSON cannot hold a value.
            UsageError: the data is no dict, or no worker runs this flow.
        """
        self._running().progress(self.package_input_message(data).sendable())

    def reset(self, full_reset: bool, recursive: bool) -> None:
        """Start the state anew.

        Args:
            full_reset: forget the state; without it nothing is forgotten.
            recursive: ask all subflows for the same, wherever they run.
        """
        if full_reset:
            if self._fresh_state is None:
                self.set_up_flow_state()
            else:
                self.flow_state = copy.deepcopy(self._fresh_state)
        if recursive:
            for subflow in self.subflows.values():
                subflow.reset(full_reset, recursive)

    def get_interface_description(self) -> dict[str, Any]:
        """What the config says of the input and the output: lists of names, or mappings. It changes no message."""
        return {side: _names(self.flow_config.get(f"{side}_interface")) for side in ("input", "output")}

    def _get_subflow(self, key: str) -> FlowProxy | None:
        """The subflow with this key, or None."""
        return self.subflows.get(key)

    def _get_from_state(self, key: str, default: Any = None) -> Any:
        """The state's value under a key, or the default."""
        return self.flow_state.get(key, default)

    def _state_update_dict(self, update_data: Mapping[str, Any] | FlowMessage) -> None:
        """Copy data into the state; None never replaces what is there.

        Raises:
            ValueError: there is no data.
        """
        data = update_data.data if isinstance(update_data, FlowMessage) else update_data
        if not data:
            raise ValueError("There is nothing to update the state with.")
        for key, value in data.items():
            if key not in self.flow_state or not (value is None or value == self.flow_state[key]):
                self.flow_state[key] = copy.deepcopy(value)

    def _fetch_state_attributes_by_keys(self, keys: list[str] | None = None) -> dict[str, Any]:
        """Copies of the state's values under these keys, which may be dotted; None fetches all.

        Raises:
            KeyError: the state has no such key.
        """
        if keys is None:
            return copy.deepcopy(self.flow_state)
        return {key: copy.deepcopy(_fetch(self.flow_state, key)) for key in keys}

    def _private_keys(self) -> list[str]:
        return list(self.flow_config.get("private_keys") or [])

    def _running(self) -> Run:
        if self._run is None:
            raise outside(f"The flow {self.name!r}")
        return self._run

    def __str__(self) -> str:
        interface = self.get_interface_description()
        lines = {
            "Name": self.name,
            "Class": type(self).__name__,
            "Type": self.type(),
            "Description": self.flow_config.get("description", ""),
            "Input": ", ".join(interface["input"]),
            "Output": ", ".join(interface["output"]),
            "Subflows": ", ".join(self.subflows),
        }
        return "\n".join(f"{label}: {text}" for label, text in lines.items() if text)


class AtomicFlow(Flow):
    """A flow that does its work itself."""

    @classmethod
    def type(cls) -> str:
        """What kind of flow the class is."""
        return "AtomicFlow"


class CompositeFlow(Flow):
    """A flow that has others do the work: `self.subflows[key]` stands for each entry of `subflows_config`."""

    REQUIRED_KEYS_CONFIG: ClassVar[list[str]] = [SUBFLOWS]

    @classmethod
    def type(cls) -> str:
        """What kind of flow the class is."""
        return "CompositeFlow"


def build(
    flow_class: type[_F],
    config: Mapping[str, Any],
    *,
    subflows: Mapping[str, Target],
    run: Run | None,
    state: bytes | None,
) -> _F:
    """Make the flow object that takes one message.

    Args:
        flow_class: the class that was served.
        config: the whole config of the instance, as it was when the instance was made.
        subflows: whom each subflow stands for.
        run: what carries its messages; None outside a worker.
        state: what `take_state` gave after the last message; None when there is none.

    Raises:
        UsageError: it is no flow class, a key of its config is missing, or a subflow stands for nobody.
        FlowFailed: its constructor raised, or its stored state cannot be read.
    """
    if not (inspect.isclass(flow_class) and issubclass(flow_class, Flow)):
        raise UsageError(f"{flow_class!r} is no flow class.", "Subclass AtomicFlow or CompositeFlow.")
    check_required(flow_class, config)
    flow = flow_class.__new__(flow_class)
    _prepare(flow, copy.deepcopy(dict(config)), subflows, run)
    try:
        _construct(flow_class, flow)
        flow._fresh_state = copy.deepcopy(flow.flow_state)
    except P2pflowsError:
        raise
    except Exception as error:
        raise FlowFailed(
            f"{flow_class.__name__} cannot be made: {type(error).__name__}: {error}", "Mend its constructor."
        ) from error
    if state is not None:
        flow.flow_state.update(codec.loads(state, flow.state_models))
    return flow


def invoke(flow: Flow, message: FlowMessage) -> Awaitable[None] | None:
    """Let a flow take one message, and send what it returns as the answer.

    Gives:
        None when it has run; for an async flow, what is to be awaited.

    Raises:
        CallError: the message is the error of a subflow, and the class does not handle errors.
        FlowFailed: what the flow returned is no answer.
        Exception: whatever the flow raises.
    """
    log(f"{flow.name} takes", message, flow._private_keys())
    if message.error is not None and not flow.handles_errors:
        raise message.error
    # Flows may change the message that they are given; whom to answer stays as it came.
    origin = dataclasses.replace(message, data={}, reply_data=dict(message.reply_data))
    given = flow.run(message)
    if inspect.isawaitable(given):
        return _answer_later(flow, origin, given)
    _answer(flow, origin, given)
    return None


def take_state(flow: Flow) -> bytes:
    """The state of a flow, to be stored.

    Raises:
        FlowFailed: it cannot be stored; the error names the key.
    """
    return codec.dumps(flow.flow_state)


def _prepare(flow: Flow, config: dict[str, Any], subflows: Mapping[str, Target], run: Run | None) -> None:
    """What a flow has before its constructor starts."""
    flow.flow_config = config
    flow.flow_state = {}
    flow._run = run
    flow.subflows = {}
    for key, spec in subflow_specs(config, complete=False).items():
        target = subflows.get(key)
        if target is None and run is not None:
            raise UsageError(f"The subflow {key!r} of {flow.name!r} stands for nobody.", "Get a new instance.")
        flow.subflows[key] = FlowProxy(key, target, config=spec.config, run=run, private_keys=flow._private_keys())


def _construct(flow_class: type[Flow], flow: Flow) -> None:
    """Call the constructor with the keys of the config, or with the config if it asks for that."""
    config = copy.deepcopy(flow.flow_config)
    asks = "flow_config" in inspect.signature(flow_class).parameters
    flow_class.__init__(flow, **({"flow_config": config} if asks else config))


async def _answer_later(flow: Flow, origin: FlowMessage, given: Awaitable[Any]) -> None:
    _answer(flow, origin, await given)


def _answer(flow: Flow, origin: FlowMessage, given: object) -> None:
    match given:
        case None:
            return
        case FlowMessage(is_reply=True):
            flow.send_message(given)
        case FlowMessage() | dict():
            flow.send_message(flow.package_output_message(origin, given))
        case _:
            raise FlowFailed(
                f"The run of {flow.name!r} returned a {type(given).__name__}.",
                "Return a dict or a message to answer, or nothing.",
            )


def _names(interface: object) -> Any:
    """An interface as a list or a mapping; one name may stand alone."""
    match interface:
        case None:
            return []
        case str():
            return [interface]
        case _:
            return copy.deepcopy(interface)


def _fetch(state: Mapping[str, Any], key: str) -> Any:
    if key in state:
        return state[key]
    value: Any = state
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise KeyError(f"The state has no {key!r}.")
        value = value[part]
    return value
