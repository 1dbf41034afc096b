"""What a job learns in a group is what it would learn alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest
import torch

from tests.unit.trainer_svc.engine.tiny import examples
from trainer_svc.engine.base import load_base
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step.bank import Adapter, AdapterBank, Dropout, Share
from trainer_svc.jobs.model import LoraSpec

SPECS = {
    "wide": LoraSpec(rank=32, alpha=16.0, dropout=0.2),
    "narrow": LoraSpec(rank=8, alpha=32.0, use_rslora=True),
    "queries": LoraSpec(rank=16, target_modules=("q_proj", "v_proj", "up_proj"), dropout=0.5),
    "down": LoraSpec(rank=8, alpha=4.0, target_modules=("down_proj",)),
}
TWINS = {
    "left": LoraSpec(rank=8, dropout=0.3),
    "right": LoraSpec(rank=8, dropout=0.3),
    "third": LoraSpec(rank=8, dropout=0.3),
}
"""Jobs of one layout, whose products are one where they have as many tokens."""
STEPS = 3
JOINS = {"queries": 1}
"""Steps after which a job comes; the others are there from the start."""


def records(job: str, step: int) -> list[int]:
    seed = list(SPECS).index(job)
    return [(seed * 7 + step * 3 + place) % 20 for place in range(1 + seed)]


def share(job: str, step: int) -> Share:
    data = examples(20, seed=list(SPECS).index(job), longest=40)
    chosen = records(job, step)
    return Share([data[record] for record in chosen], Dropout(3, step, chosen))


def train(
    base_path: str, jobs: Sequence[str], *, checkpointing: bool = False
) -> dict[str, list[dict[str, torch.Tensor]]]:
    """Return each job's gradients, step by step, of plain descent on its mean loss."""
    bank = AdapterBank(load_base(base_path, "cpu"), gradient_checkpointing=checkpointing)
    adapters: dict[str, Adapter] = {}
    found: dict[str, list[dict[str, torch.Tensor]]] = {job: [] for job in jobs}
    for step in range(STEPS):
        for job in jobs:
            if JOINS.get(job, 0) == step:
                adapters[job] = bank.attach(job, SPECS[job], seed=5)
                scramble(adapters[job])
        if not adapters:
            continue
        losses = bank.forward({job: share(job, step) for job in adapters})
        means = [loss.total / loss.trained_tokens for loss in losses.values()]
        torch.stack(means).sum().backward()  # type: ignore[no-untyped-call]
        for job, adapter in adapters.items():
            found[job].append(descend(adapter))
    return found


def scramble(adapter: Adapter, seed: int = 1) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)


def descend(adapter: Adapter) -> dict[str, torch.Tensor]:
    gradients = {}
    with torch.no_grad():
        for name, parameter in adapter.parameters.items():
            assert parameter.grad is not None
            gradients[name] = parameter.grad
            parameter.sub_(parameter.grad, alpha=0.05)
            parameter.grad = None
    return gradients


def assert_close(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, gradient in one.items():
        error = (gradient - other[name]).norm() / other[name].norm()
        assert error <= 1e-5, f"{name}: {error}"


@pytest.fixture(scope="module")
def together(base_path: str) -> dict[str, list[dict[str, torch.Tensor]]]:
    return train(base_path, list(SPECS))


@pytest.mark.parametrize("job", SPECS)
def test_gradients_in_a_mixed_group_are_those_of_the_job_alone(
    base_path: str, together: dict[str, list[dict[str, torch.Tensor]]], job: str
) -> None:
    alone = train(base_path, [job])[job]
    assert len(alone) == STEPS - JOINS.get(job, 0)
    for of_group, of_one in zip(together[job], alone, strict=True):
        assert_close(of_group, of_one)


def test_checkpointed_layers_give_the_same_gradients(
    base_path: str, together: dict[str, list[dict[str, torch.Tensor]]]
) -> None:
    recomputed = train(base_path, list(SPECS), checkpointing=True)
    for job, steps in together.items():
        for one, other in zip(recomputed[job], steps, strict=True):
            assert_close(one, other)


def test_jobs_of_one_shape_are_one_product_and_each_what_it_is_alone(base_path: str) -> None:
    def shares(step: int) -> dict[str, Share]:
        # The same tokens for all would hide whose weights were used: the records differ.
        data = {job: examples(6, seed=number) for number, job in enumerate(TWINS)}
        for batch in data.values():
            batch[:] = [
                Example(each.line, each.token_ids[:4], each.trained[:4] | (torch.arange(4) > 1))
                for each in batch
            ]
        chosen = {"left": [step, 3], "right": [step, 5], "third": [step]}
        return {
            job: Share([data[job][record] for record in records], Dropout(number, step, records))
            for number, (job, records) in enumerate(chosen.items())
        }

    def gradients(*jobs: str) -> tuple[list[dict[str, torch.Tensor]], set[int]]:
        bank = AdapterBank(load_base(base_path, "cpu"))
        adapters = {job: bank.attach(job, TWINS[job], seed=7) for job in jobs}
        for number, adapter in enumerate(adapters.values()):
            scramble(adapter, list(TWINS).index(jobs[number]))
        found, widths = [], set()
        for step in range(2):
            batch = {job: share for job, share in shares(step).items() if job in jobs}
            losses = bank.forward(batch)
            widths |= {len(adapters) for adapters in bank._stacks}
            torch.stack([loss.total for loss in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
            found += [descend(adapter) for adapter in adapters.values()]
        return found, widths

    together, widths = gradients(*TWINS)
    assert widths == {1, 2}
    for number, job in enumerate(TWINS):
        alone, _ = gradients(job)
        for one, other in zip(together[number::3], alone, strict=True):
            assert_close(one, other)


def test_micro_batches_of_a_step_add_up_to_it(bank: AdapterBank) -> None:
    adapter = bank.attach("wide", SPECS["wide"], seed=0)
    scramble(adapter)
    data, chosen = examples(6), [4, 0, 5, 2]
    gradients = []
    for cut in ([chosen], [chosen[:1], chosen[1:3], chosen[3:]]):
        for part in cut:
            piece = Share([data[record] for record in part], Dropout(3, 1, part))
            bank.forward({"wide": piece})["wide"].total.backward()  # type: ignore[no-untyped-call]
        gradients.append(descend_not(adapter))
    assert_close(gradients[1], gradients[0])


def descend_not(adapter: Adapter) -> dict[str, torch.Tensor]:
    gradients = {name: p.grad for name, p in adapter.parameters.items() if p.grad is not None}
    for parameter in adapter.parameters.values():
        parameter.grad = None
    return gradients


def test_a_job_that_is_not_in_the_step_is_left_alone(bank: AdapterBank) -> None:
    idle, active = (bank.attach(job, SPECS[job], seed=0) for job in ("wide", "narrow"))
    before = idle.tensors(torch.float32)
    bank.forward({"narrow": share("narrow", 0)})["narrow"].total.backward()  # type: ignore[no-untyped-call]
    assert all(parameter.grad is None for parameter in idle.parameters.values())
    assert all(parameter.grad is not None for parameter in active.parameters.values())
    assert all(torch.equal(value, before[n]) for n, value in idle.tensors(torch.float32).items())


def test_a_loss_that_is_left_out_gives_no_gradient(bank: AdapterBank) -> None:
    one, other = (bank.attach(job, SPECS[job], seed=0) for job in ("wide", "narrow"))
    losses = bank.forward({job: share(job, 0) for job in ("wide", "narrow")})
    losses["wide"].total.backward()  # type: ignore[no-untyped-call]
    assert any(p.grad is not None and p.grad.any() for p in one.parameters.values())
    assert not any(p.grad is not None and p.grad.any() for p in other.parameters.values())


def test_attaching_and_detaching_changes_nothing_for_others(bank: AdapterBank) -> None:
    scramble(bank.attach("wide", SPECS["wide"], seed=0))
    weights = {name: value.clone() for name, value in bank.base.model.state_dict().items()}
    before = float(bank.forward({"wide": share("wide", 0)})["wide"].total.detach())
    scramble(bank.attach("narrow", SPECS["narrow"], seed=0))
    during = float(bank.forward({"wide": share("wide", 0)})["wide"].total.detach())
    bank.detach("narrow")
    bank.detach("narrow")
    after = float(bank.forward({"wide": share("wide", 0)})["wide"].total.detach())
    assert before == during == after
    now = bank.base.model.state_dict()
    assert now.keys() == weights.keys()
    assert all(torch.equal(now[name], value) for name, value in weights.items())
    assert not any(p.requires_grad or p.grad is not None for p in bank.base.model.parameters())


def test_one_run_of_the_base_serves_all(bank: AdapterBank) -> None:
    for job, spec in SPECS.items():
        bank.attach(job, spec, seed=0)
    runs: list[int] = []
    bank.base.decoder.register_forward_hook(lambda *_: runs.append(1))
    losses = bank.forward({job: share(job, 0) for job in SPECS})
    assert runs == [1]
    assert list(losses) == list(SPECS)


def test_nothing_is_kept_without_gradients(bank: AdapterBank) -> None:
    bank.attach("wide", SPECS["wide"], seed=0)
    with torch.no_grad():
        loss = bank.forward({"wide": share("wide", 0)})["wide"]
    assert not loss.total.requires_grad
    assert loss.total.dtype == torch.float32
    assert loss.total.shape == ()
