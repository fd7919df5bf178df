"""Feeds inputs to everything that reads what comes from outside, and varies those that reach new code.

Each target runs in a process of its own, under atheris. An exception that the target does not allow, or an input that
takes too long, is a finding: it is written to a file, with the command that repeats it, and fuzzing goes on. Inputs
that reach new code are kept in --folder for the next time.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

SLICE_S = 30.0
"""The targets take turns of at least this many seconds, unless there is less time."""
MAX_INPUT_BYTES = 4_096
FOLDER = Path(".fuzz")


def fuzz(name: str, seconds: int, folder: Path) -> None:
    """Fuzz one target in this process, which then ends."""
    import atheris

    with atheris.instrument_imports(include=["p2pflows", "p2pflowsd"], enable_loader_override=False):
        from fuzzing import findings
        from fuzzing.targets import TARGETS, feed

    target = TARGETS[name]
    corpus, seeds = folder / "corpus" / name, folder / "seeds" / name
    for each in (corpus, seeds):
        each.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds()):
        (seeds / str(number)).write_bytes(seed)
    known: set[str] = set()
    stack = contextlib.ExitStack()
    one: list[Any] = []
    fed: list[bytes] = []

    def test_one_input(data: bytes) -> None:
        if len(fed) >= target.lasts or not one:
            stack.close()
            fed.clear()
            one[:] = [stack.enter_context(target.opened())]
        fed.append(data)
        try:
            feed(target, one[0], data)
        except Exception as error:  # noqa: BLE001 - it is the finding
            one.clear()
            what = findings.place(error)
            if what not in known:
                known.add(what)
                path = findings.write(folder / "findings", name, findings.shortest(target, list(fed)), error)
                print(f"FINDING {name}: {what}\n  Repeat it with: scripts/fuzz --repeat {path}", flush=True)

    words = _words(target.seeds(), folder / f"{name}.dict")
    options = [
        f"-dict={words}",
        f"-max_total_time={seconds}",
        "-timeout=60",
        f"-max_len={MAX_INPUT_BYTES}",
        "-rss_limit_mb=4096",
    ]
    atheris.Setup(["fuzz", *options, str(corpus), str(seeds)], test_one_input)
    atheris.Fuzz()


def _words(seeds: list[bytes], path: Path) -> Path:
    """Write the quoted words of the seeds to a dictionary of libFuzzer; return its path."""
    import re

    words = sorted({word for seed in seeds for word in re.findall(rb'"([A-Za-z0-9_]{1,40})"', seed)})
    extra = [b"null", b"true", b"[]", b"{}", b"1e999", b"-1", b"9223372036854775808", b'":[', b'":{', b"ME", b"TASK0"]
    lines = []
    for word in [*words, *extra]:
        escaped = "".join(f"\\x{byte:02x}" for byte in word)
        lines.append(f'"{escaped}"')
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def fuzz_all(names: list[str], seconds: float, folder: Path, jobs: int) -> int:
    """Fuzz some targets, some at once, for so many seconds in all; return the exit code."""
    from support.memory_disk import memory_disk

    from fuzzing.targets import TEMPORARY

    each = max(1, int(seconds * jobs / len(names)))
    waiting = list(names)
    running: list[tuple[str, subprocess.Popen[str]]] = []
    findings: list[str] = []
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="p2pflows-fuzz-", dir=memory_disk()) as temporary:
        environment = os.environ | {TEMPORARY: temporary}
        while waiting or running:
            while waiting and len(running) < jobs:
                name = waiting.pop(0)
                running.append((name, _start(name, each, folder, environment)))
                print(f"{name}: {each} s ...", file=sys.stderr, flush=True)
            name, process = running.pop(0)
            code = process.wait()
            log = (folder / f"{name}.log").read_text(encoding="utf-8", errors="replace")
            found = [line for line in log.splitlines() if line.startswith(("FINDING", "  Repeat"))]
            findings += found
            print("\n".join([_summary(name, log), *found]), flush=True)
            if code:
                findings.append(name)
                print(f"{name}: the fuzzer ended with {code}:\n{log[-2_000:]}", flush=True)
    return 1 if findings else 0


def _start(name: str, seconds: int, folder: Path, environment: dict[str, str]) -> subprocess.Popen[str]:
    """Start to fuzz one target; its output goes to a file in the folder."""
    command = [
        sys.executable, "-m", "fuzzing", "--one", name, "--seconds", str(seconds), "--folder", str(folder),
    ]  # fmt: skip
    with (folder / f"{name}.log").open("w", encoding="utf-8") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, text=True, env=environment)


def _summary(name: str, log: str) -> str:
    """Return one line about a target: how many inputs, and how much code they reached."""
    done = [line for line in log.splitlines() if line.startswith("Done ")]
    states = [line.split() for line in log.splitlines() if line.startswith("#") and "cov:" in line]
    reached = states[-1][states[-1].index("cov:") + 1] if states else "?"
    inputs = done[-1].split()[1] if done else "?"
    return f"{name:<14} {inputs:>9} inputs, {reached:>6} places in the code reached"


def repeat(path: Path) -> int:
    """Feed the inputs of a finding again; return 1 if it still is one."""
    from fuzzing import findings
    from fuzzing.targets import replay

    replay(*findings.read(path))
    print("It is no finding any more.")
    return 0


def main() -> int:
    """Run the command."""
    from fuzzing.targets import TARGETS

    parser = argparse.ArgumentParser(
        prog="scripts/fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long to fuzz, in all (%(default)s)")
    parser.add_argument("--target", action="append", default=[], choices=list(TARGETS), help="only this one")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many targets at once (%(default)s)")
    parser.add_argument("--folder", type=Path, default=FOLDER, help="corpus and findings (%(default)s)")
    parser.add_argument("--repeat", type=Path, metavar="FILE", help="feed the inputs of a finding again")
    parser.add_argument("--one", choices=list(TARGETS), help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.repeat is not None:
        if not arguments.repeat.exists():
            parser.error(f"there is no file {arguments.repeat}")
        return repeat(arguments.repeat)
    if arguments.minutes <= 0 or arguments.jobs < 1:
        parser.error("--minutes and --jobs must be more than 0")
    return fuzz_all(arguments.target or list(TARGETS), arguments.minutes * 60, arguments.folder, arguments.jobs)


if __name__ == "__main__":
    if "--one" in sys.argv:  # before anything is imported that is to be instrumented
        fuzz(sys.argv[2], int(sys.argv[4]), Path(sys.argv[6]))
    sys.exit(main())
