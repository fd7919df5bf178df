"""Commands for flow modules: `modules sync`, `list` and `verify`; they need no daemon."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from p2pflows.cli.arguments import examples, json_option
from p2pflows.cli.output import document, plain, say, table
from p2pflows.errors import UsageError

if TYPE_CHECKING:
    from p2pflows.modules.source import Wanted
    from p2pflows.modules.sync import Synced

_SHORT_COMMIT = 12

root_option = click.option(
    "--root",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    default=Path(),
    help="The project; by default the current folder.",
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
    """Fetch flows that others publish, and pin them in flow.lock."""
    if ctx.invoked_subcommand is None:
        ctx.invoke(list_all)


@modules.command(
    epilog=examples(
        "p2pflows modules sync aiflows/ChatFlowModule --trust",
        "p2pflows modules sync https://host/alice/Translator.git --revision v2 --trust",
        "p2pflows modules sync alice/Translator --revision ./translator",
        "p2pflows modules sync --file dependencies.yaml --offline",
    )
)
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
@click.option("--revision", metavar="R", help="A branch, tag or commit; a path such as ./folder links that folder.")
@click.option(
    "--file",
    "listed",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A YAML list of sources: entries with url, and perhaps revision and overwrite.",
)
@click.option("--overwrite", is_flag=True, help="Fetch anew what is there, even what you changed by hand.")
@click.option(
    "--trust",
    is_flag=True,
    help="Trust what is new here, and what it needs, for good: its code may run with all your rights.",
)
@click.option("--offline", is_flag=True, help="Reach out to nobody.")
@root_option
@click.option(
    "--endpoint",
    metavar="URL",
    help="Which hub; by default HF_ENDPOINT, else the usual one. Only those get your token.",
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
    """Bring modules, and what they need, below flow_modules/.

    A SOURCE is author/Name on the hub, git+https://HOST/author/Name, https://HOST/author/Name.git, or
    file:///FOLDER/author/Name. Without any, the project's dependencies.yaml is synced, and all else that its
    flow.lock has. Nothing of what is fetched is run.
    """
    from p2pflows.modules.sync import Way, synchronise

    way = Way(
        offline=offline,
        trusted=trust or None,
        endpoint=endpoint,
        may_ask=not as_json,
        overwrite_all=overwrite,
        tell=lambda line: None if as_json else say(plain(line)),
    )
    root = root.absolute()
    asked = _wanted(sources, revision, listed, root)
    synced = synchronise(asked, root, way, rest=not sources and not listed)
    if as_json:
        document([_as_json(module) for module in synced])
        return
    for module in synced:
        say(plain(f"{module.module} is {_HOW[module.how.value]}: import {module.locked.source.package}"))
    for module in synced:
        if module.needs:
            say(plain(module.needs))


_HOW = {"kept": "here already", "placed": "here", "replaced": "here anew", "linked": "linked"}


def _wanted(sources: tuple[str, ...], revision: str | None, listed: Path | None, root: Path) -> list[Wanted]:
    """What the words ask for, or the file, or else the project's own file."""
    from p2pflows.modules import declared, lock
    from p2pflows.modules.source import wanted

    if sources and listed:
        raise UsageError("There are sources and a file.", "Give one or the other.")
    if revision is not None and len(sources) != 1:
        raise UsageError("A revision belongs to one source.", "Give each its own: p2pflows modules sync SOURCE ...")
    if sources:
        return [wanted({"url": url, "revision": revision}, Path.cwd()) for url in sources]
    own = root / declared.FILE
    if listed is None and own.is_file():
        listed = own
    if listed is None and not lock.read(root):
        raise UsageError(
            "There is nothing to sync here.",
            "Name a source: p2pflows modules sync author/Name; or write dependencies.yaml.",
        )
    return [wanted(entry, listed.absolute().parent) for entry in declared.read(listed)] if listed else []


def _as_json(module: Synced) -> dict[str, Any]:
    source, needs = module.locked.source, module.requirements
    return {
        "module": module.module,
        "package": source.package,
        "folder": str(module.folder),
        "url": source.url,
        "revision": source.revision,
        "commit": module.locked.commit,
        "how": module.how.value,
        "requirements": str(needs) if needs else None,
    }


@modules.command(name="list", epilog=examples("p2pflows modules list", "p2pflows modules list --json"))
@root_option
@json_option
def list_all(root: Path, as_json: bool) -> None:
    """List the modules that flow.lock has."""
    from p2pflows.modules import list_modules

    found = list_modules(root)
    if as_json:
        document([{**asdict(module), "folder": str(module.folder)} for module in found])
    elif found:
        rows = [
            (module.module, module.revision, (module.commit or "")[:_SHORT_COMMIT], module.state, module.url)
            for module in found
        ]
        table(["MODULE", "REVISION", "COMMIT", "STATE", "URL"], rows)
    else:
        say("There are no modules here. Fetch one with: p2pflows modules sync author/Name")


@modules.command(epilog=examples("p2pflows modules verify", "p2pflows modules verify --json"))
@root_option
@json_option
@click.pass_context
def verify(ctx: click.Context, root: Path, as_json: bool) -> None:
    """Compare every file with flow.lock; exit code 1 when something differs."""
    from p2pflows.modules import list_modules
    from p2pflows.modules import verify as check

    problems = check(root)
    if as_json:
        document([asdict(item) for item in problems])
    elif problems:
        table(["MODULE", "WHAT", "FILE"], [(item.module, item.what, item.path) for item in problems])
    else:
        count = len(list_modules(root))
        say(f"{count} module{'' if count == 1 else 's'} checked: all as flow.lock says.")
    if problems:
        ctx.exit(1)
