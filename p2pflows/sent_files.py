"""`File`: a file beside a message, as flows and programs give and get it."""

from __future__ import annotations

import contextlib
import contextvars
import mimetypes
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Self

from p2pflows.client import connect
from p2pflows.errors import DaemonNotRunning, FileLost, UsageError
from p2pflows.protocol import file_reference
from p2pflows.protocol.file_reference import MARK, FileReference, is_reference

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema

RESTART_TIMEOUT_S = 60.0
"""How long a flow waits for a daemon that has gone away, as it may be starting again."""
RESTART_WAIT_S = 0.2
_ELSEWHERE = object()
"""Stands for the home of a daemon on another machine."""
_HOME: contextvars.ContextVar[Any] = contextvars.ContextVar("p2pflows_files_home", default=None)


class File(dict[str, Any]):
    """A file that a message refers to: the reference as it stands in the message's data, so any JSON writer writes it.

    `File("photo.png")` copies a file into the store of the daemon, so that it can be sent; this takes as long as a copy
    takes. `File(answer["image"])` reads the reference in an answer.

    Args:
        source: a path, or a reference.
        name: what the file is called; by default as the path ends.
        type: its media type; by default guessed from the name.
        home: the home folder of the daemon; by default that of the flow that runs, or the one `P2PFLOWS_HOME` names.

    Raises:
        P2pflowsError: the file cannot be read, is too large, or there is no room for it; or no daemon runs here.
        UsageError: the source is neither.
    """

    _home: Any = None

    def __init__(
        self,
        source: str | os.PathLike[str] | dict[str, Any],
        *,
        name: str | None = None,
        type: str | None = None,  # noqa: A002 - the field's word
        home: str | os.PathLike[str] | None = None,
    ) -> None:
        self._home = home if home is not None else _HOME.get()
        if isinstance(source, dict):
            try:
                reference = file_reference.read(source) if is_reference(source) else None
            except ValueError as error:
                raise UsageError(f"That is no reference to a file: {error}.", "Take it from a message.") from error
            if reference is None:
                raise UsageError(f"That is no reference to a file: it has no {MARK!r}.", "Take it from a message.")
            super().__init__(reference.as_data())
            return
        path = Path(source).absolute()
        type = type or mimetypes.guess_type(name or path.name)[0]  # noqa: A001 - the field's word
        super().__init__(self._request("files_put", path=str(path), name=name, type=type)["file"])

    @property
    def reference(self) -> FileReference:
        """What the message says about the file."""
        return file_reference.read(self)

    @property
    def name(self) -> str:
        """What the file is called; its sender has chosen that."""
        return self.reference.name

    @property
    def size(self) -> int:
        """How many bytes it has."""
        return self.reference.size

    @property
    def type(self) -> str:
        """Its media type; its sender has chosen that."""
        return self.reference.type

    @property
    def sha256(self) -> str:
        """The hash of its bytes, in hex."""
        return self.reference.sha256

    @property
    def path(self) -> Path:
        """Where it lies, to be read and not changed; if it is not here yet, this waits until it was fetched.

        Raises:
            FileLost: it cannot be had any more.
            OverQuota: there is no room for it.
        """
        found = self._request("files_get", id=self.reference.id)
        if found["path"] is None:
            raise FileLost(f"The file {self.name!r} is not here.", "Ask for it again.")
        return Path(found["path"])

    def open(self) -> BinaryIO:
        """Open it for reading."""
        return self.path.open("rb")

    def read_bytes(self) -> bytes:
        """Return its bytes."""
        return self.path.read_bytes()

    def __repr__(self) -> str:
        return f"File(name={self.name!r}, size={self.size}, type={self.type!r})"

    def _request(self, method: str, **params: Any) -> Any:
        if self._home is _ELSEWHERE:
            raise UsageError(
                "This worker runs on another machine than its daemon, and files do not reach it.",
                "Run the flow at a worker on the daemon's machine.",
            )
        until = time.monotonic() + (RESTART_TIMEOUT_S if _HOME.get() is not None else 0)
        while True:
            try:
                with connect(self._home) as me:
                    return me.request(method, **params)
            except DaemonNotRunning:  # it may be starting again, which the flow outlives
                if time.monotonic() >= until:
                    raise
                time.sleep(RESTART_WAIT_S)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema

        del source, handler
        return core_schema.no_info_plain_validator_function(
            cls._validate, serialization=core_schema.plain_serializer_function_ser_schema(dict)
        )

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        del schema, handler
        return {"type": "object", "properties": {MARK: {"type": "object"}}, "required": [MARK], "format": "file"}

    @classmethod
    def _validate(cls, value: Any) -> Self:
        if isinstance(value, cls):
            return value
        if not is_reference(value):
            raise ValueError("Input should be a file: key=@FILE, or key@=FILE for one that holds text")
        try:
            return cls(value)
        except UsageError as error:
            raise ValueError(error.message) from error


def with_files(value: Any) -> Any:
    """Return data in which each reference to a file is a `File`; what is malformed stays as it is."""
    if isinstance(value, list):
        return [with_files(item) for item in value]
    if not isinstance(value, dict) or isinstance(value, File):
        return value
    if is_reference(value):
        with contextlib.suppress(UsageError):
            return File(value)
        return value
    return {key: with_files(item) for key, item in value.items()}


def with_paths(value: Any) -> Any:
    """Return data in which each reference to a file also has the `path` where it lies, for a command.

    Raises:
        P2pflowsError: a file cannot be had.
    """
    if isinstance(value, list):
        return [with_paths(item) for item in value]
    if not isinstance(value, dict):
        return value
    if is_reference(value):
        file = with_files(value)
        return {MARK: {**file[MARK], "path": str(file.path)}} if isinstance(file, File) else value
    return {key: with_paths(item) for key, item in value.items()}


@contextlib.contextmanager
def files_of(home: Path | None) -> Iterator[None]:
    """Let the files of the code in the block be those of a daemon.

    Args:
        home: its home folder; None if it is on another machine.
    """
    token = _HOME.set(_ELSEWHERE if home is None else home)
    try:
        yield
    finally:
        _HOME.reset(token)
