"""What serving can load, out of the profiles that it writes."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest

from tailorbird.object_store import ObstoreStore
from tailorbird.profile import write_profile
from tests.unit.trainer_svc.values import make_base, make_profile
from trainer_svc.bases import BaseModels
from trainer_svc.served import ServingLimits


async def test_all_that_is_offered_costs_one_look_at_the_profiles(
    object_store: ObstoreStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = "sha256:" + 64 * "0"
    made = [
        replace(make_base(name), digest=f"sha256:{64 * name}", chat_template_digest=sha)
        for name in "abc"
    ]
    bases = BaseModels(tuple(made))
    for base, profile in zip(bases.all, ("default", "of-b", "of-c"), strict=True):
        await write_profile(object_store, make_profile(base, profile))
    limits = ServingLimits(object_store, bases, profile="default", max_lora_rank=64, device="cpu")
    read: Counter[str] = Counter()
    get = object_store.get

    async def counted(key: str, limit: int | None = None) -> bytes:
        read[key] += 1
        return await get(key, limit)

    monkeypatch.setattr(object_store, "get", counted)
    assert await limits.offered() == [(base, [8, 16]) for base in bases.all]
    # The default base goes by its own, which must be readable.
    assert read == {
        "profiles/default.json": 2,
        "profiles/of-b.json": 1,
        "profiles/of-c.json": 1,
    }
