"""Commands for flow modules: `modules sync`, `list` and `verify`; they need no daemon."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pflows.cli.input.arguments import examples, json_option
from p2pflows.cli.printing.output import print_json, print_table, say
from p2pflows.errors import UsageError
from p2pflows.foreign_text import escape

if TYPE_CHECKING:
    from p2pflows.modules.source import Wanted
    from p2pflows.modules.sync import Synced

_SHORT_COMMIT = 12

root_option = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="The project's folder.  [default: the current folder]",
)


@click.group(
    invoke_without_command=True,
    epilog=examples(
        "p2pflows modules",
        "p2pflows modules sync aiflows/ChatFlowModule --trust",
        "p2pflows modules verify",
    ),
)
@click.pass_context
def modules(ctx: click.Context) -> None:
    """Fetch flow modules of others, and pin them in flow.lock."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_all)


@modules.command(
    epilog=examples(
        "p2pflows modules sync aiflows/ChatFlowModule --trust",
        "p2pflows modules sync https://HOST/alice/Chat.git --revision v2 --trust",
        "p2pflows modules sync alice/Translator --revision ./translator",
        "p2pflows modules sync --file dependencies.yaml --offline",
    )
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--revision", metavar="R", help="A branch, tag or commit; or a path: ./folder links a folder.")
@click.option(
    "--file",
    "listed",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A YAML list of sources, each with url and optionally revision and overwrite.",
)
@click.option("--overwrite", is_flag=True, help="Fetch modules again and replace them, even if you changed them.")
@click.option(
    "--trust",
    is_flag=True,
    help="Trust new sources, and what they need, permanently: their code may run with all your rights.",
)
@click.option("--offline", is_flag=True, help="Do not use the network.")
@root_option
@click.option(
    "--endpoint",
    metavar="URL",
    help="The hub.  [default: HF_ENDPOINT, or else huggingface.co; only these two get your token]",
)
@json_option
def sync(
    *,
    sources: tuple[str, ...],
    revision: str | None,
    listed: Path | None,
    overwrite: bool,
    trust: bool,
    offline: bool,
    root: Path,
    endpoint: str | None,
    as_json: bool,
) -> None:
    """Fetch modules, and what they need, into flow_modules/.

    A SOURCE is author/Name on the hub, git+https://HOST/author/Name, https://HOST/author/Name.git, or
    file:///FOLDER/author/Name. Without a SOURCE, fetch what the project's dependencies.yaml and flow.lock list.
    This runs no code of the modules.
    """
    from p2pflows.modules.sync import SyncOptions, sync_sources

    options = SyncOptions(
        offline=offline,
        trust=trust or None,
        endpoint=endpoint,
        may_ask=not as_json,
        overwrite_all=overwrite,
        report=lambda line: None if as_json else say(escape(line)),
    )
    root = root.absolute()
    requested = _requested(sources, revision, listed, root)
    synced = sync_sources(requested, root, options, with_locked=not sources and not listed)
    if as_json:
        print_json([_as_json(module) for module in synced])
        return
    for module in synced:
        say(escape(f"{_OUTCOMES[module.outcome.value]} {module.module}: import {module.locked.source.package}"))
    for module in synced:
        if module.needs:
            say(escape(module.needs))


_OUTCOMES = {"kept": "Unchanged", "placed": "Added", "replaced": "Replaced", "linked": "Linked"}


def _requested(sources: tuple[str, ...], revision: str | None, listed: Path | None, root: Path) -> list[Wanted]:
    """Return what the command line requests, or the file that it names, or else the project's dependencies.yaml."""
    from p2pflows.modules import declared, lock
    from p2pflows.modules.source import read_entry

    if sources and listed:
        raise UsageError("--file and SOURCE exclude each other.", "Leave out one of the two.")
    if revision is not None and len(sources) != 1:
        raise UsageError("--revision needs exactly one SOURCE.", "Sync each source on its own.")
    if sources:
        return [read_entry({"url": url, "revision": revision}, Path.cwd()) for url in sources]
    default = root / declared.FILE
    if listed is None and default.is_file():
        listed = default
    if listed is None and not lock.read(root):
        raise UsageError(
            "There is nothing to sync here.",
            "Name a source: p2pflows modules sync author/Name; or write a file dependencies.yaml.",
        )
    return [read_entry(entry, listed.absolute().parent) for entry in declared.read(listed)] if listed else []


def _as_json(module: Synced) -> dict[str, Any]:
    source, needs = module.locked.source, module.requirements
    return {
        "module": module.module,
        "package": source.package,
        "folder": str(module.folder),
        "url": source.url,
        "revision": source.revision,
        "commit": module.locked.commit,
        "how": module.outcome.value,
        "requirements": str(needs) if needs else None,
    }


@modules.command(name="list", epilog=examples("p2pflows modules list", "p2pflows modules list --json"))
@root_option
@json_option
def list_all(root: Path, as_json: bool) -> None:
    """List the modules in flow.lock, and whether they are intact."""
    from p2pflows.modules import list_modules

    found = list_modules(root)
    if as_json:
        print_json([{**asdict(module), "folder": str(module.folder)} for module in found])
    elif found:
        rows = [
            (module.module, module.revision, (module.commit or "")[:_SHORT_COMMIT], module.state, module.url)
            for module in found
        ]
        print_table(["MODULE", "REVISION", "COMMIT", "STATE", "URL"], rows)
    else:
        say("There are no modules here. Fetch one with: p2pflows modules sync author/Name")


@modules.command(epilog=examples("p2pflows modules verify", "p2pflows modules verify --json"))
@root_option
@json_option
@click.pass_context
def verify(ctx: click.Context, root: Path, as_json: bool) -> None:
    """Compare every file with flow.lock.

    The exit code is 1 if something differs.
    """
    from p2pflows.modules import list_modules
    from p2pflows.modules import verify as check

    problems = check(root)
    if as_json:
        print_json([asdict(item) for item in problems])
    elif problems:
        print_table(["MODULE", "WHAT", "FILE"], [(item.module, item.what, item.path) for item in problems])
    else:
        count = len(list_modules(root))
        say(f"Checked {count} module{'' if count == 1 else 's'}: all files are as in flow.lock.")
    if problems:
        ctx.exit(1)
