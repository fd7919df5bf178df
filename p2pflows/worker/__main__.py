"""`python -m p2pflows.worker`: read a token from the first line of stdin, and serve until stdin ends."""

from __future__ import annotations

from p2pflows import terminal

if __name__ == "__main__":
    terminal.begin_quietly()

import argparse
import asyncio
import contextlib
import io
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from p2pflows import logs
from p2pflows.errors import NotAllowed, UsageError
from p2pflows.memory import keep_large_buffers
from p2pflows.protocol.channel import Enrolment, read_token

if TYPE_CHECKING:
    from p2pflows.models.api_info import ApiInfo

UNUSABLE_SETTINGS = os.EX_CONFIG
"""The exit code of a worker that its daemon need not start again, as its settings cannot be used."""

_MAX_SLOTS = 256
_SWITCH_INTERVAL_S = 0.001
"""How long a busy flow may keep the interpreter from the thread that talks to the daemon."""


class _Refused(Exception):
    """The daemon takes nothing from this worker."""


def main() -> int:
    """Run a worker until a signal, or the end of stdin, stops it; return the exit code."""
    terminal.open_closed_streams()
    keep_large_buffers()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    logs.to_stderr("info")
    sys.dont_write_bytecode = True  # bytecode of a module that is edited within the same second would hide the edit
    arguments = _arguments()
    stdin = _keep_flows_off_our_pipes()
    try:
        enrolment = read_token(stdin.readline().decode(errors="replace"))
        given = _given_keys(stdin.readline()) if arguments.keys_on_stdin else dict(os.environ)
        keys = _keys(arguments.api_info, given)
        parent = None if arguments.no_parent else stdin
        all_ended = asyncio.run(_run(enrolment, arguments, keys, parent))
        code = 0
    except _Refused:  # the worker has said why
        all_ended, code = False, NotAllowed.exit_code
    except UsageError as error:
        sys.stderr.write(f"{error.message} {error.hint}\n")
        return error.exit_code if arguments.no_parent else UNUSABLE_SETTINGS
    except KeyboardInterrupt:
        return 128 + signal.SIGINT  # before there was anything to drain
    if not all_ended:
        # A flow still runs: the interpreter's own exit would tear it down half-way, or wait for it.
        logging.shutdown()
        sys.stdout.flush()
        os._exit(code)
    return code


async def _run(
    enrolment: Enrolment, arguments: argparse.Namespace, keys: list[ApiInfo], parent: io.FileIO | None
) -> bool:
    # Imported here, so that a bad token is reported before the heavy imports.
    from p2pflows.worker.process import Worker

    worker = Worker(enrolment, arguments.concurrency, keys, daemon=arguments.socket, max_waiting=arguments.max_waiting)
    loop = asyncio.get_running_loop()

    def stop(number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            logging.getLogger("p2pflows.worker").warning(terminal.TERMINAL_CLOSED)
        worker.stop()

    for number in terminal.stop_signals():
        loop.add_signal_handler(number, stop, number)
    if parent is not None:
        # In a thread, as not every kind of stdin can be polled.
        threading.Thread(target=_watch, args=(parent, loop, worker.stop), name="parent", daemon=True).start()
    all_ended = await worker.run()
    if worker.refusal is not None:
        raise _Refused
    return all_ended


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m p2pflows.worker", description="Run flows for a daemon.")
    parser.add_argument(
        "--concurrency",
        type=int,
        default=4,
        choices=range(1, _MAX_SLOTS + 1),
        metavar="N",
        help=f"how many tasks may run at once, 1 to {_MAX_SLOTS}",
    )
    parser.add_argument("--max-waiting", type=int, default=256, metavar="N", help="how many waiting runs it keeps")
    parser.add_argument(
        "--api-info", action="append", default=[], metavar="JSON", help="an API key: backend_used, api_key_env, ..."
    )
    parser.add_argument(
        "--keys-on-stdin", action="store_true", help="read the keys from the second line of stdin: {variable: key}"
    )
    parser.add_argument("--socket", type=Path, help="the socket of a daemon on this machine")
    parser.add_argument("--no-parent", action="store_true", help="go on after stdin has ended")
    return parser.parse_args()


def _given_keys(line: bytes) -> dict[str, str]:
    """Read the keys that the parent process wrote, by the names of their variables."""
    try:
        given = json.loads(line)
    except ValueError:
        given = None
    return given if isinstance(given, dict) else {}


def _keys(texts: list[str], given: Mapping[str, str]) -> list[ApiInfo]:
    """Read the API keys for flows, and remove them from the environment, where flows would find them.

    Args:
        texts: what is said of each key.
        given: the keys, by the names of their variables.

    Raises:
        UsageError: one is missing or malformed.
    """
    if not texts:
        return []
    from p2pflows.config import KeyConfig
    from p2pflows.models.api_info import NO_KEY, ApiInfo

    keys, used = [], set()
    for text in texts:
        try:
            config = KeyConfig.model_validate_json(text)
        except ValueError:
            raise UsageError(
                "An --api-info is not what this release writes.", "Start it with: p2pflows worker"
            ) from None
        if config.api_key_env is None and config.api_base is None:
            raise UsageError("A key has no source.", "Name its environment variable: --api-key-env NAME")
        if config.api_key_env is not None:
            used.add(config.api_key_env)
        key = NO_KEY if config.api_key_env is None else given.get(config.api_key_env, "")
        if not key and not (config.api_key_env or "").isidentifier():
            raise UsageError("An api_key_env is not the name of a variable.", "Give the NAME, not the key.")
        if not key:
            raise UsageError(f"The environment variable {config.api_key_env} is not set.", "Set it to the key.")
        if config.ca_file is not None and not os.access(config.ca_file, os.R_OK):
            raise UsageError(f"The ca_file {config.ca_file} cannot be read.", "Correct its path in config.yaml.")
        more = config.model_dump(exclude={"api_key_env"})
        keys.append(ApiInfo(api_key=key, **more))
    for name in used:
        os.environ.pop(name, None)
    return keys


def _keep_flows_off_our_pipes() -> io.FileIO:
    """Return our stdin, and give flows an empty one; what they print goes to stderr."""
    stdin = os.dup(0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(line_buffering=True)
    return io.FileIO(stdin)


def _watch(parent: io.FileIO, loop: asyncio.AbstractEventLoop, stop: Callable[[], None]) -> None:
    while parent.read(4096):
        pass
    with contextlib.suppress(RuntimeError):  # we are ending already, and the loop is closed
        loop.call_soon_threadsafe(stop)


if __name__ == "__main__":
    sys.exit(main())
