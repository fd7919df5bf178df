"""Instances: mounted flows, who may use them, and what a worker needs to run one.

An instance belongs to the user who asked for it, its *client*. Its id is derived from the mount request, from the
conversation that began without an instance, or from the endpoint of a singleton, so the same request finds the same
instance again.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Collection, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from p2pflows.contacts import Book
from p2pflows.errors import BadInput, NotAllowed, NotServed
from p2pflows.flows.config import SUBFLOWS, merge, users_in
from p2pflows.protocol import topics
from p2pflows.protocol.ids import derived_id
from p2pflows.protocol.instance_tasks import InstanceMessage, MountPlan, StoredInstance, write_instance_task
from p2pflows.protocol.message import ANSWERS, Message, MessageId, Name, UserId
from p2pflows.protocol.run_result import Mounted, Subflow, read_subflow
from p2pflows.protocol.strict_json import compact, dumps
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import IncomingRow, InstanceRow
from p2pflowsd.running.catalog import Served
from p2pflowsd.running.typed_texts import read_typed_body

MAX_MOUNT_DEPTH = 16
"""Most levels of subflows below one flow."""
IDLE_AFTER_MS = 30 * 24 * 3_600_000
"""How long the instance of a conversation outlives its last message: no message of it lives longer."""
MAX_PER_CLIENT = 1_000
"""Instances of one flow that one contact may have."""
MAX_PER_STRANGER = 20
"""Instances of one flow that one stranger may have."""
MAX_OF_STRANGERS = 1_000
"""Instances of one flow that all strangers together may have."""
_MAX_ROWS_READ = 20
_LABELS = {"name", "description"}


class Mount(BaseModel):
    """A request for an instance, as it came over the wire."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    op: Literal["mount"]
    endpoint: Name
    config_overrides: dict[str, Any] = {}
    initial_state: dict[str, Any] | None = None
    dispatch_point: Name | None = None
    path: Annotated[list[tuple[UserId, Name]], Field(max_length=MAX_MOUNT_DEPTH)] = []
    """The flows above it in the tree that is being mounted."""


class Change(BaseModel):
    """A request to delete or reset an instance."""

    model_config = ConfigDict(frozen=True, extra="ignore", strict=True)

    op: Literal["delete", "reset"]
    instance: MessageId
    recursive: bool = True


class Instances:
    """The instances of one user's flows."""

    def __init__(self, *, user: str, journal: Journal, clock: Clock) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock

    def find(self, row: IncomingRow, message: Message, flow: Served) -> str:
        """The id of the instance that a request is for, whether it exists yet or not.

        Raises:
            NotAllowed: the instance is somebody else's, or there is none.
            NotServed: only instances that exist can be used, and this is none.
            BadInput: somebody else's request with the same id waits for it.
        """
        if message.instance is not None:
            found = self._journal.instances.get(message.instance)
            if found is None or not _is_for(found, row.peer, row.endpoint, flow):
                raise NotAllowed(
                    f"You have no instance {message.instance[:8]}… of {row.endpoint!r}.",
                    "Get one of your own with: p2pflows mount ADDRESS",
                )
            if flow.singleton:
                self._check_id(row, found.id)
            return found.id
        instance = (
            self.singleton(flow.endpoint)
            if flow.singleton
            else derived_id("conversation", self._user, flow.endpoint, row.peer, row.conversation)
        )
        if flow.closed and self._journal.instances.get(instance) is None:
            raise NotServed(f"{flow.endpoint!r} is not served any more.")
        if flow.singleton:
            self._check_id(row, instance)
        return instance

    def singleton(self, endpoint: str) -> str:
        """The id of the only instance of a singleton."""
        return derived_id("singleton", self._user, endpoint)

    def asked_for(self, row: IncomingRow, flow: Served) -> str:
        """The id of the instance that a mount request gets."""
        return self.singleton(flow.endpoint) if flow.singleton else derived_id("mount", row.peer, row.id)

    def task_payload(
        self, row: IncomingRow, flow: Served, body: bytes, *, message: InstanceMessage | None = None, trusted: bool
    ) -> bytes:
        """The data of a task that mounts an instance, or runs it on a request.

        Args:
            row: the request.
            flow: its flow.
            body: the body of the request; not needed if its message is at hand.
            message: what the instance runs on, if at hand.
            trusted: whether the request speaks for the owner of the flow.
        """
        instance = row.instance or ""
        found = self._journal.instances.get(instance)
        if row.endpoint == topics.INSTANCES:
            request = json.loads(body)["data"]
            mount = None if found is not None else self._plan(_mount_in(request), flow, trusted=trusted)
            return write_instance_task(instance, row.type, mount=mount)
        if message is None:
            message = InstanceMessage.read(read_typed_body(body, flow.input_schema))
        if found is None:
            mount = self._plan(None, flow, trusted=trusted)
            return write_instance_task(instance, row.type, message=message, mount=mount)
        state = found.initial if flow.parallel else found.state or found.initial
        stored = StoredInstance(found.config, found.subflows, state or "null")
        return write_instance_task(instance, row.type, message=message, stored=stored)

    def keep(self, row: IncomingRow, flow: Served, mounted: Mounted, state: str | None) -> None:
        """Store an instance that a worker has mounted, and the state that its first run has left."""
        assert row.instance is not None  # noqa: S101 - given when the request was admitted
        mount = self._mount_of(row)
        subflows = {key: part.as_json() for key, part in mounted.subflows.items()}
        now = self._clock.now()
        kept = InstanceRow(
            row.instance,
            flow.endpoint,
            self._user if flow.singleton else row.peer,
            0 if mount is None else 1,
            dumps(mounted.config).decode(),
            dumps(subflows).decode(),
            None if mount is None or mount.initial_state is None else compact(mount.initial_state),
            state,
            None if mount is None else mount.dispatch_point,
            now,
            now,
        )
        self._journal.instances.add(kept)

    def change(self, peer: str, change: Change) -> InstanceRow:
        """Find the instance that a request to delete or reset names.

        Raises:
            NotAllowed: it is somebody else's, or there is none.
        """
        found = self._journal.instances.get(change.instance)
        if found is None or peer not in (found.client, self._user):
            raise NotAllowed(f"You have no instance {change.instance[:8]}….", "See: p2pflows instances")
        return found

    def parts(self, row: InstanceRow) -> list[Subflow]:
        """The subflow instances that were mounted for an instance alone."""
        return [part for part in self.subflows(row) if part.instance is not None and not part.shared]

    def subflows(self, row: InstanceRow) -> list[Subflow]:
        """All subflows of an instance."""
        return [read_subflow(part) for part in json.loads(row.subflows).values()]

    def check_circle(self, row: InstanceRow, path: Collection[tuple[str, str]]) -> None:
        """Check that no flow above an existing instance is also below it, as far as its tree is on this machine.

        Raises:
            BadInput: a flow above is also below it.
        """
        below, seen = [row], {row.id}
        while below:
            each = below.pop()
            for part in self.subflows(each):
                if (part.user, part.endpoint) in path:
                    raise _circle([part.endpoint, "...", row.endpoint, each.endpoint, part.endpoint])
                found = None if part.instance in (None, *seen) else self._journal.instances.get(part.instance or "")
                if found is not None:
                    seen.add(found.id)
                    below.append(found)

    def show(self, row: InstanceRow) -> dict[str, Any]:
        """An instance as its owner and its client see it; config and state stay with the owner's daemon."""
        return {
            "instance": row.id,
            "endpoint": row.endpoint,
            "client": row.client,
            "subflows": {
                key: {name: part.get(name) for name in ("user", "endpoint", "instance")}
                for key, part in json.loads(row.subflows).items()
            },
            "created": row.created,
            "used": row.used,
            "open": len(self._journal.incoming.open_of(row.id)),
        }

    def idle(self, limit: int) -> list[InstanceRow]:
        """Some instances that no message can come for any more."""
        return self._journal.instances.idle(self._clock.now() - IDLE_AFTER_MS, limit)

    def find_evictable(self, client: str, flow: Served, book: Book) -> str | None:
        """The id of the instance that has to go so that a client may have another; None if there is room.

        Raises:
            NotAllowed: there is no room, and each of theirs is one that they asked for, or in use.
        """
        if client == self._user or flow.singleton:
            return None
        table, stranger = self._journal.instances, client not in book.by_user
        if table.count(flow.endpoint, client) < (MAX_PER_STRANGER if stranger else MAX_PER_CLIENT):
            if stranger and self._of_strangers(flow.endpoint, book) >= MAX_OF_STRANGERS:
                raise NotAllowed(f"Too many people have instances of {flow.endpoint!r}.", "Ask its owner to allow you.")
            return None
        for idle in table.oldest_conversations(flow.endpoint, client, _MAX_ROWS_READ):
            if not self._journal.incoming.open_of(idle):
                return idle
        raise NotAllowed(
            f"You have as many instances of {flow.endpoint!r} as one may have.",
            "Delete some of them: p2pflows unmount INSTANCE --of CONTACT",
        )

    def _of_strangers(self, endpoint: str, book: Book) -> int:
        counts = self._journal.instances.counts(endpoint)
        return sum(count for client, count in counts.items() if client != self._user and client not in book.by_user)

    def _check_id(self, row: IncomingRow, instance: str) -> None:
        """Check that a run cannot confuse two requests: senders choose the ids."""
        others = self._journal.incoming.open_of(instance, row.id)
        if any(other.peer != row.peer for other in others):
            raise BadInput("Another request has the same id.", "Send it again under an id of its own.")

    def _plan(self, mount: Mount | None, flow: Served, *, trusted: bool) -> MountPlan:
        """How to make an instance that a client asks for, or, without a mount request, that of a conversation."""
        return MountPlan(
            config=merge(flow.config, {SUBFLOWS: users}) if (users := users_in(flow.subflows)) else flow.config,
            overrides={} if mount is None else mount.config_overrides,
            state=None if mount is None else mount.initial_state,
            trusted=trusted,
            path=[*(() if mount is None else mount.path), (self._user, flow.endpoint)],
        )

    def _mount_of(self, row: IncomingRow) -> Mount | None:
        if row.endpoint != topics.INSTANCES:
            return None
        return _mount_in(self._journal.incoming.data(row.row_id))


def read_mount(data: dict[str, Any], me: str) -> Mount:
    """The mount request in a message's data.

    Raises:
        BadInput: the data is no mount request, or its tree has a cycle or too many levels.
    """
    if isinstance(data.get("path"), list) and len(data["path"]) >= MAX_MOUNT_DEPTH:
        raise BadInput(f"The subflows are nested deeper than {MAX_MOUNT_DEPTH} levels.", "Nest them less.")
    try:
        mount = _mount_in(data)
    except ValueError as error:
        raise BadInput(
            "That is no request for an instance.", "See Instances in the specification of the protocol."
        ) from error
    if (me, mount.endpoint) in mount.path:
        above = [endpoint for _, endpoint in mount.path[mount.path.index((me, mount.endpoint)) :]]
        raise _circle([*above, mount.endpoint])
    return mount


def read_change(data: dict[str, Any]) -> Change:
    """The request to delete or reset in a message's data.

    Raises:
        BadInput: the data is neither a request to delete nor one to reset an instance.
    """
    try:
        return Change.model_validate(data)
    except ValidationError as error:
        raise BadInput(
            "That is no request about an instance.", "See Instances in the specification of the protocol."
        ) from error


def check_stateless(mount: Mount) -> None:
    """Check that a mount of a flow without state sets neither config nor state.

    Raises:
        BadInput: it sets one of them.
    """
    if mount.initial_state is not None or set(mount.config_overrides) - _LABELS:
        raise BadInput(f"{mount.endpoint!r} has neither config nor state.", "Ask for it without overrides.")


def is_request(row: IncomingRow) -> bool:
    """Whether a row holds a request; else it holds an answer that runs a flow again."""
    return row.type not in ANSWERS


def mount_reply(flow: Served, instance: str | None) -> dict[str, Any]:
    """The answer to a mount request."""
    return {
        "instance": instance,
        "endpoint": flow.endpoint,
        "kind": flow.kind,
        "shared": flow.singleton or instance is None,
    }


def requested_endpoint(journal: Journal, row: IncomingRow) -> str:
    """The endpoint that a request is about; for a request of an instance, the endpoint of its flow."""
    if row.endpoint != topics.INSTANCES:
        return row.endpoint
    data = journal.incoming.data(row.row_id)
    endpoint = data.get("endpoint")
    is_mount = data.get("op") == "mount" and isinstance(endpoint, str) and topics.is_name(endpoint)
    return str(endpoint) if is_mount else row.endpoint


def _circle(endpoints: Sequence[str]) -> BadInput:
    steps = [name for name, _ in itertools.groupby(endpoints)]
    return BadInput(f"The subflows form a cycle: {' -> '.join(steps)}.", "Let one of them use another endpoint.")


def _mount_in(data: dict[str, Any]) -> Mount:
    """The mount request in data that was JSON; read as such, its pairs may be tuples.

    Raises:
        ValueError: the data is no mount request.
    """
    return Mount.model_validate_json(compact(data))


def _is_for(instance: InstanceRow, peer: str, endpoint: str, flow: Served) -> bool:
    return instance.endpoint == endpoint and (flow.singleton or instance.client == peer)
