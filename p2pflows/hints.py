"""Hints in the words of the place where they are read: daemons write them for the shell, Python programs get Python."""

from __future__ import annotations

import contextlib
import contextvars
import re
from collections.abc import Iterator

_IN_SHELL: contextvars.ContextVar[bool] = contextvars.ContextVar("p2pflows_in_shell", default=False)
_PYTHON = (
    (r"p2pflows worker --dispatch-point (\S+)", r"p2pflows.run_dispatch_worker_thread(cl, dispatch_point='\1')"),
    (r"p2pflows worker --api-key-env NAME", "p2pflows.run_dispatch_worker_thread(cl, api_infos=[...])"),
    (r"p2pflows mount ADDRESS", "p2pflows.serving.get_flow_instance(cl, flow_endpoint, user_id)"),
    (r"p2pflows unmount INSTANCE --of CONTACT", "p2pflows.serving.delete_flow_instance(cl, flow_id, user_id)"),
    (r"p2pflows instances", "p2pflows.serving.get_flow_instances(cl)"),
    (r"p2pflows ls CONTACT", "cl.request('ls', user='CONTACT')"),
    (r"p2pflows ls(?! \w)", "p2pflows.serving.get_served_flows(cl)"),
    (r"p2pflows describe (\S+)", r"cl.request('describe', address='\1')"),
    (r"p2pflows status", "cl.request('status')"),
    (r"p2pflows log(?! \w)", "cl.request('log')"),
    (r"p2pflows outbox(?! \w)", "cl.request('outbox')"),
    (r"p2pflows asked(?! --?\w| \w)", "cl.request('asked')"),
    (r"p2pflows wait (\w+)", r"cl.wait('\1')"),
    (r"p2pflows id(?! \w)", "cl.user_id"),
    (r"add: --replace", "first unserve it: cl.request('unserve', endpoint=flow_endpoint)"),
    (r"a longer --timeout", "a longer timeout"),
    (r"--timeout 10m", "timeout=600"),
)
_COMMAND = re.compile(r"(?<![\w.(])p2pflows [a-z]")


@contextlib.contextmanager
def in_shell() -> Iterator[None]:
    """Let errors inside the block keep hints for the shell; the command line uses it."""
    token = _IN_SHELL.set(True)
    try:
        yield
    finally:
        _IN_SHELL.reset(token)


def for_reader(hint: str) -> str:
    """Return a daemon's hint as the caller of this code can follow it: in the shell as it is, else for Python."""
    if _IN_SHELL.get():
        return hint
    for command, python in _PYTHON:
        hint = re.sub(command, python, hint)
    return f"{hint} (in a shell)" if _COMMAND.search(hint) else hint
