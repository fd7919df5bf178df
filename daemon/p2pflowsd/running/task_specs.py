"""From tasks to what travels to their worker."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.worker_frames import ClassTarget, ExecTarget, PythonTarget, TaskSpec, TaskTarget
from p2pflowsd.running.authority import Authority
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.effects import Effects
from p2pflowsd.running.instances import Instances
from p2pflowsd.running.reports import Reports
from p2pflowsd.running.task import Task
from p2pflowsd.running.typed_texts import read_typed_body


class TaskSpecs:
    """Describes tasks to workers."""

    def __init__(
        self,
        *,
        effects: Effects,
        instances: Instances,
        authority: Authority,
        reports: Reports,
        name_of: Callable[[str], str | None],
    ) -> None:
        self._effects = effects
        self._instances = instances
        self._authority = authority
        self._reports = reports
        self._name_of = name_of

    def describe(self, task: Task, *, data: dict[str, Any] | None, body: bytes) -> TaskSpec:
        """The task as it travels.

        Args:
            task: the task.
            data: the data of its request, with typed texts read, if at hand.
            body: the body of its request; not needed for a flow without instances whose data is at hand.
        """
        row, flow = task.row, task.flow
        if row.instance is not None:
            trusted = self._authority.is_owners_wish(row)
            payload = self._instances.task_payload(row, flow, body, trusted=trusted)
        else:
            payload = strict_json.text_of(read_typed_body(body, flow.input_schema)["data"] if data is None else data)
        return TaskSpec(
            id=task.id,
            op="mount" if row.endpoint == topics.INSTANCES else "run",
            lane=task.lane,
            endpoint=flow.endpoint,
            revision=flow.revision,
            target=target_of(flow),
            sender=row.peer,
            sender_name=self._name_of(row.peer) or "",
            conversation=row.conversation,
            message=row.id,
            expires=row.expires,
            attempt=row.attempts + 1,
            records=self._effects.records(row.row_id),
            data=payload,
            progress=self._reports.listener(row) is not None,
        )


def target_of(flow: Served) -> TaskTarget:
    """What a worker has to load for a flow."""
    match flow.kind:
        case "exec":
            return ExecTarget(flow.target, flow.cwd, flow.errors)
        case "class":
            return ClassTarget(flow.target, flow.cwd, flow.config)
        case _:
            return PythonTarget(flow.target, flow.cwd)
