"""profiles/{profile}.json: what the trainer must know of serving."""

from __future__ import annotations

from contextlib import suppress

from pydantic import BaseModel, ConfigDict, ValidationError

from tailorbird.errors import DataCorrupt, NotFound
from tailorbird.manifest import Digest
from tailorbird.object_store import ObjectStore

_FOLDER = "profiles"
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


async def read_profiles(store: ObjectStore) -> list[ServingProfile]:
    """Return every profile that can be read, by name."""
    keys = [info.key async for info in store.objects(_FOLDER)]
    found = []
    for key in sorted(keys):
        name = key.removeprefix(f"{_FOLDER}/").removesuffix(".json")
        with suppress(DataCorrupt):  # another service's: it concerns nobody here
            profile = await read_profile(store, name)
            found += [] if profile is None else [profile]
    return found


def _key(name: str) -> str:
    return f"{_FOLDER}/{name}.json"
