"""The base models of a trainer: one that jobs get by default, and any number beside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tailorbird.base_model import BaseModelFiles, load_base_model
from tailorbird.errors import InvalidArgument
from trainer_svc.settings import FurtherBase

_GIB = 2**30


@dataclass(frozen=True)
class BaseModels:
    """The base models of a trainer, the default first. No two share a name or a digest."""

    all: tuple[BaseModelFiles, ...]

    @property
    def default(self) -> BaseModelFiles:
        """The base of a job that names none."""
        return self.all[0]

    @property
    def names(self) -> str:
        """Every name, for people."""
        return ", ".join(repr(base.name) for base in self.all)

    def named(self, name: str) -> BaseModelFiles | None:
        """Return the base that jobs call `name`, the default if that is empty; None if unknown."""
        return next((base for base in self.all if name in {"", base.name}), None)

    def held(self, name: str, digest: str) -> BaseModelFiles | None:
        """Return the base with this digest, or None.

        A job of a release that kept no digest has only the name.
        """
        if not digest:
            return self.named(name)
        return next((base for base in self.all if base.digest == digest), None)


def with_further(
    default: BaseModelFiles, further: Sequence[FurtherBase], cache: Path, memory_gib: float | None
) -> BaseModels:
    """Load the further bases; see `load_base_model`, whose memo of file hashes is in `cache`.

    Raises InvalidArgument, naming the setting, for one that cannot be loaded, one whose name or
    weights another has, and one whose weights alone are more than `memory_gib`.
    """
    bases = [default]
    for number, asked in enumerate(further):
        base = _loaded(number, asked, cache)
        for other in bases:
            if base.name == other.name or base.digest == other.digest:
                raise _refused(
                    number,
                    asked,
                    f"{base.name!r} ({base.digest}) is the base {other.name!r} ({other.digest}) "
                    "again: each has a name and weights of its own",
                )
        bases.append(base)
    for base in bases:
        if memory_gib is not None and base.weight_bytes > memory_gib * _GIB:
            raise InvalidArgument(
                "base_memory_gib",
                f"{memory_gib:g} GiB are less than the {base.weight_bytes / _GIB:.3g} GiB that the "
                f"weights of the base {base.name!r} have",
            )
    return BaseModels(tuple(bases))


def _loaded(number: int, asked: FurtherBase, cache: Path) -> BaseModelFiles:
    try:
        return load_base_model(asked.model, cache, asked.name, expected_digest=asked.digest)
    except InvalidArgument as error:
        raise _refused(number, asked, error.description, error.reason) from error


def _refused(
    number: int, asked: FurtherBase, problem: str, reason: str | None = None
) -> InvalidArgument:
    return InvalidArgument(
        "more_base_models", f"[{number}] ({asked.model}): {problem}", reason=reason
    )
