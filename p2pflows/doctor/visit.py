"""One visit: all looks, in the order in which a person would take them."""

from __future__ import annotations

from collections.abc import Iterator

from p2pflows import config
from p2pflows.doctor import broker_checks, daemon_checks, home_checks
from p2pflows.doctor.finding import Finding
from p2pflows.errors import UsageError
from p2pflows.home import Home
from p2pflows.links import broker_url
from p2pflows.protocol import identity


def visit(home: Home) -> Iterator[Finding]:
    """Look at everything, and yield what is found."""
    yield from home_checks.check_machine()
    yield from home_checks.check_home(home)
    yield from home_checks.check_files(home)
    yield from home_checks.check_journal(home)
    yield from home_checks.check_notices(home)
    status, why = daemon_checks.ask_daemon(home)
    yield from why
    if status is not None:
        yield from daemon_checks.check_daemon(status)
    yield from daemon_checks.check_time_service()
    try:
        broker = broker_url.parse(config.load(home).broker)
    except UsageError:
        return  # the settings were named already
    yield from broker_checks.check_broker(broker, _user(home), daemon_runs=status is not None)


def _user(home: Home) -> str | None:
    try:
        return identity.load(home.key).user_id
    except UsageError:
        return None
