"""Man pages, which scripts/man makes from the help of the commands."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from support.command_tree import commands

from p2pflows.cli import cli

SCRIPT = Path(__file__).parents[4] / "scripts" / "man.py"


@pytest.fixture(scope="module")
def man() -> ModuleType:
    """The module of the script."""
    spec = importlib.util.spec_from_file_location("man", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_command_has_a_page(man: ModuleType) -> None:
    """A command inside a group is on the page of the group; every option and every example is there."""
    pages = {name: re.sub(r"\\\(..|\\", "", text) for name, text in man.pages(cli)}
    for name, found in commands(cli):
        page = pages[f"p2pflows-{name.split()[0]}"]
        assert f"p2pflows {name}" in page
        for parameter in found.params:
            for option in parameter.opts:
                assert not option.startswith("-") or option.replace("-", "") in page.replace("-", ""), (name, option)
    assert set(pages) == {"p2pflows", *(f"p2pflows-{name}" for name, _ in commands(cli) if " " not in name)}


def test_a_renderer_understands_the_pages(man: ModuleType, tmp_path: Path) -> None:
    """None of mandoc and groff warns of anything, and what begins with a quote or a dot is shown."""
    assert man.main(tmp_path) == 0
    found = sorted(map(str, (tmp_path / "man1").iterdir()))
    linters = [["mandoc", "-T", "lint", "-W", "warning"], ["groff", "-man", "-ww", "-z", "-Tutf8", "-Kutf8"]]
    installed = [words for words in linters if shutil.which(words[0])]
    if not installed:
        pytest.skip("neither mandoc nor groff is installed")
    for words in installed:
        ended = subprocess.run([*words, *found], capture_output=True, text=True, timeout=60, check=False)
        assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    if shutil.which("groff"):
        page = next(path for path in found if path.endswith("p2pflows-call.1"))
        render = ["groff", "-man", "-P-cbou", "-Tutf8", "-Kutf8", page]
        shown = subprocess.run(render, capture_output=True, text=True, timeout=60, check=True).stdout
        assert "'{...}'     one JSON object; '-' reads it from stdin, as no DATA does" in shown
