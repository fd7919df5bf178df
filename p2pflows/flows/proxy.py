"""FlowProxy: sends messages to a flow that runs elsewhere."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping
from typing import Any

from p2pflows.errors import UsageError
from p2pflows.flows.copies import copied
from p2pflows.flows.future import FlowFuture
from p2pflows.flows.message import FlowMessage, log
from p2pflows.flows.run import Run, Target, outside
from p2pflows.forms.python import Answer, TypedForm
from p2pflows.forms.wire import read_reply, with_form
from p2pflows.protocol import topics

_END_TIMEOUT_S = 2.0
"""How long after its timeout a call may take to end."""

_log = logging.getLogger("p2pflows.flows")


class FlowProxy:
    """A proxy for a flow of this user or of another one. Using it needs none of that flow's code.

    Args:
        name: the key of the subflow, or `Proxy_<endpoint>`.
        target: the flow to send to; None while no instance is known.
        config: name, description and the like, from the config of the composite.
        run: what sends the messages; None outside a worker.
        private_keys: keys of messages whose values logs hide.
    """

    def __init__(
        self,
        name: str,
        target: Target | None,
        *,
        config: Mapping[str, Any] | None = None,
        run: Run | None = None,
        private_keys: Collection[str] = (),
    ) -> None:
        self.name = name
        self.target = target
        self.flow_config = {"name": name, "description": "", **copied(dict(config or {}))}
        if target is not None:
            self.flow_config.update(user_id=target.user, flow_endpoint=target.endpoint, flow_id=target.instance)
        self._run = run
        self._private_keys = list(private_keys)

    def package_input_message(
        self,
        data: Mapping[str, Any] | FlowMessage,
        dst_flow: str | None = None,
        reply_data: dict[str, Any] | None = None,
    ) -> FlowMessage:
        """Return a message for this flow, with a copy of the data."""
        destination = dst_flow or (self.target.endpoint if self.target else self.name)
        return package(
            data,
            name=self.name,
            run=self._run,
            dst_flow=destination,
            reply_data=reply_data,
            private_keys=self._private_keys,
        )

    def send_message(self, message: FlowMessage) -> None:
        """Send a message without awaiting an answer; a message that is an answer goes to the request it answers."""
        run, target = self._ready()
        if check_message(message).is_reply and message.request is not None:
            send_reply(run, message, self._private_keys)
        else:
            run.post(target, self._addressed(message, run, target))

    def get_reply(self, message: FlowMessage, timeout: float | None = None, *, progress: bool = False) -> None:
        """Send a message when this run succeeds; its answer becomes an input message of the flow that sends it.

        Args:
            message: the message. The answer has its id as `input_message_id`, and the proxy's name as `subflow`.
            timeout: seconds until an error becomes the input message instead; None for the default deadline.
            progress: whether what the flow reports is passed on to the caller of the flow that runs, if they listen.
        """
        run, target = self._ready()
        sent = self._addressed(message, run, target)
        run.call_back(target, sent, timeout=timeout, subflow=self.name, progress=progress)

    def get_reply_future(
        self, message: FlowMessage, timeout: float | None = None, *, progress: bool = False
    ) -> FlowFuture:
        """Send a message now, and return the future of its answer.

        Args:
            message: the message.
            timeout: seconds until the call itself ends; None for the default deadline.
            progress: whether what the flow reports is passed on to the caller of the flow that runs, if they listen.
        """
        run, target = self._ready()
        sent = self._addressed(message, run, target)
        pending = run.call(target, sent, timeout=timeout, subflow=self.name, progress=progress)
        return FlowFuture(run, pending, request=sent, subflow=self.name)

    def call(
        self, data: Mapping[str, Any] | FlowMessage, timeout: float | None = None, *, progress: bool = False
    ) -> dict[str, Any]:
        """Send data, wait for the call's end, and return the answer's data. Raises as `FlowFuture.get_data`.

        Args:
            data: the data to send.
            timeout: seconds until the call itself ends; None for the default deadline.
            progress: whether what the flow reports is passed on to the caller of the flow that runs, if they listen.
        """
        # Wait a moment longer than the call lives: its own end says why there is no answer.
        wait_s = None if timeout is None else timeout + _END_TIMEOUT_S
        return self.get_reply_future(self.package_input_message(data), timeout, progress=progress).get_data(wait_s)

    def ask(self, text: str, *, form: Any = None, edit: Any = None, timeout: float | None = None) -> Answer[Any]:
        """Ask the human behind this proxy, wait, and return the answer. If the run starts over, nobody is asked again.

        Args:
            text: the question.
            form: what the answer is: a type such as `bool` or a pydantic model, a list of texts to choose from, or a
                JSON Schema; None for a text.
            edit: a document that the answer is an edited copy of: an object or list, or a pydantic model.
            timeout: seconds until the deadline; None for that of the run.

        Raises:
            CallError: there is no answer: `Declined`, `DeadlinePassed`, ...
            BadAnswer: the answer does not fit, from a daemon that knows no forms.
        """
        typed = TypedForm(form, edit)
        return self._answer(typed, self.call(with_form({"api_output": text}, typed.form), timeout))

    async def ask_async(
        self,
        text: str,
        *,
        form: Any = None,
        edit: Any = None,
        timeout: float | None = None,  # noqa: ASYNC109 - a deadline that travels with the question
    ) -> Answer[Any]:
        """Ask as `ask` does, without blocking the event loop."""
        typed = TypedForm(form, edit)
        question = self.package_input_message(with_form({"api_output": text}, typed.form))
        return self._answer(typed, await self.get_reply_future(question, timeout))

    def _answer(self, typed: TypedForm, data: dict[str, Any]) -> Answer[Any]:
        return typed.answer(read_reply(typed.form, data), "" if self.target is None else self.target.user)

    def reset(self, full_reset: bool, recursive: bool) -> None:
        """Reset the state of the instance, after the messages that were sent to it before.

        Args:
            full_reset: whether to do so at all; when false, nothing is sent.
            recursive: whether to reset the subflow instances that were created for it, too.
        """
        run, target = self._ready()
        if full_reset and target.instance is not None:
            data = {"op": "reset", "instance": target.instance, "recursive": recursive}
            run.post(Target(target.user, topics.INSTANCES), FlowMessage(data=data, src_flow=self.name))

    def get_instance_id(self) -> str | None:
        """Return the id of the instance; None for a flow without instances."""
        return None if self.target is None else self.target.instance

    def _ready(self) -> tuple[Run, Target]:
        if self._run is None:
            raise outside(f"The proxy {self.name!r}")
        if self.target is None:
            raise UsageError(f"The proxy {self.name!r} has no target yet.", "Get the flow with get_flow_instance.")
        return self._run, self.target

    def _addressed(self, message: FlowMessage, run: Run, target: Target) -> FlowMessage:
        """Return a copy to send, from the flow that runs, whichever flow packaged it, with JSON data only."""
        log(f"To {self.name}:", check_message(message), self._private_keys)
        return dataclasses.replace(
            message,
            data=message.sendable(),
            private_keys=list(message.private_keys),
            unsent_keys=[],
            src_flow=self.name,
            src_flow_id=run.instance,
            dst_flow=target.endpoint,
            reply_data={"mode": "no_reply"},
            input_message_id=message.message_id,
            is_reply=False,
            user_id=run.user,
            error=None,
            subflow=None,
        )

    def __str__(self) -> str:
        return f"FlowProxy {self.name} of {self.target}"


def package(
    data: Mapping[str, Any] | FlowMessage,
    *,
    name: str,
    run: Run | None,
    dst_flow: str,
    reply_data: dict[str, Any] | None,
    private_keys: Collection[str] = (),
    unsent_keys: Collection[str] = (),
) -> FlowMessage:
    """Return a message from the flow of this name. It shares no list or dict with another message.

    Raises:
        UsageError: the data is not a dict.
    """
    content = data.data if isinstance(data, FlowMessage) else data
    if not isinstance(content, Mapping):
        raise UsageError(
            f"The data of a message is a dict, not a {type(content).__name__}.", "Write {'result': value}."
        )
    return FlowMessage(
        data=copied(dict(content)),
        created_by=name,
        private_keys=list(private_keys),
        unsent_keys=list(unsent_keys),
        src_flow=name,
        src_flow_id=run.instance if run else None,
        dst_flow=dst_flow,
        reply_data={"mode": "no_reply"} if reply_data is None else copied(reply_data),
        user_id=run.user if run else None,
    )


def check_message(message: object) -> FlowMessage:
    """Return the argument if it is a message.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(message, FlowMessage):
        raise UsageError(
            f"A {type(message).__name__} is not a message.", "Create one with package_input_message(data)."
        )
    return message


def send_reply(run: Run, message: FlowMessage, private_keys: Collection[str] = ()) -> None:
    """Send a message as the answer to its request; without a request that awaits one, send nothing."""
    request = message.request
    if request is None:
        _log.debug("No request awaits the answer %s of %s: it is not sent.", message.message_id, message.src_flow)
        return
    log("Answer:", message, private_keys)
    run.reply(request, message.sendable(), message.error)
