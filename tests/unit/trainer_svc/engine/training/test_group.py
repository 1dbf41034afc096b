"""Many jobs in one pass: each is what it would be alone, whatever another does."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.engine.reference import (
    Fault,
    ReferenceBank,
    finish,
    make_run,
    weights,
)
from trainer_svc.engine.step.run import Run, StepResult
from trainer_svc.engine.training.group import Group

JOBS = [f"tenants/{tenant}/jobs/one" for tenant in ("acme", "blue", "coda", "dune")]


def four(bank: ReferenceBank, **asked: Any) -> list[Run]:
    """Four runs that differ in data, lengths, rates and steps."""
    return [
        make_run(
            bank,
            job,
            seed=number,
            records=8 + 4 * number,
            longest=16 + 20 * number,
            **{
                "learning_rate": 0.01 * (number + 1),
                "batch_tokens": 64 * (number + 1),
                "epochs": 5 - number,
                **asked,
            },
        )
        for number, job in enumerate(JOBS)
    ]


def alone(**asked: Any) -> list[Run]:
    made = []
    for number in range(4):
        bank = ReferenceBank(dropout=0.2)
        run = four(bank, **asked)[number]
        assert finish(Group(bank, 10_000), [run]) == {}
        made.append(run)
    return made


def assert_as_alone(runs: list[Run]) -> None:
    by_job = {run.job: run for run in alone()}
    for run in runs:
        expected = by_job[run.job]
        assert run.state.step == expected.state.step
        assert run.state.tokens == expected.state.tokens
        change = (weights(run) - weights(expected)).norm() / weights(expected).norm()
        assert float(change) < 1e-5


@pytest.mark.parametrize("micro_tokens", [10_000, 200, 50, 1])
def test_each_job_is_what_it_would_be_alone(micro_tokens: int) -> None:
    bank = ReferenceBank(crossing=True, dropout=0.2)
    runs = four(bank)
    assert finish(Group(bank, micro_tokens), runs) == {}
    assert_as_alone(runs)
    sizes = [sum(map(sum, each.values())) for each in bank.passes]
    single = [sum(map(len, each.values())) == 1 for each in bank.passes]
    assert all(size <= micro_tokens or one for size, one in zip(sizes, single, strict=True))
    assert any(len(each) == 4 for each in bank.passes) is (micro_tokens >= 200)


def test_a_job_may_join_and_leave_while_others_are_in_the_middle_of_a_step() -> None:
    bank = ReferenceBank(crossing=True, dropout=0.2)
    runs = four(bank)
    group = Group(bank, 60)
    for _ in range(3):
        group.step({run.job: run for run in runs[2:]})
    assert any(run.state.step == 0 for run in runs[2:])
    assert finish(group, runs) == {}
    assert_as_alone(runs)


@pytest.mark.parametrize("fault", ["loss", "gradient", "error"])
@pytest.mark.parametrize("micro_tokens", [10_000, 60])
@pytest.mark.parametrize("step", [0, 1, 3])
def test_an_offender_leaves_and_changes_nobody(fault: Fault, micro_tokens: int, step: int) -> None:
    bank = ReferenceBank(crossing=True, dropout=0.2)
    runs = four(bank)
    bank.faults[(JOBS[1], step)] = fault
    left = finish(Group(bank, micro_tokens), runs)
    assert list(left) == [JOBS[1]]
    assert runs[1].state.step == step
    assert_as_alone([runs[0], *runs[2:]])
    error = left[JOBS[1]]
    if fault == "error":
        assert isinstance(error, IndexError)
    else:
        assert isinstance(error, FailedPrecondition)
        assert (error.reason, error.metadata) == ("NON_FINITE", {"step": str(step + 1)})


def test_two_offenders_at_once_both_leave() -> None:
    bank = ReferenceBank(crossing=True, dropout=0.2)
    runs = four(bank)
    bank.faults = {(JOBS[0], 1): "loss", (JOBS[3], 1): "gradient"}
    assert set(finish(Group(bank, 10_000), runs)) == {JOBS[0], JOBS[3]}
    assert_as_alone(runs[1:3])


def test_others_step_together_again_after_an_offender() -> None:
    bank = ReferenceBank(crossing=True)
    runs = four(bank, epochs=30)
    bank.faults[(JOBS[1], 0)] = "loss"
    finish(Group(bank, 10_000), runs)
    sizes = [len(each) for each in bank.passes]
    assert sizes[0] == 4
    assert sizes.count(4) == 1
    assert sizes.index(3) <= 9
    assert sizes[sizes.index(3) :].count(3) > 10


def test_nobody_waits_for_the_long_step_of_a_suspect() -> None:
    bank = ReferenceBank()
    large = make_run(bank, JOBS[0], records=200, batch_tokens=100_000, learning_rate=1e-3)
    small = [make_run(bank, job, seed=1, epochs=50) for job in JOBS[1:3]]
    offender = make_run(bank, JOBS[3], seed=2)
    bank.faults[(JOBS[3], 0)] = "loss"
    group = Group(bank, 100)
    active = [large, *small, offender]
    while large.state.step == 0:
        outcomes = group.step({run.job: run for run in active})
        active = [run for run in active if not isinstance(outcomes.get(run.job), Exception)]
    alone = [each for each in bank.passes if len(each) == 1 and JOBS[0] in each]
    assert len(alone) > 20
    assert all(run.state.step > 10 for run in small)


@pytest.mark.parametrize("rate", [1e25, 1e39])
def test_a_learning_rate_that_makes_nan_ends_its_job_alone(rate: float) -> None:
    """A loss that is not finite in the next step, and a weight that is not after this one."""
    bank = ReferenceBank(crossing=True, dropout=0.2)
    runs = four(bank)
    wild = make_run(bank, JOBS[1], seed=1, records=12, longest=36, learning_rate=rate)
    left = finish(Group(bank, 10_000), [runs[0], wild, *runs[2:]])
    assert list(left) == [JOBS[1]]
    error = left[JOBS[1]]
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "NON_FINITE"
    assert error.metadata["step"] == str(wild.state.step + 1)
    assert (wild.state.step == 0) is (rate == 1e39)
    assert_as_alone([runs[0], *runs[2:]])


@pytest.mark.parametrize(
    "no_memory",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        MemoryError(),
    ],
)
@pytest.mark.parametrize("backward", [False, True])
def test_a_pass_without_memory_is_made_smaller(no_memory: Exception, backward: bool) -> None:
    bank = ReferenceBank(dropout=0.2)
    runs = four(bank)
    bank.memory, bank.no_memory, bank.fails_backward = 150, no_memory, backward
    group = Group(bank, 400)
    assert finish(group, runs) == {}
    assert 30 <= group.limit <= 150
    assert_as_alone(runs)


def test_memory_that_runs_out_in_the_middle_of_a_step_loses_and_doubles_nothing() -> None:
    bank = ReferenceBank(dropout=0.2)
    runs = four(bank)
    group = Group(bank, 100)
    for _ in range(2):
        group.step({run.job: run for run in runs})
    bank.memory, bank.fails_backward = 80, True
    assert finish(group, runs) == {}
    assert_as_alone(runs)


def test_a_record_that_does_not_fit_alone_ends_its_job() -> None:
    bank = ReferenceBank(dropout=0.2)
    runs = four(bank)
    long = make_run(bank, JOBS[1], seed=1, records=6, longest=300, batch_tokens=1000)
    longest = max(len(example.token_ids) for example in long.training)
    bank.memory = longest - 1
    group = Group(bank, 400)
    left = finish(group, [runs[0], long, *runs[2:]])
    assert list(left) == [JOBS[1]]
    error = left[JOBS[1]]
    assert isinstance(error, FailedPrecondition)
    assert error.reason == "OUT_OF_MEMORY"
    assert error.metadata == {"tokens": str(longest), "limit": "400"}
    assert_as_alone([runs[0], *runs[2:]])


def test_what_took_the_memory_may_have_left_with_a_job() -> None:
    bank = ReferenceBank()
    runs = four(bank)
    group = Group(bank, 400)
    bank.memory = 100
    while group.limit == 400:
        group.step({run.job: run for run in runs})
    group.left(JOBS[3])
    assert group.limit == 400


def test_a_job_whose_records_cannot_be_read_leaves_alone() -> None:
    bank = ReferenceBank(dropout=0.2)
    runs = four(bank)

    class Unreadable(list[Any]):
        def __getitem__(self, index: Any) -> Any:
            raise OSError("the cache is gone")

    runs[1].training = Unreadable(runs[1].training)
    left = finish(Group(bank, 100), runs)
    assert {job: str(error) for job, error in left.items()} == {JOBS[1]: "the cache is gone"}
    assert_as_alone([runs[0], *runs[2:]])


def test_an_error_in_one_jobs_update_ends_that_job_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = ReferenceBank(dropout=0.2)
    runs = four(bank)

    def broken(*_: object) -> torch.Tensor:
        raise RuntimeError("no room for its update")

    monkeypatch.setattr(runs[2], "update", broken)
    left = finish(Group(bank, 10_000), runs)
    assert {job: str(error) for job, error in left.items()} == {JOBS[2]: "no room for its update"}
    assert_as_alone([*runs[:2], runs[3]])


def test_an_error_after_all_updates_ends_those_who_may_have_stepped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bank = ReferenceBank()
    runs = four(bank)

    def broken(_: torch.Tensor) -> list[float]:
        raise RuntimeError("the device is gone")

    steps = {run.job: run for run in runs}
    assert all(run.waiting for run in runs)
    monkeypatch.setattr(torch.Tensor, "tolist", broken)
    outcomes = Group(bank, 10_000).step(steps)
    assert {job: str(error) for job, error in outcomes.items()} == dict.fromkeys(
        JOBS, "the device is gone"
    )


class _HostReads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts reads of a tensor's values by the host."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_a_pass_waits_for_the_device_once(monkeypatch: pytest.MonkeyPatch) -> None:
    bank = ReferenceBank()
    runs = four(bank)
    assert all(run.waiting for run in runs)
    reads = _HostReads()  # type: ignore[no-untyped-call]
    listed = 0
    to_list = torch.Tensor.tolist

    def counted(tensor: torch.Tensor) -> Any:
        nonlocal listed
        listed += 1
        return to_list(tensor)

    monkeypatch.setattr(torch.Tensor, "tolist", counted)
    with reads:
        outcomes = Group(bank, 10_000).step({run.job: run for run in runs})
    assert len(outcomes) == 4
    assert all(isinstance(outcome, StepResult) for outcome in outcomes.values())
    assert (listed, reads.count) == (1, 0)
