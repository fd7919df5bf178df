"""Notebooks in tests: run cell by cell in a real kernel, and compared with the outputs that they show.

With `P2PFLOWS_RECORD_NOTEBOOKS` set in the environment, the outputs of the run are written into the notebook instead.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

RECORD = "P2PFLOWS_RECORD_NOTEBOOKS"
"""Set in the environment to write outputs into the notebooks."""

_CELL_TIMEOUT_S = 60
_SHOWN = {
    re.compile(r"\b[0-9a-f]{64}\b"): "8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c",
    re.compile(r"\b[0-9a-f]{32}\b"): "01a203e1dd7879e9bfd6a6e1454ea5d7",
}
"""What differs from run to run, and what readers see in its place."""


class RunningNotebook:
    """A notebook with a running kernel.

    Args:
        path: the notebook.
        client: the client that runs it.
    """

    def __init__(self, path: Path, client: NotebookClient) -> None:
        self._path = path
        self._client = client
        self._cells: list[Any] = client.nb.cells
        self._before = [_outputs(cell) for cell in self._cells]
        self._next = 0

    def run_to(self, name: str) -> Any:
        """Run all cells up to the one with this id; returns the value of its last line, if it has one."""
        while True:
            cell = self._run_next()
            if cell.id == name:
                return _value(cell)

    def run_to_end(self) -> None:
        """Run all cells that are left."""
        while self._next < len(self._cells):
            self._run_next()

    def printed(self, name: str) -> list[str]:
        """The lines that a cell has printed."""
        (cell,) = [cell for cell in self._cells if cell.id == name]
        return [line for output in _outputs(cell) for line in output.get("text", "").splitlines()]

    def everything(self) -> str:
        """All outputs of the cells, errors and logs included."""
        return str([cell.get("outputs") for cell in self._cells])

    def check_outputs(self) -> None:
        """Check that the notebook in the repository shows these outputs; or record them there."""
        assert self._next == len(self._cells), "run it to its end first"
        now = [_outputs(cell) for cell in self._cells]
        if not os.environ.get(RECORD):
            for cell, outputs, before in zip(self._cells, now, self._before, strict=True):
                assert outputs == before, (
                    f"cell {cell.id} gave {outputs}, not {before}; set {RECORD}=1 to record what is new"
                )
            return
        for cell, outputs in zip(self._cells, now, strict=True):
            cell.metadata.pop("execution", None)
            if cell.cell_type == "code":
                cell.outputs = [nbformat.from_dict(output) for output in outputs]
        self._client.nb.metadata.language_info = {"name": "python"}
        nbformat.write(self._client.nb, self._path)

    def _run_next(self) -> Any:
        cell, number = self._cells[self._next], self._next
        self._next += 1
        return self._client.execute_cell(cell, number)


@contextmanager
def running(path: Path, folder: Path, environment: Mapping[str, str]) -> Iterator[RunningNotebook]:
    """Run a notebook with a kernel of its own inside the block.

    Args:
        path: the notebook.
        folder: its current folder; the kernel's own output goes into `kernel.log` there.
        environment: variables beside those of this process.
    """
    client = NotebookClient(
        nbformat.read(path, as_version=4),
        resources={"metadata": {"path": str(folder)}},
        timeout=_CELL_TIMEOUT_S,
        kernel_name="python3",
        # A kernel sends what was printed by time, so one cell's lines may come in one piece or in several.
        coalesce_streams=True,
    )
    with (
        (folder / "kernel.log").open("wb") as log,
        client.setup_kernel(env={**os.environ, **environment}, stdout=log, stderr=log),
    ):
        yield RunningNotebook(path, client)


def _value(cell: Any) -> Any:
    for output in cell.get("outputs", []):
        if output.output_type == "execute_result":
            return output.data["text/plain"]
    return None


def _outputs(cell: Any) -> list[dict[str, Any]]:
    """The outputs of a cell as readers see them: without logs, and the same in every run."""
    return [
        _settled(dict(output))
        for output in cell.get("outputs", [])
        if not (output.output_type == "stream" and output.name == "stderr")
    ]


def _settled(value: Any) -> Any:
    match value:
        case str():
            for pattern, shown in _SHOWN.items():
                value = pattern.sub(shown, value)
            return value
        case dict():
            return {name: _settled(inner) for name, inner in value.items()}
        case list():
            return [_settled(inner) for inner in value]
        case _:
            return value
