"""Runs of instances: calls and steps that are recorded while a run lasts, messages and state that are kept at its end.

A run may call other flows and wait. Each call, and each step, is recorded under its index in the run, so a run that
begins again after its worker died does nothing twice. Messages that a run sends without waiting leave together with
its new state, once it has ended well.
"""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from p2pflows.errors import CallError, Cancelled, FlowFailed, NotAllowed, from_peer, ran_differently
from p2pflows.protocol import topics
from p2pflows.protocol.message import MAX_LIFETIME_MS, MessageId, Name, Type, UserId, derived_id
from p2pflows.protocol.strict_json import compact, dumps
from p2pflowsd.clock import Clock
from p2pflowsd.faults import Faults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, OutgoingRow, RecordRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, IncomingState, OutgoingState
from p2pflowsd.running.catalog import Catalog, Served
from p2pflowsd.running.effects import MOUNT, POST_LIFETIME_MS, Effects
from p2pflowsd.running.instance_changes import InstanceChanges
from p2pflowsd.running.instances import Instances, Mounted, is_request, mount_reply, read_change
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.running.task_queue import TaskQueue
from p2pflowsd.sending.outbox import Outbox

MAX_RECORDS = 10_000
"""Calls and steps of one run."""

_Label = Annotated[str, StringConstraints(max_length=200)]
_Seconds = Annotated[float, Field(gt=0, le=30 * 24 * 3600)]


class _Form(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)


class _Ask(_Form):
    """Something that a running task wants to have kept."""

    call_index: Annotated[int, Field(alias="k", ge=0, lt=MAX_RECORDS)]
    fingerprint: Annotated[_Label, Field(alias="mark")]
    """Tells whether a run that begins again asks for the same."""


class _Step(_Ask):
    op: Literal["step"]
    value: Any


class _Send(_Form):
    user: UserId
    endpoint: Name
    instance: MessageId | None = None
    data: dict[str, Any]
    source: Annotated[str, StringConstraints(max_length=64)] = ""
    timeout: _Seconds | None = None


class _Call(_Ask, _Send):
    op: Literal["call"]


class _Cancel(_Form):
    op: Literal["cancel"]
    call_index: Annotated[int, Field(alias="k", ge=-MAX_RECORDS, lt=0)]
    call: Annotated[int, Field(ge=0, lt=MAX_RECORDS)]
    """The number of the call that is withdrawn."""


class _Post(_Send):
    op: Literal["post"]


class _CallBack(_Send):
    op: Literal["call_back"]
    subflow: _Label
    packaged: _Label


class _Error(_Form):
    kind: _Label
    message: str
    hint: str = ""


class _Reply(_Form):
    op: Literal["reply"]
    request: MessageId
    data: dict[str, Any]
    error: _Error | None = None
    """Why there is no answer, in place of the data."""


class _RunResult(_Form):
    """How a run of an instance ended."""

    out: list[Annotated[_Post | _CallBack | _Reply, Field(discriminator="op")]] = []
    state: dict[str, Any] | None = None
    mounted: Mounted | None = None


class _AskFrame(_Form):
    ask: Annotated[_Step | _Call | _Cancel, Field(discriminator="op")]


class Runs:
    """The runs of one daemon."""

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        faults: Faults,
        outbox: Outbox,
        catalog: Catalog,
        instances: Instances,
        changes: InstanceChanges,
        leases: Leases,
        queue: TaskQueue,
        effects: Effects,
        settlement: Settlement,
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._faults = faults
        self._outbox = outbox
        self._catalog = catalog
        self._instances = instances
        self._changes = changes
        self._leases = leases
        self._queue = queue
        self._effects = effects
        self._settlement = settlement

    def asked(self, row: IncomingRow, content: Any) -> tuple[int, dict[str, Any]]:
        """Record a call or step of a running task, or withdraw one.

        Args:
            row: the request that the task runs.
            content: what its worker asks for, as it stands in the frame.

        Returns:
            The index of the call or step, and what its worker gets to know of it after the commit.

        Raises:
            ValueError: the content is nothing that a task can ask.
        """
        ask = _AskFrame.model_validate({"ask": content}).ask
        if isinstance(ask, _Cancel):
            self._effects.withdraw(self._journal.records.get(row.row_id, ask.call))
            return ask.call_index, {"value": None}
        known = self._journal.records.get(row.row_id, ask.call_index)
        if known is None:
            self._journal.incoming.reset_attempts(row.row_id)
            known = self._step(row, ask) if isinstance(ask, _Step) else self._call(row, ask)
            self._effects.record(known)
            self._faults.reach("runs.recorded")
        if known.fingerprint != ask.fingerprint:
            return ask.call_index, {"error": ran_differently().as_told()}
        return ask.call_index, {"kept": True} if known.value is None else json.loads(known.value)

    def awaited(self, row: IncomingRow, call_index: int) -> dict[str, Any] | None:
        """What a worker gets to know of a call that it still waits for; None while the call is open."""
        record = self._journal.records.get(row.row_id, call_index)
        if record is None:
            return {"unknown": True}
        return None if record.value is None else json.loads(record.value)

    def on_call_settled(self, sent: OutgoingRow, state: OutgoingState, answer: bytes | None) -> None:
        """Pass the end of a message that a run sent on to the run, or run its flow again."""
        origin = json.loads(sent.origin or "{}")
        outcome = _outcome(sent, state, answer)
        if "k" in origin:
            if self._journal.records.set_value(origin["n"], origin["k"], compact(outcome)):
                # Unlike a peer's answer, an end of our own making does not come again if a crash forgets it.
                comes_again = state in (OutgoingState.DONE, OutgoingState.FAILED)
                self._leases.tell(origin["n"], origin["k"], outcome, after_commit=not comes_again)
        elif sent.type == Type.CALL or state is not OutgoingState.DONE:
            self._run_again(sent, origin, outcome)

    def on_run_finished(self, row: IncomingRow, flow: Served, content: dict[str, Any]) -> None:
        """Keep all that a run of an instance, or a mount, leaves behind; nothing if it cannot be kept.

        Args:
            row: the request that was run.
            flow: the flow that ran.
            content: the result, as it stands in the worker's frame.
        """
        try:
            self._keep(row, flow, content)
        except CallError as error:
            self._settlement.fail(row, error)
        except ValueError:
            self._settlement.fail(row, FlowFailed(f"The worker of {flow.endpoint!r} sent a result of a wrong form."))
        if flow.parallel and flow.first:
            self._queue.release_waiting(row.instance or "", flow)

    def _keep(self, row: IncomingRow, flow: Served, content: dict[str, Any]) -> None:
        result = _RunResult.model_validate(content)
        self._check(row, result)
        self._keep_mounted(row, flow, result.mounted)
        if row.endpoint == topics.INSTANCES:
            self._changed(row, flow)
            return
        instance = row.instance or ""
        root = row.row_id if is_request(row) else row.root_request
        for sent in result.out:
            if not isinstance(sent, _Reply):
                self._send(row, flow, root, sent)
        before = self._journal.instances.get(instance)
        if not flow.parallel:
            self._journal.instances.save(
                instance, None if result.state is None else compact(result.state), self._clock.now()
            )
        answered = self._answer(row, result.out)
        self._faults.reach("runs.ended")
        self._effects.settle(row.row_id)
        shared = self._effects.pin_state(instance, root)
        if row.type != Type.CALL:
            self._journal.incoming.move(row.row_id, IncomingState.DONE)
        elif row.row_id not in answered:
            self._journal.incoming.move(row.row_id, IncomingState.AWAITING_REPLY)
            if not shared and before is not None and not flow.parallel:
                self._effects.keep_state(row.row_id, instance, before.state)

    def _keep_mounted(self, row: IncomingRow, flow: Served, mounted: Mounted | None) -> None:
        """Keep the instance that a run has mounted; subflows that an abandoned attempt mounted are released.

        Raises:
            CallError: another request has made the instance meanwhile, or there is no room for it.
        """
        if mounted is None:
            self._effects.withdraw_mounts(row.row_id)
            return
        if self._journal.instances.get(row.instance or "") is not None:
            raise FlowFailed("Another request has made the instance meanwhile.", "Send it again.")
        self._changes.ensure_quota(row, flow)
        self._instances.keep(row, flow, mounted)
        self._faults.reach("instances.kept")

    def _check(self, row: IncomingRow, result: _RunResult) -> None:
        """See that all that a run sends can be sent.

        Raises:
            CallError: something cannot.
        """
        for sent in result.out:
            if isinstance(sent, _Send):
                self._outbox.check(sent.user, sent.endpoint, sent.data)
                self._check_order(row, sent, result.mounted)

    def _changed(self, row: IncomingRow, flow: Served) -> None:
        """A request for an instance, or to reset one, has had its result."""
        self._effects.settle(row.row_id)
        data = self._journal.incoming.data(row.row_id)
        found = self._journal.instances.get(row.instance or "")
        if data["op"] == "reset" and found is not None:
            self._changes.reset(found, recursive=read_change(data).recursive)
            self._settlement.finish(row, {"instance": found.id})
        else:
            self._settlement.finish(row, mount_reply(flow, row.instance))

    def _step(self, row: IncomingRow, step: _Step) -> RecordRow:
        return RecordRow(row.row_id, step.call_index, "step", step.fingerprint, None, compact({"value": step.value}))

    def _call(self, row: IncomingRow, call: _Call) -> RecordRow:
        message_id = derived_id("call", self._user, row.peer, row.id, call.call_index)
        mounts = call.endpoint == topics.INSTANCES and row.instance is not None
        kind = MOUNT if mounts and self._journal.instances.get(row.instance or "") is None else "call"
        sent = self._journal.outgoing.find(message_id)
        if sent is not None:  # a dead letter runs again
            value = (
                None if sent.state in OPEN_OUTGOING else compact(_outcome(sent, OutgoingState(sent.state), sent.answer))
            )
            return RecordRow(row.row_id, call.call_index, kind, call.fingerprint, message_id, value)
        try:
            self._check_order(row, call, None)
            self._accept(Type.CALL, row, call, origin={"n": row.row_id, "k": call.call_index}, message_id=message_id)
        except CallError as error:
            return RecordRow(
                row.row_id, call.call_index, kind, call.fingerprint, None, compact({"error": error.as_told()})
            )
        return RecordRow(row.row_id, call.call_index, kind, call.fingerprint, message_id, None)

    def _check_order(self, row: IncomingRow, sent: _Send, mounted: Mounted | None) -> None:
        """See that a run, which speaks in its owner's name, orders of daemons no more than its flow is for.

        Raises:
            NotAllowed: it wants something done with an instance that is no subflow of its own.
        """
        if sent.endpoint != topics.INSTANCES or sent.data.get("op") == "mount":
            return
        known = self._journal.instances.get(row.instance or "")
        fresh = [] if mounted is None else list(mounted.subflows.values())
        parts = fresh if known is None else self._instances.subflows(known)
        whom = (sent.user, sent.data.get("instance"))
        if sent.data.get("op") != "reset" or whom not in [(part.user, part.instance) for part in parts]:
            raise NotAllowed("A flow gets instances, and resets its own subflows; no more.", "Let its owner do it.")

    def _send(self, row: IncomingRow, flow: Served, root: int | None, sent: _Post | _CallBack) -> None:
        if isinstance(sent, _Post):
            self._accept(Type.POST, row, sent, origin=None)
            return
        origin = {
            "instance": row.instance,
            "endpoint": flow.endpoint,
            "root": root,
            "subflow": sent.subflow,
            "packaged": sent.packaged,
        }
        self._accept(Type.CALL, row, sent, origin=origin)

    def _accept(
        self, kind: Type, row: IncomingRow, sent: _Send, *, origin: dict[str, Any] | None, message_id: str | None = None
    ) -> None:
        self._outbox.accept(
            kind,
            sent.user,
            sent.endpoint,
            sent.data,
            expires=self._deadline(row, sent.timeout) if kind is Type.CALL else self._clock.now() + POST_LIFETIME_MS,
            conversation=self._conversation(row, sent.instance),
            source=sent.source,
            message_id=message_id,
            instance=sent.instance,
            origin=None if origin is None else compact(origin),
        )
        self._journal.count("accepted")

    def _conversation(self, row: IncomingRow, instance: str | None) -> str:
        """The conversation of a message that a run sends: that of its request.

        Its sender has chosen that id. Where no instance is named it picks one, so somebody else's is made our own
        first: else they could have our flow speak in a conversation of ours.
        """
        root = row if row.root_request is None else self._journal.incoming.get(row.root_request)
        if root is None or root.peer == self._user or instance is not None:
            return row.conversation
        return derived_id("conversation for", root.peer, root.conversation)

    def _deadline(self, row: IncomingRow, timeout: float | None) -> int:
        """A call need not outlive the one for which it is made."""
        now = self._clock.now()
        if timeout is not None:
            return now + max(1, int(timeout * 1000))
        root = row if row.root_request is None else self._journal.incoming.get(row.root_request)
        waits = (
            root is not None
            and root.type == Type.CALL
            and root.state in (IncomingState.READY, IncomingState.AWAITING_REPLY)
        )
        return root.expires if waits and root is not None else now + POST_LIFETIME_MS

    def _answer(self, row: IncomingRow, out: list[_Post | _CallBack | _Reply]) -> set[int]:
        """Answer requests of an instance, of this run or earlier ones; the first answer counts."""
        answered: set[int] = set()
        for reply in out:
            request = self._answerable(row, reply.request) if isinstance(reply, _Reply) else None
            if isinstance(reply, _Reply) and request is not None and request.row_id not in answered:
                answered.add(request.row_id)
                self._effects.settle(request.row_id)  # also for an error: the flow chose that answer
                if reply.error is None:
                    self._settlement.finish(request, reply.data)
                else:
                    self._settlement.fail(request, from_peer(reply.error.model_dump()))
        return answered

    def _answerable(self, row: IncomingRow, request_id: str) -> IncomingRow | None:
        """The call with an id that a run may answer: its own, or one that an earlier run of its instance kept.

        Ids are their senders' choice: another sender's call of the same id, or one that no run has seen, is not meant.
        """
        found = self._journal.incoming.open_of(row.instance or "", request_id)
        calls = [request for request in found if request.type == Type.CALL]
        own = [request for request in calls if request.row_id == row.row_id]
        kept = [request for request in calls if request.state == IncomingState.AWAITING_REPLY]
        return next(iter(own + kept), None)

    def _run_again(self, sent: OutgoingRow, origin: dict[str, Any], outcome: dict[str, Any]) -> None:
        """An answer came for an instance: it is a message for its next run."""
        flow = self._catalog.get(origin["endpoint"])
        if flow is None or self._journal.instances.get(origin["instance"]) is None:
            return  # the instance was deleted, and its open requests have failed
        body = {
            "data": outcome.get("data", {}),
            "error": outcome.get("error"),
            "subflow": origin["subflow"],
            "packaged": origin["packaged"],
            "source": sent.endpoint,
        }
        now = self._clock.now()
        row = self._journal.incoming.add_answer(
            derived_id("answer", sent.id),
            peer=sent.peer,
            kind=Type.REPLY if outcome.get("error") is None else Type.ERROR,
            endpoint=flow.endpoint,
            conversation=sent.conversation,
            body=dumps(body),
            now=now,
            expires=now + MAX_LIFETIME_MS,
            instance=origin["instance"],
            root_request=origin["root"],
        )
        if row is not None:
            self._queue.add_run(row, flow)


def _outcome(sent: OutgoingRow, state: OutgoingState, answer: bytes | None) -> dict[str, Any]:
    content = json.loads(answer) if answer else {}
    if state is OutgoingState.DONE:
        return {"id": sent.id, "from": sent.peer, "data": content}
    return {"id": sent.id, "from": sent.peer, "error": content or Cancelled("It was withdrawn.").as_told()}
