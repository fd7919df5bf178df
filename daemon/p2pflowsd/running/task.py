"""Tasks: requests that wait for a worker or run, each with its flow and its dispatch point."""

from __future__ import annotations

from typing import Any, NamedTuple

from p2pflows.protocol.instance_tasks import InstanceMessage
from p2pflowsd.journal.rows import IncomingRow
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.fair_queue import FIRST
from p2pflowsd.running.instances import is_request
from p2pflowsd.running.paces import MAX_WINDOW
from p2pflowsd.running.scheduler import Group

TaskData = dict[str, Any] | InstanceMessage
"""What a task runs on, with typed texts read: the data of a request, or the message for an instance."""
_MAX_DIGITS = 19


class Task(NamedTuple):
    """A request for a worker.

    Attributes:
        row: the request.
        flow: the flow that runs it.
        point: the dispatch point whose workers may run it.
        is_first_run: whether the run mounts its instance. That happens once, so even a parallel flow waits for it.
    """

    row: IncomingRow
    flow: Served
    point: str
    is_first_run: bool = False

    @property
    def id(self) -> str:
        """The id under which workers know the task."""
        return f"{self.row.row_id}-{self.row.id}"

    @property
    def lane(self) -> str:
        """The lane whose tasks run in order: those of one instance, or of one sender to a flow without instances."""
        if self.flow.parallel and not self.is_first_run:
            return self.id
        return f"{self.flow.endpoint}/{self.row.instance or self.row.peer}"

    @property
    def takes_turns(self) -> bool:
        """Whether the task waits until its instance has done with the request before it."""
        return (
            self.row.instance is not None and is_request(self.row) and not (self.flow.parallel or self.flow.interleaved)
        )

    def caller(self, owner: str) -> str:
        """Whose turn it is when the lane gets a slot."""
        return FIRST if self.flow.owner_first and self.row.peer == owner else self.row.peer

    def groups(self, owner: str) -> tuple[Group, ...]:
        """What bounds how many lanes of the endpoint run at once. No limit per caller holds for its owner."""
        of_all, of_each = self.flow.limits, self.flow.limits_per_caller
        if of_all is None and of_each is None:
            return ()
        groups = []
        if of_each is not None and of_each.at_once is not None and self.row.peer != owner:
            groups.append(Group(f"{self.flow.endpoint}/{self.row.peer}", of_each.at_once))
        if of_all is not None and of_all.at_once is not None:
            groups.append(Group(self.flow.endpoint, of_all.at_once))
        return tuple(groups)

    @property
    def window(self) -> int:
        """How many tasks of the lane may be under way at once; the next run of an instance needs this one's state."""
        return MAX_WINDOW if self.row.instance is None else 1


def row_id_of(task_id: str) -> int:
    """The row that the id of a task names, else -1."""
    head = task_id.partition("-")[0]
    return int(head) if head.isascii() and head.isdigit() and len(head) <= _MAX_DIGITS else -1
