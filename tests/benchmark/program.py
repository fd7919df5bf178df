"""A running program of `scripts/peers`, which measures one case after the other."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

from benchmark.cases import Case, Measurement
from benchmark.peers import FOLDER, CannotRun, Peer

END_S = 30
_TICKS = os.sysconf("SC_CLK_TCK")


class Program:
    """A peer that runs.

    Args:
        peer: what it is.
        python: the Python that runs it.
        arguments: what it gets, such as the URL of a broker.

    Attributes:
        about: the first line that it printed.

    Raises:
        CannotRun: it ended before it was ready.
    """

    def __init__(self, peer: Peer, python: Path, *arguments: str) -> None:
        self.peer = peer
        command = [str(python), str(FOLDER / f"{peer.script}.py"), *arguments]
        folders = [python.parent, *os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/usr/local/sbin"]
        environment = {**os.environ, "PATH": os.pathsep.join(map(str, folders))}
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
        )
        try:
            self.about = self._read()
        except CannotRun:
            self._end()
            raise
        self._pids = {"caller": self._process.pid, **self.about["processes"]}

    def measure(self, case: Case) -> Measurement:
        """Let it make the exchanges of a case."""
        stdin = self._pipe(self._process.stdin)
        before = self._cpu()
        stdin.write(json.dumps(case._asdict()) + "\n")
        stdin.flush()
        result = self._read()
        after = self._cpu()
        cpu = {name: after[name] - before[name] for name in before}
        return Measurement(result["times"], result["seconds"], cpu)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end()

    def _end(self) -> None:
        self._pipe(self._process.stdin).close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
        for stream in (self._process.stdout, self._process.stderr):
            self._pipe(stream).close()

    def _read(self) -> dict[str, Any]:
        line = self._pipe(self._process.stdout).readline()
        if not line:
            said = self._pipe(self._process.stderr).read().strip().splitlines()
            raise CannotRun(said[-1][:200] if said else "it ended at once")
        content: dict[str, Any] = json.loads(line)
        return content

    def _cpu(self) -> dict[str, float]:
        """The processor time of each process so far, with that of children which have ended, in seconds."""
        found = {}
        for name, pid in self._pids.items():
            fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
            found[name] = sum(int(ticks) for ticks in fields[11:15]) / _TICKS
        return found

    @staticmethod
    def _pipe(stream: IO[str] | None) -> IO[str]:
        assert stream is not None
        return stream
