"""The methods about files beside messages: put, list, fetch, remove."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from p2pflows.errors import FileLost, UsageError
from p2pflowsd.api.daemon import Daemon
from p2pflowsd.api.parameters import MAX_TIMEOUT_S, Flag, IdPart, NoParameters, Parameters, Seconds, Text
from p2pflowsd.api.views import rfc3339
from p2pflowsd.journal.rows import FileRow
from p2pflowsd.lifecycle import FileState
from p2pflowsd.node import Node


class PutParameters(Parameters):
    """A file on this machine."""

    path: Text
    name: Text = ""
    type: Text = ""


class GetParameters(Parameters):
    """A file, whether to fetch it, and how long to wait for it."""

    id: IdPart
    timeout: Seconds = MAX_TIMEOUT_S
    fetch: Flag = True


class PruneParameters(Parameters):
    """Which files to remove."""

    older: Seconds = 0.0
    all: Flag = False


async def files_put(daemon: Daemon, params: PutParameters) -> Any:
    """Copy a file of this machine into the daemon's store, so that messages can refer to it.

    Returns:
        `file`: the reference, to be put into the `data` of a message as it is
    """
    path = Path(params.path)
    if not path.is_absolute():
        raise UsageError(f"The path {params.path!r} is not absolute.", "Give the whole path.")
    reference = await daemon.transfers.shelf.put(path, params.name, params.type)
    return {"file": reference.as_data()}


async def files_get(daemon: Daemon, params: GetParameters) -> Any:
    """Fetch a file that came with a message, if it is not here yet, and say where it lies; it can only be read there.

    Returns:
        a [file](#files), once it is here; or as it is after the timeout, or at once if it is not to be fetched
    """

    def find() -> FileRow:
        return daemon.node.files.find(params.id)

    found = await daemon.read(find)
    if not params.fetch:
        return await daemon.read(lambda: _shown(daemon, found))
    with daemon.transfers.waiting_for(found.id) as settled:
        row = await daemon.run(lambda: daemon.node.files.want(find()))
        if row.state == FileState.WANTED:
            await asyncio.wait([settled], timeout=params.timeout)
            row = await daemon.read(find)
    if row.state == FileState.FAILED:
        raise FileLost(row.error, "Ask for it again.")
    if row.state == FileState.HERE and not daemon.transfers.store.path_of(row.sha256).exists():
        await daemon.run(lambda: daemon.node.files.lost(row.id))
        raise FileLost(f"The file {row.name!r} was removed from the disk.", "Fetch it again, or put it again.")
    return await daemon.read(lambda: _shown(daemon, row))


async def files_list(daemon: Daemon, _params: NoParameters) -> Any:
    """List the files beside messages, the one used last first.

    Returns:
        `files`: list of [files](#files); `bytes`: what they take; `limits`: `max_size`, `bytes`, `bytes_per_contact`,
        `keep` (seconds)
    """

    def step() -> dict[str, Any]:
        node = daemon.node
        return {
            "files": [_shown(daemon, row) for row in node.journal.files.all()],
            "bytes": node.files.usage().bytes,
            "limits": node.files.limits.model_dump(),
        }

    return await daemon.read(step)


async def files_prune(daemon: Daemon, params: PruneParameters) -> Any:
    """Remove files that no open message needs: those whose time is over, those not used for `older` seconds, or all.

    Returns:
        `files`: how many were removed; `bytes`: how many bytes that frees
    """

    def step() -> dict[str, int]:
        node = daemon.node
        older = 0.0 if params.all else node.files.limits.keep if not params.older else params.older
        rows = node.files.idle(older)
        for row in rows:
            node.files.remove(row)
        freed = {row.sha256: row.size for row in rows if row.state == FileState.HERE}
        left = sum(size for sha256, size in freed.items() if not node.journal.files.has_bytes(sha256))
        return {"files": len(rows), "bytes": left}

    return await daemon.run(step)


def _shown(daemon: Daemon, row: FileRow) -> dict[str, Any]:
    """A file as methods return it."""
    node: Node = daemon.node
    is_here = row.state == FileState.HERE
    keep_ms = node.files.limits.keep * 1000
    return {
        "id": row.id,
        "name": row.name,
        "size": row.size,
        "type": row.type,
        "sha256": row.sha256,
        "state": row.state,
        "error": row.error or None,
        "done": daemon.transfers.done_bytes(row),
        "from": row.peer or None,
        "from_name": node.name_of(row.peer) if row.peer else None,
        "to": [
            {
                "user": grant.peer,
                "name": node.name_of(grant.peer),
                "expires": rfc3339(grant.expires),
                "state": grant.state or "sent",
            }
            for grant in node.journal.file_grants.of(row.id)
        ],
        "expires": rfc3339(max(row.needed, row.used + keep_ms)),
        "path": str(daemon.transfers.store.path_of(row.sha256)) if is_here else None,
    }
