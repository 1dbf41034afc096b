"""A dataset's record in the object store."""

from __future__ import annotations

from pydantic import ValidationError

from tailorbird.errors import DataCorrupt, NotFound
from tailorbird.names import DatasetName
from tailorbird.object_store import ObjectStore
from trainer_svc.datasets.dataset import Dataset

META = "meta.json"
"""There is a dataset where there is one."""
_MAX_META_BYTES = 2**20


async def read_dataset(store: ObjectStore, name: DatasetName) -> Dataset:
    """Return a dataset; NotFound if there is none, DataCorrupt if its record is none of its."""
    try:
        data = await store.get(f"{name}/{META}", _MAX_META_BYTES)
    except NotFound as error:
        raise NotFound(name, reason="DATASET_NOT_FOUND") from error
    try:
        dataset = Dataset.model_validate_json(data)
    except ValidationError as error:
        raise DataCorrupt(f"{name}/{META} is not a dataset's record") from error
    # By its name its bytes are found: of another's they would be another tenant's.
    if dataset.name != str(name):
        raise DataCorrupt(f"{name}/{META} is another dataset's record")
    return dataset
