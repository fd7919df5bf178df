"""Another checkout of this project, to be measured beside this one."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmark.peers import ROOT, CannotRun


@contextmanager
def python_at(commit: str) -> Iterator[Path]:
    """Yield the Python of an environment with the project as it is at a commit.

    Raises:
        CannotRun: there is no such commit, or it cannot be set up.
    """
    with TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name) / "checkout"
        _run("git", "-C", str(ROOT), "worktree", "add", "--detach", "--quiet", str(folder), commit)
        try:
            _run("python3", "-m", "venv", str(folder / ".venv"))
            python = folder / ".venv" / "bin" / "python"
            _run(str(python), "-m", "pip", "install", "--quiet", "--editable", str(folder))
            yield python
        finally:
            _run("git", "-C", str(ROOT), "worktree", "remove", "--force", str(folder))


def _run(*command: str) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        said = done.stderr.strip().splitlines()
        raise CannotRun(f"{command[0]} failed: {said[-1] if said else done.returncode}")
