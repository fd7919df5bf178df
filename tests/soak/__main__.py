"""`scripts/soak`: real daemons, workers and brokers under random faults, and a verdict on what they did."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import shlex
import signal
import sys
import tempfile
import time
from pathlib import Path

from soak import brokers, picture, scene
from soak.fault_plan import NAMES
from soak.report import report
from soak.scene import Options, Outcome

from p2pflows.errors import P2pflowsError

_MIN_SECONDS = 5.0
_MAX_NUMBER = 10_000_000


def _positive(text: str) -> float:
    with contextlib.suppress(ValueError):
        if 0 < (number := float(text)) < _MAX_NUMBER:
            return number
    raise argparse.ArgumentTypeError(f"{text} is not a number above 0 and below {_MAX_NUMBER:,}")


def _count(text: str, least: int = 0, most: int = _MAX_NUMBER) -> int:
    if text.isdecimal() and least <= int(text) <= most:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text} is not a whole number from {least} to {most:,}")


def _users(text: str) -> int:
    return _count(text, 2, len(scene.USER_NAMES))


def _some(text: str) -> int:
    return _count(text, 1)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="scripts/soak",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Let users send messages of all kinds through real daemons, workers and a real broker, while\n"
        "connections, processes and clocks fail at random. Then wait until everything has ended, and check that\n"
        "nothing was lost, doubled, reordered or asked twice. Exit code: 0 if all promises held, 1 if not.",
        epilog="Examples:\n"
        "  scripts/soak --minutes 2\n"
        "  scripts/soak --minutes 10 --seed 7 --broker bridged --messages 20000 --kills 200\n"
        "  scripts/soak --minutes 1 --without 'jump clock' --without drop\n\n"
        f"Faults: {', '.join(NAMES)}.",
    )
    parser.add_argument("--minutes", type=_positive, default=2.0, help="how long faults happen (default: 2)")
    parser.add_argument("--seed", type=_count, help="seed of all random choices (default: from the clock)")
    parser.add_argument("--users", type=_users, default=5, metavar="N", help="from 2 to 8 (default: 5)")
    parser.add_argument("--broker", default="mosquitto", choices=brokers.KINDS, help="(default: mosquitto)")
    parser.add_argument("--rate", type=_positive, help="messages a second, of all users together (default: 10)")
    parser.add_argument(
        "--messages", type=_some, metavar="N", help="send at least so many, at the rate that this needs"
    )
    parser.add_argument("--kills", type=_count, metavar="N", help="kill -9 so often (default: every 5 seconds)")
    parser.add_argument(
        "--faults", type=_count, metavar="N", help="so many other faults (default: one every 3 seconds)"
    )
    parser.add_argument(
        "--without", action="append", default=[], choices=NAMES, metavar="FAULT", help="leave a fault out"
    )
    parser.add_argument("--no-namespaces", action="store_true", help="let the proxy cut daemons off, even as root")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="for history, picture and logs (default: a new one)")
    return parser


def _options(arguments: list[str]) -> Options:
    parser = _parser()
    given = parser.parse_args(arguments)
    seconds = max(_MIN_SECONDS, given.minutes * 60)
    if given.rate is not None and given.messages is not None:
        parser.error("--rate and --messages exclude each other: the number of messages decides the rate")
    out = given.out or Path(tempfile.mkdtemp(prefix="p2pflows-soak-"))
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        parser.error(f"--out: {error}")
    return Options(
        seed=time.time_ns() // 1_000_000 % 1_000_000 if given.seed is None else given.seed,
        seconds=seconds,
        users=given.users,
        broker=given.broker,
        rate=given.rate or (given.messages / seconds * 1.1 if given.messages else 10.0),
        messages=given.messages,
        kills=round(seconds / 5) if given.kills is None else given.kills,
        others=round(seconds / 3) if given.faults is None else given.faults,
        without=tuple(given.without),
        namespaces=not given.no_namespaces,
        out=out,
    )


def main(arguments: list[str]) -> int:
    """Run a soak from the command line; return the exit code."""
    options = _options(arguments)
    given = (
        arguments if any(word.startswith("--seed") for word in arguments) else [*arguments, "--seed", str(options.seed)]
    )
    command = shlex.join(["scripts/soak", *given])
    _say(f"{command}   (files: {options.out})")
    try:
        outcome = asyncio.run(_run_until_signal(options))
    except P2pflowsError as error:
        sys.stderr.write(f"Error [{error.kind}]: {error.message}\n  {error.hint}\n")
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.stderr.write("stopped; everything that it had started has ended\n")
        return 130
    title = f"{command}: {outcome.faults.total()} faults"
    drawing = picture.draw(title, outcome.series, outcome.marks, outcome.calm_from)
    (options.out / "soak.svg").write_text(drawing)
    (options.out / "violations.txt").write_text("".join(f"{violation}\n" for violation in outcome.violations))
    _say(report(options, outcome, command))
    return 1 if outcome.violations else 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


async def _run_until_signal(options: Options) -> Outcome:
    """Run a soak as a task that Ctrl-C and SIGTERM cancel, so that it ends its processes."""
    task = asyncio.create_task(scene.run(options, _say))
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    return await task


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
