"""A real PostgreSQL for trainers that share one."""

from __future__ import annotations

from tests.contract.conftest import postgresql_server, postgresql_url

__all__ = ["postgresql_server", "postgresql_url"]
