"""The methods by which people meet: invitations, and introductions."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Annotated, Any

from pydantic import Field

from p2pflows.errors import DeadlinePassed, from_peer
from p2pflows.links import broker_url
from p2pflows.protocol import strict_json
from p2pflows.protocol.invitation import Invitation, parse
from p2pflows.protocol.words import words_of
from p2pflowsd.api import views
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import MAX_TIMEOUT_S, Count, IdPart, MustBe, NoParameters, Parameters, Seconds, Text
from p2pflowsd.lifecycle import OutgoingState
from p2pflowsd.receiving.invitations import MAX_USES

LIFE_S = 3600
ACCEPT_TIMEOUT_S = 15.0
_CHECK_INTERVAL_S = 1.0
"""How often an invitation that a client waits for is looked at, as nothing tells when it expires."""
_DOMAIN = b"p2pflows broker"


class InviteParameters(Parameters):
    """An invitation to make.

    Attributes:
        name: what to call the one who uses it.
        expires: how long it can be used, in seconds.
        uses: how many users may use it.
        allow: endpoints that they may call then, with commas.
        own_name: what to suggest to call you.
    """

    name: Text = ""
    expires: Seconds = LIFE_S
    uses: Annotated[int, Field(ge=1, le=MAX_USES), MustBe(f"a whole number from 1 to {MAX_USES}")] = 1
    allow: Text = ""
    own_name: Text = ""


class InvitationParameters(Parameters):
    """One of your invitations, by its id or a part of it."""

    id: IdPart


class WaitInvitationParameters(InvitationParameters):
    """One of your invitations, how many of its users are known already, and how long to wait."""

    after: Count = 0
    timeout: Seconds = MAX_TIMEOUT_S


class LineParameters(Parameters):
    """The line of an invitation, as it was pasted, and what to call its user."""

    line: Text
    name: Text = ""


class AcceptParameters(LineParameters):
    """The line of an invitation, what to call its user, what to suggest to call you, and how long to wait."""

    own_name: Text = ""
    timeout: Seconds = ACCEPT_TIMEOUT_S


class IntroduceParameters(Parameters):
    """Two of your contacts."""

    first: Text
    second: Text


async def invite(daemon: Daemon, params: InviteParameters) -> Any:
    """Make an invitation, with which another user can become your contact.

    Returns:
        `id`, `line`, a secret, `command`, `expires`, `broker`, `one_machine`: whether that broker serves one machine
    """
    broker = await _own_broker(daemon)
    allow = [endpoint.strip() for endpoint in params.allow.split(",") if endpoint.strip()]
    daemon.contacts()
    made = await daemon.run(
        lambda: daemon.node.people.invitations.create(
            name=params.name,
            allow=allow,
            uses=params.uses,
            life_ms=int(params.expires * 1000),
            own_name=params.own_name,
            broker=broker,
        )
    )
    line = made.to_text()
    return {
        "id": made.id,
        "line": line,
        "command": f"p2pflows accept {line}",
        "expires": views.rfc3339(made.expires * 1000),
        "broker": _place(broker),
        "one_machine": _serves_one_machine(broker),
    }


async def invitations(daemon: Daemon, _params: NoParameters) -> Any:
    """List your invitations, oldest first.

    Returns:
        `invitations`: list of [invitations](#invitations)
    """
    return {"invitations": await daemon.read(lambda: views.invitations(daemon.node))}


async def revoke_invitation(daemon: Daemon, params: InvitationParameters) -> Any:
    """Revoke an invitation; who has used it stays a contact.

    Returns:
        `id`
    """
    return {"id": (await daemon.run(lambda: daemon.node.people.invitations.revoke(params.id))).id}


async def wait_invitation(daemon: Daemon, params: WaitInvitationParameters) -> Any:
    """Wait until more users than `after` have used an invitation, or it cannot be used any more.

    Returns:
        an [invitation](#invitations)
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + params.timeout
    while True:
        changed = asyncio.Event()
        stop = daemon.node.people.invitations.listen(changed.set)
        try:
            found = await daemon.read(
                lambda: views.invitation(daemon.node, daemon.node.people.invitations.find(params.id))
            )
            if len(found["users"]) > params.after or (
                found["state"] != "open" and found["used"] == len(found["users"])
            ):
                return found
            if loop.time() >= until:
                raise DeadlinePassed("Nobody has used the invitation yet.", f"It can be used until {found['expires']}.")
            await _wait(changed, min(_CHECK_INTERVAL_S, until - loop.time()))
        finally:
            stop()


async def read_invitation(daemon: Daemon, params: LineParameters) -> Any:
    """Say what an invitation of another user says, without accepting it.

    Returns:
        `id`, `user`, `suggested` (the name that they suggest), `name` (the petname that they would get), `known`
        (whether they are a contact), `expires`, `broker`, `own_broker`, `same_broker` (true, false, or null when not
        known), `one_machine` (whether their broker serves one machine), `words` to compare
    """
    found = parse(params.line)
    daemon.contacts()
    own, node = await _own_broker(daemon), daemon.node
    node.people.invitations.check(found)
    name = node.people.invitations.name_for(found, params.name)
    return {
        "id": found.id,
        "user": found.user,
        "suggested": found.name,
        "name": name,
        "known": found.user in node.contacts.known.by_user,
        "expires": views.rfc3339(found.expires * 1000),
        "broker": _place(found.broker),
        "own_broker": _place(own),
        "same_broker": _is_same_broker(found.broker, own),
        "one_machine": _serves_one_machine(found.broker),
        "words": await asyncio.to_thread(words_of, node.user, found.user),
    }


async def accept_invitation(daemon: Daemon, params: AcceptParameters) -> Any:
    """Accept an invitation of another user; without an answer in time, the daemon goes on by itself.

    Returns:
        `id` of the message, `state` (`met`, once they have confirmed it, or `sent`), `user`, `name`
    """
    found = parse(params.line)
    daemon.contacts()
    message_id = await daemon.run(lambda: daemon.node.people.invitations.accept(found, params.name, params.own_name))
    is_met = await _is_confirmed(daemon, found, message_id, params.timeout)
    name = await daemon.run(lambda: _name_of(daemon, found, params.name))
    return {"id": message_id, "state": "met" if is_met else "sent", "user": found.user, "name": name}


async def introduce(daemon: Daemon, params: IntroduceParameters) -> Any:
    """Introduce two contacts to each other, each by the name that you have for them.

    Returns:
        `messages`: the ids of the two messages
    """
    first, second = daemon.resolve_user(params.first), daemon.resolve_user(params.second)
    return {"messages": await daemon.run(lambda: daemon.node.people.introductions.introduce(first, second))}


async def _is_confirmed(daemon: Daemon, found: Invitation, message_id: str, timeout_s: float) -> bool:
    """Wait until the user of an invitation has confirmed our acceptance; return whether that was in time.

    Raises:
        CallError: they refused it.
    """
    end: asyncio.Future[tuple[OutgoingState, bytes | None]] = asyncio.get_running_loop().create_future()

    def on_settled(state: OutgoingState, answer: bytes | None) -> None:
        if not end.done():
            end.set_result((state, answer))

    await daemon.run(lambda: daemon.node.messages.wait(message_id, on_settled))
    try:
        state, answer = await asyncio.wait_for(end, timeout_s)
    except TimeoutError:
        return False
    finally:
        daemon.node.waiters.stop(message_id, on_settled)
    if state is OutgoingState.DONE:
        return True
    error = from_peer(strict_json.loads(answer or b"{}"))
    raise error.said_by(error.user, daemon.node.name_of(error.user) or found.name or None) if error.user else error


def _name_of(daemon: Daemon, found: Invitation, name: str) -> str:
    """Return the petname that the user of an invitation has, or will have."""
    node = daemon.node
    return node.contacts.known.by_user.get(found.user) or node.people.invitations.name_for(found, name)


async def _own_broker(daemon: Daemon) -> str:
    """Return where our daemon is, as an invitation says it: without user and password."""
    setting = broker_url.parse(daemon.about()["broker"]["url"])
    if isinstance(setting, broker_url.BrokerUrl):
        return setting.public()
    used = broker_url.parse(await daemon.broker_url())
    password = (used.password or "") if isinstance(used, broker_url.BrokerUrl) else ""
    mark = hashlib.blake2b(password.encode(), digest_size=4, person=_DOMAIN).hexdigest()
    return f"embedded:{setting.port}/{mark}"


def _place(broker: str) -> str:
    """Return a broker as people read it: without the mark of an embedded one."""
    return broker.partition("/")[0] if broker.startswith("embedded") else broker


def _is_same_broker(theirs: str, own: str) -> bool | None:
    """Return whether two brokers are one; None if that is not known, as one broker may have several addresses."""
    if theirs == own:
        return True
    embedded = [broker for broker in (theirs, own) if broker.startswith("embedded")]
    return None if not embedded or (len(embedded) == 1 and _serve_one_machine(theirs, own)) else False


def _serve_one_machine(*brokers: str) -> bool:
    return all(map(_serves_one_machine, brokers))


def _serves_one_machine(broker: str) -> bool:
    if broker.startswith("embedded"):
        return True
    host = broker.partition("://")[2]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return broker_url.is_loopback(host)


async def _wait(changed: asyncio.Event, seconds: float) -> None:
    try:
        await asyncio.wait_for(changed.wait(), seconds)
    except TimeoutError:
        return
