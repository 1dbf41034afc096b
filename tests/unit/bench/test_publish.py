"""What the bench publishes passes the gate, as far as it needs no engine."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch

from bench.serving.adapters import PROBE_TEXTS, RANK, TARGETS, make_adapters
from bench.serving.publish import Publisher
from serving_svc.adapters.gate import ServedBase, check_files, check_manifest, linear_layers
from serving_svc.adapters.gate.safetensors_file import read_shapes
from tailorbird.base_model import load_base_model
from tailorbird.names import AdapterName
from tailorbird.object_store import open_store
from tailorbird.registry import AdapterRegistry

_BASE = Path(__file__).parents[3] / "examples" / "demo_base"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("adapters")
    make_adapters(_BASE, out, 2, seed=0)
    return sorted(out.iterdir())


async def test_the_gate_admits_what_is_published(folders: list[Path], tmp_path: Path) -> None:
    base = load_base_model(str(_BASE), tmp_path)
    store = (tmp_path / "store").as_uri()
    publisher, registry = Publisher(store, base), AdapterRegistry(open_store(store))
    adapter = AdapterName("t-0000", "bench")

    version = await publisher.publish(adapter, folders[0])
    await publisher.route(version)

    route = await registry.head(adapter)
    assert route is not None
    assert route.version == version.version
    manifest = await registry.manifest(version)
    assert (manifest.rank, set(manifest.target_modules)) == (RANK, set(TARGETS))
    served = ServedBase(
        digest=base.digest,
        chat_template_digest=base.chat_template_digest,
        linear=linear_layers(read_shapes(base.path)),
        vocab_size=2048,
        max_model_len=1024,
        max_lora_rank=16,
        dtype="bfloat16",
    )
    check_manifest(manifest, served)
    probes = check_files(folders[0], manifest, served)
    assert len(probes.sequences) == len(PROBE_TEXTS)
    for probe in probes.sequences:
        effect = [
            abs(tuned - plain)
            for tuned, plain in zip(probe.adapter_logprobs, probe.base_logprobs, strict=True)
        ]
        # Well above rounding, and still text.
        assert 0.05 < math.fsum(effect) / len(effect) < 2.0


async def test_no_two_adapters_are_alike(folders: list[Path]) -> None:
    weights = [(folder / "adapter_model.safetensors").read_bytes() for folder in folders]

    assert weights[0] != weights[1]
