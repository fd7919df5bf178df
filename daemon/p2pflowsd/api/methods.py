"""What the control socket offers: each method takes a JSON object and gives one (docs/CONTROL.md lists them).

A method checks its parameters, then asks the node inside a turn; nothing here knows of sockets.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any, Protocol

from pydantic import BaseModel, ValidationError

from p2pflows.config import DEFAULT_POINT
from p2pflows.contacts import Book, normal_user_id, resolve
from p2pflows.errors import (
    BadInput,
    FlowFailed,
    JournalFailed,
    NotServed,
    P2pflowsError,
    UsageError,
    from_kind,
    from_peer,
)
from p2pflows.flows.overrides import check_keyless
from p2pflows.protocol import topics
from p2pflows.protocol.channel import Enrolment
from p2pflows.protocol.message import Type
from p2pflowsd.human import conversations
from p2pflowsd.human.inbox import rfc3339
from p2pflowsd.journal.rows import LogRow, OutgoingRow
from p2pflowsd.lifecycle import IncomingState, OutgoingState
from p2pflowsd.node import Node
from p2pflowsd.running.catalog import (
    HUMAN_SCHEMA,
    ME,
    ChangeReply,
    DescribeReply,
    FlowList,
    InstanceList,
    MountReply,
    Served,
    check_allow,
)
from p2pflowsd.running.instances import requested_endpoint
from p2pflowsd.running.leases import point_key
from p2pflowsd.sending.waiters import OnSettled

DEFAULT_CALL_TIMEOUT_S = 600.0
DEFAULT_POST_TIMEOUT_S = 7 * 24 * 3600.0
MAX_TIMEOUT_S = 30 * 24 * 3600.0
WORKER_TIMEOUT_S = 5.0
"""How long `serve` waits for a worker to announce itself."""
MOUNT_TIMEOUT_S = 60.0
PEER_TIMEOUT_S = 10.0
"""How long another daemon may take to say what it serves."""

Params = dict[str, Any]
Method = Callable[[Params], Awaitable[Any]]


class Turns(Protocol):
    """Runs something inside the node's next turn."""

    def put(self, run: Callable[[], Any], done: Callable[[Any], None]) -> None:
        """Run it; `done` is told its result, or its error, after the commit."""

    async def result(self, run: Callable[[], Any]) -> Any:
        """Its result, after the commit.

        Raises:
            P2pflowsError: what it raised.
        """


class Methods:
    """The methods, by name.

    Args:
        node: the node of this moment (a new one takes its place after a disk failure).
        turns: runs something inside its next turn.
        about: facts of the process for `status`.
        broker_url: where workers connect, with its secret.
    """

    def __init__(
        self,
        *,
        node: Callable[[], Node],
        turns: Turns,
        about: Callable[[], dict[str, Any]],
        broker_url: Callable[[], Awaitable[str]],
    ) -> None:
        self._get_node = node
        self._put = turns.put
        self._turn = turns.result
        self._about = about
        self._broker_url = broker_url
        self._last_counts = self._counts()
        self.by_name: dict[str, Method] = {
            "id": self._id,
            "status": self._status,
            "call": self._call,
            "send": self._send,
            "submit": self._submit,
            "wait": self._wait,
            "cancel": self._cancel,
            "inbox": self._inbox,
            "conversations": self._conversations,
            "answer": self._answer,
            "decline": self._decline,
            "serve": self._serve,
            "unserve": self._unserve,
            "delete_endpoint": self._delete_endpoint,
            "mount": self._mount,
            "instances": self._instances,
            "delete_instance": self._delete_instance,
            "reset_instance": self._reset_instance,
            "ls": self._ls,
            "describe": self._describe,
            "requests": self._requests,
            "allow": self._allow,
            "deny": self._deny,
            "outbox": self._outbox,
            "retry": self._retry,
            "log": self._log,
            "worker_token": self._worker_token,
        }

    @property
    def _node(self) -> Node:
        return self._get_node()

    def _book(self) -> Book:
        """The contacts as they are now: a command may have added one a moment ago, and this is the next."""
        self._node.contacts.reload_if_changed()
        return self._node.contacts.known

    async def _id(self, params: Params) -> Any:
        _take(params)
        return {"user_id": self._node.user}

    async def _status(self, params: Params) -> Any:
        _take(params)
        try:
            self._last_counts = await self._turn(self._counts)
            problem = None
        except JournalFailed as error:
            problem = error.message
        return {**self._about(), "problem": problem, **self._last_counts}

    def _counts(self) -> dict[str, Any]:
        node, counters = self._node, self._node.journal.counters
        prefix = "refused."
        return {
            "accepted": counters.get("accepted", 0),
            "delivered": counters.get("delivered", 0),
            "received": counters.get("received", 0),
            "refused": {
                name.removeprefix(prefix): n for name, n in sorted(counters.items()) if name.startswith(prefix)
            },
            "pending": node.outbox.pending,
            "dead": len(node.journal.incoming.in_state(IncomingState.DEAD)),
            "prompts_open": len(node.journal.prompts.open()),
            "requests": len({row.peer for row in node.journal.incoming.in_state(IncomingState.HELD)}),
            "served": len(node.catalog),
            "workers": node.leases.status(),
        }

    # Messages.

    def call(
        self,
        params: Params,
        respond: Callable[[Any], None],
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Callable[[], None]:
        """Accept a call without a task of its own: the path that has to be fast.

        Args:
            params: address, data, and what else `call` takes.
            respond: told the result, or the P2pflowsError, once.
            progress: told what the flow tells before that.

        Returns:
            What stops the waiting, if the one who asked has left.
        """
        message_id = ""

        def ended(state: OutgoingState, answer: bytes | None) -> None:
            try:
                data = _answer_data(state, answer)
            except P2pflowsError as error:
                respond(error)
            else:
                respond({"id": message_id, "data": data, "conversation": params.get("conversation") or message_id})

        def accepted(result: Any) -> None:
            if isinstance(result, P2pflowsError):
                respond(result)

        def run() -> None:
            nonlocal message_id
            message_id = accept()

        try:
            accept = self._accepting(Type.CALL, params, DEFAULT_CALL_TIMEOUT_S, ended, progress)
        except P2pflowsError as error:
            respond(error)
        else:
            self._put(run, accepted)
        return lambda: self._node.waiters.stop(message_id, ended)

    async def _call(self, params: Params) -> Any:
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        stop = self.call(params, lambda result: None if done.done() else done.set_result(result))
        try:
            result = await done
        finally:
            stop()
        if isinstance(result, P2pflowsError):
            raise result
        return result

    async def _submit(self, params: Params) -> Any:
        return {"id": await self._turn(self._accepting(Type.CALL, params, DEFAULT_CALL_TIMEOUT_S))}

    async def _send(self, params: Params) -> Any:
        return {"id": await self._turn(self._accepting(Type.POST, params, DEFAULT_POST_TIMEOUT_S))}

    def _accepting(
        self,
        kind: Type,
        params: Params,
        default_seconds: float,
        ended: OnSettled | None = None,
        progress: Callable[[dict[str, Any]], None] | None = None,
    ) -> Callable[[], str]:
        """Check the parameters; gives what accepts the message inside a turn."""
        _take(params, "address", "data", "timeout", "conversation", "source", "instance")
        data = params.get("data", {})
        if not isinstance(data, dict):
            raise BadInput("The data is not a JSON object.", 'Flows take objects such as {"text": "hello"}.')
        seconds = _seconds(params.get("timeout"), default_seconds)
        conversation = _text(params, "conversation") or None
        if conversation is not None and not _is_id(conversation):
            raise UsageError("A conversation is 32 hex digits.", "Use the `conversation` of an earlier message.")
        instance = _text(params, "instance") or None
        if instance is not None and not _is_id(instance):
            raise UsageError("An instance is 32 hex digits.", "Get one with: p2pflows mount ADDRESS")
        address = _text(params, "address")
        source = _text(params, "source")[:64]

        def send() -> str:
            peer, endpoint = self._address(address, self._node.contacts.known)
            message_id = self._node.messages.send(
                kind,
                peer,
                endpoint,
                data,
                life_ms=int(seconds * 1000),
                conversation=conversation,
                source=source,
                instance=instance,
            )
            if ended is not None:
                self._node.waiters.expect(message_id, ended, progress)
            return message_id

        return send

    def _address(self, address: str, book: Book) -> tuple[str, str]:
        who, slash, endpoint = address.rpartition("/")
        user = resolve(who if slash else ME, book, self._node.user)
        return user, topics.check_name(endpoint, "an endpoint")

    async def _wait(self, params: Params) -> Any:
        _take(params, "id", "timeout")
        part = _text(params, "id").strip().lower()
        timeout = None if params.get("timeout") is None else _seconds(params["timeout"], 0)
        done: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        ended = _telling(done)
        row: OutgoingRow = await self._turn(lambda: self._node.messages.wait(part, ended))
        try:
            state, answer = await asyncio.wait_for(done, timeout)
        except TimeoutError:
            raise from_kind(
                "deadline", f"Message {row.id[-8:]} has no answer yet.", f"Wait on: p2pflows wait {row.id}"
            ) from None
        finally:
            self._node.waiters.stop(row.id, ended)
        data = _answer_data(state, answer)
        if row.type == Type.POST:
            return {"id": row.id, "state": "delivered"}
        return {"id": row.id, "data": data, "from": row.peer, "conversation": row.conversation}

    async def _cancel(self, params: Params) -> Any:
        _take(params, "id")
        return {"id": await self._turn(lambda: self._node.messages.cancel(_text(params, "id").strip().lower()))}

    async def _outbox(self, params: Params) -> Any:
        _take(params)
        return await self._turn(self._list_outbox)

    def _list_outbox(self) -> Any:
        node, journal = self._node, self._node.journal
        return {
            "pending": [
                {**_sent(node, row), "attempts": node.outbox.attempts(row.id)} for row in journal.outgoing.pending()
            ],
            "failed": [
                {**_sent(node, row), "error": json.loads(row.answer or b"{}")} for row in journal.outgoing.unsent()
            ],
            "dead": [
                {
                    "id": row.id,
                    "from": row.peer,
                    "name": node.name_of(row.peer),
                    "endpoint": row.endpoint,
                    "received": rfc3339(row.received),
                    "attempts": row.attempts,
                    "error": row.error,
                }
                for row in journal.incoming.in_state(IncomingState.DEAD)
            ],
        }

    async def _retry(self, params: Params) -> Any:
        _take(params, "id")
        return {"id": await self._turn(lambda: self._node.retries.retry(_text(params, "id").strip().lower()))}

    # The human.

    async def _inbox(self, params: Params) -> Any:
        _take(params, "all")
        return {"prompts": await self._turn(lambda: self._node.inbox.list(everything=params.get("all") is True))}

    async def _conversations(self, params: Params) -> Any:
        _take(params, "limit")
        limit = _count(params.get("limit"), 100)
        found = await self._turn(lambda: conversations.newest(self._node.journal, limit))
        return {"conversations": [{**each.as_json(), "name": self._node.name_of(each.user)} for each in found]}

    async def _answer(self, params: Params) -> Any:
        _take(params, "id", "text")
        prompt = await self._turn(lambda: self._node.inbox.answer(_text(params, "id"), _text(params, "text")))
        return {"id": prompt.id}

    async def _decline(self, params: Params) -> Any:
        _take(params, "id", "reason")
        prompt = await self._turn(lambda: self._node.inbox.decline(_text(params, "id"), _text(params, "reason")))
        return {"id": prompt.id}

    # Serving.

    async def _serve(self, params: Params) -> Any:
        _take(
            params,
            *("endpoint", "kind", "target", "cwd", "dispatch_point", "allow", "parallel"),
            *("singleton", "config", "description", "schema"),
        )
        kind = params.get("kind")
        if kind not in ("python", "exec", "human", "class"):
            raise UsageError("A served flow is of kind python, exec, class or human.", "See: p2pflows serve --help")
        config = params.get("config") or {}
        if not isinstance(config, dict) or (kind != "class" and (config or params.get("singleton"))):
            raise UsageError("Only a class has a config, an object, and may be a singleton.", "Leave it out.")
        check_keyless(config)
        point = (
            ""
            if kind == "human"
            else topics.check_name(_text(params, "dispatch_point") or DEFAULT_POINT, "a dispatch point")
        )
        flow = Served(
            endpoint=topics.check_endpoint(_text(params, "endpoint")),
            kind=kind,
            target=_text(params, "target"),
            cwd=_text(params, "cwd"),
            dispatch_point=point,
            parallel=params.get("parallel") is True,
            singleton=params.get("singleton") is True,
            config=config,
            allow=check_allow(_text(params, "allow") or "contacts", self._book(), self._node.user),
        )
        if kind == "human":
            flow = flow.model_copy(update={"description": "A human answers.", "input_schema": HUMAN_SCHEMA})
        else:
            flow = flow.model_copy(update={"revision": self._node.catalog.next_revision(self._node.clock.now())})
            facts = {"description": params.get("description"), "schema": params.get("schema")}
            if kind != "class" or facts["schema"] is None:  # else whoever serves it has loaded it
                facts = await self._load(flow)
            flow = flow.model_copy(
                update={"description": str(facts.get("description") or ""), "input_schema": facts.get("schema")}
            )
        return (await self._turn(lambda: self._put_flow(flow))).as_json()

    def _put_flow(self, flow: Served) -> Served:
        served = self._node.catalog.put(flow)
        self._node.callbacks.after_commit(self._node.publish_card)
        return served

    async def _load(self, flow: Served) -> dict[str, Any]:
        """What a worker finds in a flow; one that is just starting is waited for."""
        until = asyncio.get_running_loop().time() + WORKER_TIMEOUT_S
        while (  # noqa: ASYNC110 - a worker may announce itself in any turn
            not self._node.leases.has_workers(flow.dispatch_point) and asyncio.get_running_loop().time() < until
        ):
            await asyncio.sleep(0.1)
        loaded: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def done(result: dict[str, Any] | P2pflowsError) -> None:
            if not loaded.done():
                loaded.set_result(result)

        await self._turn(lambda: self._node.dispatch.load(flow, done))
        result = await loaded
        if isinstance(result, P2pflowsError):
            raise result
        return dict(result)

    async def _unserve(self, params: Params) -> Any:
        _take(params, "endpoint")
        await self._turn(lambda: self._remove(_text(params, "endpoint")))
        return {}

    def _remove(self, endpoint: str) -> None:
        self._node.serving.unserve(endpoint)
        self._node.callbacks.after_commit(self._node.publish_card)

    async def _delete_endpoint(self, params: Params) -> Any:
        _take(params, "endpoint")
        deleted = await self._turn(lambda: self._delete(_text(params, "endpoint")))
        return {"instances": deleted}

    def _delete(self, endpoint: str) -> int:
        deleted = self._node.serving.delete(endpoint)
        self._node.callbacks.after_commit(self._node.publish_card)
        return deleted

    async def _mount(self, params: Params) -> Any:
        _take(params, "address", "config_overrides", "initial_state", "dispatch_point", "timeout")
        user, endpoint = self._address(_text(params, "address"), self._book())
        check_keyless(params.get("config_overrides"))
        given = {name: params.get(name) for name in ("config_overrides", "initial_state", "dispatch_point")}
        order = {"op": "mount", "endpoint": endpoint, **{name: value for name, value in given.items() if value}}
        answer = await self._ask_daemon(
            user, order, MountReply, topics.INSTANCES, seconds=_seconds(params.get("timeout"), MOUNT_TIMEOUT_S)
        )
        return {**answer, "instance": answer.get("instance"), "user": user}

    async def _instances(self, params: Params) -> Any:
        _take(params, "user", "endpoint")
        user = resolve(_text(params, "user"), self._book(), self._node.user)
        endpoint = _text(params, "endpoint") or None
        if user == self._node.user:
            return {"instances": await self._turn(lambda: self._list_instances(endpoint))}
        answer = await self._ask_daemon(user, {"op": "list"}, InstanceList, topics.INSTANCES)
        return {"instances": [_dated(each) for each in answer["instances"] if endpoint in (None, each["endpoint"])]}

    def _list_instances(self, endpoint: str | None) -> list[dict[str, Any]]:
        rows = self._node.journal.instances.of(endpoint)
        return [_dated({**self._node.instances.show(row), "name": self._node.name_of(row.client)}) for row in rows]

    async def _delete_instance(self, params: Params) -> Any:
        _take(params, "instance", "user", "recursive")
        return await self._change_instance("delete", params)

    async def _reset_instance(self, params: Params) -> Any:
        _take(params, "instance", "user", "recursive")
        return await self._change_instance("reset", params)

    async def _change_instance(self, op: str, params: Params) -> Any:
        user = resolve(_text(params, "user"), self._book(), self._node.user)
        instance = _text(params, "instance")
        if not _is_id(instance):
            raise UsageError("An instance is 32 hex digits.", "See: p2pflows instances")
        order = {"op": op, "instance": instance, "recursive": params.get("recursive") is not False}
        return await self._ask_daemon(user, order, ChangeReply, topics.INSTANCES)

    async def _log(self, params: Params) -> Any:
        _take(params, "after", "limit")
        after, limit = (_count(params.get(name), default) for name, default in (("after", 0), ("limit", 100)))
        rows = await self._turn(lambda: self._node.journal.log.newest(limit, after))
        return {"entries": [_log_entry(self._node, row) for row in rows]}

    async def _ls(self, params: Params) -> Any:
        _take(params, "user")
        user = resolve(_text(params, "user"), self._book(), self._node.user)
        if user == self._node.user:
            return {"flows": [flow.as_json() for flow in self._node.catalog.all()]}
        return await self._ask_daemon(user, {}, FlowList)

    async def _describe(self, params: Params) -> Any:
        _take(params, "address")
        user, endpoint = self._address(_text(params, "address"), self._book())
        answer: dict[str, Any] = {"served": None, "allowed": None}
        if user == self._node.user:
            flow = self._node.catalog.get(endpoint)
            if flow is None:
                raise NotServed(f"You do not serve {endpoint!r}.", "See: p2pflows ls")
            answer = {"served": True, "allowed": True, **flow.as_json()}
            online: bool | None = True
        else:
            online = self._node.presence.online(user)
            try:
                answer = await self._ask_daemon(user, {"endpoint": endpoint}, DescribeReply)
                online = True
            except P2pflowsError as error:
                if error.kind not in ("unreachable", "unknown_user", "not_allowed"):
                    raise
                online = online if error.kind != "unreachable" else False
        return {**answer, "address": _text(params, "address"), "user": user, "endpoint": endpoint, "online": online}

    async def _ask_daemon(
        self,
        user: str,
        data: dict[str, Any],
        form: type[BaseModel],
        endpoint: str = topics.FLOWS,
        seconds: float = PEER_TIMEOUT_S,
    ) -> dict[str, Any]:
        """Ask another daemon something about what it serves; gives an answer of this form.

        Raises:
            FlowFailed: it answered with something else.
        """
        message_id = await self._turn(
            lambda: self._node.messages.send(
                Type.CALL, user, endpoint, data, life_ms=int(seconds * 1000), source="describe"
            )
        )
        answer = (await self._wait({"id": message_id}))["data"]
        try:
            return form.model_validate(answer).model_dump(mode="json", by_alias=True, exclude_none=True)
        except ValidationError as error:
            raise FlowFailed(
                f"The daemon of {self._node.name_of(user) or user} does not answer as a daemon should.",
                "Ask its owner which release it is.",
            ) from error

    # Strangers.

    async def _requests(self, params: Params) -> Any:
        _take(params)
        return {"requests": await self._turn(self._list_requests)}

    def _list_requests(self) -> list[dict[str, Any]]:
        users: dict[str, dict[str, Any]] = {}
        for row in self._node.journal.incoming.in_state(IncomingState.HELD):
            seen = users.setdefault(
                row.peer, {"user": row.peer, "endpoints": [], "messages": 0, "first": rfc3339(row.received)}
            )
            endpoint = requested_endpoint(self._node.journal, row)
            if endpoint not in seen["endpoints"]:
                seen["endpoints"].append(endpoint)
            seen["messages"] += 1
            seen["last"] = rfc3339(row.received)
        return list(users.values())

    async def _allow(self, params: Params) -> Any:
        _take(params, "user", "name")
        user = self._stranger(_text(params, "user"))
        name = _text(params, "name") or self._book().by_user.get(user) or f"user-{user[:8]}"
        released = await self._turn(lambda: self._node.admission.allow(user, name))
        return {"user": user, "name": name, "released": released}

    async def _deny(self, params: Params) -> Any:
        _take(params, "user")
        user = self._stranger(_text(params, "user"))
        if user in self._book().by_user:
            raise UsageError(
                f"{self._node.name_of(user)!r} is a contact.",
                f"First run: p2pflows contacts remove {self._node.name_of(user)}",
            )
        return {"user": user, "dropped": await self._turn(lambda: self._node.admission.deny(user))}

    def _stranger(self, part: str) -> str:
        """A user id, or enough of one that stands in `requests`."""
        part = part.strip().lower()
        waiting = {row.peer for row in self._node.journal.incoming.in_state(IncomingState.HELD)}
        found = [user for user in waiting if len(part) >= 6 and user.startswith(part)]  # noqa: PLR2004 - shortest useful part
        return found[0] if len(found) == 1 else normal_user_id(part)

    async def _worker_token(self, params: Params) -> Any:
        _take(params, "dispatch_point")
        point = topics.check_name(_text(params, "dispatch_point") or DEFAULT_POINT, "a dispatch point")
        enrolment = Enrolment(await self._broker_url(), self._node.user, point, point_key(self._node.identity, point))
        return {"token": enrolment.token()}


def _telling(done: asyncio.Future[Any]) -> OnSettled:
    """What tells a future how a message ended."""

    def ended(state: OutgoingState, answer: bytes | None) -> None:
        if not done.done():
            done.set_result((state, answer))

    return ended


def _answer_data(state: OutgoingState, answer: bytes | None) -> Any:
    """The data of an answer.

    Raises:
        P2pflowsError: the answer is an error.
    """
    content = json.loads(answer) if answer else {}
    if state is not OutgoingState.DONE:
        raise from_peer(content)
    return content


def _take(params: Params, *known: str) -> None:
    """Refuse parameters that the method does not know.

    Raises:
        UsageError: there is one.
    """
    unknown = set(params) - set(known)
    if unknown:
        raise UsageError(
            f"Unknown parameter: {', '.join(sorted(map(str, unknown)))}.", f"Known ones: {', '.join(known) or 'none'}."
        )


def _text(params: Params, name: str) -> str:
    value = params.get(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UsageError(f"The parameter {name!r} is not text.", "See docs/CONTROL.md.")
    return value


def _seconds(value: Any, default: float) -> float:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= MAX_TIMEOUT_S:
        raise UsageError("The timeout is not between 0 seconds and 30 days.", "Give it in seconds.")
    return float(value)


def _count(value: Any, default: int) -> int:
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**62:
        raise UsageError("That is no count.", "Give a whole number from 0 on.")
    return value


def _dated(instance: dict[str, Any]) -> dict[str, Any]:
    return {**instance, "created": rfc3339(instance["created"]), "used": rfc3339(instance["used"])}


def _is_id(text: str) -> bool:
    return len(text) == 32 and all(digit in "0123456789abcdef" for digit in text)  # noqa: PLR2004 - hex digits of 16 bytes


def _log_entry(node: Node, row: LogRow) -> dict[str, Any]:
    return {
        "n": row.row_id,
        "at": rfc3339(row.at),
        "what": row.what,
        "peer": row.peer,
        "endpoint": row.endpoint,
        "detail": row.detail,
        "name": node.name_of(row.peer),
    }


def _sent(node: Node, row: OutgoingRow) -> dict[str, Any]:
    return {
        "id": row.id,
        "to": row.peer,
        "name": node.name_of(row.peer),
        "endpoint": row.endpoint,
        "type": row.type,
        "created": rfc3339(row.created),
        "expires": rfc3339(row.expires),
        "state": row.state,
    }
