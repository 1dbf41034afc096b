"""The job store's schema, one numbered step a file under versions/; `upgrade` runs what is due."""

from __future__ import annotations

from pathlib import Path

import structlog
from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

_log = structlog.get_logger(__name__)


def known() -> list[str]:
    """Return the names of the steps that this release knows, the newest first."""
    return [script.revision for script in ScriptDirectory.from_config(_config()).walk_revisions()]


def upgrade(connection: Connection) -> None:
    """Bring the schema that `connection` sees to the newest version, in its transaction.

    The schema of a later release is left as it is: a release only adds to what its predecessor
    reads and writes, and both share one database while one takes the other's place.
    """
    config = _config()
    config.attributes["connection"] = connection
    found = MigrationContext.configure(connection).get_current_heads()
    if not set(known()).issuperset(found):
        _log.warning("the job store has the schema of a later release", revisions=found)
        return
    command.upgrade(config, "head")


def revision(connection: Connection) -> str | None:
    """Return the last step that the schema has, None before the first."""
    return MigrationContext.configure(connection).get_current_revision()


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config
