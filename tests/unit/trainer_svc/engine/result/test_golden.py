"""A checkpoint and a certificate as an earlier release wrote them, and as a later one might."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from serving_svc.adapters.gate.probes import read_probes
from tailorbird.manifest import Probes
from tests.unit.trainer_svc.golden import sample, widened
from trainer_svc.engine.result.checkpoint import CheckpointManifest
from trainer_svc.engine.step.run import RunState


def test_a_manifest_is_read() -> None:
    stored = sample("checkpoint_manifest.json")
    found = CheckpointManifest.model_validate(stored | {"a_later_field": {"x": 1}})
    assert found == CheckpointManifest.model_validate(stored)
    assert found.made_for.model_dump() == stored["made_for"]
    assert (found.best, sorted(found.files)) == (True, sorted(stored["files"]))


def test_a_state_is_read() -> None:
    stored = sample("checkpoint_state.json")
    found = RunState.model_validate(stored | {"a_later_field": {"x": 1}})
    assert found == RunState.model_validate(stored)
    assert (found.step, found.best_step, found.best_validation_loss) == (3, 3, 1.25)


@pytest.mark.parametrize(("name", "chats"), [("probes.json", 0), ("probes_with_chats.json", 1)])
def test_a_certificate_passes_the_gate(tmp_path: Path, name: str, chats: int) -> None:
    stored = sample(name)
    for told in (stored, widened(stored)):
        (tmp_path / name).write_text(json.dumps(told))
        probes = read_probes(tmp_path / name, vocab_size=10, max_model_len=8)
        assert json.loads(probes.to_json()) == told
        assert len(probes.chats) == chats
    # What an earlier release committed is replayed to the same bytes.
    assert json.loads(Probes.model_validate(stored).to_json()) == stored
