"""The methods that send messages, wait for their end, and show what has not been sent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import Any, ClassVar

from pydantic import Field

from p2pflows.errors import BadInput, DeadlinePassed, P2pflowsError, from_peer
from p2pflows.forms.wire import form_of
from p2pflows.protocol.message import Type
from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon, Written
from p2pflowsd.api.parameters import (
    MAX_TIMEOUT_S,
    POST_TIMEOUT_S,
    ConversationId,
    Count,
    Flag,
    IdPart,
    InstanceId,
    MessageData,
    Parameters,
    Seconds,
    Text,
    TypedTexts,
)
from p2pflowsd.api.questions import HUMAN, wait_for_question
from p2pflowsd.human.inbox import prompt_text
from p2pflowsd.human.texts import TEXT_KEYS
from p2pflowsd.lifecycle import OPEN_OUTGOING, OutgoingState
from p2pflowsd.node import Node
from p2pflowsd.sending.waiters import OnProgress
from p2pflowsd.steps import OnOutcome, settle

CALL_TIMEOUT_S = 600
MAX_SOURCE_CHARS = 64
MAX_LISTED = 500


class CallParameters(Parameters):
    """A message that wants an answer."""

    NOT_NULL: ClassVar[frozenset[str]] = frozenset({"data"})

    address: Text
    data: MessageData = Field(default_factory=dict)
    timeout: Seconds = CALL_TIMEOUT_S
    conversation: ConversationId = ""
    instance: InstanceId = ""
    source: Text = ""
    typed: TypedTexts = Field(default_factory=dict)


class HeardCallParameters(CallParameters):
    """A call whose client waits, and may want to hear how far it has got."""

    progress: Flag = False


class SendParameters(CallParameters):
    """A message that wants no answer."""

    timeout: Seconds = POST_TIMEOUT_S


class WaitParameters(Parameters):
    """A message sent earlier, and how long to wait for its end."""

    id: IdPart
    timeout: Seconds = MAX_TIMEOUT_S


class MessageParameters(Parameters):
    """One message, by its id or a part of it."""

    id: IdPart


class OutboxParameters(Parameters):
    """Which page of the outbox to list."""

    limit: Count = MAX_LISTED
    offset: Count = 0


class OpenCall:
    """A call whose answer a client waits for; it starts when this object is made.

    Args:
        daemon: the daemon.
        send: accepts the message inside a batch, and returns its id.
        on_outcome: takes the result of the method `call`, whose data is `Written`, or the P2pflowsError; called once
            at most.
        on_accepted: takes the id of the call once it is committed.
        on_progress: takes what the flow reports before its answer.
        conversation: the conversation that the call belongs to; by default it starts one.
    """

    def __init__(
        self,
        daemon: Daemon,
        send: Callable[[], str],
        on_outcome: OnOutcome,
        *,
        on_accepted: Callable[[str], None] | None = None,
        on_progress: OnProgress | None = None,
        conversation: str = "",
    ) -> None:
        self._daemon = daemon
        self._send = send
        self._on_outcome = on_outcome
        self._on_committed = on_accepted
        self._on_progress = on_progress
        self._conversation = conversation
        self._id = ""
        daemon.submit(self._accept, self._on_accepted)

    def stop_waiting(self) -> None:
        """Forget the client; the call itself goes on."""
        self._daemon.node.waiters.stop(self._id, self._on_settled)

    def _accept(self) -> None:
        self._id = self._send()
        self._daemon.node.waiters.expect(self._id, self._on_settled, self._on_progress)

    def _on_accepted(self, outcome: Any) -> None:
        if isinstance(outcome, P2pflowsError):
            self.stop_waiting()  # it may have been recorded, and then not kept
            self._on_outcome(outcome)
        elif self._on_committed is not None:
            self._on_committed(self._id)

    def _on_settled(self, state: OutgoingState, answer: bytes | None) -> None:
        if state is OutgoingState.DONE:
            data = Written(answer or b"{}")
            self._on_outcome({"id": self._id, "data": data, "conversation": self._conversation or self._id})
        else:
            self._on_outcome(_error(self._daemon, answer))


def start_call(
    daemon: Daemon,
    params: Mapping[str, Any],
    on_outcome: OnOutcome,
    on_accepted: Callable[[str], None],
    on_progress: OnProgress,
) -> Callable[[], None]:
    """Start the method `call` without a task of its own, as it has to be fast.

    Args:
        daemon: the daemon.
        params: the parameters of the request, unchecked.
        on_outcome: takes the result, whose data is `Written`, or the P2pflowsError, once.
        on_accepted: takes the id of the call once it is committed, if the client wants progress.
        on_progress: takes what the flow reports before its answer, if the client wants it.

    Returns:
        What to call when the client leaves.
    """
    try:
        checked = HeardCallParameters.parse(params)
    except P2pflowsError as error:
        on_outcome(error)
        return lambda: None
    send = _sending(daemon, Type.CALL, checked)
    conversation = checked.conversation
    if not checked.progress:
        return OpenCall(daemon, send, on_outcome, conversation=conversation).stop_waiting
    return OpenCall(
        daemon, send, on_outcome, on_accepted=on_accepted, on_progress=on_progress, conversation=conversation
    ).stop_waiting


async def wait_for_call(daemon: Daemon, send: Callable[[], str], conversation: str = "") -> dict[str, Any]:
    """Make a call, and return its result; arguments as of `OpenCall`.

    Raises:
        P2pflowsError: it was not accepted, or ended in an error.
    """
    outcome: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
    open_call = OpenCall(daemon, send, settle(outcome), conversation=conversation)
    try:
        result = await outcome
        return {**result, "data": json.loads(result["data"])}
    finally:
        open_call.stop_waiting()


async def call(daemon: Daemon, params: HeardCallParameters) -> Any:
    """Call a flow or a human, and wait for the answer.

    With `progress`, JSON Lines say what the flow reports before it. `typed` has
    texts for keys of `data`, which count [where the flow takes texts](PROTOCOL.md#7-messages).

    Returns:
        `id`, `data`, `conversation`
    """
    return await wait_for_call(daemon, _sending(daemon, Type.CALL, params), params.conversation)


async def submit(daemon: Daemon, params: CallParameters) -> Any:
    """Call a flow or a human without waiting for the answer.

    Returns:
        `id`, once it is committed
    """
    return {"id": await daemon.run(_sending(daemon, Type.CALL, params))}


async def send(daemon: Daemon, params: SendParameters) -> Any:
    """Send a message that wants no answer.

    Returns:
        `id`, once it is committed
    """
    return {"id": await daemon.run(_sending(daemon, Type.POST, params))}


async def wait(daemon: Daemon, params: WaitParameters) -> Any:
    """Wait for the end of a message that was sent earlier, or of a question.

    Returns:
        for a question the [question](#questions);
        for a call `id`, `data`, `from` (who answered), `conversation`, `hops` (how it was passed on: `by`,
        `to`, `why`); for a post `id` and `state` `delivered`, once its recipient has stored it
    """
    end: asyncio.Future[tuple[OutgoingState, bytes | None]] = asyncio.get_running_loop().create_future()

    def on_settled(state: OutgoingState, answer: bytes | None) -> None:
        if not end.done():
            end.set_result((state, answer))

    asked = await daemon.read(lambda: daemon.node.questions.find(params.id))
    if asked is not None:
        return await wait_for_question(daemon, asked, params.timeout)
    row = await daemon.read(lambda: daemon.node.messages.wait(params.id, on_settled))
    if row.state not in OPEN_OUTGOING:  # while the journal cannot be written, nobody else says so
        on_settled(OutgoingState(row.state), row.answer)
    try:
        state, answer = await asyncio.wait_for(end, params.timeout)
    except TimeoutError:
        raise DeadlinePassed(f"Message {row.id[-8:]} has no answer yet.", f"Wait on: p2pflows wait {row.id}") from None
    finally:
        daemon.node.waiters.stop(row.id, on_settled)
    data = _answer_data(daemon, state, answer)
    if row.type == Type.POST:
        return {"id": row.id, "state": "delivered"}
    if row.state not in OPEN_OUTGOING:
        if row.answer is None:
            raise BadInput(
                f"The answer to {row.id[-8:]} was given to a program, and is too large to be kept for longer.",
                "Call again, or let `retention` in config.yaml keep `fetched_answers` longer.",
            )
        daemon.submit(lambda: daemon.node.journal.outgoing.mark_fetched(row), lambda _result: None)
    hops = [asdict(hop) for hop in daemon.node.delegations.hops(row.id)]
    by = hops[-1]["to"] if hops else row.peer
    return {"id": row.id, "data": data, "from": by, "conversation": row.conversation, "hops": hops}


async def cancel(daemon: Daemon, params: MessageParameters) -> Any:
    """Withdraw a message or a question that has not ended.

    Returns:
        `id`
    """

    def step() -> str:
        node = daemon.node
        asked = node.questions.find(params.id)
        if asked is None:
            return node.messages.cancel(params.id)
        node.questions.cancel(asked)
        return asked.id

    return {"id": await daemon.run(step)}


async def outbox(daemon: Daemon, params: OutboxParameters) -> Any:
    """List the messages that wait to be confirmed, oldest first, and dead letters; a page of at most 500 of each.

    Returns:
        `pending`: list of `id`, `to`, `name`, `endpoint`, `type`, `created`, `expires`, `attempts`, `state`; `dead`:
        list of `id`, `from`, `name`, `endpoint`, `received`, `attempts`, `error`; `count`: how many `pending` and
        `dead` there are in all
    """
    limit = min(params.limit, MAX_LISTED)
    return await daemon.read(lambda: views.outbox(daemon.node, limit, params.offset))


async def retry(daemon: Daemon, params: MessageParameters) -> Any:
    """Send a failed message again, or run a dead letter again.

    Returns:
        `id` under which it goes on
    """
    return {"id": await daemon.run(lambda: daemon.node.retries.retry(params.id))}


def _sending(daemon: Daemon, kind: Type, params: CallParameters) -> Callable[[], str]:
    """Return the step that accepts a message inside a batch, and returns its id."""

    def step() -> str:
        node = daemon.node
        peer, endpoint = daemon.resolve_address(params.address, node.contacts.known)
        _check_for_human(node, peer, endpoint, params)
        return node.messages.send(
            kind,
            peer,
            endpoint,
            params.data,
            life_ms=int(params.timeout * 1000),
            conversation=params.conversation or None,
            source=params.source[:MAX_SOURCE_CHARS],
            instance=params.instance or None,
            typed=params.typed,
            progress=isinstance(params, HeardCallParameters) and params.progress,
        )

    return step


def _check_for_human(node: Node, peer: str, endpoint: str, params: CallParameters) -> None:
    """Refuse what a human's daemon would refuse, at the endpoint where humans are.

    Raises:
        BadInput: there is no text, or nobody can be shown what the answer must be.
    """
    flow = node.catalog.get(endpoint) if peer == node.user else None
    if endpoint != HUMAN or (flow is not None and flow.kind != "human"):
        return
    data = {**params.data, **params.typed}
    if not data or any(key in data for key in TEXT_KEYS):  # what else a flow there may take is not known
        prompt_text(data)
    if (form := form_of(data)) is not None:
        form.check_own()


def _answer_data(daemon: Daemon, state: OutgoingState, answer: bytes | None) -> Any:
    """Return the data of an answer.

    Raises:
        P2pflowsError: the answer is an error.
    """
    if state is not OutgoingState.DONE:
        raise _error(daemon, answer)
    return json.loads(answer) if answer else {}


def _error(daemon: Daemon, answer: bytes | None) -> P2pflowsError:
    """Return the error in an answer."""
    error = from_peer(json.loads(answer) if answer else {})
    return error.said_by(error.user, daemon.node.name_of(error.user)) if error.user else error
