"""Answers are those of the plainest loop, however prompts are batched."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.errors import FailedPrecondition
from tests.families import ALONE, FAMILIES, PACKED, make_family
from tests.unit.trainer_svc.engine.generation import plainly
from tests.unit.trainer_svc.engine.generation.plainly import attach, counted, ids, run
from tests.unit.trainer_svc.engine.tiny import CONTEXT, examples, make_base
from trainer_svc.engine.base import Base, load_base
from trainer_svc.engine.generation import batches, packed
from trainer_svc.engine.generation.greedy import generate
from trainer_svc.engine.generation.prompts import Generated, Prompt
from trainer_svc.engine.step.bank import AdapterBank, Share
from trainer_svc.jobs.model import LoraSpec

ONE, TWO = "tenants/acme/jobs/one", "tenants/blue/jobs/two"
STOP = frozenset({5, 9, 17, *range(100, 110)})
QUICK = ("Llama", "Qwen3", "Gemma 3", "Granite hybrid", "Bamba", "Phi-3, long", "OPT")
"""Each stands for a way: ours fused, ours plain, windows, a state, no cache that holds, lengths."""


def bank_of(base: Base, *, std: float = 0.1, lanes: int = 1) -> AdapterBank:
    bank = AdapterBank(base, lanes=lanes)
    attach(bank, ONE, 1, std=std)
    attach(bank, TWO, 2, rank=8, std=std)
    return bank


def mixed(new: int = 12) -> list[Prompt]:
    """Of three jobs, of many lengths from 1 on, some of which begin alike."""
    shots = ids(40, 7)
    jobs = (None, ONE, TWO)
    short = [Prompt(ids(1 + at % 3 * 6, at), jobs[at % 3], new) for at in range(6)]
    few = [Prompt([*shots, *ids(3 + at % 2, at + 30)], jobs[at // 4], new) for at in range(8)]
    return [*short, *few]


def reference(
    bank: AdapterBank, prompts: Sequence[Prompt], stop_ids: Collection[int] = STOP
) -> list[Generated]:
    return [plainly.answer(bank, prompt, stop_ids) for prompt in prompts]


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_family(FAMILIES["Llama"], tmp_path_factory.mktemp("llama") / "base")


@pytest.fixture
def bank(llama: Path) -> AdapterBank:
    torch.set_num_threads(1)
    return bank_of(load_base(str(llama), "cpu"))


@pytest.fixture(scope="module")
def expected(llama: Path) -> list[Generated]:
    """Of the mixed prompts."""
    return reference(bank_of(load_base(str(llama), "cpu")), mixed())


def check_family(name: str, folder: Path) -> None:
    bank = bank_of(load_base(str(make_family(FAMILIES[name], folder)), "cpu"))
    prompts = mixed()
    answers = run(generate(bank, prompts, stop_ids=STOP, micro_tokens=64))
    assert answers == reference(bank, prompts)
    assert len({tuple(answer.token_ids) for answer in answers}) > 10


@pytest.mark.parametrize("name", QUICK)
def test_a_family_answers_as_if_each_token_were_read_anew(name: str, tmp_path: Path) -> None:
    check_family(name, tmp_path / "base")


@pytest.mark.long
@pytest.mark.parametrize("name", sorted({*PACKED, *ALONE} - {*QUICK}))
def test_every_family_answers_as_if_each_token_were_read_anew(name: str, tmp_path: Path) -> None:
    check_family(name, tmp_path / "base")


@pytest.mark.parametrize("rows", [1, 3, 256])
@pytest.mark.parametrize("micro_tokens", [7, 8192])
@pytest.mark.parametrize("lanes", [1, 2])
def test_batches_and_passes_of_any_size_give_the_same(
    llama: Path, expected: list[Generated], rows: int, micro_tokens: int, lanes: int
) -> None:
    bank = bank_of(load_base(str(llama), "cpu"), lanes=lanes)
    work = generate(bank, mixed(), stop_ids=STOP, micro_tokens=micro_tokens, rows=rows)
    assert run(work) == expected


def test_a_long_row_is_read_in_passes_that_look_at_few_places(
    llama: Path, expected: list[Generated], monkeypatch: pytest.MonkeyPatch
) -> None:
    most = 600
    monkeypatch.setattr(packed, "_MASKED", most)
    attend, looked_at = packed.Reading.attend, []

    def counted(reading: packed.Reading, *of_layer: Any) -> torch.Tensor:
        looked_at.append(reading.hidden.numel())
        return attend(reading, *of_layer)

    monkeypatch.setattr(packed.Reading, "attend", counted)
    bank = bank_of(load_base(str(llama), "cpu"))
    assert run(generate(bank, mixed(), stop_ids=STOP, micro_tokens=8192, rows=2)) == expected
    assert max(looked_at) <= most


def test_with_gradient_checkpointing_the_answers_are_the_same(llama: Path, tmp_path: Path) -> None:
    for folder in (llama, make_family(FAMILIES["Gemma"], tmp_path / "gemma")):
        bank = AdapterBank(load_base(str(folder), "cpu"), gradient_checkpointing=True)
        attach(bank, ONE, 1, std=0.1)
        attach(bank, TWO, 2, rank=8, std=0.1)
        prompts = mixed()
        answers = run(generate(bank, prompts, stop_ids=STOP, micro_tokens=64))
        assert answers == reference(bank, prompts)


def test_a_stop_token_is_not_part_of_the_answer(bank: AdapterBank) -> None:
    prompt = Prompt(ids(9), ONE, 20)
    (whole,) = run(generate(bank, [prompt], stop_ids=(), micro_tokens=64))
    assert (len(whole.token_ids), whole.stopped, whole.truncated) == (20, False, True)
    stop = whole.token_ids[7]
    (cut,) = run(generate(bank, [prompt], stop_ids={stop}, micro_tokens=64))
    kept = list(whole.token_ids[: list(whole.token_ids).index(stop)])
    assert cut == Generated(kept, stopped=True, truncated=False, broken=False)


def test_each_prompt_has_its_own_bound(bank: AdapterBank) -> None:
    prompts = [Prompt(ids(9), ONE, new) for new in (0, 1, 5, 30)]
    answers = run(generate(bank, prompts, stop_ids=(), micro_tokens=64))
    assert [len(answer.token_ids) for answer in answers] == [0, 1, 5, 30]
    assert all(answer.truncated and not answer.stopped for answer in answers)
    for shorter, longer in pairwise(answers):
        assert list(longer.token_ids[: len(shorter.token_ids)]) == list(shorter.token_ids)


def test_an_answer_ends_with_the_bases_context(bank: AdapterBank) -> None:
    prompts = [Prompt(ids(length), ONE, 50) for length in (CONTEXT - 3, CONTEXT, CONTEXT + 9, 4)]
    answers = run(generate(bank, prompts, stop_ids=(), micro_tokens=64))
    assert [len(answer.token_ids) for answer in answers] == [3, 0, 0, 50]
    assert all(answer.truncated for answer in answers)


def test_no_prompts_have_no_answers(bank: AdapterBank) -> None:
    assert run(generate(bank, [], stop_ids=(), micro_tokens=64)) == []


def test_an_empty_prompt_is_refused(bank: AdapterBank) -> None:
    with pytest.raises(ValueError, match="no tokens"):
        run(generate(bank, [Prompt([], None, 4)], stop_ids=(), micro_tokens=64))


@pytest.mark.parametrize("name", ["Llama", "Gemma"])
def test_a_broken_adapter_breaks_its_own_answers_alone(name: str, tmp_path: Path) -> None:
    bank = bank_of(load_base(str(make_family(FAMILIES[name], tmp_path / "base")), "cpu"))
    prompts = mixed()
    expected = reference(bank, prompts)
    broken = bank.attach("tenants/evil/jobs/nan", LoraSpec(rank=4, alpha=8.0), seed=3)
    broken.values.fill_(float("nan"))
    shots = ids(40, 7)
    more = [Prompt([*shots, *ids(4, at)], "tenants/evil/jobs/nan", 6) for at in range(4)]
    every = [
        prompt
        for pair in zip(prompts, [*more, *more, *more, *more], strict=False)
        for prompt in pair
    ]
    answers = run(generate(bank, every, stop_ids=STOP, micro_tokens=64))
    assert answers[::2] == expected
    assert answers[1::2] == [Generated([], stopped=False, truncated=False, broken=True)] * len(
        expected
    )


def test_training_between_pieces_changes_nothing(
    bank: AdapterBank, expected: list[Generated]
) -> None:
    """Of the answers, nor of the loss: a piece leaves the bank as it found it."""
    prompts = mixed()
    share = {ONE: Share(examples(4)), TWO: Share(examples(3, seed=1))}
    losses = {job: loss.total.tolist() for job, loss in bank.forward(share).items()}
    work = generate(bank, prompts, stop_ids=STOP, micro_tokens=16)
    passes = 0
    while True:
        try:
            next(work)
        except StopIteration as stop:
            answers = stop.value
            break
        again = bank.forward(share)
        torch.stack([loss.total for loss in again.values()]).sum().backward()  # type: ignore[no-untyped-call]
        assert {job: loss.total.tolist() for job, loss in again.items()} == losses
        passes += 1
    assert passes > 5
    assert answers == expected


class Full:
    """Stands before the bank's `read`: passes of more tokens find no memory."""

    def __init__(self, bank: AdapterBank, most: int) -> None:
        self._read = bank.read
        self._most = most
        self.refused = 0
        self.largest = 0

    def __call__(self, inputs: dict[str, torch.Tensor], spans: Sequence[object]) -> object:
        tokens = inputs["input_ids"].numel()
        if tokens > self._most:
            self.refused += 1
            raise torch.OutOfMemoryError("out of memory")
        self.largest = max(self.largest, tokens)
        return self._read(inputs, spans)  # type: ignore[arg-type]


@pytest.mark.parametrize("lanes", [1, 2])
def test_without_memory_batches_are_halved(
    llama: Path, monkeypatch: pytest.MonkeyPatch, lanes: int
) -> None:
    bank = bank_of(load_base(str(llama), "cpu"), lanes=lanes)
    prompts = [Prompt(ids(9 + at % 2, at), (ONE, TWO, None)[at % 3], 9) for at in range(11)]
    expected = reference(bank, prompts)
    full = Full(bank, 25)
    monkeypatch.setattr(bank, "read", full)
    assert run(generate(bank, prompts, stop_ids=STOP, micro_tokens=8192)) == expected
    assert full.refused > 2


def test_a_prompt_without_memory_is_told(
    bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bank, "read", Full(bank, 45))
    prompts = [Prompt(ids(9), ONE, 4), Prompt(ids(60), TWO, 4)]
    with pytest.raises(FailedPrecondition) as caught:
        run(generate(bank, prompts, stop_ids=STOP, micro_tokens=8192))
    assert caught.value.reason == "OUT_OF_MEMORY"
    assert caught.value.metadata == {"tokens": "64"}


def test_other_errors_are_not_swallowed(bank: AdapterBank, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise KeyError("bug")

    monkeypatch.setattr(bank, "read", fails)
    with pytest.raises(KeyError):
        run(generate(bank, mixed(), stop_ids=STOP, micro_tokens=64))


def test_a_pass_has_no_more_tokens_than_asked(
    bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Full(bank, 10**9)
    monkeypatch.setattr(bank, "read", full)
    prompts = [Prompt(ids(40 + at, at), ONE, 3) for at in range(9)]
    _, pieces = counted(generate(bank, prompts, stop_ids=(), micro_tokens=90))
    assert full.largest <= 90
    assert pieces >= 5


def test_keys_and_values_take_no_more_than_their_room(
    bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    full = Full(bank, 10**9)
    monkeypatch.setattr(bank, "read", full)
    prompts = [Prompt(ids(40, at), ONE, 3) for at in range(9)]
    config = bank.base.decoder.config
    token = 8 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim
    monkeypatch.setattr(batches, "CACHE_BYTES", 2 * 43 * token)
    run(generate(bank, prompts, stop_ids=(), micro_tokens=8192))
    assert full.largest == 80


def test_a_shared_prefix_is_read_once_for_its_rows(
    bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = bank.read

    def counting(inputs: dict[str, torch.Tensor], spans: Sequence[object]) -> object:
        read.append(inputs["input_ids"].numel())
        return original(inputs, spans)  # type: ignore[arg-type]

    monkeypatch.setattr(bank, "read", counting)
    shots = ids(100, 1)
    prompts = [Prompt([*shots, 10 + at], ONE, 1) for at in range(20)]
    run(generate(bank, prompts, stop_ids=(), micro_tokens=8192))
    assert read == [100, 20]


def test_rows_that_have_ended_leave_the_batch(
    bank: AdapterBank, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = bank.read

    def counting(inputs: dict[str, torch.Tensor], spans: Sequence[object]) -> object:
        read.append(inputs["input_ids"].numel())
        return original(inputs, spans)  # type: ignore[arg-type]

    monkeypatch.setattr(bank, "read", counting)
    prompts = [Prompt(ids(4, at), ONE, 2 if at else 6) for at in range(8)]
    run(generate(bank, prompts, stop_ids=(), micro_tokens=8192))
    assert read == [32, 8, 1, 1, 1, 1]


def test_16_bits_say_what_training_says(tmp_path: Path) -> None:
    """Near ties may fall otherwise, since sums have another order; mostly they do not."""
    folder = make_base(tmp_path / "base", torch.bfloat16, hidden_size=64)
    bank = bank_of(load_base(str(folder), "cpu"), std=0.3)
    prompts = mixed()
    answers = run(generate(bank, prompts, stop_ids=STOP, micro_tokens=64))
    for prompt, answer in zip(prompts, answers, strict=True):
        known = [*prompt.token_ids, *answer.token_ids]
        logits = plainly.logits(bank, known, prompt.job)[len(prompt.token_ids) - 1 :]
        for row, token in zip(logits, answer.token_ids, strict=False):
            assert float(row.max() - row[token]) < 0.05 * float(row.std())
