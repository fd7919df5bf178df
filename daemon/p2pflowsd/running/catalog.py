"""What this user serves, under which name, on which dispatch point, and for whom."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from p2pflows.contacts import Book, resolve
from p2pflows.errors import NotServed, UsageError
from p2pflows.flows.config import LOCAL, OPEN, SUBFLOWS
from p2pflows.protocol import topics
from p2pflows.settings.call_limits import CallLimits
from p2pflowsd.journal import Journal

ME = "me"
CONTACTS = "contacts"
ANYONE = "anyone"

HUMAN_SCHEMA: dict[str, Any] = {
    "type": "object",
    "description": "A text under one of these names.",
    "properties": {name: {"type": "string"} for name in ("api_output", "prompt", "text")},
    "anyOf": [{"required": [name]} for name in ("api_output", "prompt", "text")],
}


class Served(BaseModel):
    """One served flow."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    kind: Literal["python", "exec", "human", "class"]
    target: str = ""
    cwd: str = ""
    dispatch_point: str = ""
    allow: str = CONTACTS
    """Who may call it: `me`, `contacts`, `anyone`, or user ids with commas."""
    strangers: list[str] | None = None
    """The users whom `allow` named while they were no contacts; the others must be contacts. Null until it is known."""
    parallel: bool = False
    singleton: bool = False
    """Whether all callers share one instance."""
    subflows: dict[str, Any] | None = None
    """The `subflows_config` that the class and its owner declare; None until it is known (`declarations`)."""
    interleaved: bool = False
    """Whether an instance may work on several requests at once, as its class keeps them apart."""
    config: dict[str, Any] = {}
    """What its owner sets for every instance."""
    overridable: list[str] = []
    """The keys of its config that other users may set, as its class said when it was served."""
    closed: bool = False
    """Whether only the instances that are there go on, and no new ones are made."""
    errors: Literal["none", "last-line", "all"] = "last-line"
    """How much of what a command writes to stderr its callers see if it fails."""
    description: str = ""
    input_schema: dict[str, Any] | None = Field(default=None, alias="schema")
    output_schema: dict[str, Any] | None = Field(default=None, alias="output")
    """What its answers look like, if it says so."""
    revision: int = 1
    limits: CallLimits | None = None
    """How much all callers together may call it."""
    limits_per_caller: CallLimits | None = None
    """How much each caller but its owner may call it."""
    owner_first: bool = False
    """Whether its owner's calls come before those of others that wait."""
    release: str = ""
    """A fingerprint of its code when it was served; empty if that is installed, or a command."""

    def as_json(self, name_of: Callable[[str], str | None], me: str) -> dict[str, Any]:
        """What its owner sees, with names in place of the user ids of contacts.

        Args:
            name_of: returns the petname of a user.
            me: the user id of the owner.
        """
        shown = self.model_dump(mode="json", by_alias=True, exclude={"strangers"})
        shown["allow"] = ",".join(name_of(part) or part for part in self.allow.split(","))
        if self.kind == "class":
            shown["may_call"] = may_call(self, me, name_of)
        return shown

    def as_shown(self) -> dict[str, Any]:
        """What its callers see."""
        return self.model_dump(
            mode="json",
            by_alias=True,
            include={"endpoint", "kind", "description", "dispatch_point", "input_schema", "output_schema"}
            | ({"overridable"} if self.kind == "class" else set()),
        )


class Catalog:
    """Everything that is served, kept in the journal."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        self._last_revision = 0
        self._flows = {name: Served.model_validate_json(record) for name, record in journal.served.all().items()}

    def __len__(self) -> int:
        return len(self._flows)

    def get(self, endpoint: str) -> Served | None:
        """What is served under an endpoint."""
        return self._flows.get(endpoint)

    def all(self) -> list[Served]:
        """All open flows, by name; a closed flow serves only the instances that it has."""
        return [self._flows[name] for name in sorted(self._flows) if not self._flows[name].closed]

    def undeclared(self) -> list[Served]:
        """The classes of which it is not known yet what they declare, closed ones too."""
        return [flow for flow in self._flows.values() if flow.kind == "class" and flow.subflows is None]

    def next_revision(self, now: int) -> int:
        """A revision higher than any before, also of flows that are served no more: workers cache flows by it.

        Args:
            now: the time in milliseconds, which outlives this catalog.
        """
        self._last_revision = max(now, self._last_revision + 1, *(flow.revision + 1 for flow in self._flows.values()))
        return self._last_revision

    def put(self, flow: Served) -> Served:
        """Serve a flow in place of any other at its endpoint; workers load it again because its revision is new."""
        self._journal.served.set(flow.endpoint, flow.model_dump_json(by_alias=True))
        self._flows[flow.endpoint] = flow
        return flow

    def name_users_by_id(self, book: Book) -> None:
        """Replace the petnames in allow rules that an earlier release stored by the ids of these contacts.

        A name that no contact has any more is dropped, so that the next contact of that name has no right by it.
        """
        for flow in list(self._flows.values()):
            if flow.strangers is None:
                parts = [book.by_name.get(part, part) for part in flow.allow.split(",")]
                allow = [part for part in parts if topics.is_user_id(part)]
                rule = flow.allow if flow.allow in (ME, CONTACTS, ANYONE) else ",".join(allow) or ME
                self.put(flow.model_copy(update={"allow": rule, "strangers": strangers_in(rule, book)}))

    def note_contacts(self, book: Book) -> None:
        """Note that users whom a rule named as strangers are contacts now: removing them will end their right."""
        for flow in list(self._flows.values()):
            if any(user in book.by_user for user in flow.strangers or ()):
                self.put(flow.model_copy(update={"strangers": strangers_in(",".join(flow.strangers or ()), book)}))

    def remove(self, endpoint: str) -> None:
        """Serve nothing under an endpoint any more.

        Raises:
            NotServed: nothing is.
        """
        if self._flows.pop(endpoint, None) is None:
            raise NotServed(f"You do not serve {endpoint!r}.", "See: p2pflows ls")
        self._journal.served.remove(endpoint)


def check_allow(text: str, book: Book, me: str) -> str:
    """The normal form of an allow rule: me, contacts, anyone, or user ids, as names may change hands.

    Raises:
        UsageError: it is none of these.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if names in ([ME], [CONTACTS], [ANYONE]):
        return names[0]
    if not names or {ME, CONTACTS, ANYONE} & set(names):
        raise UsageError(
            f"The allow rule {text!r} is unclear.", "Use me, contacts, anyone, or names of contacts: --allow bob,carol"
        )
    return ",".join(dict.fromkeys(resolve(name, book, me) for name in names))


def may_call(flow: Served, me: str, name_of: Callable[[str], str | None]) -> list[str] | None:
    """Return the addresses that the runs of a class may call in its owner's name, sorted; None if that is not known.

    Args:
        flow: the class.
        me: the user id of its owner.
        name_of: returns the petname of a user.
    """
    return None if flow.subflows is None else sorted(_addresses(flow.subflows, me, name_of))


def _addresses(subflows: dict[str, Any], me: str, name_of: Callable[[str], str | None]) -> set[str]:
    """The addresses that a `subflows_config` names, with those that it sets for subflows of subflows."""
    found: set[str] = set()
    for entry in subflows.values():
        if not isinstance(entry, dict):
            continue
        user = str(entry.get("user_id") or LOCAL).strip()
        who = ME if user in (LOCAL, me) else name_of(user) or user
        found.add(f"{who}/{entry.get('flow_endpoint') or OPEN}")
        if isinstance(entry.get(SUBFLOWS), dict):
            found |= _addresses(entry[SUBFLOWS], me, name_of)
    return found


def strangers_in(allow: str, book: Book) -> list[str]:
    """The users whom an allow rule names and who are no contacts."""
    return [part for part in allow.split(",") if topics.is_user_id(part) and part not in book.by_user]
