"""The methods of the control API, by name (docs/CONTROL.md lists them)."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Self

from p2pflows.errors import P2pflowsError, UsageError
from p2pflowsd.api import (
    contacts,
    files,
    human,
    instances,
    invitations,
    messages,
    news,
    questions,
    requests,
    serving,
    status,
    talk,
    usage,
    worker_tokens,
)
from p2pflowsd.api.daemon import Daemon, Method
from p2pflowsd.api.parameters import NoParameters
from p2pflowsd.sending.waiters import OnProgress
from p2pflowsd.steps import OnOutcome

_log = logging.getLogger("p2pflowsd")

METHODS: dict[str, Method[Any]] = {
    "id": Method(NoParameters, status.user_id),
    "status": Method(NoParameters, status.status),
    "call": Method(messages.HeardCallParameters, messages.call),
    "submit": Method(messages.CallParameters, messages.submit),
    "send": Method(messages.SendParameters, messages.send),
    "wait": Method(messages.WaitParameters, messages.wait),
    "cancel": Method(messages.MessageParameters, messages.cancel),
    "ask": Method(questions.AskParameters, questions.ask),
    "tell": Method(questions.TellParameters, questions.tell),
    "question": Method(questions.QuestionParameters, questions.question),
    "asked": Method(questions.AskedParameters, questions.asked),
    "clear_asked": Method(NoParameters, questions.clear_asked),
    "inbox": Method(human.InboxParameters, human.inbox),
    "prompt": Method(human.PromptParameters, human.prompt),
    "inbox_groups": Method(human.GroupsParameters, human.inbox_groups),
    "conversations": Method(human.ConversationsParameters, human.conversations),
    "answer": Method(human.AnswerParameters, human.answer),
    "decline": Method(human.DeclineParameters, human.decline),
    "decline_all": Method(human.DeclineAllParameters, human.decline_all),
    "delegate": Method(human.DelegateParameters, human.delegate),
    "claim": Method(human.ClaimParameters, human.claim),
    "dismiss": Method(human.DismissParameters, human.dismiss),
    "dismiss_all": Method(human.DismissAllParameters, human.dismiss_all),
    "snooze": Method(human.SnoozeParameters, human.snooze),
    "serve": Method(serving.ServeParameters, serving.serve),
    "unserve": Method(serving.EndpointParameters, serving.unserve),
    "delete_endpoint": Method(serving.EndpointParameters, serving.delete_endpoint),
    "mount": Method(instances.MountParameters, instances.mount),
    "instances": Method(instances.InstancesParameters, instances.instances),
    "delete_instance": Method(instances.ChangeParameters, instances.delete_instance),
    "reset_instance": Method(instances.ChangeParameters, instances.reset_instance),
    "ls": Method(serving.LsParameters, serving.ls),
    "describe": Method(serving.DescribeParameters, serving.describe),
    "contacts": Method(contacts.ContactsParameters, contacts.contacts),
    "requests": Method(NoParameters, requests.requests),
    "allow": Method(requests.AllowParameters, requests.allow),
    "deny": Method(requests.DenyParameters, requests.deny),
    "invite": Method(invitations.InviteParameters, invitations.invite),
    "invitations": Method(NoParameters, invitations.invitations),
    "revoke_invitation": Method(invitations.InvitationParameters, invitations.revoke_invitation),
    "wait_invitation": Method(invitations.WaitInvitationParameters, invitations.wait_invitation),
    "read_invitation": Method(invitations.LineParameters, invitations.read_invitation),
    "accept_invitation": Method(invitations.AcceptParameters, invitations.accept_invitation),
    "introduce": Method(invitations.IntroduceParameters, invitations.introduce),
    "outbox": Method(messages.OutboxParameters, messages.outbox),
    "retry": Method(messages.MessageParameters, messages.retry),
    "log": Method(status.LogParameters, status.log),
    "usage": Method(usage.UsageParameters, usage.usage),
    "worker_token": Method(worker_tokens.WorkerTokenParameters, worker_tokens.worker_token),
    "worker_tokens": Method(NoParameters, worker_tokens.worker_tokens),
    "revoke_worker_token": Method(worker_tokens.TokenParameters, worker_tokens.revoke_worker_token),
    "files_put": Method(files.PutParameters, files.files_put),
    "files_get": Method(files.GetParameters, files.files_get),
    "files_list": Method(NoParameters, files.files_list),
    "files_prune": Method(files.PruneParameters, files.files_prune),
    "watch": Method(NoParameters, human.watch),
    "news": Method(NoParameters, news.news),
    "chat": Method(talk.ChatParameters, talk.chat),
    "lines": Method(talk.LinesParameters, talk.lines),
    "title": Method(talk.TitleParameters, talk.title),
}


@dataclass(frozen=True, slots=True)
class Methods:
    """The methods of one daemon.

    Attributes:
        by_name: takes the parameters of a request, and returns the result or raises a P2pflowsError.
        start_call: the method `call` without a task of its own; returns what to call when the client leaves.
    """

    by_name: Mapping[str, Callable[[dict[str, Any]], Awaitable[Any]]]
    start_call: Callable[[dict[str, Any], OnOutcome, Callable[[str], None], OnProgress], Callable[[], None]]

    @classmethod
    def of(cls, daemon: Daemon) -> Self:
        """The methods of a daemon."""
        return cls(
            by_name={name: partial(method.run, daemon) for name, method in METHODS.items()},
            start_call=partial(messages.start_call, daemon),
        )

    async def run(self, name: str, params: object) -> Any:
        """Run a method.

        Raises:
            P2pflowsError: there is no such method, the parameters are wrong, or the method failed.
        """
        method = self.by_name.get(name)
        if method is None:
            raise UsageError(
                f"There is no method {name!r}.", "See the page about the control socket in the documentation."
            )
        if not isinstance(params, dict):
            raise UsageError(
                "The parameters are not a JSON object.", "See the page about the control socket in the documentation."
            )
        try:
            return await method(params)
        except P2pflowsError:
            raise
        except Exception as error:  # without an answer its client would wait for ever
            _log.exception("the method %s has failed", name)
            raise _Defect(error) from error


class _Defect(P2pflowsError):
    """A bug in p2pflows: an exception that no method expects."""

    kind = "bug"

    def __init__(self, error: Exception) -> None:
        super().__init__(
            f"Unexpected {type(error).__name__} in the daemon: {error}. This is a bug in p2pflows.",
            "The daemon's log says more. Please report it.",
        )
