"""profiles/{profile}.json: what the trainer must know of serving."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, ValidationError

from tailorbird.errors import DataCorrupt, NotFound
from tailorbird.manifest import Digest
from tailorbird.object_store import ObjectStore

_MAX_BYTES = 64 * 2**10


class ServingProfile(BaseModel):
    """The limits of one kind of serving replica. Serving writes it at start.

    Readers keep fields they do not know.
    """

    model_config = ConfigDict(frozen=True, extra="allow")

    profile: str
    base_model: str
    base_model_digest: Digest
    chat_template_digest: Digest
    max_model_len: int
    max_lora_rank: int
    adapter_slots: int
    dtype: str


async def write_profile(store: ObjectStore, profile: ServingProfile) -> None:
    """Write the profile in place of an older one."""
    await store.put(_key(profile.profile), profile.model_dump_json(indent=2).encode())


async def read_profile(store: ObjectStore, name: str) -> ServingProfile | None:
    """Return the profile, or None while no serving replica has written it."""
    try:
        data = await store.get(_key(name), _MAX_BYTES)
    except NotFound:
        return None
    try:
        return ServingProfile.model_validate_json(data)
    except ValidationError as error:
        raise DataCorrupt(f"{_key(name)} is not a serving profile") from error


def _key(name: str) -> str:
    return f"profiles/{name}.json"
