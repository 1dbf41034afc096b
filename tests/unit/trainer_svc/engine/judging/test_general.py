"""What an adapter does to texts and questions that it was not trained on."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, TypeVar

import pytest
import torch

from tailorbird.records.formats import DatasetFormat
from tests.unit.trainer_svc.engine.tiny import chats
from tests.unit.trainer_svc.engine.versions import LORA
from trainer_svc.datasets.general import GeneralData
from trainer_svc.engine.generation.prompts import Generated, Prompt
from trainer_svc.engine.judging.general import General
from trainer_svc.engine.step.bank import AdapterBank

T = TypeVar("T")
TEXTS = ("the order is on its way", "a customer waits for the order", "x")


def through(work: Generator[None, None, T]) -> T:
    while True:
        try:
            next(work)
        except StopIteration as end:
            result: T = end.value
            return result


def data(bank: AdapterBank) -> GeneralData:
    """Questions to which the base's own answers are right, and one to which none is."""
    questions = {}
    for line, record in enumerate(chats(4), start=1):
        question = record["messages"][0]
        questions[line] = {"messages": [question, {"role": "assistant", "content": "?"}]}
    return GeneralData(TEXTS, questions, DatasetFormat.CHAT)


@pytest.fixture
def adapter(bank: AdapterBank) -> str:
    attached = bank.attach("job", LORA, seed=3)
    with torch.no_grad():
        for name, matrix in attached.parameters.items():
            if "lora_B" in name:
                matrix.normal_(0, 0.5, generator=torch.Generator().manual_seed(7))
    return "job"


def test_the_losses_are_those_of_a_forward_pass(bank: AdapterBank, adapter: str) -> None:
    found = through(
        General(GeneralData(TEXTS, {}, DatasetFormat.CHAT), bank.base).retention(
            bank, adapter, 8192
        )
    )
    ids = [torch.tensor(bank.base.tokenizer(text)["input_ids"]) for text in TEXTS]
    ids = [each for each in ids if len(each) > 1]
    tokens = sum(len(each) - 1 for each in ids)
    for job, loss in ((None, found.base_loss), (adapter, found.tuned_loss)):
        summed = -sum(float(each.sum()) for each in bank.logprobs(ids, job=job))
        assert loss == pytest.approx(summed / tokens, rel=1e-5)
    assert (found.texts, found.questions, found.forgotten) == (len(ids), 0, 0)
    assert found.tuned_loss != found.base_loss


def test_what_the_base_never_knew_is_not_forgotten(bank: AdapterBank, adapter: str) -> None:
    found = through(General(data(bank), bank.base).retention(bank, adapter, 8192))
    assert (found.questions, found.forgotten) == (0, 0)


def test_what_the_base_knows_may_be_forgotten(
    bank: AdapterBank, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base answers three of four questions right; the adapter is asked these, and one is."""
    tokenizer = bank.base.tokenizer
    right = tuple(tokenizer("?")["input_ids"])
    wrong = tuple(tokenizer("no")["input_ids"])
    given = {None: [right, wrong, right, right], adapter: [right, wrong, wrong]}
    asked = {}

    def generate(_: AdapterBank, prompts: list[Prompt], **__: object) -> Any:
        yield
        (job,) = {prompt.job for prompt in prompts}
        asked[job] = [prompt.token_ids for prompt in prompts]
        return [Generated(ids, stopped=True, truncated=False, broken=False) for ids in given[job]]

    monkeypatch.setattr("trainer_svc.engine.judging.general.generate", generate)
    found = through(General(data(bank), bank.base).retention(bank, adapter, 8192))
    assert (found.questions, found.forgotten) == (3, 2)
    first, _, *later = asked[None]
    assert asked[adapter] == [first, *later]


def test_the_base_is_asked_once(
    bank: AdapterBank, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str | None] = []
    original = bank.logprobs

    def logprobs(sequences: list[torch.Tensor], *, job: str | None) -> list[torch.Tensor]:
        asked.append(job)
        return original(sequences, job=job)

    monkeypatch.setattr(bank, "logprobs", logprobs)
    general = General(GeneralData(TEXTS, {}, DatasetFormat.CHAT), bank.base)
    first = through(general.retention(bank, adapter, 8192))
    assert through(general.retention(bank, adapter, 8192)) == first
    assert asked == [None, adapter, adapter]


def test_no_more_is_read_at_once_than_is_asked_for(
    bank: AdapterBank, adapter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    original = bank.logprobs

    def logprobs(sequences: list[torch.Tensor], *, job: str | None) -> list[torch.Tensor]:
        read.append(sum(map(len, sequences)))
        return original(sequences, job=job)

    monkeypatch.setattr(bank, "logprobs", logprobs)
    long = "the order is on its way " * 200
    general = General(GeneralData((long,) * 5, {}, DatasetFormat.CHAT), bank.base)
    assert through(general.retention(bank, adapter, 600)).texts == 5
    # Of each text the first 256 tokens, and two of them in 600.
    assert read == [512, 512, 256] * 2
