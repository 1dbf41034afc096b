from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from trainer_svc.engine.data.hyperparameters import Choice, learning_rate_at, resolve
from trainer_svc.jobs.model import Hyperparameters, LoraSpec

LORA = LoraSpec(rank=16, alpha=32.0)


def chosen(
    lengths: Any,
    *,
    lora: LoraSpec = LORA,
    hidden_size: int = 2000,
    context: int = 1024,
    **asked: Any,
) -> Choice:
    return resolve(
        Hyperparameters(**asked), lengths, lora=lora, hidden_size=hidden_size, context=context
    )


def test_auto_is_what_the_proto_promises() -> None:
    choice = chosen([100] * 480)
    assert choice.hyperparameters == Hyperparameters(
        learning_rate=5e-4,
        epochs=5,
        batch_tokens=1000,
        max_sequence_length=128,
        warmup_ratio=0.05,
        weight_decay=0.0,
        seed=0,
        evaluation_interval=24,
        checkpoint_interval=24,
        early_stopping_patience=0,
    )
    assert choice.plan.total_steps == 5 * 48
    assert choice.warnings == ()


def test_every_value_left_open_has_its_reason_with_its_figures() -> None:
    reasons = chosen([100] * 479 + [90]).reasons
    assert set(reasons) == set(Hyperparameters.model_fields)
    for name, figures in {
        "learning_rate": ["2000", "2"],
        "epochs": ["48 steps", "200", "480 records"],
        "batch_tokens": ["47990 tokens", "512", "8192"],
        "max_sequence_length": ["100 tokens", "1024"],
        "warmup_ratio": ["12 of 240"],
        "evaluation_interval": ["240"],
        "checkpoint_interval": ["240"],
    }.items():
        assert all(figure in reasons[name] for figure in figures), reasons[name]


@pytest.mark.parametrize(
    ("batch_tokens", "epochs", "interval", "reason"),
    [
        (1000, 1, 9, "8,192 tokens"),
        (8192, 1, 1, "a tenth of 6 steps"),
        (1000, 10, 48, "a tenth of 480 steps"),
        (64, 1, 128, "8,192 tokens"),
    ],
)
def test_checkpoints_of_a_short_job_are_apart(
    batch_tokens: int, epochs: int, interval: int, reason: str
) -> None:
    choice = chosen([100] * 480, batch_tokens=batch_tokens, epochs=epochs)
    assert choice.hyperparameters.checkpoint_interval == interval
    assert reason in choice.reasons["checkpoint_interval"]


def test_a_job_shorter_than_that_has_one_at_its_end() -> None:
    found = chosen([100] * 50, batch_tokens=1000, epochs=1).hyperparameters
    assert found.checkpoint_interval == 5


@pytest.mark.parametrize(
    ("lengths", "batch_tokens", "epochs"),
    [([10] * 50, 512, 20), ([1000] * 4000, 8192, 1)],
)
def test_auto_stays_within_its_limits(lengths: list[int], batch_tokens: int, epochs: int) -> None:
    found = chosen(lengths, hidden_size=256, context=4096).hyperparameters
    assert (found.batch_tokens, found.epochs) == (batch_tokens, epochs)


@pytest.mark.parametrize(
    ("lora", "rate"),
    [
        (LoraSpec(rank=64, alpha=128.0), 5e-4),
        (LoraSpec(rank=16, alpha=16.0), 1e-3),
        (LoraSpec(rank=16, alpha=16.0, use_rslora=True), 2.5e-4),
        (LoraSpec(rank=256, alpha=16.0), 2e-3),
        (LoraSpec(rank=1, alpha=256.0), 1.25e-4),
        (LoraSpec(rank=16, alpha=5e-324), 2e-3),
    ],
)
def test_the_rate_undoes_the_scaling(lora: LoraSpec, rate: float) -> None:
    found = chosen([100] * 480, lora=lora).hyperparameters
    assert found.learning_rate == pytest.approx(rate)


@pytest.mark.parametrize(("longest", "limit"), [(100, 128), (128, 128), (1000, 1000)])
def test_the_length_is_the_datas_and_no_more_than_the_bases(longest: int, limit: int) -> None:
    lengths = np.array([30] * 60 + [longest], dtype=np.int32)
    assert chosen(lengths, context=1000).hyperparameters.max_sequence_length == limit


def test_few_records_get_a_guarded_recipe_and_a_warning() -> None:
    usual, guarded = chosen([100] * 50), chosen([100] * 49)
    assert usual.warnings == ()
    assert usual.hyperparameters.learning_rate == 5e-4
    assert guarded.hyperparameters.learning_rate == 2.5e-4
    assert (guarded.hyperparameters.batch_tokens, guarded.hyperparameters.epochs) == (400, 6)
    (warning,) = guarded.warnings
    assert warning.reason == "FEW_RECORDS"
    assert "49 records" in warning.message
    assert "learning_rate, batch_tokens, epochs" in warning.message
    assert "halved" in guarded.reasons["learning_rate"]
    assert chosen([2] * 3).hyperparameters.batch_tokens == 64


def test_a_recipe_of_the_callers_own_is_only_warned_about() -> None:
    choice = chosen([100] * 10, learning_rate=0.1, epochs=30, batch_tokens=512)
    found = choice.hyperparameters
    assert (found.learning_rate, found.epochs, found.batch_tokens) == (0.1, 30, 512)
    (warning,) = choice.warnings
    assert "chosen" not in warning.message


def test_what_is_asked_for_stays() -> None:
    asked = Hyperparameters(
        learning_rate=0.5,
        epochs=2,
        batch_tokens=64,
        max_sequence_length=100,
        warmup_ratio=0.0,
        weight_decay=0.1,
        seed=7,
        evaluation_interval=3,
        checkpoint_interval=5,
        early_stopping_patience=4,
    )
    choice = chosen([30] * 8, context=128, **asked.model_dump())
    assert choice.hyperparameters == asked
    assert choice.reasons == {}
    longer = {**asked.model_dump(), "max_sequence_length": 1000}
    assert chosen([30] * 8, context=128, **longer).hyperparameters.max_sequence_length == 128


def test_the_rate_rises_then_falls_to_a_tenth() -> None:
    rates = [learning_rate_at(step, 100, 1.0, 0.1) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate_at(1, 1, 1.0, 0.0) == pytest.approx(0.1)
