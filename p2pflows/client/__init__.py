"""The client of the local daemon.

    with p2pflows.connect() as me:
        answer = me.call("bob/User", {"api_output": "Neighbor, are you there?"})

It sends JSON Lines to the home's control socket, one request after the other on a connection for each thread. Every
error that it raises is one of `p2pflows.errors`.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from p2pflows.client.control_lines import (
    MAX_INBOX,
    MAX_PAGE,
    NO_DEFAULT,
    cannot_connect,
    data_or_state,
    default_of,
    home_of,
    human_of,
    message_params,
    read_error,
    read_items,
    went_away,
    write_params,
)
from p2pflows.errors import DaemonNotRunning, P2pflowsError
from p2pflows.links.socket_options import send_in_one_piece

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from p2pflows.client.streams import CallStream
    from p2pflows.forms.python import Answer
    from p2pflows.home import Home


_READ_BYTES = 2**16
"""How much of a response is read at once; Python's default is 8 KB."""


def connect(home: str | os.PathLike[str] | None = None) -> Client:
    """Return a client of the daemon on a home folder, by default the one that `P2PFLOWS_HOME` names."""
    return Client(home)


class Client:
    """The synchronous client; threads may share one, and each gets a connection of its own.

    Args:
        home: the home folder; by default the one that `P2PFLOWS_HOME` names.
        timeout: seconds to wait for each response of the daemon; by default there is no limit.
    """

    def __init__(self, home: str | os.PathLike[str] | None = None, *, timeout: float | None = None) -> None:
        self._home = home_of(home)
        self._timeout = timeout
        self._user_id: str | None = None
        self._of_thread = threading.local()
        self._connections: set[_Connection] = set()

    @property
    def worker_socket(self) -> Path:
        """The daemon's socket for workers on this machine."""
        return self._home.worker_socket

    @property
    def contacts_file(self) -> Path:
        """The address book of the daemon's user."""
        return self._home.contacts

    @property
    def user_id(self) -> str:
        """The user id of the daemon's user, 64 hex digits."""
        if self._user_id is None:
            self._user_id = str(self.request("id")["user_id"])
        return self._user_id

    def get_user_id(self) -> str:
        """Return `user_id`, under the predecessor's name."""
        return self.user_id

    def request(self, method: str, **params: Any) -> Any:
        """Call a method of the control API and return its result (docs/CONTROL.md).

        Args:
            method: its name.
            params: its parameters; those that are None are left out.

        Raises:
            P2pflowsError: no daemon runs, or it returned this error.
        """
        body = write_params(params)
        connection = self._connection()
        try:
            response = connection.request(method, body)
        except BaseException as error:
            # The response may still come, and must not be taken for that of another request.
            self._drop(connection)
            if isinstance(error, OSError):
                raise _no_response(self._home, error) from error
            raise
        if "error" in response:
            raise read_error(response["error"])
        return response["result"]

    def call(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        instance: str | None = None,
    ) -> dict[str, Any]:
        """Call a flow or a human, wait, and return the data of the reply.

        Args:
            address: `<contact or user id>/<endpoint>`.
            data: what the endpoint takes.
            timeout: seconds until the deadline (by default ten minutes).
            conversation: the conversation to go on with.
            instance: the mounted flow to call, among those under the endpoint.
        """
        message = message_params(address, data, timeout, conversation, instance)
        return dict(self.request("call", **message)["data"])

    def stream(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        instance: str | None = None,
        typed: Mapping[str, str] | None = None,
    ) -> CallStream:
        """Call a flow, and return what reads the answer while it grows (`p2pflows.client.streams`).

        Args:
            address: `<contact or user id>/<endpoint>`.
            data: what the endpoint takes.
            timeout: seconds until the deadline (by default ten minutes).
            conversation: the conversation to go on with.
            instance: the mounted flow to call, among those under the endpoint.
            typed: texts that a person typed for keys of the data; they count where the flow's schema takes texts.
        """
        from p2pflows.client.streams import CallStream

        message = message_params(address, data, timeout, conversation, instance)
        body = write_params({**message, "typed": typed, "progress": True})
        connection = _Connection(self._home, self._timeout)
        self._connections.add(connection)
        return CallStream(
            self._call_items(connection, body),
            withdraw=lambda message_id: self.request("cancel", id=message_id),
            close=lambda: self._drop(connection),
        )

    def send(
        self,
        address: str,
        data: dict[str, Any] | None = None,
        *,
        timeout: float | None = None,
        conversation: str | None = None,
        instance: str | None = None,
    ) -> str:
        """Send a message that wants no reply, and return its id once the daemon has committed it."""
        message = message_params(address, data, timeout, conversation, instance)
        return str(self.request("send", **message)["id"])

    def ask(
        self,
        who: str | list[str],
        text: str,
        *,
        form: Any = None,
        edit: Any = None,
        default: Any = NO_DEFAULT,
        need: str = "first",
        quorum: int | None = None,
        timeout: float | None = None,
    ) -> Answer[Any]:
        """Ask a human, wait, and return the answer.

        Args:
            who: a contact or user id, the address of a human, or a group such as `@team`; or a list of them.
            text: the question.
            form: what the answer is: a type such as `bool` or a pydantic model, a list of texts to choose from, or a
                JSON Schema; None for a text.
            edit: a document that the answer is an edited copy of: an object or list, or a pydantic model.
            default: what holds if nobody answers in time; by default, that is an error.
            need: of several people, whose answers decide: the `first`, `all` (then the value is a list), all unless one
                says no (`unanimous`), or the same one of `quorum` people (`quorum`).
            quorum: how many have to give the same answer.
            timeout: seconds until the deadline (by default ten minutes).

        Raises:
            Declined: the human does not want to answer.
            DeadlinePassed: nobody has answered in time.
            CallError: the question could not be asked, or ended in another way without an answer.
        """
        from p2pflows.forms.python import TypedForm, ask_params

        typed = TypedForm(form, edit)
        question = self.request(
            "ask", **ask_params(who, text, typed, timeout), need=need, quorum=quorum, **default_of(typed, default)
        )["id"]
        try:
            return typed.answer_in(self.request("wait", id=question))
        except KeyboardInterrupt:
            self.request("cancel", id=question)
            raise

    def tell(self, who: str, text: str, *, timeout: float | None = None) -> str:
        """Leave a note for a person, and return its id once the daemon has committed it."""
        return self.send(human_of(who), {"api_output": text}, timeout=timeout)

    def wait(self, message_id: str, *, timeout: float | None = None) -> dict[str, Any]:
        """Wait for the end of a message sent earlier.

        Returns:
            The data of a call's reply, or the `id` and `state` of a post.
        """
        return data_or_state(self.request("wait", id=message_id, timeout=timeout))

    def inbox(self, *, all: bool = False, limit: int = MAX_INBOX) -> list[dict[str, Any]]:  # noqa: A002 - the API's word
        """Return the prompts that wait for the human, questions before notes; with `all`, past ones too.

        Args:
            all: whether to return past ones too.
            limit: the most prompts to return; `request("inbox", ...)` reads page by page.
        """
        found: list[dict[str, Any]] = []
        page: str | None = None
        while len(found) < limit:
            part = self.request("inbox", all=all, limit=min(limit - len(found), MAX_PAGE), page=page)
            found += part["prompts"]
            page = part.get("next")
            if page is None:
                break
        return found

    def answer(self, prompt_id: str, text: str, *, remark: str | None = None) -> str:
        """Answer a prompt, and return its id.

        Args:
            prompt_id: the id, in full or in short.
            text: the answer, as a person types it.
            remark: what goes with the answer.
        """
        params = {"id": prompt_id, "text": text, "remark": remark}
        return str(self.request("answer", **params)["id"])

    def decline(self, prompt_id: str, reason: str | None = None) -> str:
        """Decline a question, and return its id."""
        return str(self.request("decline", id=prompt_id, reason=reason)["id"])

    def claim(self, prompt_id: str, seconds: float | None = None) -> str:
        """Say that you work on the answer to a question of which others are asked, too, and return its id.

        Args:
            prompt_id: the id, in full or in short.
            seconds: for how long, by default half an hour; 0 if you do so no more.
        """
        return str(self.request("claim", id=prompt_id, seconds=seconds)["id"])

    def dismiss(self, *note_ids: str) -> list[str]:
        """Put notes away, and return their ids."""
        return list(self.request("dismiss", ids=list(note_ids))["ids"])

    def open(self) -> None:
        """Connect to the daemon now, and not only with the first request of this thread.

        Raises:
            P2pflowsError: no daemon runs, or it is another user's.
        """
        self._connection()

    def close(self) -> None:
        """Close the connections of all threads."""
        for connection in list(self._connections):
            self._drop(connection)

    def release(self) -> None:
        """Close the connection of this thread; its next request opens another."""
        connection: _Connection | None = getattr(self._of_thread, "connection", None)
        if connection is not None:
            self._drop(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connection(self) -> _Connection:
        connection: _Connection | None = getattr(self._of_thread, "connection", None)
        if connection is not None and connection.is_closed_by_daemon():
            self._drop(connection)
        if connection is None or connection not in self._connections:
            connection = self._of_thread.connection = _Connection(self._home, self._timeout)
            self._connections.add(connection)
        return connection

    def _call_items(self, connection: _Connection, body: bytes) -> Iterator[dict[str, Any]]:
        """Make a call, and yield what the daemon says about it, at last its `result`.

        Raises:
            P2pflowsError: the daemon went away, or it returned this error.
        """
        try:
            for item in connection.items("call", body):
                if "error" in item:
                    raise read_error(item["error"])
                yield item
        except OSError as error:
            raise _no_response(self._home, error) from error

    def _drop(self, connection: _Connection) -> None:
        connection.close()
        self._connections.discard(connection)


class _Connection:
    """A connection to the daemon's socket that sends one request after the other."""

    def __init__(self, home: Home, timeout: float | None) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        send_in_one_piece(self._socket)
        self._socket.settimeout(timeout)
        try:
            self._socket.connect(str(home.socket))
        except OSError as error:
            self._socket.close()
            raise cannot_connect(home, error) from error
        self._responses = self._socket.makefile("rb", buffering=_READ_BYTES)

    def request(self, method: str, params: bytes) -> dict[str, Any]:
        """Send a request and return its response, an object with `result` or `error`; raises as `items`."""
        for item in self.items(method, params):
            if "result" in item or "error" in item:
                return item
        raise ConnectionResetError

    def items(self, method: str, params: bytes) -> Iterator[dict[str, Any]]:
        """Send a request and yield what the daemon says about it, up to the response.

        Raises:
            OSError: the daemon closed the connection, or did not answer in time.
            CallError: a line is not one of this protocol.
        """
        self._socket.sendall(b'{"id":1,"method":%s,"params":%s}\n' % (json.dumps(method).encode(), params))
        while line := self._read_line():
            for item in read_items(line):
                yield item
                if "result" in item or "error" in item:
                    return
        raise ConnectionResetError

    def _read_line(self) -> bytes:
        try:
            return self._responses.readline()
        except ValueError:  # another thread has closed it a moment ago
            raise ConnectionResetError from None

    def is_closed_by_daemon(self) -> bool:
        """Whether this idle connection is closed; checked before each request, so that none has to be repeated."""
        if self._socket.fileno() < 0:
            return True
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the connection; a thread that waits for a response gets an error."""
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._responses.close()
        self._socket.close()


def _no_response(home: Home, error: BaseException) -> P2pflowsError:
    if isinstance(error, TimeoutError):
        return DaemonNotRunning(
            f"The daemon on {home.path} does not answer.", "Look at its log; if it hangs, start it again."
        )
    return went_away(home)
