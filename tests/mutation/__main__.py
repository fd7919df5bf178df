"""Removes one guard of the daemon at a time, and looks whether a test notices.

A guard is a condition or a part of one, a limit (`min`, `max`, a slice), an exception that is caught, a call that
raises if a check fails, or a condition in SQL. A mutant without one of them that passes all tests is a survivor: it
needs a test, or a line in explained.yaml that says why it does no harm. mutmut and cosmic-ray were not used, because
they change operators and numbers but cannot take a guard away, and they know nothing of SQL.

The tests run on a copy of the tree, so that it can be edited meanwhile. Each mutant meets only tests that reach its
guard. A test that takes far longer than without the mutant has noticed it.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from support.memory_disk import memory_disk

from mutation import guards
from mutation.guards import Mutant

ROOT = Path(__file__).parents[2]
EXPLAINED = Path(__file__).parent / "explained.yaml"
NOTICED = Path(__file__).parent / "noticed.txt"
"""Which tests have noticed which mutants, by their keys; so they are tried first, which saves most of the time."""
_CORE = (
    "tests/unit/receiving",
    "tests/unit/sending",
    "tests/unit/running",
    "tests/unit/human",
    "tests/unit/test_node.py",
)
_PROTOCOL = ("tests/unit/protocol", "tests/properties/test_envelope.py", "tests/properties/test_fuzz_inputs.py")
_JOURNAL = (
    "tests/unit/journal", "tests/unit/human", "tests/unit/receiving/test_rights.py",
    "tests/unit/receiving/test_quotas.py", "tests/unit/receiving/test_limiter.py", "tests/unit/test_checkpoints.py",
    "tests/unit/running/test_instances.py",
    "tests/unit/test_node.py",
)  # fmt: skip
_D = "daemon/p2pflowsd"


def _first(*paths: str) -> tuple[str, ...]:
    return (*paths, *(path for path in _CORE if path not in paths))


TESTS: dict[str, Sequence[str]] = {
    **{
        f"p2pflows/protocol/{name}.py": _PROTOCOL
        for name in ("channel", "envelope", "identity", "invitation", "message", "strict_json", "topics")
    },
    "p2pflows/protocol/worker_frames.py": (*_PROTOCOL, "tests/unit/worker", "tests/unit/running"),
    "p2pflows/protocol/notice.py": (*_PROTOCOL, "tests/unit/receiving", "tests/unit/sending"),
    f"{_D}/receiving/gate.py": _CORE,
    f"{_D}/receiving/intake.py": (*_CORE, "tests/unit/transfers"),
    f"{_D}/receiving/seen_notices.py": _CORE,
    **{
        f"{_D}/sending/{name}.py": _first("tests/unit/sending", "tests/unit/receiving", "tests/unit/test_node.py")
        for name in ("composer", "outbox", "resends", "stream_repairs")
    },
    **{
        f"{_D}/running/{name}.py": _first("tests/unit/running", "tests/unit/test_node.py")
        for name in ("authority", "dispatch", "instance_changes", "leases", "settlement", "turns", "worker_tokens")
    },
    f"{_D}/sending/notices.py": _first("tests/unit/sending", "tests/unit/receiving"),
    f"{_D}/receiving/admission.py": _CORE,
    **{
        f"{_D}/receiving/{name}.py": _CORE
        for name in (
            "allowance", "blocked", "claims", "deadlines", "held", "limiter", "quotas", "refusals", "retries", "rights",
            "seen_bundles",
        )
    },
    **{
        f"{_D}/sending/{name}.py": _first("tests/unit/sending", "tests/unit/receiving")
        for name in (
            "confirmed", "gaps", "open_ids", "own_messages", "pace", "peer_clocks", "presence", "restored_journals",
            "send_queue", "twins", "waiters",
        )
    },
    **{
        f"{_D}/receiving/{name}.py": ("tests/unit/receiving/test_invitations.py",)
        for name in ("invitations", "introductions", "wishes", "people")
    },
    f"{_D}/human/inbox.py": _first("tests/unit/human"),
    **{
        f"{_D}/journal/{name}.py": _JOURNAL
        for name in (
            "__init__", "bodies", "checkpoint", "errors", "file", "incoming", "instances", "invitations", "key_values",
            "last_change", "lines", "log", "migrations", "outgoing", "prompts", "pruning", "questions", "records",
            "remembered", "spending", "streams", "table", "usage", "worker_tokens",
        )
    },
}  # fmt: skip
"""The mutated files, each with the tests that may reach its guards."""


class Explained(NamedTuple):
    """A survivor that does no harm."""

    file: str
    function: str
    change: str

    @classmethod
    def of(cls, file: str, mutant: Mutant) -> Explained:
        """Return what names a mutant, wherever it is in its file."""
        return cls(file, mutant.function, mutant.text)


@dataclass(frozen=True)
class Verdict:
    """What became of a mutant.

    Attributes:
        file: the path of its module.
        mutant: the mutant.
        survives: whether all tests passed without its guard.
        is_reached: whether any test reaches the guard.
    """

    file: str
    mutant: Mutant
    survives: bool
    is_reached: bool


def explanations() -> dict[Explained, str]:
    """Return why each survivor that is explained does no harm."""
    listed = yaml.safe_load(EXPLAINED.read_text(encoding="utf-8")) or {}
    return {
        Explained(file, function, change): why
        for file, functions in listed.items()
        for function, changes in functions.items()
        for change, why in changes.items()
    }


def mutants_of(file: str, only: Sequence[str] = ()) -> list[Mutant]:
    """Return the mutants of a file, or those whose function or change has one of some texts in it."""
    found = guards.find((ROOT / file).read_text(encoding="utf-8"))
    if not only:
        return found
    return [mutant for mutant in found if any(text in f"{mutant.function}: {mutant.text}" for text in only)]


class Trial:
    """Tries mutants on a copy of the tree.

    Args:
        folder: where the copy goes.
        jobs: how many mutants to try at once.
        seconds: how much processor time the tests of one mutant may take.
        tests: files and folders with the tests to use for all files; by default those of TESTS.

    Attributes:
        failing: the tests that fail though no guard is removed; they are not used.
        noticed: which test has noticed which mutant, in this run or one before; the next run tries it first.
    """

    def __init__(self, folder: Path, jobs: int, seconds: float, tests: Sequence[str]) -> None:
        self._tests = tests
        self._folder = folder
        self._tree = copy_tree(folder)
        self._jobs = jobs
        self._seconds = seconds
        self.failing: list[str] = []
        self.noticed = noticed_before()

    def verdicts(self, mutants: dict[str, list[Mutant]]) -> Iterator[Verdict]:
        """Try the mutants of some files; yield a verdict on each as soon as there is one.

        Raises:
            RuntimeError: pytest failed.
        """
        files = {module_of(file): file for file in mutants}
        by_number = {(file, each.number): each for file, found in mutants.items() for each in found}
        places = {module_of(file): [_own_tests(file), *(self._tests or TESTS[file])] for file in mutants}
        tests = sorted({path for paths in places.values() for path in paths if (self._tree / path).exists()})
        if not self._tests:  # what has noticed a mutant of these files may be elsewhere
            keys = {each.key(module_of(file)) for file, found in mutants.items() for each in found}
            known = {test.partition("::")[0] for key, test in self.noticed.items() if key in keys}
            tests += sorted(file for file in known if not any(file.startswith(path) for path in tests))
        numbers = {module_of(file): [each.number for each in found] for file, found in mutants.items()}
        recorded = 0
        for fact in self._run({"mutants": numbers, "tests": places}, tests):
            if "test" in fact:
                recorded += 1
                _progress(f"{recorded} of {fact['of']} tests run without a change")
                if not fact["passes"]:
                    self.failing.append(fact["test"])
            else:
                file = files[fact["module"]]
                mutant = by_number.pop((file, fact["number"]))
                if fact["by"]:
                    self.noticed[mutant.key(module_of(file))] = fact["by"]
                yield Verdict(file, mutant, fact["survives"], fact["is_reached"])
        if by_number:
            raise RuntimeError(f"no verdict on {len(by_number)} mutants")

    def _run(self, what: dict[str, Any], tests: Sequence[str]) -> Iterator[dict[str, Any]]:
        """Run pytest with the plugin, which does what it is told; yield the facts that it tells."""
        reading, writing = os.pipe()
        order = {
            **what, "noticed": self.noticed, "pipe": writing, "folder": str(self._folder), "jobs": self._jobs,
            "seconds": self._seconds,
        }  # fmt: skip
        order_file = self._folder / "order.json"
        order_file.write_text(json.dumps(order), encoding="utf-8")
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(str(self._tree / part) for part in ("", "daemon", "tests")),
            "MUTATION": str(order_file),
            "PYTEST_DEBUG_TEMPROOT": str(self._folder),
        }
        command = [
            sys.executable, "-m", "pytest", "-q", "-s", "-p", "mutation.plugin", "-p", "no:cacheprovider",
            "-p", "no:xdist", *tests,
        ]  # fmt: skip
        log = self._folder / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=self._tree, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
                pass_fds=[writing],
            )  # fmt: skip
        os.close(writing)
        try:
            with os.fdopen(reading, encoding="utf-8") as facts:
                yield from map(json.loads, facts)
            process.wait()
        finally:
            save_noticed(noticed_before() | self.noticed)
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode not in (0, 1, 5):
            raise RuntimeError(f"pytest failed:\n{log.read_text(encoding='utf-8', errors='replace')[-3_000:]}")


def _own_tests(file: str) -> str:
    """Return how the path of each test file begins that is about the module in a file."""
    path = Path(file)
    return f"tests/unit/{path.parent.name}/test_{path.stem}"


def noticed_before() -> dict[str, str]:
    """Return which test has noticed which mutant in earlier runs, by the mutant's key, as far as these tests exist."""
    _text_of.cache_clear()  # the tests may have changed during a long run
    lines = NOTICED.read_text(encoding="utf-8").splitlines() if NOTICED.exists() else []
    found = [(test, keys) for test, _, keys in (line.partition("\t") for line in lines) if _exists(test)]
    return {key: test for test, keys in found for key in keys.split()}


def _exists(test: str) -> bool:
    path, *_, name = test.partition("[")[0].split("::")
    return f"def {name}(" in _text_of(ROOT / path)


@functools.cache
def _text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8") if path.exists() else ""


def save_noticed(noticed: dict[str, str]) -> None:
    """Store which test has noticed which mutant, a line for each test, without the mutants that are no more."""
    keys: dict[str, list[str]] = {}
    for key in sorted(noticed.keys() & {mutant.key(module_of(file)) for file in TESTS for mutant in mutants_of(file)}):
        keys.setdefault(noticed[key], []).append(key)
    text = "".join(f"{test}\t{' '.join(keys[test])}\n" for test in sorted(keys))
    NOTICED.write_text(text, encoding="utf-8")


def module_of(file: str) -> str:
    """Return the name of the module in a file."""
    return ".".join(Path(file.removeprefix("daemon/")).with_suffix("").parts).removesuffix(".__init__")


def copy_tree(to: Path) -> Path:
    """Copy what the tests need; return the folder of the copy."""
    tree = to / "tree"
    left_out = shutil.ignore_patterns("__pycache__", ".*", "site")
    tree.mkdir()
    for name in ("p2pflows", "daemon", "tests", "scripts", "docs"):
        shutil.copytree(ROOT / name, tree / name, ignore=left_out, symlinks=True)
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree / name)
    return tree


def try_all(files: Sequence[str], arguments: argparse.Namespace) -> int:
    """Try the mutants of some files, and print what survives; return the exit code."""
    only: Sequence[str] = arguments.only
    explained = explanations()
    counts: Counter[str] = Counter()
    open_survivors: list[Verdict] = []
    mutants = {file: found for file in files if (found := mutants_of(file, only))}
    total = sum(map(len, mutants.values()))
    if not total:
        print(f"No mutant of these files has {' or '.join(only)} in its function or change. See: scripts/mutate --list")
        return 2
    if arguments.quick:
        counts["explained"] = _leave_out(mutants, lambda file, each: Explained.of(file, each) in explained)
    if arguments.again:
        noticed = noticed_before()
        counts["noticed"] = _leave_out(mutants, lambda file, each: each.key(module_of(file)) in noticed)
    with tempfile.TemporaryDirectory(prefix="p2pflows-mutate-", dir=memory_disk()) as folder:
        trial = Trial(Path(folder), arguments.jobs, arguments.seconds, arguments.tests)
        untried = {file: found for file, found in mutants.items() if found}
        for verdict in trial.verdicts(untried) if untried else ():
            key = Explained.of(verdict.file, verdict.mutant)
            if not verdict.survives:
                counts["noticed"] += 1
                if key in explained:
                    _say(f"A test notices this now, so it needs no explanation: {_shown(verdict)}")
            elif key in explained:
                counts["explained"] += 1
            else:
                open_survivors.append(verdict)
                _say(_shown(verdict))
            done = counts.total() + len(open_survivors)
            _progress(f"{done} of {total} mutants, {len(open_survivors)} survive without an explanation")
        for test in trial.failing:
            _say(f"{test} fails though no guard is removed; it was not used.")
    _progress("")
    stale = [] if only else stale_explanations(files)
    _report(open_survivors, stale)
    print(f"\n{counts['noticed']} noticed by a test, {counts['explained']} explained, {len(open_survivors)} open.")
    return 1 if open_survivors or stale else 0


def _report(open_survivors: Sequence[Verdict], stale: Sequence[Explained]) -> None:
    for key in stale:
        print(f"There is no such mutant: {key.file}, {key.function}: {key.change}")
    if open_survivors:
        print("\nNo test notices these. Write one, or say in tests/mutation/explained.yaml why it does no harm.\n")
        for verdict in sorted(open_survivors, key=lambda each: (each.file, each.mutant.number)):
            print(_shown(verdict))


def _leave_out(mutants: dict[str, list[Mutant]], is_known: Callable[[str, Mutant], bool]) -> int:
    """Remove the mutants of which something is known; return how many there are."""
    before = sum(map(len, mutants.values()))
    for file, found in mutants.items():
        mutants[file] = [mutant for mutant in found if not is_known(file, mutant)]
    return before - sum(map(len, mutants.values()))


def _shown(verdict: Verdict) -> str:
    mutant = verdict.mutant
    note = "" if verdict.is_reached else "   (no test reaches it)"
    return f"{verdict.file}:{mutant.line}: {mutant.function}: {mutant.text}{note}"


def stale_explanations(files: Sequence[str]) -> list[Explained]:
    """Return the explanations of mutants that do not exist."""
    exist = {Explained.of(file, mutant) for file in files for mutant in mutants_of(file)}
    return [key for key in explanations() if key.file in files and key not in exist]


def _say(text: str) -> None:
    _progress("")
    print(text, flush=True)


def _progress(text: str) -> None:
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def main() -> int:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog="scripts/mutate", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--file", action="append", default=[], help="only files with this text in their path")
    parser.add_argument(
        "--only", action="append", default=[], metavar="TEXT", help="only mutants with this text in function or change"
    )
    parser.add_argument(
        "--tests", action="append", default=[], metavar="PATH", help="only these tests, which is faster but misses some"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="how many to try at once (%(default)s)")
    parser.add_argument(
        "--seconds",
        type=float,
        default=8.0,
        help="how much processor time the tests of a mutant may take (%(default)s)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="do not try what is explained, which takes most of the time",
    )
    parser.add_argument("--again", action="store_true", help="only mutants that no earlier run has noticed")
    parser.add_argument("--list", action="store_true", help="print the mutants, and try none")
    arguments = parser.parse_args()
    files = [file for file in TESTS if not arguments.file or any(part in file for part in arguments.file)]
    if not files:
        parser.error(f"no mutated file has {' or '.join(arguments.file)} in its path; they are:\n" + "\n".join(TESTS))
    if arguments.list:
        for file in files:
            for mutant in mutants_of(file, arguments.only):
                print(f"{file}:{mutant.line}: {mutant.function}: {mutant.text}")
        return 0
    if arguments.jobs < 1:
        parser.error("--jobs must be at least 1")
    for path in arguments.tests:
        if not (ROOT / path).exists():
            parser.error(f"there is no {path}")
    return try_all(files, arguments)


if __name__ == "__main__":
    sys.exit(main())
