"""Trained tokens are those that serving sends after the prompt, whatever marks a word's start."""

from __future__ import annotations

import random
import string
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import normalizers
from tokenizers.decoders import DecodeStream
from tokenizers.processors import TemplateProcessing

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.engine.data import tokenizers_of
from tests.unit.trainer_svc.engine.data.tokenizers_of import (
    CHAT_TEMPLATE,
    OPEN_TEMPLATE,
    byte_level,
    legacy_llama,
    metaspace,
)
from trainer_svc.engine.data.sequences import Sequencer
from trainer_svc.engine.data.token_files import Piece

KINDS: dict[str, Callable[[str], Any]] = {
    "byte level": byte_level,
    "byte level with a space in front": lambda template: byte_level(
        template, add_prefix_space=True
    ),
    "BPE, always marked": lambda template: metaspace("always", "bpe", template),
    "BPE, the first marked": lambda template: metaspace("first", "bpe", template),
    "unigram, always marked": lambda template: metaspace("always", "unigram", template),
    "unigram, the first marked": lambda template: metaspace("first", "unigram", template),
    "legacy Llama": legacy_llama,
}
MADE = {
    (kind, template): make(template)
    for kind, make in KINDS.items()
    for template in (CHAT_TEMPLATE, OPEN_TEMPLATE)
}


def sequences(tokenizer: Any, record: dict[str, Any], record_format: str) -> list[list[Piece]]:
    ((line, found, too_long),) = Sequencer(tokenizer, record_format, 4096).sequences([(1, record)])
    assert (line, too_long) == (1, False)
    return found


def sent(tokenizer: Any, prompt: list[int], answer: list[int]) -> str:
    """What serving sends for `answer` after `prompt`: token by token, as vLLM decodes."""
    stream = DecodeStream(ids=prompt, skip_special_tokens=False)
    texts = (stream.step(tokenizer.backend_tokenizer, token) for token in answer)
    return "".join(text or "" for text in texts)


def answers(found: list[list[Piece]]) -> Iterator[tuple[list[int], list[int]]]:
    """Every trained piece, and all that is before it."""
    for pieces in found:
        before: list[int] = []
        for ids, trained in pieces:
            if trained:
                yield before, list(ids)
            before = [*before, *ids]


def messages(*contents: str) -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(contents)
    return [{"role": r, "content": c} for r, c in zip(roles, contents, strict=False)]


def check_chat(tokenizer: Any, chat: list[dict[str, str]], record: dict[str, Any]) -> None:
    record_format = "chat" if "messages" in record else "instruction"
    found = list(answers(sequences(tokenizer, record, record_format)))
    turns = [index for index, message in enumerate(chat) if message["role"] == "assistant"]
    assert len(found) == len(turns)
    for (prompt, answer), index in zip(found, turns, strict=True):
        served = tokenizer.apply_chat_template(
            chat[:index], tokenize=True, add_generation_prompt=True, return_dict=False
        )
        assert prompt == list(served)
        opened = tokenizer.apply_chat_template(
            chat[:index], tokenize=False, add_generation_prompt=True
        )
        whole = tokenizer.apply_chat_template(chat[: index + 1], tokenize=False)
        assert sent(tokenizer, prompt, answer) == whole[len(opened) :].rstrip("\n")


@pytest.mark.parametrize("kind", KINDS)
def test_a_completion_goes_on_where_its_prompt_ends(kind: str) -> None:
    tokenizer = MADE[kind, CHAT_TEMPLATE]
    for prompt, completion in (("2+2=", "4"), ("2+2=", " 4"), ("the or", "der is"), ("No.", "\nA")):
        record = {"prompt": prompt, "completion": completion}
        ((before, ids),) = answers(sequences(tokenizer, record, "prompt_completion"))
        assert before == tokenizer(prompt)["input_ids"]
        assert sent(tokenizer, before, ids) == f"{completion}</s>"


@pytest.mark.parametrize("template", [CHAT_TEMPLATE, OPEN_TEMPLATE])
@pytest.mark.parametrize("kind", KINDS)
def test_every_answer_of_a_chat_goes_on_where_its_prompt_ends(kind: str, template: str) -> None:
    chat = messages("2+2=?", "4", "and 12+7?", " 19", "is it on its way?", "Yes, of course!")
    check_chat(MADE[kind, template], chat, {"messages": chat})


@pytest.mark.parametrize("kind", KINDS)
def test_an_instruction_is_answered_where_its_prompt_ends(kind: str) -> None:
    record = {"instruction": "Add", "input": "2+2", "output": "4"}
    check_chat(MADE[kind, CHAT_TEMPLATE], messages("Add\n\n2+2", "4"), record)


TEXTS = st.text(string.ascii_letters[:8] + string.digits[:4] + " +=.\n", min_size=1).filter(
    lambda text: bool(text.strip())
)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(kind=st.sampled_from(list(KINDS)), prompt=TEXTS, answer=TEXTS, again=TEXTS)
def test_any_text_is_sent_back_as_it_stands(
    kind: str, prompt: str, answer: str, again: str
) -> None:
    tokenizer = MADE[kind, CHAT_TEMPLATE]
    record = {"prompt": prompt, "completion": answer}
    ((before, ids),) = answers(sequences(tokenizer, record, "prompt_completion"))
    assert before == tokenizer(prompt)["input_ids"]
    assert sent(tokenizer, before, ids) == f"{answer}</s>"
    chat = messages(prompt, answer, prompt, again)
    for (start, found), text in zip(
        answers(sequences(tokenizer, {"messages": chat}, "chat")), (answer, again), strict=True
    ):
        assert sent(tokenizer, start, found) == f"{text}<|end|>"


def test_a_chat_is_one_sequence_only_where_serving_tokenises_it_so() -> None:
    record = {"messages": messages("2+2=?", "4", "sure?", "Yes")}
    assert len(sequences(MADE["byte level", CHAT_TEMPLATE], record, "chat")) == 1
    # Serving marks the start of an answer that it reads in a prompt, and sends it without.
    assert len(sequences(MADE["legacy Llama", CHAT_TEMPLATE], record, "chat")) == 2


def test_special_tokens_of_the_prompt_stay_before_the_completion() -> None:
    tokenizer = metaspace("always")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    record = {"prompt": "2+2=", "completion": "4"}
    ((before, ids),) = answers(sequences(tokenizer, record, "prompt_completion"))
    assert before == tokenizer("2+2=")["input_ids"]
    assert before[0] == tokenizer.bos_token_id
    assert tokenizer.convert_ids_to_tokens(ids) == ["4", "</s>"]


@pytest.mark.parametrize("kind", ["BPE, always marked", "unigram, the first marked"])
@pytest.mark.parametrize("answer", ["4☃", " 4☃"])
def test_what_the_tokenizer_does_not_know_keeps_its_beginning(kind: str, answer: str) -> None:
    tokenizer = MADE[kind, CHAT_TEMPLATE]
    record = {"messages": messages("2+2=?", answer)}
    ((before, ids),) = answers(sequences(tokenizer, record, "chat"))
    assert sent(tokenizer, before, ids) == answer.replace("☃", "<unk>") + "<|end|>"


def test_an_answer_that_cannot_follow_its_prompt_is_named() -> None:
    tokenizer = metaspace("always")
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "")
    with pytest.raises(FailedPrecondition, match=r"line 1 .* cannot put its answer") as caught:
        sequences(tokenizer, {"prompt": "2+2=", "completion": " 4"}, "prompt_completion")
    assert caught.value.reason == "INVALID_RECORD"
    assert sequences(tokenizer, {"prompt": "2+2=", "completion": "4 "}, "prompt_completion")


@pytest.mark.parametrize(
    ("prompt", "completion", "side"), [(" ", "4", "prompt"), ("2+2=", "\u200b", "answer")]
)
def test_a_side_without_tokens_is_named(prompt: str, completion: str, side: str) -> None:
    tokenizer = metaspace("never")
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.Replace("\u200b", "")]
    )
    with pytest.raises(FailedPrecondition, match=f"its {side} has no token"):
        sequences(tokenizer, {"prompt": prompt, "completion": completion}, "prompt_completion")


def test_a_tokenizer_without_a_fast_backend_is_asked_itself() -> None:
    class Slow:
        def __init__(self, fast: Any) -> None:
            self._fast = fast
            self.all_special_tokens = fast.all_special_tokens
            self.eos_token_id = fast.eos_token_id
            self.chat_template = fast.chat_template
            self.decode = fast.decode

        def __call__(self, *args: Any, **options: Any) -> Any:
            return self._fast(*args, **options)

    slow = Slow(tokenizers_of.byte_level())
    record = {"prompt": "the or", "completion": "der is"}
    assert sequences(slow, record, "prompt_completion") == sequences(
        slow._fast, record, "prompt_completion"
    )


def test_a_batch_gives_what_each_record_gives_alone() -> None:
    draw = random.Random(0)
    words = " ".join(tokenizers_of.TEXT).split()
    records = [
        {"messages": messages(*(" ".join(draw.choices(words, k=4)) for _ in range(2 * turns)))}
        for turns in (1, 3, 1, 2, 1)
    ]
    tokenizer = MADE["BPE, the first marked", CHAT_TEMPLATE]
    together = Sequencer(tokenizer, "chat", 4096).sequences(enumerate(records, start=1))
    assert [found for _, found, _ in together] == [
        sequences(tokenizer, record, "chat") for record in records
    ]
