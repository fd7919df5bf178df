"""The daemon as the methods of the control API see it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from p2pflows.contacts import ME, Book, resolve
from p2pflows.protocol import topics
from p2pflowsd.api import views
from p2pflowsd.api.parameters import Parameters
from p2pflowsd.node import Node
from p2pflowsd.steps import Submit, run_step
from p2pflowsd.transfers.transfers import Transfers

P = TypeVar("P", bound=Parameters)
T = TypeVar("T")


class Written(bytes):
    """JSON in a result, which is passed on as it is."""

    __slots__ = ()


class Daemon:
    """Access to the node, and facts of the process around it.

    Args:
        node: returns the current node; after a disk failure another one takes its place.
        submit: runs a step inside the node's next batch; after the commit, calls back with its result or P2pflowsError.
        about: returns facts of the process, for `status`.
        broker_url: returns where workers connect, with the password.

    Attributes:
        last_counts: what `status` last counted; shown while the journal cannot be read.
        transfers: the files beside messages; the composition root sets it.
    """

    transfers: Transfers

    def __init__(
        self,
        *,
        node: Callable[[], Node],
        submit: Submit,
        about: Callable[[], dict[str, Any]],
        broker_url: Callable[[], Awaitable[str]],
    ) -> None:
        self._node = node
        self.submit = submit
        self.about = about
        self.broker_url = broker_url
        self.last_counts = views.counts(node())

    @property
    def node(self) -> Node:
        """The current node."""
        return self._node()

    async def run(self, step: Callable[[], T]) -> T:
        """Run a step inside the node's next batch, and return its result after the commit.

        Raises:
            P2pflowsError: the step raised it, or the disk failed.
        """
        return await run_step(self.submit, step)

    async def read(self, step: Callable[[], T]) -> T:
        """Run a step that changes nothing, and return its result; it works while the journal cannot be written.

        Raises:
            P2pflowsError: the step raised it, or the journal cannot be read.
        """
        return await run_step(self.submit, step, reads_only=True)

    def contacts(self) -> Book:
        """The contacts as they are now; a command may have changed the file a moment ago."""
        self.node.contacts.reload_if_changed()
        return self.node.contacts.known

    def resolve_user(self, who: str) -> str:
        """Return the user id for a petname, a user id, `me` or an empty text.

        Raises:
            UnknownUser: no contact has that name.
        """
        return resolve(who, self.contacts(), self.node.user)

    def resolve_address(self, address: str, contacts: Book) -> tuple[str, str]:
        """Return the user id and endpoint for `CONTACT/ENDPOINT`; without a contact it is one of the user's own.

        Raises:
            P2pflowsError: no contact has that name, or the endpoint has a wrong form.
        """
        who, slash, endpoint = address.rpartition("/")
        user = resolve(who if slash else ME, contacts, self.node.user)
        return user, topics.check_name(endpoint, "an endpoint")


@dataclass(frozen=True, slots=True)
class Method(Generic[P]):
    """One method of the control API.

    Attributes:
        parameters: what its parameters must be.
        function: checks nothing more of their form; its docstring says what the method does, and returns.
    """

    parameters: type[P]
    function: Callable[[Daemon, P], Awaitable[Any]]

    async def run(self, daemon: Daemon, params: Mapping[str, Any]) -> Any:
        """Check the parameters, and run the method.

        Raises:
            P2pflowsError: a parameter is wrong, or the method failed.
        """
        return await self.function(daemon, self.parameters.parse(params))
