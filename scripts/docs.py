"""Builds a site from the project's pages, with a reference of the public Python names, into site/.

The pages are copied to build/pages in the layout of the repository, so a link leads to the same place on the site and
on GitHub. A broken link fails the build.
"""

from __future__ import annotations

import importlib
import logging
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
from mkdocs.commands.build import build
from mkdocs.config import load_config
from mkdocs.exceptions import Abort
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).parent.parent
PAGES = ROOT / "build" / "pages"
PUBLIC_MODULES = (
    "p2pflows",
    "p2pflows.errors",
    "p2pflows.flow_verse",
    "p2pflows.humans",
    "p2pflows.interfaces",
    "p2pflows.serving",
    "p2pflows.transformations",
)
"""Each is a page of the reference. Their names keep working from one release to the next."""
COPIED = ("*.md", "LICENSE", "docs/**/*.md", "docs/tutorials/*.ipynb", "broker-config/*", "tests/vectors/*.json")
STYLE = """
.wy-nav-content { max-width: 60em }
.rst-content pre code { border: 0 }
.rst-content .wy-table-responsive table td, .rst-content table td { white-space: normal }
"""
"""What the theme does otherwise: a narrow page, a frame in a frame around code, cells that do not wrap."""
LINK = re.compile(r"\]\(([^)\s#:]+)(#[^)\s]*)?\)")


def main() -> int:
    """Build the site and return the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s: %(message)s")
    shutil.rmtree(PAGES, ignore_errors=True)
    for pattern in COPIED:
        for source in ROOT.glob(pattern):
            _copy(source)
    _write_reference()
    _write("site.css", HtmlFormatter().get_style_defs(".highlight") + STYLE)
    try:
        build(load_config(str(ROOT / "mkdocs.yml")))
    except Abort as error:
        sys.stderr.write(f"{error}\n")
        return 1
    print(ROOT / "site" / "index.html")
    return 0


def _copy(source: Path) -> None:
    """Copy one file; a page gets links that the site can follow, and a notebook becomes a page beside itself."""
    name = source.relative_to(ROOT)
    if source.suffix == ".md":
        _write(name, _followable(source.read_text(encoding="utf-8"), source.parent))
        return
    if source.suffix == ".ipynb":
        _write(name.with_suffix(".md"), _followable(_as_markdown(source), source.parent))
    _write(name, source.read_text(encoding="utf-8"))


def _followable(text: str, folder: Path) -> str:
    """A page with its links to folders and to notebooks led to the pages that stand for these."""

    def follow(found: re.Match[str]) -> str:
        target, anchor = found[1], found[2] or ""
        path = folder / target
        if path.is_dir():
            _write_listing(path)
            return f"]({target}/index.md)"
        if path.suffix == ".ipynb":
            return f"]({target.removesuffix('.ipynb')}.md{anchor})"
        return found[0]

    return LINK.sub(follow, text)


def _write_listing(folder: Path) -> None:
    """The page that stands for a folder: a link to each file in it, by its title where it has one."""
    lines = [f"# {folder.name.capitalize()}", ""]
    for file in sorted(folder.iterdir()):
        title = file.stem.replace("_", " ").capitalize() if file.suffix == ".ipynb" else file.name
        if file.suffix == ".md":
            title = file.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        target = f"{file.stem}.md" if file.suffix == ".ipynb" else file.name
        lines.append(f"- [{title}]({target})")
    _write(folder.relative_to(ROOT) / "index.md", "\n".join([*lines, ""]))


def _as_markdown(notebook: Path) -> str:
    """The text and code of a notebook, without what it printed."""

    def parts() -> Iterator[str]:
        for cell in nbformat.read(notebook, as_version=4).cells:
            yield cell.source if cell.cell_type == "markdown" else f"```python\n{cell.source}\n```"

    title, rest = "\n\n".join(parts()).split("\n", 1)
    return f"{title}\n\n*This page is a [notebook]({notebook.name}).*\n{rest}\n"


def _write_reference() -> None:
    """A page for each public module, filled in from the docstrings by mkdocstrings, and a list of them."""
    lines = ["# Python API", "", "The public names. Everything else may move between releases.", ""]
    for name in PUBLIC_MODULES:
        _write(f"reference/{name}.md", f"# `{name}`\n\n::: {name}\n")
        summary = (importlib.import_module(name).__doc__ or "").partition("\n")[0]
        lines.append(f"- [`{name}`]({name}.md): {summary.partition(':')[2].strip() or summary}")
    _write("reference/index.md", "\n".join([*lines, ""]))


def _write(name: str | Path, text: str) -> None:
    path = PAGES / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
