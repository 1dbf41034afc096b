"""What is said of a database that cannot be used: never its password."""

from __future__ import annotations

import pytest

from tailorbird.errors import InvalidArgument, TailorbirdError
from trainer_svc.jobs.database import Database


@pytest.mark.parametrize(
    "url",
    [
        "postgresql+asyncpg://me:secret@127.0.0.1:1/jobs",
        "postgresql+asyncpg://127.0.0.1:1/jobs?user=me&password=secret",
        "postgresql+asyncpg://me:half@secret@127.0.0.1:1/jobs",
        "postgresql+asyncpg://me:other:secret@127.0.0.1:1/jobs",
        "postgresql+asyncpg://me@127.0.0.1:secret/jobs",
        "postgresql+asyncpg://me:x@127.0.0.1:secret/jobs",
        "secret",
    ],
)
async def test_no_password_is_told(url: str) -> None:
    with pytest.raises(TailorbirdError) as caught:
        await Database(url).migrate()
    assert "secret" not in str(caught.value)
    named = isinstance(caught.value, InvalidArgument) and caught.value.field
    assert "database_url" in {named, caught.value.metadata.get("setting")}
