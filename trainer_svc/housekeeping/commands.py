"""The operator's commands by name, and what each does. No imports: it is read at every start."""

from __future__ import annotations

COMMANDS = {
    "collect": "Remove what nobody needs any more.",
    "erase": "Remove everything of a tenant, for good.",
    "migrate": "Bring the job store's tables to this release, and end.",
}
