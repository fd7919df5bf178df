"""When and how the user is told that something waits for them: `notify:` in `config.yaml`, and hooks."""

from __future__ import annotations

import re
from datetime import time
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from p2pflows import units
from p2pflows.settings.news_kinds import KINDS, Kind

MAX_HOOKS = 100
_QUIET = re.compile(r"([01]\d|2[0-3]):([0-5]\d)-([01]\d|2[0-3]):([0-5]\d)")


def _check_quiet(text: str) -> str:
    if text and not _QUIET.fullmatch(text):
        raise ValueError("give two times, such as 22:00-07:00")
    return text


def _seconds(value: Any) -> Any:
    return units.read_seconds(value)


class Hook(BaseModel):
    """A command that is run when something happens, and gets it as JSON on its stdin.

    Attributes:
        on: what it is run for.
        run: the command and its arguments.
        users: petnames or user ids of those it is run for; everybody if empty.
        endpoints: the endpoints that it is run for; all if empty.
        forms: the types of the questions that it is run for, such as `boolean`; all if empty.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    on: Kind
    run: Annotated[list[str], Field(min_length=1, max_length=100)]
    users: list[str] = []
    endpoints: list[str] = []
    forms: list[str] = []


class NotifySettings(BaseModel):
    """How the user is told.

    Attributes:
        urls: where to, as addresses of apprise (https://github.com/caronc/apprise): ntfy, e-mail, Telegram, desktop...
        on: what for.
        show: how much is said: only who it is, also the first words, or the whole text.
        quiet: from when to when nothing is said, by the clock of this machine; what came meanwhile is summed up then.
        only_from: petnames or user ids; if there are any, nothing is said of others.
        not_from: petnames or user ids of whom nothing is said.
        endpoints: if there are any, nothing is said of other endpoints.
        remind_before: how long before it expires an open question is named again, in seconds or with a unit.
        link: an address that is added; by default where your page shows it, if `web` has an address.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    urls: Annotated[list[str], Field(max_length=20)] = []
    on: list[Kind] = list(KINDS)
    show: Literal["name", "subject", "all"] = "name"
    quiet: Annotated[str, AfterValidator(_check_quiet)] = ""
    only_from: list[str] = []
    not_from: list[str] = []
    endpoints: list[str] = []
    remind_before: Annotated[int, BeforeValidator(_seconds), Field(ge=0, le=30 * 86_400)] = 600
    link: str = ""

    def is_quiet(self, now: time) -> bool:
        """Whether nothing is said at a time of the day."""
        if not self.quiet:
            return False
        begin, _, end = self.quiet.partition("-")
        first, last = time.fromisoformat(begin), time.fromisoformat(end)
        return first <= now < last if first <= last else now >= first or now < last
