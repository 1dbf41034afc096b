"""A job held against what is known of its base, before the job exists. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from tailorbird.base_model import BaseModelFiles
from tailorbird.errors import FailedPrecondition, InvalidArgument
from tailorbird.records.formats import DatasetFormat
from trainer_svc.datasets.dataset import Dataset

_RENDERED = frozenset({DatasetFormat.CHAT, DatasetFormat.INSTRUCTION})
"""The formats that a chat template renders."""


def check_targets(base: BaseModelFiles, asked: Sequence[str]) -> None:
    """Raise InvalidArgument (UNKNOWN_TARGET_MODULE) for layers that the base has none of."""
    unknown = sorted(set(asked) - base.linear_modules)
    if unknown:
        known = ", ".join(sorted(base.linear_modules)) or "none that adapters may change"
        raise InvalidArgument(
            "job.spec.lora.target_modules",
            f"the base {base.name!r} has no linear layer {', '.join(unknown)}; it has {known}",
            reason="UNKNOWN_TARGET_MODULE",
            known=",".join(sorted(base.linear_modules)),
        )


def check_formats(base: BaseModelFiles, training: Dataset, validation: Dataset | None) -> None:
    """Raise FailedPrecondition (BASE_HAS_NO_CHAT_TEMPLATE) for chats that nothing renders."""
    if base.has_chat_template:
        return
    for field, dataset in (("training_dataset", training), ("validation_dataset", validation)):
        if dataset is not None and dataset.format in _RENDERED:
            raise FailedPrecondition(
                f"job.spec.{field}: {dataset.name} has {dataset.format} records, and the base "
                f"{base.name!r} has no chat template: train it on prompt and completion records, "
                "or name a base that has one",
                reason="BASE_HAS_NO_CHAT_TEMPLATE",
                field=f"job.spec.{field}",
                base_model=base.name,
                format=dataset.format,
            )
