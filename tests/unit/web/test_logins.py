"""Who may see the page: links that work once, and sessions with two secrets."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pflows.errors import UsageError
from p2pflows.home import Home
from p2pflows.web.logins import (
    LINK_LIFE_S,
    MAX_LINKS,
    MAX_SESSIONS,
    MAX_WRONG_LOGINS,
    SESSION_LIFE_S,
    Logins,
    TooManyWrong,
    WrongLink,
)


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        """Return the seconds since the Unix epoch."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The clock of the logins."""
    return Clock()


@pytest.fixture
def logins(tmp_path: Path, clock: Clock) -> Logins:
    """The logins of a home."""
    return Logins(Home(tmp_path), clock)


def test_a_link_logs_in_once(logins: Logins) -> None:
    """Whoever finds it in a history later gets nothing."""
    token = logins.new_link()
    session = logins.log_in(token)
    assert logins.is_logged_in(session.cookie, session.key)
    with pytest.raises(WrongLink):
        logins.log_in(token)


def test_a_link_is_good_for_ten_minutes(logins: Logins, clock: Clock) -> None:
    """A terminal may show it for longer."""
    token = logins.new_link()
    clock.now += LINK_LIFE_S + 1
    with pytest.raises(WrongLink):
        logins.log_in(token)


def test_one_wrong_secret_ends_a_link(logins: Logins) -> None:
    """Who knows the first half of a link gets one guess of the second."""
    token = logins.new_link()
    with pytest.raises(WrongLink):
        logins.log_in(token[:-1] + ("A" if token[-1] != "A" else "B"))
    with pytest.raises(WrongLink):
        logins.log_in(token)


def test_the_cookie_alone_is_worth_nothing(logins: Logins) -> None:
    """A server of another user on another port of this machine may get to see it, but not the storage of the page."""
    session = logins.log_in(logins.new_link())
    assert not logins.is_logged_in(session.cookie, "")
    assert not logins.is_logged_in("", session.key)
    other = logins.log_in(logins.new_link())
    assert not logins.is_logged_in(session.cookie, other.key)


def test_a_stranger_who_tries_links_does_not_keep_the_owner_out(logins: Logins, clock: Clock) -> None:
    """Wrong links are refused more and more strictly; the right one works all the same."""
    token = logins.new_link()
    for _ in range(MAX_WRONG_LOGINS):
        with pytest.raises(WrongLink):
            logins.log_in("0123456789abcdef.guess")
    with pytest.raises(TooManyWrong):
        logins.log_in("0123456789abcdef.guess")
    assert logins.log_in(token)
    clock.now += 61
    with pytest.raises(WrongLink):
        logins.log_in("0123456789abcdef.guess")


def test_a_session_survives_a_restart_of_the_server_and_ends_after_a_month(tmp_path: Path, clock: Clock) -> None:
    """The browser stays logged in, but not for ever."""
    session = Logins(Home(tmp_path), clock).log_in(Logins(Home(tmp_path), clock).new_link())
    again = Logins(Home(tmp_path), clock)
    assert again.is_logged_in(session.cookie, session.key)
    clock.now += SESSION_LIFE_S + 1
    assert not again.is_logged_in(session.cookie, session.key)


def test_links_and_sessions_are_few(logins: Logins, tmp_path: Path) -> None:
    """The oldest give way."""
    tokens = [logins.new_link() for _ in range(MAX_LINKS + 1)]
    with pytest.raises(WrongLink):
        logins.log_in(tokens[0])
    sessions = [logins.log_in(logins.new_link()) for _ in range(MAX_SESSIONS + 1)]
    assert [logins.is_logged_in(each.cookie, each.key) for each in sessions[:2]] == [False, True]
    content = json.loads((tmp_path / "web.json").read_text())
    assert len(content["sessions"]) == MAX_SESSIONS
    assert len(content["links"]) < MAX_LINKS


def test_the_file_holds_no_secret_and_is_private(logins: Logins, tmp_path: Path) -> None:
    """A copy of it logs nobody in."""
    token = logins.new_link()
    session = logins.log_in(logins.new_link())
    path = tmp_path / "web.json"
    text = path.read_text()
    assert token.partition(".")[2] not in text
    assert session.cookie not in text
    assert session.key not in text
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "content",
    [f'{{"url": "{"x" * 200_000}"}}', "", "[]", '{"sessions": [{"cookie": 1}]}', '{"links": {}}', "x" * 200_000],
)
def test_a_file_that_is_something_else_logs_nobody_in(logins: Logins, tmp_path: Path, content: str) -> None:
    """The error says which file to remove, and the file stays as it is."""
    path = tmp_path / "web.json"
    path.write_text(content)
    path.chmod(0o600)
    for step in (logins.new_link, lambda: logins.is_logged_in("a", "b"), lambda: logins.log_in("a.b")):
        with pytest.raises(UsageError, match="not what p2pflows has written"):
            step()
    assert path.read_text() == content


def test_a_file_that_others_can_read_logs_nobody_in(logins: Logins, tmp_path: Path) -> None:
    """What others may have changed or read does not count."""
    session = logins.log_in(logins.new_link())
    (tmp_path / "web.json").chmod(0o644)
    fresh = Logins(Home(tmp_path), lambda: 1_000_000.0)
    with pytest.raises(UsageError, match="Other users"):
        fresh.is_logged_in(session.cookie, session.key)


def test_logging_out_ends_a_session_or_all(logins: Logins) -> None:
    """Links that nobody has used end with all sessions."""
    first, second = logins.log_in(logins.new_link()), logins.log_in(logins.new_link())
    logins.log_out(first.cookie)
    assert not logins.is_logged_in(first.cookie, first.key)
    assert logins.is_logged_in(second.cookie, second.key)
    token = logins.new_link()
    assert logins.log_out_all() == 1
    assert not logins.is_logged_in(second.cookie, second.key)
    with pytest.raises(WrongLink):
        logins.log_in(token)


def test_where_the_server_is_counts_while_it_runs(logins: Logins, tmp_path: Path) -> None:
    """A server that was killed leaves its address behind."""
    assert logins.server_url() == ""
    logins.note_server("http://127.0.0.1:1")
    assert logins.server_url() == "http://127.0.0.1:1"
    path = tmp_path / "web.json"
    path.write_text(path.read_text().replace(f'"pid":{json.loads(path.read_text())["pid"]}', '"pid":99999999'))
    assert logins.server_url() == ""
