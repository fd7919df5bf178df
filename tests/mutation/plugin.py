"""A plugin of pytest that runs tests against mutants; `scripts/mutate` loads it with `-p`.

pytest collects once. Then each mutant has a process of its own, which begins as a copy of this one, so that nothing is
imported again, and which runs the tests that reach the guard until one fails. What is found is
written to a pipe, as lines of JSON.
"""

from __future__ import annotations

import builtins
import contextlib
import json
import os
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType
from typing import Any

import pytest

from mutation import guards
from mutation.guards import Mutant

ORDER = "MUTATION"
"""The environment variable with the path of a JSON file, which has the fields of `Order`."""
_SWITCH = "_is_removed_"
_MAX_MEMORY = 8 * 2**30
_SURVIVED, _NOTICED = 0, 1
_CONSTANTS = (str, bytes, int, tuple, dict, frozenset)


class Order:
    """What to do.

    Attributes:
        mutants: the numbers of the mutants to try, by module.
        tests: the files and folders with the tests of each module; those that are named first come first.
        noticed: the tests that noticed mutants in an earlier run, by the keys of these; they come before all.
        pipe: the descriptor of the pipe.
        folder: an own folder for the files of the tests.
        jobs: how many mutants to try at once.
        seconds: how much processor time the tests of one mutant may take together; the slowest are left out.
    """

    def __init__(self) -> None:
        order = json.loads(Path(os.environ[ORDER]).read_text(encoding="utf-8"))
        self.mutants: dict[str, list[int]] = order["mutants"]
        self.tests: dict[str, list[str]] = order["tests"]
        self.noticed: dict[str, str] = order["noticed"]
        self.pipe: int = order["pipe"]
        self.folder = Path(order["folder"])
        self.jobs: int = order["jobs"]
        self.seconds: float = order["seconds"]


class Switches(MetaPathFinder):
    """Imports the mutated modules from texts with switches, and knows which one is on.

    Attributes:
        seen: the guards that were reached, as (module, number).
    """

    def __init__(self, modules: Iterable[str]) -> None:
        self.seen: set[tuple[str, int]] = set()
        self._on: tuple[str, int] | None = None
        self._modules = list(modules)
        for index, module in enumerate(self._modules):
            setattr(builtins, f"{_SWITCH}{index}", self._switch_of(module))

    def find_spec(self, fullname: str, path: Sequence[str] | None, target: object = None) -> ModuleSpec | None:
        """Find a mutated module, and no other."""
        del target
        if fullname not in self._modules:
            return None
        spec = PathFinder.find_spec(fullname, path)
        if spec is not None and spec.origin is not None:
            spec.loader = _Loader(fullname, spec.origin, f"{_SWITCH}{self._modules.index(fullname)}")
        return spec

    def remove(self, module: str, mutant: Mutant) -> None:
        """Remove a guard, in this process for good."""
        self._on = module, mutant.number
        if not mutant.is_early:
            return
        # The constants of the module are made again; classes and functions stay, and see the new ones.
        now = vars(sys.modules[module])
        loader = sys.modules[module].__loader__
        assert isinstance(loader, _Loader)
        again = dict(now)
        exec(loader.get_code(module), again)  # noqa: S102 - it is our own module
        now.update(
            {name: value for name, value in again.items() if isinstance(value, _CONSTANTS) and value != now.get(name)}
        )

    def _switch_of(self, module: str) -> Callable[[int], bool]:
        def is_removed(number: int) -> bool:
            self.seen.add((module, number))
            return (module, number) == self._on

        return is_removed


class _Loader(SourceFileLoader):
    """Loads a module with switches."""

    def __init__(self, name: str, path: str, switch: str) -> None:
        super().__init__(name, path)
        self._switch = switch

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        source = Path(self.path).read_text(encoding="utf-8")
        return compile(guards.with_switches(source, self._switch), self.path, "exec", dont_inherit=True)


class Runs:
    """Runs tests in copies of this process."""

    def __init__(self, order: Order, switches: Switches, items: list[pytest.Item]) -> None:
        self._order = order
        self._switches = switches
        self._items = {item.nodeid: item for item in items}
        self._times: dict[str, float] = {}
        self._reached: dict[tuple[str, int], list[str]] = {}
        self._noticed_by: dict[tuple[str, str], dict[str, None]] = {}
        """The tests that have noticed a mutant, by module and function; they notice most others of it, too."""
        self._pipe = os.fdopen(order.pipe, "w", encoding="utf-8")
        self._failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Remember a failure."""
        self._failed |= report.failed

    def record(self) -> None:
        """Learn how long each test takes that passes, and which guards it reaches."""
        reading, writing = os.pipe()
        pid = self._fork(lambda: self._record(writing))
        os.close(writing)
        with os.fdopen(reading, encoding="utf-8") as facts:
            for fact in map(json.loads, facts):
                self._tell(test=fact["test"], passes=fact["passes"], seconds=fact["seconds"], of=len(self._items))
                if fact["passes"]:
                    self._times[fact["test"]] = fact["seconds"]
                    for module, number in fact["reaches"]:
                        self._reached.setdefault((module, number), []).append(fact["test"])
        os.waitpid(pid, 0)
        self._clear(pid)

    def try_mutants(self) -> None:
        """Try the mutants of the order, some of them at once."""
        waiting = []
        for module, numbers in self._order.mutants.items():
            spec = PathFinder.find_spec(module.rpartition(".")[2], sys.modules[module.rpartition(".")[0]].__path__)
            assert spec is not None
            assert spec.origin is not None
            found = {mutant.number: mutant for mutant in guards.find(Path(spec.origin).read_text(encoding="utf-8"))}
            waiting += [(module, found[number]) for number in numbers]
        running: dict[int, tuple[str, Mutant, bool]] = {}
        while waiting or running:
            while waiting and len(running) < self._order.jobs:
                module, mutant = waiting.pop(0)
                tests = self._tests_of(module, mutant)
                pid = self._fork(lambda m=module, n=mutant, t=tests: self._try(m, n, t))  # type: ignore[misc]
                running[pid] = module, mutant, bool(tests)
            pid, status = os.wait()
            module, mutant, is_reached = running.pop(pid)
            survives = os.waitstatus_to_exitcode(status) == _SURVIVED
            test = ""
            if not survives and is_reached:
                with contextlib.suppress(OSError):
                    test = self._last_test(pid).read_text(encoding="utf-8")
                    self._noticed_by.setdefault((module, mutant.function), {})[test] = None
            self._clear(pid)
            self._tell(module=module, number=mutant.number, survives=survives, is_reached=is_reached, by=test)

    def _tests_of(self, module: str, mutant: Mutant) -> list[str]:
        """Return the tests that reach a guard, in the order in which they are likely to notice it.

        First those that noticed it or others of its function; then those of its module, the quickest first; then one
        of each file of the others, another one of each, and so on until the time is used up.
        """
        if mutant.is_early:  # whoever uses the module uses its constants
            found = {test for key, tests in self._reached.items() if key[0] == module for test in tests}
        else:
            found = set(self._reached.get((module, mutant.number), ()))
        before = self._order.noticed.get(mutant.key(module), "")
        first = dict.fromkeys([before, *self._noticed_by.get((module, mutant.function), ())])
        tests = [test for test in first if test in found]
        seconds = 0.0
        places = self._order.tests[module]
        of_file: Counter[str] = Counter()
        ranked = []
        for test in sorted(found.difference(tests), key=lambda each: self._times[each]):
            place = next((n for n, path in enumerate(places) if test.startswith(path)), None)
            if place is not None:
                file = test.partition("::")[0]
                of_file[file] += 1
                ranked.append((of_file[file] if place else 0, place, self._times[test], test))
        for *_, test in sorted(ranked):
            seconds += self._times[test]
            if seconds > self._order.seconds and tests:
                break
            tests.append(test)
        return tests

    def _fork(self, run: Callable[[], bool]) -> int:
        """Run something in a copy of this process; return its id. The copy tells with its exit code what came of it."""
        self._pipe.flush()
        pid = os.fork()
        if pid:
            return pid
        status = _NOTICED
        with contextlib.suppress(BaseException):
            os.setpgid(0, 0)
            folder = self._order.folder / str(os.getpid())
            folder.mkdir()
            os.environ["PYTEST_DEBUG_TEMPROOT"] = str(folder)
            resource.setrlimit(resource.RLIMIT_AS, (_MAX_MEMORY, _MAX_MEMORY))
            status = _SURVIVED if run() else _NOTICED
        os._exit(status)

    def _clear(self, pid: int) -> None:
        """Remove what a copy of this process has left behind: processes and files."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGKILL)
        shutil.rmtree(self._order.folder / str(pid), ignore_errors=True)

    def _record(self, pipe: int) -> bool:
        with os.fdopen(pipe, "w", encoding="utf-8") as facts:
            for item, following in _with_next(list(self._items.values())):
                self._switches.seen.clear()
                self._failed = False
                began = time.process_time()
                item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
                fact = {
                    "test": item.nodeid,
                    "passes": not self._failed,
                    "seconds": time.process_time() - began,
                    "reaches": sorted(self._switches.seen),
                }
                facts.write(json.dumps(fact) + "\n")
                facts.flush()
        return True

    def _try(self, module: str, mutant: Mutant, tests: Sequence[str]) -> bool:
        """Run some tests without a guard, until one fails or takes far longer than before; return whether all pass."""
        self._switches.remove(module, mutant)
        for item, following in _with_next([self._items[test] for test in tests]):
            seconds = self._times[item.nodeid]
            signal.setitimer(signal.ITIMER_PROF, 5 + 10 * seconds)  # either ends this process
            signal.setitimer(signal.ITIMER_REAL, 60 + 60 * seconds)
            self._last_test(os.getpid()).write_text(item.nodeid, encoding="utf-8")
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self._failed:
                return False
        return True

    def _last_test(self, pid: int) -> Path:
        """The file in which a copy of this process leaves the name of the test that it runs; the last one noticed."""
        return self._order.folder / str(pid) / "last-test"

    def _tell(self, **fact: Any) -> None:
        self._pipe.write(json.dumps(fact) + "\n")
        self._pipe.flush()


def _with_next(items: list[pytest.Item]) -> list[tuple[pytest.Item, pytest.Item | None]]:
    """Return each item with the one after it, which says what fixtures stay."""
    return list(zip(items, [*items[1:], None], strict=False))


_ORDER = Order()
_SWITCHES = Switches(_ORDER.mutants)
sys.meta_path.insert(0, _SWITCHES)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session: pytest.Session) -> bool:
    """Carry out the order in place of one run of all tests."""
    if session.testsfailed:
        raise session.Interrupted("a test module cannot be imported")
    runs = Runs(_ORDER, _SWITCHES, session.items)
    session.config.pluginmanager.register(runs)
    runs.record()
    runs.try_mutants()
    return True
