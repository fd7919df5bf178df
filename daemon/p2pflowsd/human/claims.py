"""Questions to this user and to others, of which one says: I am on it (docs/PROTOCOL.md, section 12).

A claim is only for people to see. It goes to the asker, who tells the others. Whoever is asked may answer all the
same, and a claim ends by itself.
"""

from __future__ import annotations

import json
from collections.abc import Callable

from p2pflows.errors import BadInput, UsageError
from p2pflows.protocol import topics
from p2pflows.protocol.claims import MAX_CLAIM_MS, Claim, asked_of
from p2pflows.protocol.message import Type
from p2pflowsd.callbacks import Callbacks
from p2pflowsd.clock import Clock
from p2pflowsd.journal import Journal
from p2pflowsd.journal.rows import PromptRow
from p2pflowsd.lifecycle import PromptState
from p2pflowsd.sending.outbox import Outbox


class Claims:
    """Who works on the answers to the prompts of this user.

    Args:
        user: the user id of the owner.
        journal: where claims are stored, with their prompts.
        clock: the time.
        outbox: tells the askers.
        name_of: returns the name of a user, or None if they are no contact.
        callbacks: run after the commit.
        on_prompt: called after the commit with each prompt that has changed.
    """

    def __init__(
        self,
        *,
        user: str,
        journal: Journal,
        clock: Clock,
        outbox: Outbox,
        name_of: Callable[[str], str | None],
        callbacks: Callbacks,
        on_prompt: Callable[[PromptRow], None],
    ) -> None:
        self._user = user
        self._journal = journal
        self._clock = clock
        self._outbox = outbox
        self._name_of = name_of
        self._callbacks = callbacks
        self._on_prompt = on_prompt

    def claim(self, prompt: PromptRow, ms: int) -> PromptRow:
        """Tell the asker that this user works on the answer; the claim ends with the question at the latest.

        Args:
            prompt: an open prompt.
            ms: for how many milliseconds.

        Raises:
            UsageError: nobody else is asked, or somebody else works on it.
        """
        self._check(prompt)
        now = self._clock.now()
        if prompt.claimed_until > now and prompt.claimed_by != self._user:
            name = self._name_of(prompt.claimed_by) or prompt.claimed_by
            raise UsageError(
                f"{name} is on it for {_in_minutes(prompt.claimed_until - now)} more.",
                f"You may answer all the same: p2pflows answer {prompt.id[-8:]} TEXT",
            )
        until = min(now + min(ms, MAX_CLAIM_MS), prompt.expires)
        self._tell(prompt, Claim(op="claim", question=prompt.id, until=until))
        return self._set(prompt, self._user, until)

    def release(self, prompt: PromptRow) -> PromptRow:
        """Tell the asker that this user does not work on the answer any more.

        Raises:
            UsageError: they did not say that they do.
        """
        self._check(prompt)
        if not self._is_own(prompt):
            raise UsageError(f"You have not claimed {prompt.id[-8:]}.", f"Claim it: p2pflows claim {prompt.id[-8:]}")
        self._tell(prompt, Claim(op="release", question=prompt.id))
        return self._set(prompt, "", 0)

    def drop(self, prompt: PromptRow) -> None:
        """Tell the asker so if this user has ended a prompt that they have claimed."""
        if self._is_own(prompt):
            self._tell(prompt, Claim(op="release", question=prompt.id))

    def receive(self, peer: str, told: Claim) -> None:
        """Take in what an asker says about one of their questions.

        Raises:
            BadInput: they do not ask it of this user and of others.
        """
        request = self._journal.incoming.find(peer, told.question)
        prompt = None if request is None else self._journal.prompts.get(request.row_id)
        if prompt is None or asked_of(json.loads(prompt.data)) is None:
            raise BadInput("There is no such question.", "See the specification of the protocol.")
        if prompt.state == PromptState.OPEN:
            until = min(told.until, prompt.expires, self._clock.now() + MAX_CLAIM_MS)
            self._set(prompt, told.by or "", until if told.by else 0)

    def _check(self, prompt: PromptRow) -> None:
        name = prompt.id[-8:]
        if prompt.type == Type.POST:
            raise UsageError(f"Message {name} is a note, which asks nothing.", f"See: p2pflows dismiss {name}")
        if asked_of(json.loads(prompt.data)) is None:
            raise UsageError(
                f"Question {name} waits for you: nobody else can answer it in your place.",
                f"Answer it: p2pflows answer {name} TEXT",
            )

    def _is_own(self, prompt: PromptRow) -> bool:
        return prompt.claimed_by == self._user and prompt.claimed_until > self._clock.now()

    def _set(self, prompt: PromptRow, by: str, until: int) -> PromptRow:
        prompt = prompt._replace(claimed_by=by, claimed_until=until)
        self._journal.prompts.set_claim(prompt.row_id, by, until)
        self._callbacks.after_commit(lambda: self._on_prompt(prompt))
        return prompt

    def _tell(self, prompt: PromptRow, claim: Claim) -> None:
        expires = claim.until or prompt.expires
        self._outbox.accept(Type.POST, prompt.peer, topics.QUESTIONS, claim.to_data(), expires=expires)


def _in_minutes(ms: int) -> str:
    minutes = -(-ms // 60_000)
    return f"{minutes} minute" if minutes == 1 else f"{minutes:,} minutes"
