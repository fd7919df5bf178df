"""Flow modules: packages of flows that others publish, placed under `flow_modules/` and pinned in `flow.lock`.

`source` says where a module comes from, `fetch` gets it, `tree` knows its files by their hashes, `lock` pins them,
`trust` remembers whose code may run, `declared` reads what a module needs, `sync` brings it all together, and
`inventory` tells what is in place.
"""

from __future__ import annotations

from p2pflows.modules.fetch import FetchFailed
from p2pflows.modules.inventory import Module, Problem, list_modules, verify
from p2pflows.modules.sync import sync_dependencies
from p2pflows.modules.tree import ContentDiffers
from p2pflows.modules.trust import Untrusted

__all__ = [
    "ContentDiffers",
    "FetchFailed",
    "Module",
    "Problem",
    "Untrusted",
    "list_modules",
    "sync_dependencies",
    "verify",
]
