"""The methods that the page may call, and no others: most go on to the daemon as they are."""

from __future__ import annotations

import asyncio
import mimetypes
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from p2pflows.client.async_client import AsyncClient
from p2pflows.client.lasting_client import LastingClient
from p2pflows.contacts import Contacts
from p2pflows.errors import FileLost, UsageError
from p2pflows.home import Home
from p2pflows.protocol.words import words_of
from p2pflows.web import cards
from p2pflows.web.fields import read_fields, read_text
from p2pflows.web.file_links import FileHere
from p2pflows.web.transfers import look_at

HUMAN = "User"
"""The endpoint at which every daemon serves its user."""
MAX_LISTED = 200
MAX_LINES = 200
MAX_SEARCHED = 500
MAX_ATTACHED = 20
"""Files that go with one answer."""
FETCH_WAIT_S = 0.5
"""How long a file that is to be fetched is waited for; then the page looks again."""
_WAYS = ("text", "value", "choice", "fields", "json", "unchanged")

Params = Mapping[str, Any]

PASSED_ON: dict[str, frozenset[str]] = {
    "id": frozenset(),
    "decline": frozenset({"id", "reason"}),
    "delegate": frozenset({"id", "user", "reason"}),
    "claim": frozenset({"id", "seconds"}),
    "dismiss": frozenset({"ids"}),
    "snooze": frozenset({"id", "seconds"}),
    "cancel": frozenset({"id"}),
    "ask": frozenset({"id", "who", "text", "schema", "timeout"}),
    "contacts": frozenset({"limit", "page"}),
    "requests": frozenset(),
    "allow": frozenset({"user", "name"}),
    "deny": frozenset({"user"}),
    "outbox": frozenset({"limit", "offset"}),
    "retry": frozenset({"id"}),
    "log": frozenset({"limit", "after"}),
    "status": frozenset(),
}
"""The methods of the daemon that the page may call, and the parameters that it may give."""


class Methods:
    """Answers the page.

    Args:
        home: the home of the user.
        daemon: the connection to the daemon.
    """

    def __init__(self, home: Home, daemon: LastingClient) -> None:
        self._daemon = daemon
        self._contacts = Contacts(home.contacts)
        self._words: dict[str, str] = {}
        self._computing = asyncio.Lock()
        self._own: dict[str, Callable[[AsyncClient, Params], Awaitable[Any]]] = {
            "inbox": _inbox,
            "prompt": _prompt,
            "prompt_text": _prompt_text,
            "answer": _answer,
            "talks": _talks,
            "chat": _chat,
            "send": _send,
            "asked": _asked,
            "question": _question,
            "file": _file,
            "words": self._compare,
            "verify": self._verify,
            "rename": self._rename,
        }

    @property
    def names(self) -> frozenset[str]:
        """The names of all methods."""
        return frozenset(self._own) | frozenset(PASSED_ON)

    async def run(self, name: str, params: object) -> Any:
        """Run a method.

        Raises:
            P2pflowsError: there is no such method, a parameter is wrong, or the method failed.
        """
        if name not in self.names:
            raise UsageError(f"The page has no method {name!r}.", "Load the page again.")
        if not isinstance(params, dict):
            raise UsageError("The parameters are not a JSON object.", "Load the page again.")
        client = await self._daemon.get()
        if name in self._own:
            return await self._own[name](client, params)
        if unknown := params.keys() - PASSED_ON[name]:
            raise UsageError(f"The page may not give {min(unknown)!r} to {name!r}.", "Load the page again.")
        return await client.request(name, **params)

    async def file_here(self, params: object) -> FileHere:
        """Return a file that the page wants to link to.

        Raises:
            P2pflowsError: there is no such file, or it is not here.
            Refused: it was removed from the disk.
        """
        if not isinstance(params, dict):
            raise UsageError("The parameters are not a JSON object.", "Load the page again.")
        client = await self._daemon.get()
        found = await client.request("files_get", id=_text(params, "id"), fetch=False)
        if found["path"] is None:
            raise FileLost(f"The file {found['name']!r} is not here.", "Fetch it first.")
        return await asyncio.to_thread(look_at, found["name"], found["size"], Path(found["path"]))

    async def put_file(self, path: Path, name: str) -> Any:
        """Copy a file into the store of the daemon; return the reference."""
        client = await self._daemon.get()
        return await client.request("files_put", path=str(path), name=name, type=mimetypes.guess_type(name)[0])

    async def max_file_bytes(self) -> int:
        """Return how large one file may be."""
        client = await self._daemon.get()
        return int((await client.request("status"))["files"]["limits"]["max_size"])

    async def _compare(self, client: AsyncClient, params: Params) -> Any:
        """Return the words to compare with a contact; they take half a second and much memory, so one at a time."""
        user = await self._known(params)
        async with self._computing:
            if user not in self._words:
                me = (await client.request("id"))["user_id"]
                found = await asyncio.to_thread(words_of, me, user)
                self._words = {**self._words, user: found} if len(self._words) < MAX_LISTED else {user: found}
        return {"words": self._words[user]}

    async def _verify(self, client: AsyncClient, params: Params) -> Any:
        del client
        return {"name": await asyncio.to_thread(self._contacts.verify, await self._known(params))}

    async def _rename(self, client: AsyncClient, params: Params) -> Any:
        del client
        user, name = await self._known(params), _text(params, "name")
        return {"user": await asyncio.to_thread(self._contacts.rename, self._contacts.book().by_user[user], name)}

    async def _known(self, params: Params) -> str:
        """Return the user id of the contact whom the parameters name."""
        user = _text(params, "user")
        if user not in self._contacts.book().by_user:
            raise UsageError("This user is not a contact any more.", "Load the page again.")
        return user


async def _inbox(client: AsyncClient, params: Params) -> Any:
    wanted = {name: params.get(name) for name in ("all", "page", "snoozed", "kind", "user", "limit")}
    found = await client.request("inbox", **{"limit": MAX_LISTED, **{k: v for k, v in wanted.items() if v is not None}})
    return {**found, "prompts": [cards.card(prompt) for prompt in found["prompts"]]}


async def _prompt(client: AsyncClient, params: Params) -> Any:
    return cards.whole_card(await client.request("prompt", id=_text(params, "id")))


async def _prompt_text(client: AsyncClient, params: Params) -> Any:
    """Return the whole text of a prompt, or of one of the fields beside it."""
    prompt = await client.request("prompt", id=_text(params, "id"))
    name = params.get("field")
    if name is None:
        return {"text": prompt["text"]}
    if name not in prompt["about"]:
        raise UsageError("The question has no such field.", "Load the page again.")
    return {"text": cards.as_text(prompt["about"][name])}


async def _answer(client: AsyncClient, params: Params) -> Any:
    """Answer a prompt with what was entered on the page."""
    prompt_id, remark = _text(params, "id"), params.get("remark") or None
    given = [way for way in _WAYS if way in params]
    if len(given) != 1:
        raise UsageError(f"An answer is one of {', '.join(_WAYS)}.", "Load the page again.")
    (way,) = given
    files = params.get("files") or []
    if not isinstance(files, list) or len(files) > MAX_ATTACHED:
        raise UsageError(f"An answer takes at most {MAX_ATTACHED} files along.", "Send the others with a note.")
    rest = {"remark": remark, **({"files": files} if files else {})}
    if way == "text":
        text = "" if files and params["text"] == "" else _text(params, "text")
        return await client.request("answer", id=prompt_id, text=text, **rest)
    form = cards.form_in(await client.request("prompt", id=prompt_id))
    if form is None:
        raise UsageError("Any text is an answer to this question.", "Load the page again.")
    value: Any
    match way, params[way]:
        case "value", bool(given_value):
            value = given_value
        case "choice", int(number):
            value = read_fields(form, [number])
        case "fields", list(entered):
            value = read_fields(form, entered)
        case "json", str(text):
            value = read_text(form, text)
        case "unchanged", True if form.has_draft:
            value = form.draft
        case _:
            raise UsageError("The answer has a wrong form.", "Load the page again.")
    return await client.request("answer", id=prompt_id, value=value, **rest)


async def _talks(client: AsyncClient, _params: Params) -> Any:
    """Return the last line with each person, newest first, from the last lines of all."""
    found = await client.request("lines", limit=MAX_SEARCHED)
    newest: dict[str, Any] = {}
    for said in found["lines"]:
        newest.setdefault(said["user"], {**cards.line(said), "text": said["text"][: cards.MAX_CARD_CHARS]})
    return {"lines": list(newest.values())}


async def _chat(client: AsyncClient, params: Params) -> Any:
    """Return the last lines with a person, oldest first; those before a number, if one is given.

    The method `chat` of the daemon would send events as well, which this connection is not for.
    """
    found = await client.request("lines", user=_text(params, "user"), before=params.get("before"), limit=MAX_LINES)
    return {"lines": [cards.line(said) for said in reversed(found["lines"])], "more": len(found["lines"]) == MAX_LINES}


async def _send(client: AsyncClient, params: Params) -> Any:
    """Leave a note for a person, in the conversation that goes on."""
    address, data = f"{_text(params, 'user')}/{HUMAN}", {"text": _text(params, "text")}
    return await client.request("send", address=address, data=data, conversation=params.get("conversation"))


async def _asked(client: AsyncClient, params: Params) -> Any:
    found = await client.request("asked", limit=MAX_LISTED, open=params.get("open"))
    return {**found, "asked": [cards.asked(question) for question in found["asked"]]}


async def _question(client: AsyncClient, params: Params) -> Any:
    return cards.asked(await client.request("question", id=_text(params, "id")))


async def _file(client: AsyncClient, params: Params) -> Any:
    """Return how a file is, and whether it is a picture that can be shown; `fetch` has it fetched."""
    fetch = params.get("fetch") is True
    found = await client.request("files_get", id=_text(params, "id"), fetch=fetch, timeout=FETCH_WAIT_S)
    shown = {name: found[name] for name in ("id", "name", "size", "type", "state", "error", "done")}
    if found["path"] is None:
        return {**shown, "is_picture": False}
    here = await asyncio.to_thread(look_at, found["name"], found["size"], Path(found["path"]))
    return {**shown, "is_picture": bool(here.picture)}


def _text(params: Params, name: str) -> str:
    value = params.get(name)
    if not isinstance(value, str) or not value:
        raise UsageError(f"The parameter {name!r} must be text.", "Load the page again.")
    return value
