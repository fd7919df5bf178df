"""Who may see the page: links that log in once, and the browsers that have used one.

Both are in `web.json` in the home, so whoever can read that folder can log in, and nobody else. Of each secret only a
hash is kept. A session has two secrets: a cookie, which scripts cannot read, and a key that the page keeps in its own
storage and shows with each request. A browser sends cookies to every port of a host, so a server of another user on
this machine may come to see the cookie; the storage it cannot read.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError

from p2pflows import files
from p2pflows.errors import UsageError
from p2pflows.home import Home

LINK_LIFE_S = 600
MAX_LINKS = 10
SESSION_LIFE_S = 30 * 86_400
MAX_SESSIONS = 20
MAX_WRONG_LOGINS = 10
"""How many links that do not exist may be tried within a minute; a link that exists works all the same."""
WRONG_LOGINS_PER_S = 60
_SECRET_BYTES = 32
_ID_BYTES = 8
_MAX_FILE_BYTES = 100_000
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class _Link(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    hash: str
    until: float


class _Session(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    cookie: str
    key: str
    until: float


class _Content(BaseModel):
    """What the file holds."""

    model_config = ConfigDict(extra="forbid")

    url: str = ""
    pid: int = 0
    links: list[_Link] = []
    sessions: list[_Session] = []


class NewSession(NamedTuple):
    """The two secrets of a browser that has logged in, and for how many seconds they are good."""

    cookie: str
    key: str
    seconds: int


class WrongLink(Exception):
    """There is no such link: it was used, is too old, or never was."""


class TooManyWrong(Exception):
    """Too many links that do not exist were tried within a minute."""


class Logins:
    """The links and sessions of one home.

    Args:
        home: the home.
        now: returns the seconds since the Unix epoch.
    """

    def __init__(self, home: Home, now: Callable[[], float] = time.time) -> None:
        self._path = home.path / "web.json"
        self._lock = home.path / "web.lock"
        self._now = now
        self._stamp: tuple[int, int] | None = None
        self._known = _Content()
        self._wrong: list[float] = []
        """When the last links were tried that do not exist."""

    def new_link(self) -> str:
        """Make a link that logs in once, and return its token; with too many, the oldest gives way.

        Raises:
            UsageError: the file cannot be read or written.
        """
        link_id, secret = secrets.token_hex(_ID_BYTES), secrets.token_urlsafe(_SECRET_BYTES)
        with self._changing() as content:
            made = _Link(id=link_id, hash=_hash(secret), until=self._now() + LINK_LIFE_S)
            content.links = [*content.links, made][-MAX_LINKS:]
        return f"{link_id}.{secret}"

    def log_in(self, token: str) -> NewSession:
        """Use a link up; with too many sessions, the oldest ends.

        A link that exists counts whatever others have tried, so nobody can keep its owner out. One wrong secret ends
        it.

        Raises:
            WrongLink: there is no such link.
            TooManyWrong: the same, and others were tried within a minute.
            UsageError: the file cannot be read or written.
        """
        link_id, _, secret = token.partition(".")
        if not any(link.id == link_id for link in self._read().links):
            self._count_wrong()
            raise WrongLink
        session = NewSession(secrets.token_urlsafe(_SECRET_BYTES), secrets.token_urlsafe(_SECRET_BYTES), SESSION_LIFE_S)
        with self._changing() as content:
            found = [link for link in content.links if link.id == link_id]
            content.links = [link for link in content.links if link.id != link_id]
            is_right = bool(found) and hmac.compare_digest(found[0].hash, _hash(secret))
            if is_right:
                until = self._now() + SESSION_LIFE_S
                made = _Session(cookie=_hash(session.cookie), key=_hash(session.key), until=until)
                content.sessions = [*content.sessions, made][-MAX_SESSIONS:]
        if not is_right:
            raise WrongLink
        return session

    def is_logged_in(self, cookie: str, key: str) -> bool:
        """Whether a browser shows both secrets of a session.

        Raises:
            UsageError: the file cannot be read.
        """
        shown_cookie, shown_key = _hash(cookie), _hash(key)
        return any(
            hmac.compare_digest(session.cookie, shown_cookie) and hmac.compare_digest(session.key, shown_key)
            for session in self._read().sessions
            if session.until > self._now()
        )

    def log_out(self, cookie: str) -> None:
        """End the session with a cookie.

        Raises:
            UsageError: the file cannot be read or written.
        """
        shown = _hash(cookie)
        with self._changing() as content:
            content.sessions = [session for session in content.sessions if session.cookie != shown]

    def log_out_all(self) -> int:
        """End all sessions and links, and return how many sessions there were.

        Raises:
            UsageError: the file cannot be read or written.
        """
        with self._changing() as content:
            count = len(content.sessions)
            content.sessions, content.links = [], []
        return count

    def note_server(self, url: str) -> None:
        """Write down where the server of this process is; empty when it ends.

        Raises:
            UsageError: the file cannot be read or written.
        """
        with self._changing() as content:
            if url or content.pid == os.getpid():
                content.url, content.pid = url, os.getpid() if url else 0

    def server_url(self) -> str:
        """Return where the server is; empty if none runs.

        Raises:
            UsageError: the file cannot be read.
        """
        content = self._read()
        return content.url if content.pid and _runs(content.pid) else ""

    def _count_wrong(self) -> None:
        now = self._now()
        self._wrong = [at for at in self._wrong if now - WRONG_LOGINS_PER_S < at <= now]
        if len(self._wrong) >= MAX_WRONG_LOGINS:
            raise TooManyWrong
        self._wrong.append(now)

    @contextmanager
    def _changing(self) -> Iterator[_Content]:
        """Yield the content, and write what becomes of it, without what has run out."""
        try:
            with files.exclusive_lock(self._lock):
                content = self._read().model_copy()
                content.links = [link for link in content.links if link.until > self._now()]
                content.sessions = [session for session in content.sessions if session.until > self._now()]
                yield content
                files.replace(self._path, content.model_dump_json())
        except OSError as error:
            raise UsageError(f"{self._path} cannot be written: {error.strerror}.", "Make room, or check it.") from error

    def _read(self) -> _Content:
        """Return the content, read again if the file has changed, as a command may have made a link."""
        again = f"To log in anew everywhere, remove {self._path}."
        try:
            info = self._path.stat()
            stamp = info.st_mtime_ns, info.st_ino
            if stamp == self._stamp:
                return self._known
            if info.st_uid != os.geteuid() or info.st_mode & _OTHERS:
                raise UsageError(f"Other users of this machine can read {self._path}.", again)
            if info.st_size > _MAX_FILE_BYTES:
                raise UsageError(f"{self._path} is not what p2pflows has written.", again)
            self._known = _Content.model_validate(json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            self._stamp, self._known = None, _Content()
            return self._known
        except OSError as error:
            raise UsageError(f"{self._path} cannot be read: {error.strerror}.", again) from error
        except (ValueError, ValidationError) as error:
            raise UsageError(f"{self._path} is not what p2pflows has written.", again) from error
        self._stamp = stamp
        return self._known


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode(errors="replace")).hexdigest()


def _runs(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    return True
