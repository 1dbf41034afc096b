"""What is written down of a tokenizer gives the ids and texts of transformers' own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers.processors import TemplateProcessing
from transformers import AutoTokenizer

from tests.acceptance.trainer_process import BASE
from tests.unit.trainer_svc.engine.data import tokenizers_of
from trainer_svc.encoding.tokenizer import FileTokenizer, TokenizerFacts
from trainer_svc.engine.data.sequences import Sequencer
from trainer_svc.engine.data.tokenizer_digest import tokenizer_digest
from trainer_svc.engine.preflight.base import tokenizer_facts


def bounded(*, bos: bool, eos: bool) -> Any:
    """A tokenizer that puts its special tokens around a text."""
    fast = tokenizers_of.byte_level()
    single = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
    fast.backend_tokenizer.post_processor = TemplateProcessing(
        single=single, special_tokens=[("<s>", fast.bos_token_id), ("</s>", fast.eos_token_id)]
    )
    return fast


def with_state() -> Any:
    """A tokenizer whose file cuts and pads."""
    fast = tokenizers_of.byte_level()
    fast.backend_tokenizer.enable_truncation(2)
    fast.backend_tokenizer.enable_padding(length=9)
    return fast


def split_special() -> Any:
    fast = tokenizers_of.byte_level()
    fast.split_special_tokens = True
    return fast


KINDS: dict[str, Callable[[], Any]] = {
    "byte level": tokenizers_of.byte_level,
    "byte level, a space first": lambda: tokenizers_of.byte_level(add_prefix_space=True),
    "BPE, always marked": lambda: tokenizers_of.metaspace("always"),
    "BPE, the first marked": lambda: tokenizers_of.metaspace("first"),
    "unigram, the first marked": lambda: tokenizers_of.metaspace("first", "unigram"),
    "Llama 2": tokenizers_of.legacy_llama,
    "bos": lambda: bounded(bos=True, eos=False),
    "bos and eos": lambda: bounded(bos=True, eos=True),
    "cut and padded": with_state,
    "special tokens as text": split_special,
    "the demo base": lambda: AutoTokenizer.from_pretrained(BASE, local_files_only=True),
}
MADE = {kind: make() for kind, make in KINDS.items()}
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=30)
answers = st.one_of(texts, st.sampled_from([" yes", "<|end|>", "</s> no", "4☃", "e\u0301"]))


def written(tokenizer: Any) -> FileTokenizer:
    facts = tokenizer_facts(tokenizer)
    assert facts is not None
    return FileTokenizer(TokenizerFacts.model_validate_json(facts.model_dump_json()))


FILES = {kind: written(made) for kind, made in MADE.items()}


def outcome(tokenizer: Any, record: dict[str, Any], record_format: str) -> Any:
    try:
        return list(Sequencer(tokenizer, record_format, 64, truncate=True).sequences([(1, record)]))
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=20, deadline=None)
@given(question=texts, answer=answers)
def test_a_record_becomes_the_same_ids_and_mask(kind: str, question: str, answer: str) -> None:
    theirs, ours = MADE[kind], FILES[kind]
    chat = {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": answer},
            {"role": "user", "content": answer},
            {"role": "assistant", "content": question},
        ]
    }
    for record, record_format in (
        (chat, "chat"),
        ({"prompt": question, "completion": answer}, "prompt_completion"),
        ({"instruction": question, "output": answer}, "instruction"),
        ({"text": answer}, "text"),
    ):
        assert outcome(ours, record, record_format) == outcome(theirs, record, record_format)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("special", [False, True])
def test_texts_there_and_back(kind: str, special: bool) -> None:
    theirs, ours = MADE[kind], FILES[kind]
    several = ["the order", "<s> is <|end|>on its way", "", "größer 2+2=4"]
    found = ours(several, add_special_tokens=special)["input_ids"]
    assert found == theirs(several, add_special_tokens=special)["input_ids"]
    one = ours(several[1], add_special_tokens=special)["input_ids"]
    assert one == theirs(several[1], add_special_tokens=special)["input_ids"] == found[1]
    for skip in (False, True):
        assert ours.decode(one, skip_special_tokens=skip) == theirs.decode(
            one, skip_special_tokens=skip, clean_up_tokenization_spaces=False
        )


@pytest.mark.parametrize("kind", KINDS)
def test_a_chat_becomes_what_apply_chat_template_gives(kind: str) -> None:
    theirs, ours = MADE[kind], FILES[kind]
    messages = [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]
    (found,) = Sequencer(ours, "chat", 64).sequences([(1, {"messages": messages})])
    prompt = theirs.apply_chat_template(
        messages[:1], tokenize=True, add_generation_prompt=True, return_dict=False
    )
    (pieces,) = found.sequences
    assert list(pieces[0][0]) == list(prompt)
    assert [trained for _, trained in pieces] == [False, True]


@pytest.mark.parametrize("kind", KINDS)
def test_both_have_one_digest(kind: str) -> None:
    assert tokenizer_digest(FILES[kind]) == tokenizer_digest(MADE[kind])


def test_a_tokenizer_with_ways_of_its_own_is_not_written_down() -> None:
    plain = tokenizers_of.byte_level()

    class Own(type(plain)):  # type: ignore[misc]
        def _decode(self, *args: Any, **options: Any) -> str:
            return "?"

    plain.__class__ = Own
    assert tokenizer_facts(plain) is None


def test_a_tokenizer_without_a_fast_backend_is_not_written_down() -> None:
    class Slow:
        backend_tokenizer = None

        def __call__(self, text: str) -> None: ...

    assert tokenizer_facts(Slow()) is None


def test_what_is_no_tokenizer_is_told(tmp_path: Path) -> None:
    facts = tokenizer_facts(tokenizers_of.byte_level())
    assert facts is not None
    with pytest.raises(ValueError, match="this is no tokenizer"):
        FileTokenizer(facts.model_copy(update={"backend": json.dumps({"version": "1.0"})}))
