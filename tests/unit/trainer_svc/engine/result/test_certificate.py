"""Which sequences serving replays: those that say most, short and few."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.engine.result.test_judging import through
from tests.unit.trainer_svc.engine.runs import JOB, make_run, step
from tests.unit.trainer_svc.engine.tiny import examples, make_base
from trainer_svc.engine.base import load_base
from trainer_svc.engine.data.tokens import Example
from trainer_svc.engine.result import certificate
from trainer_svc.engine.result.certificate import choose_candidates, make_probes
from trainer_svc.engine.result.judging import judge
from trainer_svc.engine.result.servable import check_servable
from trainer_svc.engine.step.bank import AdapterBank


class Moved:
    """Stands for a bank: an adapter moves token id t by t/100 nats, and the base gives -1."""

    def __init__(self) -> None:
        self.batches: list[int] = []

    def logprobs(self, sequences: Sequence[torch.Tensor], *, job: str | None) -> list[torch.Tensor]:
        self.batches.append(sum(map(len, sequences)))
        return [(ids[1:] / 100.0 if job else 0 * ids[1:]) - 1.0 for ids in sequences]


def example(*ids: int, trained: Sequence[bool] | None = None, line: int = 1) -> Example:
    mask = [False] + [True] * (len(ids) - 1) if trained is None else list(trained)
    return Example(line, torch.tensor(ids), torch.tensor(mask))


def probes_of(*candidates: Example) -> list[tuple[int, ...]]:
    bank = Moved()
    _, found = through(make_probes(bank, JOB, candidates))  # type: ignore[arg-type]
    assert max(bank.batches) <= 512
    for probe in found.sequences:
        moved = [id_ / 100 for id_ in probe.token_ids[1:]]
        assert probe.base_logprobs == (-1.0,) * len(moved)
        assert probe.adapter_logprobs == pytest.approx([value - 1.0 for value in moved])
    return [probe.token_ids for probe in found.sequences]


def test_the_four_with_the_largest_effect_come_first_to_last() -> None:
    made = [example(*[size] * 40) for size in (3, 9, 1, 7, 8, 2)]
    assert [ids[0] for ids in probes_of(*made)] == [9, 8, 7, 3]


def test_what_is_not_trained_counts_for_nothing() -> None:
    untrained = example(*[90] * 40, trained=[False] * 39 + [True])
    assert [ids[0] for ids in probes_of(untrained, example(*[9] * 40))] == [9, 90]


def test_the_effect_is_per_token_that_is_replayed() -> None:
    diluted = example(*[0] * 80, *[9] * 40)
    assert [ids[-2:] for ids in probes_of(diluted, example(*[5] * 40))] == [(5, 5), (9, 9)]


def test_a_large_effect_on_two_tokens_is_little_evidence() -> None:
    assert [len(ids) for ids in probes_of(example(1, 50), example(*[9] * 40))] == [40, 2]


def test_a_long_record_is_cut_around_its_largest_effect_with_what_is_before_it() -> None:
    ids = [1] * 700 + [50] * 10 + [1] * 100
    trained = [False] * 300 + [True] * 510
    ((first, *rest),) = probes_of(example(*ids, trained=trained))
    assert len([first, *rest]) == 128
    assert (first, rest[-10:], rest.count(50)) == (1, [50] * 10, 10)


def test_where_a_cut_has_lost_the_effect_another_record_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What an adapter does with a long record it may do only with all of it."""
    bank = Moved()
    real = bank.logprobs

    def with_context(sequences: Sequence[torch.Tensor], *, job: str | None) -> list[torch.Tensor]:
        lost = [len(ids) == 128 for ids in sequences]
        found = real(sequences, job=job)
        return [-torch.ones(127) if cut else one for one, cut in zip(found, lost, strict=True)]

    monkeypatch.setattr(bank, "logprobs", with_context)
    long = [example(*[50] * 200) for _ in range(4)]
    short = [example(*[5] * 40) for _ in range(4)]
    _, found = through(make_probes(bank, JOB, [*long, *short]))  # type: ignore[arg-type]
    assert [len(probe.token_ids) for probe in found.sequences] == [40] * 4


def test_candidates_are_drawn_from_both_kinds_by_the_seed_alone() -> None:
    held_out, training = examples(100, seed=1), examples(100, seed=2)
    chosen = choose_candidates(held_out, training, 3)
    assert len(chosen) == 16
    assert sum(any(one is each for each in held_out) for one in chosen) == 8
    assert [id(one) for one in choose_candidates(held_out, training, 3)] == list(map(id, chosen))
    assert [id(one) for one in choose_candidates(held_out, training, 4)] != list(map(id, chosen))


@pytest.mark.parametrize(
    ("held_out", "training", "count"), [(0, 50, 16), (2, 50, 16), (50, 3, 11), (2, 3, 5)]
)
def test_there_are_as_many_candidates_as_there_can_be(
    held_out: int, training: int, count: int
) -> None:
    assert len(choose_candidates(examples(held_out), examples(training), 0)) == count


def test_a_record_of_one_token_is_no_candidate() -> None:
    assert choose_candidates([], [example(5), example(5, 6)], 0)[0].token_ids.tolist() == [5, 6]


def test_a_base_and_an_adapter_are_measured_apart(tmp_path: Path) -> None:
    """On a real bank: other jobs step between the pieces, and the numbers are those of one pass."""
    bank = AdapterBank(load_base(str(make_base(tmp_path / "tiny")), "cpu"))
    run = make_run(bank)
    step(bank, run)
    made = examples(6, longest=120)
    pieces, found = through(make_probes(bank, JOB, made))
    assert pieces == 2 * (1 + (sum(len(one.token_ids) for one in made) > 512))
    sequences = [torch.tensor(probe.token_ids) for probe in found.sequences]
    for probe, base, tuned in zip(
        found.sequences,
        bank.logprobs(sequences, job=None),
        bank.logprobs(sequences, job=JOB),
        strict=True,
    ):
        torch.testing.assert_close(torch.tensor(probe.base_logprobs), base)
        torch.testing.assert_close(torch.tensor(probe.adapter_logprobs), tuned)
    assert all(len(probe.token_ids) <= certificate._MOST_TOKENS for probe in found.sequences)


@pytest.mark.parametrize(("part", "value"), [(".lora_A.", 1e5), (".lora_B.", 1e5)])
def test_what_serving_would_refuse_for_its_size_is_not_published(
    tmp_path: Path, part: str, value: float
) -> None:
    bank = AdapterBank(load_base(str(make_base(tmp_path / "tiny")), "cpu"))
    run = make_run(bank)
    step(bank, run)
    _, judged = through(judge(bank, run, 8192, lambda _: None))
    check_servable(judged, bank.base.dtype)
    for name, parameter in run.adapter.parameters.items():
        if part in name:
            parameter.data.fill_(value)
    # Every figure is finite: a normalised base takes it.
    _, judged = through(judge(bank, run, 8192, lambda _: None))
    with pytest.raises(FailedPrecondition, match=r"serving would refuse .* may add") as caught:
        check_servable(judged, bank.base.dtype)
    assert (caught.value.reason, caught.value.metadata) == ("NOT_FINITE", {"dtype": "float32"})


def test_float16_has_a_bound_of_its_own(tmp_path: Path) -> None:
    bank = AdapterBank(load_base(str(make_base(tmp_path / "tiny")), "cpu"))
    run = make_run(bank)
    step(bank, run)
    for name, parameter in run.adapter.parameters.items():
        if ".lora_B." in name:
            parameter.data.fill_(1e3)
    _, judged = through(judge(bank, run, 8192, lambda _: None))
    check_servable(judged, torch.float32)
    with pytest.raises(FailedPrecondition) as caught:
        check_servable(judged, torch.float16)
    assert caught.value.metadata == {"dtype": "float16"}
