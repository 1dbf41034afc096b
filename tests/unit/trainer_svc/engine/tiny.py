"""A real Llama small enough to train in a test, and jobs for it."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from trainer_svc.engine.data.tokens import Example
from trainer_svc.jobs.model import Hyperparameters, LoraSpec
from trainer_svc.protocol import Assignment, DatasetRef, LeaseKey

CHAT_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SPECIAL = ["<|end|>", "<|system|>", "<|user|>", "<|assistant|>"]
CONTEXT = 256


def make_tokenizer(chat_template: str | None = CHAT_TEMPLATE) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(["the order is on its way to the customer"] * 4, trainer)
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        additional_special_tokens=SPECIAL[1:],
    )
    fast.chat_template = chat_template
    return fast


def make_base(folder: Path, dtype: torch.dtype = torch.float32, **config: Any) -> Path:
    tokenizer = make_tokenizer()
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            **{
                "vocab_size": len(tokenizer),
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": CONTEXT,
                "tie_word_embeddings": True,
                "bos_token_id": None,
                "eos_token_id": 0,
                **config,
            }
        )
    )
    model.to(dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def chats(count: int, seed: int = 0) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    records = []
    for _ in range(count):
        number = draw.randint(1, 99)
        records.append(
            {
                "messages": [
                    {"role": "user", "content": f"order {number}?"},
                    {"role": "assistant", "content": f"{number} is on its way"},
                ],
                "metadata": {"number": number},
            }
        )
    return records


def jsonl(records: Sequence[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def dataset_ref(data: bytes, name: str = "train", record_format: Any = "chat") -> DatasetRef:
    full = f"tenants/acme/datasets/{name}"
    return DatasetRef(
        name=full,
        key=f"{full}/data.jsonl",
        sha256=hashlib.sha256(data).hexdigest(),
        format=record_format,
    )


def assignment(data: bytes, job: str = "job-1", epoch: int = 1, **changes: Any) -> Assignment:
    fields: dict[str, Any] = {
        "lease": LeaseKey(job=f"tenants/acme/jobs/{job}", epoch=epoch),
        "base_model_digest": "",
        "adapter": "tenants/acme/adapters/support",
        "training": dataset_ref(data),
        "validation": None,
        "validation_fraction": 0.2,
        "lora": LoraSpec(rank=8, alpha=16.0),
        "hyperparameters": Hyperparameters(epochs=2, batch_tokens=64, checkpoint_interval=4),
        "spec_sha256": "5" * 64,
        "parent_version": "",
    }
    return Assignment(**{**fields, **changes})


def later(job: Assignment) -> Assignment:
    """The same job under its next lease."""
    lease = job.lease.model_copy(update={"epoch": job.lease.epoch + 1})
    return job.model_copy(update={"lease": lease})


def examples(count: int, seed: int = 0, longest: int = 24) -> list[Example]:
    """Random token ids of various lengths, the second half of each trained."""
    generator = torch.Generator().manual_seed(seed)
    made = []
    for line in range(1, count + 1):
        length = int(torch.randint(4, longest, (1,), generator=generator))
        ids = torch.randint(4, 260, (length,), generator=generator)
        trained = torch.arange(length) >= length // 2
        made.append(Example(line, ids, trained))
    return made
