"""A tenant that searches a lot holds up no other."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tailorbird.names import TenantName
from tailorbird.object_store import open_store
from trainer_svc.datasets.search import RecordSearch
from trainer_svc.datasets.store import DatasetStore


async def test_a_tenant_that_searches_a_lot_leaves_a_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    datasets = DatasetStore(
        open_store((tmp_path / "store").as_uri()), tmp_path / "spool", 2**20, 4096
    )
    begun, go_on = asyncio.Event(), asyncio.Event()

    async def slow(tenant: TenantName) -> list[str]:
        if tenant.tenant == "acme":
            begun.set()
            await go_on.wait()
        return []

    monkeypatch.setattr(datasets, "ids", slow)
    search = RecordSearch(datasets)
    sought = search.by_digest(bytes(16))
    many = [asyncio.create_task(search.page(TenantName("acme"), sought, 10)) for _ in range(4)]
    await begun.wait()
    async with asyncio.timeout(30):
        assert (await search.page(TenantName("globex"), sought, 10)).matches == []
    assert not any(task.done() for task in many)
    go_on.set()
    await asyncio.gather(*many)
