"""Records of many turns cost what their text does, and give what each turn alone would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken

from tailorbird.errors import FailedPrecondition
from tests.unit.trainer_svc.engine.data import tokenizers_of
from tests.unit.trainer_svc.engine.data.test_word_starts import (
    MADE,
    check_chat,
    messages,
    sequences,
)
from trainer_svc.engine.data import sequences as module
from trainer_svc.engine.data.cuts import Cuts
from trainer_svc.engine.data.sequences import Sequencer
from trainer_svc.engine.data.token_files import Piece

FORGETFUL = (
    "{% for m in messages %}<|{{ m.role }}|>"
    "{{ m.content if m.role == 'user' or loop.last else '...' }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)

COUNTING = (
    "<|user|>{{ messages | selectattr('role', 'equalto', 'user') | list | length }}<|end|>"
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def no_cut(self: Cuts, prompt: str) -> tuple[int, int]:
    return 0, 0


class Counted:
    """A tokenizer that counts the characters it is given to encode and the ids to decode."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.work = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, texts: Any, **options: Any) -> Any:
        self.work += sum(map(len, texts))
        return self._tokenizer(texts, **options)

    def decode(self, ids: list[int], **options: Any) -> Any:
        self.work += len(ids)
        return self._tokenizer.decode(ids, **options)


def work(turns: int) -> int:
    counted = Counted(tokenizers_of.byte_level())
    record = {"messages": messages(*["a", "b"] * turns)}
    assert len(sequences(counted, record, "chat")) == 1
    return counted.work


def test_the_work_grows_with_the_turns_and_not_their_square() -> None:
    few, many = work(48), work(96)
    assert many < 2.5 * few


WORDS = st.sampled_from(
    ["the order", " is", "on ", "2+2=", " 4", "\n", "<|end|>", "</s>", "<|us", "er|>", "<", "é☃"]
)
CONTENT = st.lists(WORDS, min_size=1, max_size=3).map("".join).filter(lambda text: text.strip())


def outcome(tokenizer: Any, record: dict[str, Any]) -> list[list[Piece]] | str:
    try:
        return sequences(tokenizer, record, "chat")
    except FailedPrecondition as error:
        return error.message


@settings(max_examples=150, deadline=None, derandomize=True)
@given(
    made=st.sampled_from(list(MADE)),
    contents=st.lists(CONTENT, min_size=4, max_size=8).filter(lambda made: len(made) % 2 == 0),
)
def test_parts_of_prompts_have_the_ids_of_the_whole(
    made: tuple[str, str], contents: list[str]
) -> None:
    record = {"messages": messages(*contents)}
    found = outcome(MADE[made], record)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Cuts, "last", no_cut)
        assert outcome(MADE[made], record) == found


@pytest.mark.parametrize(
    ("options", "place"),
    [
        ({"normalized": False}, (2, 2)),
        ({"normalized": False, "rstrip": True}, (2, 2)),
        # These look at what is before them, or change with it.
        ({"normalized": True}, (0, 0)),
        ({"normalized": False, "single_word": True}, (0, 0)),
        ({"normalized": False, "lstrip": True}, (0, 0)),
    ],
)
def test_a_text_is_cut_only_where_an_added_token_ends_what_is_before_it(
    options: dict[str, bool], place: tuple[int, int]
) -> None:
    tokenizer = tokenizers_of.byte_level()
    tokenizer.add_tokens([AddedToken("<t>", **options)])
    text = "a <t> b, and more to come"
    cuts = Cuts(tokenizer.backend_tokenizer, text, tokenizer(text)["input_ids"])
    assert cuts.last(text) == place


def places(change: Callable[[Any], None] | None = None) -> tuple[int, int]:
    tokenizer = tokenizers_of.byte_level()
    text = "<|user|>a<|end|>\n<|assistant|>b<|end|>"
    ids = tokenizer(text)["input_ids"]
    if change is not None:
        change(tokenizer.backend_tokenizer)
    return Cuts(tokenizer.backend_tokenizer, text, ids).last(text[:-1])


def test_there_is_no_cut_where_ids_are_not_those_of_the_text() -> None:
    def split(backend: Any) -> None:
        backend.encode_special_tokens = True

    assert places() == (17, 4)
    assert places(split) == (0, 0)
    assert places(lambda backend: backend.enable_truncation(3)) == (0, 0)


def test_prompts_that_go_another_way_are_read_whole() -> None:
    record = {"messages": messages("a", "b", "c", "d", "e", "f")}
    found = sequences(tokenizers_of.byte_level(FORGETFUL), record, "chat")
    assert [len(pieces) for pieces in found] == [2, 2, 2]


def test_a_prompt_that_begins_otherwise_than_the_last_shares_nothing_with_it() -> None:
    chat = messages("a", "b", "c", "d", "e", "f")
    check_chat(tokenizers_of.byte_level(COUNTING), chat, {"messages": chat})


def test_too_many_turns_for_the_length_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizer = tokenizers_of.byte_level()
    record = {"messages": messages("a", "b", "c", "d", "e" * 200, "f")}
    prompts = [
        tokenizer.apply_chat_template(
            record["messages"][:index], tokenize=False, add_generation_prompt=True
        )
        for index in (1, 3)
    ]
    chars = sum(map(len, prompts))
    monkeypatch.setattr(module, "_PROMPTS_CHARS", chars)
    assert len(sequences(tokenizer, record, "chat")) == 1
    monkeypatch.setattr(module, "_PROMPTS_CHARS", chars - 1)
    with pytest.raises(
        FailedPrecondition, match=rf"line 7 .* {chars} characters together, more than {chars - 1};"
    ) as caught:
        list(Sequencer(tokenizer, "chat", 4096).sequences([(7, record)]))
    assert caught.value.reason == "INVALID_RECORD"
    assert caught.value.metadata["line"] == "7"
