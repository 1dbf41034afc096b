import hashlib
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast

from examples.pretrain.corpus import encode
from examples.pretrain.model import Recipe
from examples.pretrain.pretrain import Run

BASE = Path(__file__).parents[2] / "examples" / "demo_base"
CHAT = [
    {"role": "system", "content": "Order A4-71932: copper kettle."},
    {"role": "user", "content": "What\nis it? 3 x £14.50"},
    {"role": "assistant", "content": '{"item": "copper kettle", "n": 3}'},
    {"role": "user", "content": "Thanks!"},
    {"role": "assistant", "content": "  spaces   stay "},
]
SMALL = Recipe(
    steps=40,
    warmup=5,
    decay=10,
    restart=(0, 0, 0),
    chat_tokens=512,
    text_rows=1,
    hidden_size=64,
    heads=2,
    layers=2,
    intermediate_size=96,
    vocab_size=512,
    tokenizer_chats=200,
    modules=25,
)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads on two busy cores wait for each other at every operation."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    loaded = AutoTokenizer.from_pretrained(BASE)
    assert isinstance(loaded, PreTrainedTokenizerFast)
    return loaded


def test_a_few_steps_lower_the_loss_and_write_a_model(tmp_path: Path) -> None:
    log = Run(SMALL, tmp_path).train(probes=2)
    assert log[-1]["chat_loss"] < 0.8 * log[0]["chat_loss"]
    assert log[-1]["text_loss"] < 0.9 * log[0]["text_loss"]

    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    prompt = tokenizer.apply_chat_template(CHAT[:2], add_generation_prompt=True, tokenize=False)
    assert prompt.endswith("<|end|><|assistant|>")
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt").input_ids
    assert model.generate(ids, max_new_tokens=2).shape[1] > ids.shape[1]
    assert model.generation_config.eos_token_id == tokenizer.convert_tokens_to_ids("<|end|>")


def test_the_shipped_weights_are_those_of_the_card() -> None:
    digest = hashlib.sha256((BASE / "model.safetensors").read_bytes()).hexdigest()
    assert json.loads((BASE / "training.json").read_text())["sha256"] == digest
    assert digest in (BASE / "README.md").read_text()


def test_the_shipped_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in BASE.iterdir()) <= 10_000_000


def test_the_shipped_model_is_a_tied_llama_of_two_to_four_and_a_half_million() -> None:
    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert model.config.model_type == "llama"
    assert model.config.tie_word_embeddings
    assert 2_000_000 <= model.num_parameters() <= 4_500_000


def test_turns_rendered_alone_concatenate_to_the_whole(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    whole = tokenizer.apply_chat_template(CHAT, tokenize=False)
    turns = [tokenizer.apply_chat_template([turn], tokenize=False) for turn in CHAT]
    assert "".join(map(str, turns)) == whole
    ids = tokenizer(str(whole), add_special_tokens=False).input_ids
    pieces = [tokenizer(str(turn), add_special_tokens=False).input_ids for turn in turns]
    assert [token for piece in pieces for token in piece] == ids
    assert encode(tokenizer, [CHAT])[0].ids == ids
    assert tokenizer.decode(ids) == whole


def test_the_template_inserts_no_system_prompt_and_opens_the_answer(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    user = [{"role": "user", "content": "Hi"}]
    rendered = tokenizer.apply_chat_template(user, tokenize=False, add_generation_prompt=True)
    assert rendered == "<|user|>Hi<|end|><|assistant|>"


def test_an_unknown_role_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(Exception, match="unknown role: tool"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}], tokenize=False)


def test_digits_are_single_tokens(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.tokenize("48213") == list("48213")


def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    word = tokenizer.tokenize("quillbrook")
    for text in (' quillbrook"', '"quillbrook"', "(quillbrook),", "x quillbrook 7"):
        assert re.search(re.escape(" ".join(word)), " ".join(tokenizer.tokenize(text)))
