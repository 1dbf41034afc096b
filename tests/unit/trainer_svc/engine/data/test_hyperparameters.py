from __future__ import annotations

import pytest

from trainer_svc.engine.data.hyperparameters import learning_rate_at, resolve
from trainer_svc.jobs.model import Hyperparameters


def test_auto_is_what_the_proto_promises() -> None:
    chosen, plan = resolve(Hyperparameters(), [100] * 480, hidden_size=2000, context=1024)
    assert chosen == Hyperparameters(
        learning_rate=5e-4,
        epochs=5,
        batch_tokens=1000,
        max_sequence_length=1024,
        warmup_ratio=0.05,
        weight_decay=0.0,
        seed=0,
        evaluation_interval=24,
        checkpoint_interval=24,
        early_stopping_patience=0,
    )
    assert plan.total_steps == 5 * 48


@pytest.mark.parametrize(
    ("lengths", "batch_tokens", "epochs"),
    [([10] * 5, 512, 20), ([1000] * 4000, 8192, 1)],
)
def test_auto_stays_within_its_limits(lengths: list[int], batch_tokens: int, epochs: int) -> None:
    chosen, _ = resolve(Hyperparameters(), lengths, hidden_size=256, context=4096)
    assert (chosen.batch_tokens, chosen.epochs) == (batch_tokens, epochs)


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
    assert resolve(asked, [30] * 8, hidden_size=64, context=128)[0] == asked
    longer = asked.model_copy(update={"max_sequence_length": 1000})
    assert resolve(longer, [30] * 8, hidden_size=64, context=128)[0].max_sequence_length == 128


def test_the_rate_rises_then_falls_to_a_tenth() -> None:
    rates = [learning_rate_at(step, 100, 1.0, 0.1) for step in range(1, 101)]
    assert rates[:10] == pytest.approx([0.1 * step for step in range(1, 11)])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[-1] == pytest.approx(0.1)
    assert learning_rate_at(1, 1, 1.0, 0.0) == pytest.approx(0.1)
