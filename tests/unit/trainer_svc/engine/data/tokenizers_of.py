"""Small tokenizers of the kinds that bases have."""

from __future__ import annotations

import string
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|end|>"]
TEXT = ["the order is on its way to the customer", "2+2=4 and 12+7= 19", "No. Yes, of course!"]
CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
OPEN_TEMPLATE = (
    "{% for m in messages %}{{ m.role }}: {{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
"""Opens the turn with ordinary text, and with a space that an answer's first word takes."""


def byte_level(template: str = CHAT_TEMPLATE, *, add_prefix_space: bool = False) -> Any:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=add_prefix_space)
    tokenizer.decoder = decoders.ByteLevel()
    return _trained(tokenizer, "bpe", pre_tokenizers.ByteLevel.alphabet(), template)


def metaspace(scheme: str, model: str = "bpe", template: str = CHAT_TEMPLATE) -> Any:
    tokenizer = Tokenizer(
        models.BPE(unk_token="<unk>", fuse_unk=True) if model == "bpe" else models.Unigram()
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme)
    return _trained(tokenizer, model, [*string.printable, "▁"], template)


def legacy_llama(template: str = CHAT_TEMPLATE) -> Any:
    """As Llama 2's: the mark is put by the normalizer, before whatever follows a special token."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return _trained(tokenizer, "bpe", [*string.printable, "▁"], template)


def _trained(tokenizer: Any, model: str, alphabet: list[str], template: str) -> Any:
    options: dict[str, Any] = {
        "vocab_size": len(SPECIAL) + len(alphabet) + 60,
        "special_tokens": SPECIAL,
        "initial_alphabet": alphabet,
        "show_progress": False,
    }
    trainer: Any = (
        trainers.UnigramTrainer(unk_token="<unk>", **options)
        if model == "unigram"
        else trainers.BpeTrainer(**options)
    )
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=SPECIAL[3:],
    )
    fast.chat_template = template
    return fast
