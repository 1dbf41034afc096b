"""A pass in several lanes gives what it gives in one, and the same bits each time."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

import pytest
import torch

from tests.unit.trainer_svc.engine.step.test_group import SPECS, assert_close, scramble, share
from tests.unit.trainer_svc.engine.tiny import examples
from trainer_svc.engine.base import load_base
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.step import bank as bank_module
from trainer_svc.engine.step.bank import Adapter, AdapterBank, Dropout, Share
from trainer_svc.engine.step.lanes import Lanes, lanes_for
from trainer_svc.engine.step.shares import cut

Gradients = dict[str, dict[str, torch.Tensor]]


@pytest.fixture(autouse=True)
def few_tokens_are_worth_a_lane(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "_LANE_TOKENS", 8)


def make(base_path: str, lanes: int, **options: bool) -> tuple[AdapterBank, dict[str, Adapter]]:
    bank = AdapterBank(load_base(base_path, "cpu"), lanes=lanes, **options)
    adapters = {job: bank.attach(job, spec, seed=5) for job, spec in SPECS.items()}
    for adapter in adapters.values():
        scramble(adapter)
    return bank, adapters


def step(bank: AdapterBank, number: int) -> dict[str, float]:
    losses = bank.forward({job: share(job, number) for job in SPECS})
    total = sum(loss.total / loss.trained_tokens for loss in losses.values())
    total.backward()  # type: ignore[union-attr]
    return {job: float(loss.total.detach()) for job, loss in losses.items()}


def gradients(adapters: dict[str, Adapter]) -> Gradients:
    return {
        job: {name: p.grad.clone() for name, p in adapter.parameters.items() if p.grad is not None}
        for job, adapter in adapters.items()
    }


@pytest.mark.parametrize("lanes", [2, 3, 9])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_lanes_give_the_losses_and_gradients_of_one(
    base_path: str, lanes: int, checkpointing: bool
) -> None:
    one, of_one = make(base_path, 1)
    many, of_many = make(base_path, lanes, gradient_checkpointing=checkpointing)
    used = threads_of(many)
    for number in range(2):
        assert step(many, number) == pytest.approx(step(one, number), rel=1e-5)
    assert len(used) > 1
    for job, expected in gradients(of_one).items():
        assert_close(expected, gradients(of_many)[job])


def test_a_job_that_is_in_fewer_lanes_than_before_has_the_gradients_of_those(
    base_path: str,
) -> None:
    jobs = list(SPECS)[:2]

    def train(lanes: int) -> Gradients:
        bank, adapters = make(base_path, lanes)
        for each in (4, 1):
            losses = bank.forward({job: Share(examples(each, seed=3)) for job in jobs})
            torch.stack([loss.total for loss in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
        return gradients(adapters)

    expected, found = train(1), train(4)
    for job in jobs:
        assert_close(expected[job], found[job])


def threads_of(bank: AdapterBank) -> set[int]:
    """Return the threads that run the base from now on."""
    threads: set[int] = set()
    bank.base.decoder.register_forward_hook(lambda *_: threads.add(threading.get_ident()))
    return threads


def test_steps_in_lanes_give_the_same_bits_each_time(base_path: str) -> None:
    def train() -> Gradients:
        bank, adapters = make(base_path, 3)
        for number in range(3):
            step(bank, number)
        return gradients(adapters)

    first = train()
    for _ in range(3):
        again = train()
        for job, tensors in first.items():
            assert all(torch.equal(tensors[name], again[job][name]) for name in tensors)


def test_without_gradients_none_are_kept(base_path: str) -> None:
    bank, adapters = make(base_path, 2)
    with torch.no_grad():
        losses = bank.forward({job: share(job, 0) for job in SPECS})
    assert not any(loss.total.requires_grad for loss in losses.values())
    assert not any(gradients(adapters).values())


def test_a_pass_that_fails_in_one_lane_leaves_nothing_to_the_next(base_path: str) -> None:
    bank, adapters = make(base_path, 2)
    other, expected = make(base_path, 2)
    losses = bank.forward({job: share(job, 0) for job in SPECS})
    here = threading.get_ident()

    def fail(gradient: torch.Tensor) -> torch.Tensor:
        if threading.get_ident() == here:
            raise RuntimeError("this lane has no memory")
        return gradient

    parameters = [p for adapter in adapters.values() for p in adapter.parameters.values()]
    hooks = [parameter.register_hook(fail) for parameter in parameters]  # type: ignore[no-untyped-call]
    with pytest.raises(RuntimeError, match="this lane has no memory"):
        torch.stack([loss.total for loss in losses.values()]).sum().backward()  # type: ignore[no-untyped-call]
    for hook in hooks:
        hook.remove()
    for parameter in parameters:
        parameter.grad = None
    step(bank, 1)
    step(other, 1)
    for job, tensors in gradients(expected).items():
        found = gradients(adapters)[job]
        assert all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_records_go_to_lanes_by_tokens_and_keep_their_order() -> None:
    shares = {
        "one": Share([record(30), record(30)], Dropout(1, 2, [7, 8])),
        "two": Share([record(30), record(30)], Dropout(1, 2, [5, 6])),
        "three": Share([record(60)]),
    }
    first, second = cut(shares, 2)
    assert list(first) == ["one", "two"]
    assert list(second) == ["two", "three"]
    assert first["one"] == shares["one"]
    assert second["two"].examples == shares["two"].examples[1:]
    assert first["two"].dropout == Dropout(1, 2, [5])
    assert second["two"].dropout == Dropout(1, 2, [6])
    assert second["three"].dropout is None


@pytest.mark.parametrize("lengths", [[100], [100, 1], [1, 100], [1, 1, 1], [5, 90, 5]])
def test_no_lane_is_empty_and_no_record_lost(lengths: list[int]) -> None:
    examples = [record(length) for length in lengths]
    parts = cut({"job": Share(examples)}, 3)
    assert [e for part in parts for e in part["job"].examples] == examples
    assert all(part["job"].examples for part in parts)


def record(length: int) -> Example:
    ids = torch.arange(length)
    return Example(1, ids, ids > 0)


def test_a_small_pass_is_one_lane(base_path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bank_module, "_LANE_TOKENS", 256)
    bank, _ = make(base_path, 2)
    used = threads_of(bank)
    step(bank, 0)
    assert used == {threading.get_ident()}


def test_records_of_a_base_that_leaks_are_one_lane(base_path: str) -> None:
    bank = AdapterBank(replace(load_base(base_path, "cpu"), why_alone="asked"), lanes=2)
    bank.attach("job", SPECS["wide"], seed=0)
    used = threads_of(bank)
    bank.forward({"job": Share(examples(6))})
    assert used == {threading.get_ident()}


def test_lanes_compute_at_once() -> None:
    meeting = threading.Barrier(3)

    def meet(number: int) -> Callable[[], int]:
        def work() -> int:
            meeting.wait(timeout=30)
            return number

        return work

    assert Lanes(3).run([meet(0), meet(1), meet(2)]) == [0, 1, 2]


def test_an_error_waits_for_the_other_lanes() -> None:
    ended = threading.Event()
    go_on = threading.Event()

    def fails() -> None:
        go_on.set()
        raise ValueError("first")

    def ends() -> None:
        assert go_on.wait(timeout=30)
        ended.set()
        raise KeyError("second")

    with pytest.raises(ValueError, match="first"):
        Lanes(2).run([fails, ends])
    assert ended.is_set()


def test_only_a_base_that_packs_on_a_cpu_has_lanes(base_path: str) -> None:
    base = load_base(base_path, "cpu")
    assert [lanes_for(base, threads) for threads in (1, 2, 4, 64)] == [1, 2, 4, 4]
    assert lanes_for(replace(base, why_alone="asked"), 4) == 1
    assert lanes_for(replace(base, device=torch.device("cuda")), 4) == 1
    halves = replace(base, dtype=torch.float16, compute_dtype=torch.bfloat16)
    assert lanes_for(halves, 4) == 1
    assert lanes_for(replace(halves, compute_dtype=torch.float32), 4) == 4


def test_an_error_in_a_lane_holds_nothing_of_the_others() -> None:
    class Result:
        pass

    made: list[weakref.ref[Result]] = []

    def makes() -> Result:
        result = Result()
        made.append(weakref.ref(result))
        return result

    def fails() -> Result:
        raise MemoryError("no memory")

    lanes = Lanes(2)
    gc.collect()
    gc.disable()
    try:
        for works in ([makes, fails], [fails, makes]):
            with suppress(MemoryError):
                lanes.run(works)
        # The helper lets go of its last work with its next one.
        lanes.run([lambda: None, lambda: None])
        assert [ref() for ref in made] == [None, None]
    finally:
        gc.enable()
