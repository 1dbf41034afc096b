"""What is reported and certified is what is published."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path
from typing import Any, TypeVar

import pytest
import torch

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.engine.runs import JOB, make_run, step
from tests.unit.trainer_svc.engine.tiny import examples, make_base
from trainer_svc.engine.base import load_base
from trainer_svc.engine.result.judging import judge
from trainer_svc.engine.step.bank import AdapterBank, Share
from trainer_svc.engine.step.run import Run
from trainer_svc.jobs.events import Evaluation, EventPayload, JobWarning

T = TypeVar("T")


def through(work: Generator[None, None, T]) -> tuple[int, T]:
    """Run every piece; return how many there were, and the result."""
    pieces = 1
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return pieces, result
        pieces += 1


@pytest.fixture
def bank(tmp_path: Path) -> AdapterBank:
    """Of a base in bfloat16: weights are rounded when they are published."""
    return AdapterBank(load_base(str(make_base(tmp_path / "tiny", torch.bfloat16)), "cpu"))


@pytest.fixture
def run(bank: AdapterBank) -> Run:
    run = make_run(bank)
    run.validation = examples(6, seed=1)
    for _ in range(3):
        step(bank, run)
    return run


class Watched:
    """The weights that each forward pass of the bank computed with."""

    def __init__(self, bank: AdapterBank, run: Run, patch: pytest.MonkeyPatch) -> None:
        self.seen: dict[str, list[dict[str, torch.Tensor]]] = {"forward": [], "logprobs": []}
        for name, seen in self.seen.items():
            patch.setattr(bank, name, self._watched(getattr(bank, name), seen, run))

    def _watched(self, real: Any, seen: list[dict[str, torch.Tensor]], run: Run) -> Any:
        def spied(*arguments: Any, **named: Any) -> Any:
            seen.append(run.adapter.tensors(torch.float32))
            return real(*arguments, **named)

        return spied


@pytest.mark.parametrize("what", ["forward", "logprobs"])
def test_figure_and_probes_are_of_the_rounded_weights(
    bank: AdapterBank, run: Run, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    watched = Watched(bank, run, monkeypatch)
    _, judged = through(judge(bank, run, 8192, lambda _: None))
    assert {tensor.dtype for tensor in judged.tensors.values()} == {torch.bfloat16}
    assert watched.seen[what]
    for weights in watched.seen[what]:
        assert all(torch.equal(weights[name], t.float()) for name, t in judged.tensors.items())


def test_what_is_reported_is_what_the_published_weights_give(bank: AdapterBank, run: Run) -> None:
    told: list[EventPayload] = []
    _, judged = through(judge(bank, run, 8192, told.append))
    with torch.no_grad():
        loss = bank.forward({JOB: Share(run.validation)})[JOB]
    (event,) = told
    assert isinstance(event, Evaluation)
    assert event.step == 3
    assert event.validation_loss == pytest.approx(float(loss.total) / loss.trained_tokens)
    assert judged.evaluation.validation_loss == event.validation_loss
    assert judged.evaluation.steps == 3
    sequences = [torch.tensor(probe.token_ids) for probe in judged.probes.sequences]
    tuned, base = bank.logprobs(sequences, job=JOB), bank.logprobs(sequences, job=None)
    first = judged.probes.sequences[0]
    torch.testing.assert_close(torch.tensor(first.adapter_logprobs), tuned[0])
    torch.testing.assert_close(torch.tensor(first.base_logprobs), base[0])


def test_it_goes_in_pieces_that_others_step_between(bank: AdapterBank, run: Run) -> None:
    longest = max(len(example.token_ids) for example in run.validation)
    pieces, _ = through(judge(bank, run, longest, lambda _: None))
    assert pieces >= 5


def test_the_step_that_is_reported_is_the_best_one(bank: AdapterBank, run: Run) -> None:
    run.evaluated(1.0)
    step(bank, run)
    run.hold_best()
    told: list[EventPayload] = []
    through(judge(bank, run, 8192, told.append))
    (event,) = told
    assert isinstance(event, Evaluation)
    assert event.step == 3


def test_without_validation_data_there_is_no_figure(bank: AdapterBank, run: Run) -> None:
    run.validation = []
    told: list[EventPayload] = []
    _, judged = through(judge(bank, run, 8192, told.append))
    assert (told, judged.evaluation.validation_loss) == ([], None)
    assert len(judged.probes.sequences) == 4


def test_an_adapter_that_never_took_a_step_is_not_published(bank: AdapterBank) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        through(judge(bank, make_run(bank), 8192, lambda _: None))
    assert caught.value.reason == "NON_FINITE"


def test_an_adapter_that_rounds_to_nothing_is_not_published(bank: AdapterBank, run: Run) -> None:
    for name, parameter in run.adapter.parameters.items():
        if ".lora_B." in name:
            parameter.data.fill_(1e-45)
    with pytest.raises(FailedPrecondition) as caught:
        through(judge(bank, run, 8192, lambda _: None))
    assert caught.value.reason == "NO_EFFECT"


@pytest.mark.parametrize(("base", "warned"), [(0.01, True), (100.0, False), (None, False)])
def test_an_adapter_that_is_worse_than_the_base_is_told(
    bank: AdapterBank, run: Run, base: float | None, warned: bool
) -> None:
    run.state.base_validation_loss = base
    told: list[EventPayload] = []
    through(judge(bank, run, 8192, told.append))
    reasons = [event.reason for event in told if isinstance(event, JobWarning)]
    assert reasons == (["WORSE_THAN_BASE"] if warned else [])


def test_an_adapter_whose_loss_is_not_finite_is_not_published(bank: AdapterBank, run: Run) -> None:
    for parameter in run.adapter.parameters.values():
        parameter.data.fill_(1e38)
    with pytest.raises(FailedPrecondition) as caught:
        through(judge(bank, run, 8192, lambda _: None))
    assert (caught.value.reason, caught.value.metadata["step"]) == ("NON_FINITE", "3")


def test_probes_that_overflow_where_training_did_not_are_not_published(tmp_path: Path) -> None:
    """A base in float16, which a CPU trains in float32."""
    base = load_base(str(make_base(tmp_path / "half", torch.float16)), "cpu")
    for name, weight in base.model.named_parameters():
        if "down_proj" in name or "up_proj" in name:
            weight.data.mul_(3e5)
    bank = AdapterBank(base)
    run = make_run(bank)
    run.validation = examples(6, seed=1)
    step(bank, run)
    told: list[EventPayload] = []
    with pytest.raises(FailedPrecondition) as caught:
        through(judge(bank, run, 8192, told.append))
    assert isinstance(told[0], Evaluation)
    assert (caught.value.reason, caught.value.metadata) == ("NON_FINITE", {"dtype": "float16"})
    assert "the base gives" in caught.value.message


def test_an_adapter_whose_probes_are_not_finite_is_not_published(
    bank: AdapterBank, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = bank.logprobs

    def overflowing(sequences: Any, *, job: str | None) -> list[torch.Tensor]:
        found = real(sequences, job=job)
        if job is not None:
            found[-1][-1] = -torch.inf
        return found

    monkeypatch.setattr(bank, "logprobs", overflowing)
    with pytest.raises(FailedPrecondition) as caught:
        through(judge(bank, run, 8192, lambda _: None))
    assert caught.value.reason == "NON_FINITE"
    assert "with the adapter" in caught.value.message
