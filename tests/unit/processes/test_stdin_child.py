"""The processes beside the daemon: what they know of its environment."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from p2pflows.home import Home
from p2pflowsd.processes import stdin_child


async def test_hooks_and_the_page_get_neither_passwords_nor_keys(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that runs them has the daemon's environment, without its password and the keys of its workers."""
    (tmp_path / "shows.py").write_text("import json, os\nprint(json.dumps(dict(os.environ)))\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("DISPLAY", ":7")
    for secret in ("P2PFLOWS_BROKER", "P2PFLOWS_WORKER_TOKEN", "MODEL_KEY"):
        monkeypatch.setenv(secret, "hunter2")
    process = await stdin_child.start("shows", Home(tmp_path), hidden_variables={"MODEL_KEY"}, reports=True)
    output, _ = await process.communicate()
    shown = json.loads(output)
    assert (shown["DISPLAY"], shown["P2PFLOWS_HOME"]) == (":7", str(tmp_path))
    assert "hunter2" not in shown.values()
