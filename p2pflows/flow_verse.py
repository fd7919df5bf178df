"""Flow modules that others publish (docs/MODULES.md).

For example:

    from p2pflows import flow_verse

    flow_verse.sync_dependencies([{"url": "aiflows/ChatFlowModule", "revision": "main"}], trust=True)
"""

from __future__ import annotations

from p2pflows.modules import list_modules, sync_dependencies, verify

__all__ = ["list_modules", "sync_dependencies", "verify"]
