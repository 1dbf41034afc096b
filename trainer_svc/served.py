"""What serving can load, as far as it has said so: jobs that ask for anything else are refused."""

from __future__ import annotations

from tailorbird.base_model import BaseModelFiles
from tailorbird.errors import FailedPrecondition, InvalidArgument
from tailorbird.manifest import RANKS
from tailorbird.object_store import ObjectStore
from tailorbird.profile import ServingProfile, read_profile, read_profiles
from tailorbird.servable import why_not_served
from trainer_svc.bases import BaseModels


class ServingLimits:
    """Holds jobs against the serving profiles in the object store.

    Those on the default base must suit the profile with the name `profile`; those on a further
    base every profile that has this base, whatever its name. While none is written at all, any base
    is taken for one that will be served, up to `max_lora_rank`. `device` is the workers'.
    """

    def __init__(
        self,
        store: ObjectStore,
        bases: BaseModels,
        *,
        profile: str,
        max_lora_rank: int,
        device: str,
    ) -> None:
        self._store = store
        self._bases = bases
        self._profile = profile
        self._max_lora_rank = max_lora_rank
        self._device = device

    async def offered(self) -> list[tuple[BaseModelFiles, list[int]]]:
        """Return the bases, the default first, and the LoRA ranks that jobs on each may ask for.

        Ascending; none, where serving has other bases only.
        """
        default, *further = self._bases.all
        every = await read_profiles(self._store) if further else []
        found = [(default, await self._profiles(default)), *((base, every) for base in further)]
        offered = []
        for base, profiles in found:
            having = _having(base, profiles)
            offered.append((base, [] if profiles and not having else self._up_to(having)))
        return offered

    async def ranks(self, base: BaseModelFiles) -> list[int]:
        """Return the LoRA ranks that a job on `base` may ask for, ascending.

        Raises FailedPrecondition (BASE_NOT_SERVABLE, BASE_MISMATCH) if it may ask for none.
        """
        self._check_servable(base)
        profiles = await self._profiles(base)
        having = _having(base, profiles)
        if profiles and not having:
            served = "; ".join(
                f"{found.profile}: {found.base_model} ({found.base_model_digest})"
                for found in profiles[:5]
            )
            raise FailedPrecondition(
                f"serving has other base models ({served}) than {base.name} ({base.digest}): it "
                "would refuse the adapter",
                reason="BASE_MISMATCH",
            )
        return self._up_to(having)

    def _check_servable(self, base: BaseModelFiles) -> None:
        why = why_not_served(base.architecture, self._device)
        if why:
            raise FailedPrecondition(
                f"adapters of {base.name} ({base.architecture}) cannot be served: {why}",
                reason="BASE_NOT_SERVABLE",
                architecture=base.architecture,
            )

    async def _profiles(self, base: BaseModelFiles) -> list[ServingProfile]:
        """Return the profiles among which one must have `base`, if there are any."""
        if base is not self._bases.default:
            return await read_profiles(self._store)
        named = await read_profile(self._store, self._profile)
        return [] if named is None else [named]

    def _up_to(self, profiles: list[ServingProfile]) -> list[int]:
        limit = min((each.max_lora_rank for each in profiles), default=self._max_lora_rank)
        return [rank for rank in RANKS if rank <= limit]


def check_rank(rank: int, ranks: list[int]) -> None:
    """Raise InvalidArgument unless a job may ask for this rank."""
    if rank not in ranks:
        raise InvalidArgument(
            "job.spec.lora.rank", f"{rank} is not one of {ranks}", limit=max(ranks, default=0)
        )


def _having(base: BaseModelFiles, profiles: list[ServingProfile]) -> list[ServingProfile]:
    return [each for each in profiles if each.base_model_digest == base.digest]
