"""Prints the table of docs/bases.md: `python -m tests.integration.families`, half an hour."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

from tailorbird.errors import TailorbirdError
from tailorbird.servable import why_not_served
from tests.families import FAMILIES, Family, make_family
from tests.integration.families.round_trip import replay, train
from trainer_svc.engine.base import Base, load_base
from trainer_svc.engine.targets import adaptable_layers

_MOST_TEXT = 160


def row(family: Family, folder: Path) -> list[str]:
    """Return the architecture, the layers adapters may change, how it is trained, and served."""
    path = make_family(family, folder / "base")
    (architecture,) = json.loads((path / "config.json").read_text())["architectures"]
    try:
        base = load_base(str(path), "cpu")
    except (TailorbirdError, ValueError) as error:
        return [architecture, "", f"refused: {str(error)[:_MOST_TEXT]}", ""]
    return [architecture, _layers(base), _trained(base), _served(architecture, path, folder)]


def _trained(base: Base) -> str:
    if base.packs:
        return "packed"
    return f"one by one: {base.why_alone}"


def _layers(base: Base) -> str:
    found = adaptable_layers(base.decoder)
    return " ".join(sorted({name.rpartition(".")[2] for name in found}))


def _served(architecture: str, path: Path, folder: Path) -> str:
    known = why_not_served(architecture, "cpu")
    try:
        found = replay(path, train(path, folder), "float32")
    except RuntimeError as error:
        return f"no: {known or str(error)[-_MOST_TEXT:]}"
    return f"yes, off by {found.adapter_error:.0e} nats of {found.effect:.1f}"


if __name__ == "__main__":
    for name, one in FAMILIES.items():
        with tempfile.TemporaryDirectory() as scratch:
            sys.stdout.write(f"| {' | '.join([name, *row(one, Path(scratch))])} |\n")
            sys.stdout.flush()
