"""Scores are those of each prompt with each continuation, read as one record."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.families import ALONE, FAMILIES, PACKED, make_family
from tests.unit.trainer_svc.engine.generation import plainly
from tests.unit.trainer_svc.engine.generation.plainly import counted, ids, run
from tests.unit.trainer_svc.engine.generation.test_greedy import ONE, QUICK, bank_of, mixed
from tests.unit.trainer_svc.engine.tiny import CONTEXT
from trainer_svc.engine.base import load_base
from trainer_svc.engine.generation.likelihood import score
from trainer_svc.engine.generation.prompts import Prompt
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.model import LoraSpec

LABELS = [ids(1, 50), ids(2, 51), ids(4, 52), [*ids(2, 51), 4]]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(FAMILIES["Llama"], tmp_path_factory.mktemp("llama") / "base")


@pytest.fixture
def bank(llama: Path) -> AdapterBank:
    torch.set_num_threads(1)
    return bank_of(load_base(str(llama), "cpu"))


def check_family(name: str, folder: Path) -> None:
    bank = bank_of(load_base(str(make_family(FAMILIES[name], folder)), "cpu"))
    found = run(score(bank, mixed(), LABELS, micro_tokens=64))
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plainly.scores(bank, mixed(), LABELS), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", QUICK)
def test_scores_are_those_of_whole_records(name: str, tmp_path: Path) -> None:
    check_family(name, tmp_path / "base")


@pytest.mark.long
@pytest.mark.parametrize("name", sorted({*PACKED, *ALONE} - {*QUICK}))
def test_every_familys_scores_are_those_of_whole_records(name: str, tmp_path: Path) -> None:
    check_family(name, tmp_path / "base")


@pytest.mark.parametrize("lanes", [1, 2])
def test_batches_of_any_size_give_the_same(llama: Path, lanes: int) -> None:
    bank = bank_of(load_base(str(llama), "cpu"), lanes=lanes)
    expected = plainly.scores(bank, mixed(), LABELS)
    for rows in (1, 5):
        found, pieces = counted(score(bank, mixed(), LABELS, micro_tokens=32, rows=rows))
        torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)
        assert pieces > 5


def test_each_prompt_is_read_once(bank: AdapterBank, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []
    original = bank.read

    def counting(inputs: dict[str, torch.Tensor], spans: object) -> object:
        read.append(inputs["input_ids"].numel())
        return original(inputs, spans)  # type: ignore[arg-type]

    monkeypatch.setattr(bank, "read", counting)
    prompts = [Prompt(ids(20, at), ONE, 0) for at in range(6)]
    run(score(bank, prompts, [[5], [6, 7], [8, 9, 10]], micro_tokens=8192))
    assert read == [120, 6, 12]


def test_what_does_not_fit_the_context_is_not_scored(bank: AdapterBank) -> None:
    prompts = [Prompt(ids(length), ONE, 0) for length in (9, CONTEXT - 2, CONTEXT - 1)]
    found = run(score(bank, prompts, [[5], [6, 7]], micro_tokens=8192))
    assert found[:2].isfinite().all()
    assert found[2].isnan().all()


def test_a_broken_adapter_has_no_scores(bank: AdapterBank) -> None:
    bank.attach("nan", LoraSpec(rank=4, alpha=8.0), seed=3).values.fill_(float("nan"))
    prompts = [Prompt(ids(9), job, 0) for job in ("nan", ONE)]
    found = run(score(bank, prompts, [[5], [6, 7]], micro_tokens=8192))
    assert found[0].isnan().all()
    torch.testing.assert_close(
        found[1:], plainly.scores(bank, prompts[1:], [[5], [6, 7]]), atol=1e-4, rtol=1e-4
    )


def test_nothing_to_score_has_no_scores(bank: AdapterBank) -> None:
    assert run(score(bank, [], [[5]], micro_tokens=64)).shape == (0, 1)
    assert run(score(bank, [Prompt([5], None, 0)], [], micro_tokens=64)).shape == (1, 0)


@pytest.mark.parametrize(("prompt", "continuation"), [([], [5]), ([5], [])])
def test_nothing_empty_is_scored(
    bank: AdapterBank, prompt: list[int], continuation: list[int]
) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        run(score(bank, [Prompt(prompt, None, 0)], [continuation], micro_tokens=64))
