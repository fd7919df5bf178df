"""Flow modules: packages of flows that others publish, fetched into `flow_modules/` and pinned in `flow.lock`.

`sync` fetches modules, with the help of the others: `source` parses where a module comes from, `declared` reads its
dependencies, `trust` lists the sources whose code may run, `fetch` downloads files, `tree` hashes and compares them,
and `lock` pins them. `inventory` lists and verifies the modules of a project.
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
