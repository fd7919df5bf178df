"""From tasks to what travels to their worker."""

from __future__ import annotations

from collections.abc import Callable

from p2pflows.protocol import strict_json, topics
from p2pflows.protocol.instance_tasks import InstanceMessage
from p2pflows.protocol.worker_frames import ClassTarget, ExecTarget, PythonTarget, TaskSpec, TaskTarget
from p2pflowsd.running.authority import Authority
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.effects import Effects
from p2pflowsd.running.instances import Instances
from p2pflowsd.running.reports import Reports
from p2pflowsd.running.task import Task, TaskData
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

    def describe(self, task: Task, *, data: TaskData | None, body: bytes) -> TaskSpec:
        """The task as it travels.

        Args:
            task: the task.
            data: what it runs on, if at hand.
            body: the body of its request; not needed if that is at hand.
        """
        row, flow = task.row, task.flow
        if row.instance is not None:
            trusted = self._authority.is_owners_wish(row)
            message = data if isinstance(data, InstanceMessage) else None
            payload = self._instances.task_payload(row, flow, body, message=message, trusted=trusted)
        else:
            given = data if isinstance(data, dict) else read_typed_body(body, flow.input_schema)["data"]
            payload = strict_json.text_of(given)
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
