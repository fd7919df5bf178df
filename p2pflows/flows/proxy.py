"""FlowProxy: what stands for a flow that runs elsewhere, with the ways to send it messages."""

from __future__ import annotations

import copy
import dataclasses
import logging
from collections.abc import Collection, Mapping
from typing import Any

from p2pflows.errors import UsageError
from p2pflows.flows.future import FlowFuture
from p2pflows.flows.message import FlowMessage, log
from p2pflows.flows.run import Run, Target, outside
from p2pflows.protocol import topics

_END_TIMEOUT_S = 2.0
"""How long after its deadline a call may take to end."""

_log = logging.getLogger("p2pflows.flows")


class FlowProxy:
    """Stands for a flow of this user or of another; whoever holds it needs none of that flow's code.

    Args:
        name: what its holder calls it: the key of the subflow, or `Proxy_<endpoint>`.
        target: whom it stands for; None while nobody has got it an instance.
        config: name, description and the like, as its holder's config has them.
        run: what carries messages; None outside a worker.
        private_keys: keys of messages that logs do not show.
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
        self.flow_config = {"name": name, "description": "", **copy.deepcopy(dict(config or {}))}
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
        """A message for this flow that holds a copy of the data."""
        known = self.target.endpoint if self.target else self.name
        return package(
            data,
            name=self.name,
            run=self._run,
            dst_flow=dst_flow or known,
            reply_data=reply_data,
            private_keys=self._private_keys,
        )

    def send_message(self, message: FlowMessage) -> None:
        """Send a message that wants no answer; one that answers a request goes to that."""
        run, target = self._ready()
        if check_message(message).is_reply and message.request is not None:
            send_reply(run, message, self._private_keys)
        else:
            run.post(target, self._addressed(message, run, target))

    def get_reply(self, message: FlowMessage, timeout: float | None = None) -> None:
        """Send a message whose answer enters `run` of the flow at hand, as a message with `subflow` set to this name.

        Args:
            message: what to send; its id is the answer's `input_message_id`.
            timeout: seconds after which an error enters instead; None for the default deadline.
        """
        run, target = self._ready()
        run.call_back(target, self._addressed(message, run, target), timeout=timeout, subflow=self.name)

    def get_reply_future(self, message: FlowMessage, timeout: float | None = None) -> FlowFuture:
        """Send a message at once; gives the future of its answer.

        Args:
            message: what to send.
            timeout: seconds after which the call itself ends; None for the default deadline.
        """
        run, target = self._ready()
        sent = self._addressed(message, run, target)
        pending = run.call(target, sent, timeout=timeout, subflow=self.name)
        return FlowFuture(run, pending, request=sent, subflow=self.name)

    def call(self, data: Mapping[str, Any] | FlowMessage, timeout: float | None = None) -> dict[str, Any]:
        """Send data and wait for the answer's data, or for the end of the call; raises as `FlowFuture.get_data`.

        Args:
            data: what to send.
            timeout: seconds after which the call itself ends; None for the default deadline.
        """
        # The call's own end tells why there is no answer, so wait a moment longer for that.
        patience = None if timeout is None else timeout + _END_TIMEOUT_S
        return self.get_reply_future(self.package_input_message(data), timeout).get_data(patience)

    def reset(self, full_reset: bool, recursive: bool) -> None:
        """Ask the daemon that has the instance to forget its state, behind the messages that were sent before.

        Args:
            full_reset: forget the state; without it nothing is forgotten.
            recursive: the subflows that were made for it, too.
        """
        run, target = self._ready()
        if full_reset and target.instance is not None:
            data = {"op": "reset", "instance": target.instance, "recursive": recursive}
            run.post(Target(target.user, topics.INSTANCES), FlowMessage(data=data, src_flow=self.name))

    def get_instance_id(self) -> str | None:
        """The instance that it stands for; None for what has none."""
        return None if self.target is None else self.target.instance

    def _ready(self) -> tuple[Run, Target]:
        if self._run is None:
            raise outside(f"The proxy {self.name!r}")
        if self.target is None:
            raise UsageError(f"The proxy {self.name!r} stands for nobody yet.", "Get the flow by get_flow_instance.")
        return self._run, self.target

    def _addressed(self, message: FlowMessage, run: Run, target: Target) -> FlowMessage:
        """A copy to send: it comes from the executing flow, whoever packaged it, and only plain data is in it."""
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
    """A message from a flow of this name, with a copy of the data; nothing in it is shared with another message.

    Raises:
        UsageError: the data is no dict.
    """
    content = data.data if isinstance(data, FlowMessage) else data
    if not isinstance(content, Mapping):
        raise UsageError(f"A message holds a dict, not a {type(content).__name__}.", "Write {'result': value}.")
    return FlowMessage(
        data=copy.deepcopy(dict(content)),
        created_by=name,
        private_keys=list(private_keys),
        unsent_keys=list(unsent_keys),
        src_flow=name,
        src_flow_id=run.instance if run else None,
        dst_flow=dst_flow,
        reply_data={"mode": "no_reply"} if reply_data is None else copy.deepcopy(reply_data),
        user_id=run.user if run else None,
    )


def check_message(message: object) -> FlowMessage:
    """The same thing, if it is a message.

    Raises:
        UsageError: it is something else.
    """
    if not isinstance(message, FlowMessage):
        raise UsageError(f"A {type(message).__name__} is no message.", "Make one by package_input_message(data).")
    return message


def send_reply(run: Run, message: FlowMessage, private_keys: Collection[str] = ()) -> None:
    """Answer the request that a message answers; when nobody waits for one, nothing is sent."""
    request = message.request
    if request is None:
        _log.debug("Nobody waits for the answer %s of %s: it is not sent.", message.message_id, message.src_flow)
        return
    log("Answer:", message, private_keys)
    run.reply(request, message.sendable(), message.error)
