"""Runs of instances: calls and steps that are recorded while a run lasts, messages and state that are kept at its end.

A run may call other flows and wait. Each call, and each step, is recorded under its index in the run, so a run that
begins again after its worker died does nothing twice. Messages that a run sends without waiting leave together with
its new state, once it has ended well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from p2pflows.errors import BadInput, CallError, Cancelled, FlowFailed, TooLarge, from_peer, replay_diverged
from p2pflows.protocol import topics
from p2pflows.protocol.asks import (
    Ask,
    AskResult,
    AskStatus,
    Call,
    CallFailed,
    CallReply,
    CancelCall,
    FlowRequest,
    Malformed,
    Recorded,
    Step,
    StepValue,
    Unrecorded,
    read_result,
)
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.instance_tasks import InstanceMessage
from p2pflows.protocol.message import MAX_LIFETIME_MS, Type
from p2pflows.protocol.run_result import CallBack, Mounted, Post, Reply, RunResult, Sent, read_run_result
from p2pflows.protocol.strict_json import compact, dumps
from p2pflowsd.clock import Clock
from p2pflowsd.faults import Faults
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, OutgoingRow, RecordRow
from p2pflowsd.lifecycle import OPEN_OUTGOING, IncomingState, OutgoingState
from p2pflowsd.running.authority import Authority
from p2pflowsd.running.catalog import Catalog, Served
from p2pflowsd.running.effects import MOUNT, POST_LIFETIME_MS, Effects
from p2pflowsd.running.instance_changes import InstanceChanges
from p2pflowsd.running.instances import Instances, is_request, mount_reply, read_change, requested_endpoint
from p2pflowsd.running.leases import Leases
from p2pflowsd.running.origin import AskOrigin, CallBackOrigin, read_origin
from p2pflowsd.running.reports import Reports
from p2pflowsd.running.settlement import Settlement
from p2pflowsd.running.spending import Spending
from p2pflowsd.running.task import Task
from p2pflowsd.running.task_queue import TaskQueue
from p2pflowsd.running.turns import Turns
from p2pflowsd.sending.outbox import Outbox

_ID = re.compile("[0-9a-f]{32}")
"""An id of a message, in a state."""


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
        authority: Authority,
        changes: InstanceChanges,
        leases: Leases,
        queue: TaskQueue,
        effects: Effects,
        settlement: Settlement,
        turns: Turns,
        reports: Reports,
        spending: Spending,
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._faults = faults
        self._outbox = outbox
        self._catalog = catalog
        self._instances = instances
        self._authority = authority
        self._changes = changes
        self._leases = leases
        self._queue = queue
        self._effects = effects
        self._settlement = settlement
        self._turns = turns
        self._reports = reports
        self._spending = spending

    def record(self, row: IncomingRow, ask: Ask) -> AskStatus:
        """Record a call or step of a running task, or withdraw a call.

        Args:
            row: the request that the task runs.
            ask: what its worker asks for.

        Returns:
            What the worker is answered after the commit.
        """
        match ask.content:
            case Malformed():
                return CallFailed(BadInput("The worker cannot send that.", "Bring it up to date.").as_wire())
            case CancelCall(call=call_index):
                self._effects.withdraw(self._journal.records.get(row.row_id, call_index))
                return StepValue()
            case Call() | Step() as content:
                known = self._journal.records.get(row.row_id, ask.call_index)
                if known is None:
                    self._journal.incoming.reset_attempts(row.row_id)
                    if isinstance(content, Step) and content.spent:
                        self._spending.add(row, content.spent)
                    known = (
                        self._step(row, ask.call_index, content)
                        if isinstance(content, Step)
                        else self._call(row, ask.call_index, content)
                    )
                    self._effects.record(known)
                    self._faults.reach("runs.recorded")
                if known.fingerprint != content.fingerprint:
                    return CallFailed(replay_diverged().as_wire())
                return Recorded() if known.value is None else read_result(json.loads(known.value))

    def status_of(self, row: IncomingRow, call_index: int) -> AskStatus:
        """How a call or step stands, of which a running task awaits the result."""
        record = self._journal.records.get(row.row_id, call_index)
        if record is None:
            return Unrecorded()
        return Recorded() if record.value is None else read_result(json.loads(record.value))

    def suspend(self, row: IncomingRow, awaited: Sequence[int]) -> bool:
        """Let a run wait without a worker until one of its asks has a result.

        Args:
            row: the request that it runs.
            awaited: the call indexes of the asks that it waits for.

        Returns:
            False if one of them has a result already.
        """
        if not awaited or not all(isinstance(self.status_of(row, index), Recorded) for index in awaited):
            return False
        self._leases.suspend(row.row_id)
        self._effects.note_suspended(row.row_id)
        return True

    def on_call_settled(self, sent: OutgoingRow, state: OutgoingState, answer: bytes | None) -> None:
        """Pass the end of a message that a run sent on to the run, or run its flow again."""
        if sent.origin is None:
            return  # a post
        result = _result(sent, state, answer)
        match read_origin(sent.origin):
            case AskOrigin(row_id, call_index):
                if not self._journal.records.set_value(row_id, call_index, compact(result.as_json())):
                    return
                if self._leases.is_suspended(row_id):
                    self._leases.resume(row_id)
                    self._effects.note_resumed(row_id)
                else:
                    self._leases.answer_ask(row_id, call_index, result)
            case CallBackOrigin() as origin:
                self._turns.touch(origin.instance)
                self._run_again(sent, origin, result)

    def on_run_finished(self, task: Task, content: dict[str, Any]) -> None:
        """Keep all that a run of an instance, or a mount, leaves behind; nothing if it cannot be kept.

        Args:
            task: the task that has ended well.
            content: the data of its result.
        """
        row, flow = task.row, task.flow
        try:
            self._keep(row, flow, content)
        except CallError as error:
            self._settlement.fail(row, error)
        except ValueError:
            self._settlement.fail(row, FlowFailed(f"The worker of {flow.endpoint!r} sent a result of a wrong form."))
        self._turns.touch(row.instance)
        if flow.parallel and task.is_first_run:
            self._queue.release_waiting(row.instance or "", flow)

    def _keep(self, row: IncomingRow, flow: Served, content: dict[str, Any]) -> None:
        result = read_run_result(content)
        self._check(row, result)
        state = None if result.state is None or flow.parallel else dumps(result.state).decode()
        self._keep_mounted(row, flow, result.mounted, state)
        if row.endpoint == topics.INSTANCES:
            self._changed(row, flow)
            return
        instance = row.instance or ""
        root = row.row_id if is_request(row) else row.root_request
        for sent in result.out:
            if not isinstance(sent, Reply):
                self._send(row, flow, root, sent)
        before = self._journal.instances.get(instance)
        if not flow.parallel and result.mounted is None:
            self._journal.instances.save(instance, state, self._clock.now())
        answered = self._answer(row, result.out)
        self._faults.reach("runs.ended")
        self._effects.settle(row.row_id)
        shared = self._effects.pin_state(instance, root)
        if row.type != Type.CALL:
            self._journal.incoming.move(row.row_id, IncomingState.DONE)
        elif row.row_id not in answered:
            self._journal.incoming.move(row.row_id, IncomingState.AWAITING_REPLY)
            if not shared and before is not None and not flow.parallel:
                earlier = before.state if result.mounted is None else None
                self._effects.keep_state(row.row_id, instance, earlier)
        state_before = "" if before is None or flow.parallel else before.state or ""
        self._fail_unanswerable(instance, flow, root, state_before, state)

    def _fail_unanswerable(
        self, instance: str, flow: Served, root: int | None, state_before: str, state: str | None
    ) -> None:
        """Fail the calls that no later run can answer: the one that a run was for, and those that it has forgotten.

        Args:
            instance: what has run.
            flow: its flow.
            root: the request that the run was made for.
            state_before: the state that it began with.
            state: the new state; None if the run has not changed it.
        """
        gone = FlowFailed(
            f"{flow.endpoint!r} ended without an answer.",
            "Its author should send a reply, or keep the message in flow_state to answer it later.",
        )
        kept = state_before if state is None else state
        if root is not None:
            self._settlement.fail_unanswerable(root, kept, gone)
        if kept is state_before or not self._journal.incoming.unanswered_of(instance):
            return
        for request_id in sorted(set(_ID.findall(state_before)) - set(_ID.findall(kept))):
            for request in self._journal.incoming.open_of(instance, request_id):
                self._settlement.fail_unanswerable(request.row_id, kept, gone)

    def _keep_mounted(self, row: IncomingRow, flow: Served, mounted: Mounted | None, state: str | None) -> None:
        """Keep the instance that a run has mounted; subflows that an abandoned attempt mounted are released.

        Raises:
            CallError: another request has made the instance meanwhile, or there is no room for it.
        """
        if mounted is None:
            self._effects.withdraw_mounts(row.row_id)
            return
        if self._journal.instances.get(row.instance or "") is not None:
            raise FlowFailed("Another request has made the instance meanwhile.", "Send it again.")
        self._authority.check_mounted(row, flow, mounted)
        self._changes.ensure_quota(row, flow)
        self._instances.keep(row, flow, mounted, state)
        self._faults.reach("instances.saved")

    def _check(self, row: IncomingRow, result: RunResult) -> None:
        """See that all that a run sends can be sent.

        Raises:
            CallError: something cannot.
        """
        for sent in result.out:
            if isinstance(sent, FlowRequest):
                try:
                    self._outbox.check(sent.user, sent.endpoint, sent.data)
                except CallError as error:
                    raise _fault_of_flow(error) from None
                self._authority.check_call(row, sent, result.mounted)

    def _changed(self, row: IncomingRow, flow: Served) -> None:
        """Carry out a request for an instance, or to reset one, when its turn comes."""
        self._effects.settle(row.row_id)
        data = self._journal.incoming.data(row.row_id)
        found = self._journal.instances.get(row.instance or "")
        if data["op"] == "reset" and found is not None:
            self._changes.reset(found, recursive=read_change(data).recursive)
            self._settlement.finish(row, {"instance": found.id})
        else:
            self._settlement.finish(row, mount_reply(flow, row.instance))

    def _step(self, row: IncomingRow, call_index: int, step: Step) -> RecordRow:
        value = compact(StepValue(step.value).as_json())
        return RecordRow(row.row_id, call_index, "step", step.fingerprint, None, value)

    def _call(self, row: IncomingRow, call_index: int, call: Call) -> RecordRow:
        """Send a call, unless an earlier attempt has sent it, and return the record of it."""
        mounts = call.endpoint == topics.INSTANCES and row.instance is not None
        kind = MOUNT if mounts and self._journal.instances.get(row.instance or "") is None else "call"
        message_id = derived_id("call", self._user, row.peer, row.id, call_index)
        sent_id: str | None = message_id
        result: AskResult | None = None
        sent = self._journal.outgoing.find(message_id)
        if sent is None:
            try:
                self._authority.check_call(row, call, None)
                is_declared = mounts and self._authority.declares(row, call)
                origin = AskOrigin(row.row_id, call_index, is_declared, self._passes_progress(row, call))
                self._accept(Type.CALL, row, call, origin=origin, message_id=message_id)
            except CallError as error:
                sent_id, result = None, CallFailed(_fault_of_flow(error).as_wire())
        elif sent.state not in OPEN_OUTGOING:  # a dead letter runs again
            result = _result(sent, OutgoingState(sent.state), sent.answer)
        value = None if result is None else compact(result.as_json())
        return RecordRow(row.row_id, call_index, kind, call.fingerprint, sent_id, value)

    def _send(self, row: IncomingRow, flow: Served, root: int | None, sent: Post | CallBack) -> None:
        if isinstance(sent, Post):
            self._accept(Type.POST, row, sent, origin=None)
            return
        passes_progress = self._passes_progress(row, sent)
        origin = CallBackOrigin(row.instance or "", flow.endpoint, root, sent.subflow, sent.packaged, passes_progress)
        self._accept(Type.CALL, row, sent, origin=origin)

    def _accept(
        self,
        kind: Type,
        row: IncomingRow,
        sent: FlowRequest,
        *,
        origin: AskOrigin | CallBackOrigin | None,
        message_id: str | None = None,
    ) -> None:
        self._outbox.accept(
            kind,
            sent.user,
            sent.endpoint,
            sent.data,
            expires=self._deadline(row, sent.timeout) if kind is Type.CALL else self._clock.now() + POST_LIFETIME_MS,
            conversation=self._conversation(row, sent.instance),
            source=sent.source,
            flow=self._sender(row),
            message_id=message_id,
            instance=sent.instance,
            origin=None if origin is None else origin.to_json(),
            progress=origin is not None and origin.passes_progress,
        )
        self._journal.count("accepted")

    def _passes_progress(self, row: IncomingRow, sent: FlowRequest) -> bool:
        return sent.progress and self._reports.listener(row) is not None

    def _sender(self, row: IncomingRow) -> str:
        """The flow that a request runs, with its dispatch point: as this daemon knows them, not as its worker says."""
        flow = self._catalog.get(requested_endpoint(self._journal, row))
        return "" if flow is None else f"{flow.endpoint}@{flow.dispatch_point}"

    def _conversation(self, row: IncomingRow, instance: str | None) -> str:
        """The conversation of a message that a run sends: that of its request, or one derived from it.

        The sender of the request chose the id of its conversation. A message without an instance reaches the instance
        of its conversation, so with another user's id as it is, they could choose among the instances that are ours.
        """
        root = row if row.root_request is None else self._journal.incoming.get(row.root_request)
        if root is None or root.peer == self._user or instance is not None:
            return row.conversation
        return derived_id("conversation for", root.peer, root.conversation)

    def _deadline(self, row: IncomingRow, timeout: float | None) -> int:
        """When a call expires: after its timeout, else together with the request that it is made for."""
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

    def _answer(self, row: IncomingRow, out: list[Sent]) -> set[int]:
        """Answer requests of an instance, of this run or earlier ones; the first answer counts."""
        answered: set[int] = set()
        for reply in out:
            request = self._answerable(row, reply.request) if isinstance(reply, Reply) else None
            if isinstance(reply, Reply) and request is not None and request.row_id not in answered:
                answered.add(request.row_id)
                self._effects.settle(request.row_id)  # also for an error: the flow chose that answer
                if reply.error is None:
                    self._settlement.finish(request, reply.data)
                else:
                    self._settlement.fail(request, from_peer(reply.error.as_json()))
        return answered

    def _answerable(self, row: IncomingRow, request_id: str) -> IncomingRow | None:
        """The call with an id that a run may answer: its own, or one that an earlier run left open.

        Senders choose the ids of their messages, so a call with the same id that no run has seen is not meant.
        """
        if request_id == row.id and row.type == Type.CALL:
            state = self._journal.incoming.state(row.row_id)
            if state in (IncomingState.READY, IncomingState.AWAITING_REPLY):
                return row
        found = self._journal.incoming.open_of(row.instance or "", request_id)
        calls = [request for request in found if request.type == Type.CALL]
        own = [request for request in calls if request.row_id == row.row_id]
        kept = [request for request in calls if request.state == IncomingState.AWAITING_REPLY]
        return next(iter(own + kept), None)

    def _run_again(self, sent: OutgoingRow, origin: CallBackOrigin, result: CallReply | CallFailed) -> None:
        """Run an instance on the answer to a call that an earlier run of it made."""
        flow = self._catalog.get(origin.endpoint)
        if flow is None or self._journal.instances.get(origin.instance) is None:
            return  # it was deleted, which ended the requests that waited for it
        message = InstanceMessage(
            data=result.data if isinstance(result, CallReply) else {},
            source=sent.endpoint,
            error=result.error if isinstance(result, CallFailed) else None,
            subflow=origin.subflow,
            packaged=origin.packaged,
        )
        now = self._clock.now()
        row = self._journal.incoming.add_answer(
            derived_id("answer", sent.id),
            peer=sent.peer,
            kind=Type.REPLY if isinstance(result, CallReply) else Type.ERROR,
            endpoint=flow.endpoint,
            conversation=sent.conversation,
            body=dumps(message.as_json()),
            now=now,
            expires=now + MAX_LIFETIME_MS,
            instance=origin.instance,
            root_request=origin.root_request,
        )
        if row is not None:
            self._queue.add_run(row, flow)


def _fault_of_flow(error: CallError) -> CallError:
    """Return why a run cannot send something, so that its caller does not take it for a fault of what they sent."""
    if not isinstance(error, BadInput | TooLarge):
        return error
    return FlowFailed(
        f"What the flow sends cannot be sent. {error.message}", "Its author can let it send something else."
    )


def _result(sent: OutgoingRow, state: OutgoingState, answer: bytes | None) -> CallReply | CallFailed:
    content = json.loads(answer) if answer else {}
    if state is OutgoingState.DONE:
        return CallReply(sent.id, sent.peer, content)
    return CallFailed(content or Cancelled("It was withdrawn.").as_wire(), sent.id, sent.peer)
