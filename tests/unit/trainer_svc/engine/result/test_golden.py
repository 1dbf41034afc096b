"""The records of a checkpoint as an earlier release wrote them, and as a later one might."""

from __future__ import annotations

from tests.unit.trainer_svc.golden import sample
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
