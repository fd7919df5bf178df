# ruff: noqa: SLF001 - build and invoke are the worker's half of the class Flow
"""Flow, AtomicFlow and CompositeFlow, which authors subclass; and what a worker does with such a class.

A worker creates a new flow object for each message. The config is fixed when the instance is created; of the object's
attributes, only `flow_state` is stored. The order is: `flow_config` and `subflows` are set, the base constructor calls
`set_up_flow_state`, the constructor of the class continues, and then the stored state is merged into `flow_state`.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, Self, TypeVar
from weakref import WeakKeyDictionary

from pydantic import BaseModel

from p2pflows.errors import FlowFailed, P2pflowsError, UsageError
from p2pflows.flows import state as codec
from p2pflows.flows.config import (
    SUBFLOWS,
    check_required,
    effective_config,
    input_schema,
    interface_fields,
    merge,
    subflow_specs,
)
from p2pflows.flows.copies import copied
from p2pflows.flows.message import FlowMessage, log
from p2pflows.flows.proxy import FlowProxy, check_message, package, send_reply
from p2pflows.flows.run import Run, Target, outside
from p2pflows.forms.python import Answer
from p2pflows.protocol.spent import Spent

Models = tuple[type[BaseModel], ...]
_TAKES_CONFIG: WeakKeyDictionary[type[Flow], bool] = WeakKeyDictionary()

_F = TypeVar("_F", bound="Flow")


class Flow:
    """The base class of all flows. A subclass defines `run`, which returns a dict or calls `send_message` to answer.

    An object that you create yourself can package messages and has a state. It can send and wait only while a worker
    runs it.

    Args:
        flow_config: keys of the config.
        kwargs: further keys of the config. Both override the defaults of the class.
    """

    REQUIRED_KEYS_CONFIG: ClassVar[list[str]] = ["name", "description"]
    """Keys that the config must have, in addition to those that the base classes require."""
    state_models: ClassVar[Models] = ()
    """The pydantic classes whose objects are read back from the stored state as such, and not as dicts."""
    handles_errors: ClassVar[bool] = False
    """Whether `run` receives a subflow's error, as `input_message.error`; otherwise the error ends the run."""
    interleaves: ClassVar[bool] = False
    """Whether an instance may start on a request while another one is open. The class must then keep them apart."""

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
        """Return a flow with the default config of the class, and these keys overriding it."""
        return cls.instantiate_with_overrides(overrides)

    @classmethod
    def instantiate_with_overrides(cls, overrides: Mapping[str, Any]) -> Self:
        """Return a flow with the default config of the class, and a mapping overriding it."""
        return cls.instantiate_from_config(effective_config(cls, overrides))

    @classmethod
    def instantiate_from_config(cls, config: Mapping[str, Any]) -> Self:
        """Return a flow with exactly this config."""
        return build(cls, config, subflows={}, run=None, state=None)

    @classmethod
    def get_config(cls, **overrides: Any) -> dict[str, Any]:
        """Return the default config of the class, with these keys overriding it."""
        return effective_config(cls, overrides)

    @classmethod
    def check_config(cls, config: Mapping[str, Any]) -> None:
        """Check the settings in a config, when the class is served and when an instance is mounted with overrides.

        Raises:
            UsageError: a subclass raises it, for a setting that is unknown or means nothing.
        """

    @classmethod
    def describe_input(cls, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a config says of the input, as a JSON Schema that informs people."""
        return input_schema(config)

    @classmethod
    def describe_output(cls, config: Mapping[str, Any]) -> dict[str, Any] | None:  # noqa: ARG003 - subclasses use it
        """Return what a config says of the output, as a JSON Schema that informs people; None if it says nothing."""
        return None

    @classmethod
    def type(cls) -> str:
        """Return the kind of flow that the class is."""
        return "Flow"

    @property
    def name(self) -> str:
        """The name of this flow in its config."""
        return str(self.flow_config["name"])

    def set_up_flow_state(self) -> None:
        """Initialise the state; a subclass extends this. The config and the subflows are set already."""
        self.flow_state = {}

    def run(self, input_message: FlowMessage) -> Any:  # noqa: ARG002 - subclasses use it
        """Handle one message; may be async. A returned dict or message is the answer; None sends no answer."""
        raise UsageError(
            f"{type(self).__name__} cannot run: it has no run method.", "Write: def run(self, input_message): ..."
        )

    def __call__(self, input_message: FlowMessage) -> Awaitable[None] | None:
        """Handle one message as a worker does."""
        return invoke(self, input_message)

    def package_input_message(
        self,
        data: Mapping[str, Any] | FlowMessage,
        dst_flow: str = "unknown",
        reply_data: dict[str, Any] | None = None,
    ) -> FlowMessage:
        """Return a new message from this flow, with a copy of the data.

        Raises:
            UsageError: the data is not a dict.
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
        """Return an answer to an input message of this run, or to one that an earlier run stored in the state.

        Raises:
            UsageError: the response is not a dict.
        """
        answer = self.package_input_message(response, input_message.src_flow, input_message.reply_data)
        answer.input_message_id = input_message.input_message_id
        answer.conversation = input_message.conversation
        answer.is_reply = True
        return answer

    def send_message(self, message: FlowMessage) -> None:
        """Send an answer to the caller that awaits it; without such a caller, the answer is dropped.

        Raises:
            UsageError: the message is not an answer, or no worker runs this flow.
        """
        if not check_message(message).is_reply:
            raise UsageError(
                "A flow's send_message sends answers only.",
                "Send other messages through a subflow: self.subflows[key].",
            )
        send_reply(self._running(), message, self._private_keys())

    def step(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call a function once, even if this run starts over. Its result must be JSON.

        Raises:
            UsageError: the function is async, or no worker runs this flow.
        """
        if inspect.iscoroutinefunction(function):
            raise UsageError("A step cannot be async.", "Pass a function without async.")
        return self._running().step(functools.partial(function, *args, **kwargs))

    def note_tokens(self, model: str, *, tokens_in: int, tokens_out: int, cached: int = 0) -> None:
        """Note what a request to a model took, if this flow asks one itself.

        `p2pflows usage` shows it, and limits count it.

        Args:
            model: the model's name.
            tokens_in: the tokens that it read.
            tokens_out: the tokens that it wrote.
            cached: how many of those that it read its server had at hand.

        Raises:
            UsageError: no worker runs this flow.
        """
        self._running().note_spent(Spent(model, tokens_in, tokens_out, cached))

    def ask(
        self, subflow: str, text: str, *, form: Any = None, edit: Any = None, timeout: float | None = None
    ) -> Answer[Any]:
        """Ask the human behind a subflow, wait without holding a slot, and return the answer (`FlowProxy.ask`).

        Raises:
            UsageError: there is no such subflow.
            CallError: there is no answer.
        """
        return self._asked_subflow(subflow).ask(text, form=form, edit=edit, timeout=timeout)

    async def ask_async(
        self,
        subflow: str,
        text: str,
        *,
        form: Any = None,
        edit: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that travels with the question
    ) -> Answer[Any]:
        """Ask as `ask` does, for an async `run`."""
        return await self._asked_subflow(subflow).ask_async(text, form=form, edit=edit, timeout=timeout)

    def _asked_subflow(self, subflow: str) -> FlowProxy:
        if subflow not in self.subflows:
            raise UsageError(
                f"The flow {self.name!r} has no subflow {subflow!r}.",
                f"It has: {', '.join(self.subflows) or 'none'}. Add one to subflows_config, with flow_endpoint: User",
            )
        return self.subflows[subflow]

    @property
    def wants_progress(self) -> bool:
        """Whether the caller listens to progress; if not, `progress` sends nothing."""
        return self._run is not None and self._run.wants_progress

    def progress(self, data: Mapping[str, Any]) -> None:
        """Report progress to the caller before the answer, if the caller listens; a report may be lost.

        A report with a text under `delta` is the next piece of the answer; `{"delta": ..., "restart": True}` begins the
        answer again.

        Raises:
            FlowFailed: JSON cannot hold a value.
            UsageError: the data is not a dict, or no worker runs this flow.
        """
        self._running().progress(self.package_input_message(data).sendable())

    def time_left(self) -> float:
        """Return the seconds until the deadline of the request, for the timeouts of what this run waits for.

        Raises:
            Cancelled: the request was withdrawn, or its deadline has passed.
            UsageError: no worker runs this flow.
        """
        return self._running().time_left()

    def reset(self, full_reset: bool, recursive: bool) -> None:
        """Set the state back to what the constructor left.

        Args:
            full_reset: whether to do so at all; when false, the state stays.
            recursive: whether to reset the subflows too, wherever they run.
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
        """Return what the config says of the input and output, as lists of names or mappings; it checks no message."""
        return {side: _names(self.flow_config.get(f"{side}_interface")) for side in ("input", "output")}

    def _get_subflow(self, key: str) -> FlowProxy | None:
        """Return the subflow with this key, or None."""
        return self.subflows.get(key)

    def _get_from_state(self, key: str, default: Any = None) -> Any:
        """Return the state's value for a key, or the default."""
        return self.flow_state.get(key, default)

    def _state_update_dict(self, update_data: Mapping[str, Any] | FlowMessage) -> None:
        """Copy data into the state; None does not replace a value.

        Raises:
            ValueError: the data is empty.
        """
        data = update_data.data if isinstance(update_data, FlowMessage) else update_data
        if not data:
            raise ValueError("There is nothing to update the state with.")
        for key, value in data.items():
            if key not in self.flow_state or not (value is None or value == self.flow_state[key]):
                self.flow_state[key] = copy.deepcopy(value)

    def _fetch_state_attributes_by_keys(self, keys: list[str] | None = None) -> dict[str, Any]:
        """Return copies of the state's values for these keys, which may be dotted; None stands for all keys.

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
    """A flow that does its work itself, without subflows."""

    @classmethod
    def type(cls) -> str:
        """Return the kind of flow that the class is."""
        return "AtomicFlow"


class CompositeFlow(Flow):
    """A flow that calls other flows: `self.subflows[key]` is the proxy of an entry of `subflows_config`."""

    REQUIRED_KEYS_CONFIG: ClassVar[list[str]] = [SUBFLOWS]

    @classmethod
    def type(cls) -> str:
        """Return the kind of flow that the class is."""
        return "CompositeFlow"


def build(
    flow_class: type[_F],
    config: Mapping[str, Any],
    *,
    subflows: Mapping[str, Target],
    run: Run | None,
    state: bytes | dict[str, Any] | None,
) -> _F:
    """Create the flow object that handles one message.

    Args:
        flow_class: the class that is served.
        config: the complete config of the instance, fixed when the instance was created.
        subflows: the flow behind each subflow, by key.
        run: what sends its messages; None outside a worker.
        state: what `dump_state` returned after the last message, or the value of that JSON; None for a new instance.

    Raises:
        UsageError: the class is not a flow class, its config lacks a required key, or a subflow has no target.
        FlowFailed: the constructor raised, or the stored state cannot be read.
    """
    if not (inspect.isclass(flow_class) and issubclass(flow_class, Flow)):
        raise UsageError(f"{flow_class!r} is not a flow class.", "Subclass AtomicFlow or CompositeFlow.")
    check_required(flow_class, config)
    flow = flow_class.__new__(flow_class)
    _prepare(flow, copied(dict(config)), subflows, run)
    try:
        _construct(flow_class, flow)
        flow._fresh_state = copied(flow.flow_state)
    except P2pflowsError:
        raise
    except Exception as error:
        raise FlowFailed(
            f"{flow_class.__name__} cannot be created: {type(error).__name__}: {error}", "Correct its constructor."
        ) from error
    if state is not None:
        plain = codec.parse(state) if isinstance(state, bytes) else state
        flow.flow_state.update(codec.read(plain, flow.state_models))
    return flow


def invoke(flow: Flow, message: FlowMessage) -> Awaitable[None] | None:
    """Let a flow handle one message, and send what it returns as the answer.

    Returns:
        None when the flow has run; for an async flow, an awaitable that runs it.

    Raises:
        CallError: the message is the error of a subflow, and the class does not handle errors.
        FlowFailed: the flow returned neither a dict, a message nor None.
        Exception: what the flow raised.
    """
    log(f"{flow.name} receives", message, flow._private_keys())
    if message.error is not None and not flow.handles_errors:
        raise message.error
    # A flow may change the message that it receives; the answer must go to the sender all the same.
    request = message.without_data()
    returned = flow.run(message)
    if inspect.isawaitable(returned):
        return _answer_later(flow, request, returned)
    _answer(flow, request, returned)
    return None


def dump_state(flow: Flow) -> bytes:
    """Return the state of a flow as JSON, to be stored.

    Raises:
        FlowFailed: a value cannot be stored; the error names its path.
    """
    return codec.dumps(flow.flow_state)


def _prepare(flow: Flow, config: dict[str, Any], subflows: Mapping[str, Target], run: Run | None) -> None:
    """Set what a flow has before its constructor starts."""
    flow.flow_config = config
    flow.flow_state = {}
    flow._run = run
    flow.subflows = {}
    for key, spec in subflow_specs(config, complete=False).items():
        target = subflows.get(key)
        if target is None and run is not None:
            raise UsageError(f"The subflow {key!r} of {flow.name!r} has no target.", "Get a new instance of the flow.")
        flow.subflows[key] = FlowProxy(key, target, config=spec.config, run=run, private_keys=flow._private_keys())


def _construct(flow_class: type[Flow], flow: Flow) -> None:
    """Call the constructor with the keys of the config, or with the config if it has a parameter `flow_config`."""
    config = copied(flow.flow_config)
    flow_class.__init__(flow, **({"flow_config": config} if _takes_config(flow_class) else config))


def _takes_config(flow_class: type[Flow]) -> bool:
    """Whether the constructor has a parameter `flow_config`; looked up once, as that takes longer than a short run."""
    takes_config = _TAKES_CONFIG.get(flow_class)
    if takes_config is None:
        takes_config = _TAKES_CONFIG[flow_class] = "flow_config" in inspect.signature(flow_class).parameters
    return takes_config


async def _answer_later(flow: Flow, request: FlowMessage, returned: Awaitable[Any]) -> None:
    _answer(flow, request, await returned)


def _answer(flow: Flow, request: FlowMessage, returned: object) -> None:
    match returned:
        case None:
            return
        case FlowMessage(is_reply=True):
            flow.send_message(returned)
        case FlowMessage() | dict():
            flow.send_message(flow.package_output_message(request, returned))
        case _:
            raise FlowFailed(
                f"The run of {flow.name!r} returned a {type(returned).__name__}.",
                "Return a dict or a message as the answer, or None.",
            )


def _names(interface: object) -> Any:
    """Return an interface as a list or a mapping; a single name may be written without a list."""
    match interface:
        case None:
            return []
        case str():
            return [interface]
        case {"_target_": _}:
            return list(interface_fields(interface, "The interface"))
        case _:
            return copy.deepcopy(interface)


def _fetch(state: Mapping[str, Any], key: str) -> Any:
    if key in state:
        return state[key]
    value: Any = state
    for part in key.split("."):
        if not isinstance(value, Mapping) or part not in value:
            raise KeyError(f"The state has no key {key!r}.")
        value = value[part]
    return value
