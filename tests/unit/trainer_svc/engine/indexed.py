"""Datasets in a store with the digests that stand beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tailorbird.records.formats import DatasetFormat
from tests.unit.trainer_svc.engine.stores import TryingStore
from tests.unit.trainer_svc.engine.tiny import dataset_ref, jsonl
from trainer_svc.datasets.digests import record_digest
from trainer_svc.datasets.index import IndexWriter
from trainer_svc.protocol import DatasetRef


def index_of(records: Sequence[dict[str, Any]], format_: str = "chat") -> bytes:
    writer = IndexWriter()
    for line, record in enumerate(records, start=1):
        writer.add(line, record_digest(DatasetFormat(format_), record))
    return writer.to_bytes()


async def seeded(
    store: TryingStore, records: Sequence[dict[str, Any]], name: str, format_: str = "chat"
) -> DatasetRef:
    """Store the records and their digests as a dataset, and return it."""
    data = jsonl(records)
    ref = dataset_ref(data, name, format_)
    ref = ref.model_copy(update={"index_key": f"{ref.name}/index.bin"})
    await store.seed(ref.key, data)
    await store.seed(ref.index_key, index_of(records, format_))
    return ref


def numbered(first: int, last: int) -> list[dict[str, Any]]:
    """Return chats of which no two ask the same, of the orders from `first` to before `last`."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"order {number}?"},
                {"role": "assistant", "content": f"{number} is on its way"},
            ]
        }
        for number in range(first, last)
    ]
