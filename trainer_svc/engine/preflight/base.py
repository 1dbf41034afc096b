"""What is known of a base without its weights: enough to prepare data for it.

transformers is asked once for each base and release; what it says is kept beside the datasets:

{cache}/bases/{base digest}-{releases}.json
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from trainer_svc.encoding.tokenizer import FileTokenizer, TokenizerFacts
from trainer_svc.engine.data.tokenizer_digest import made_by, tokenizer_digest
from trainer_svc.protocol import WorkerSettings
from trainer_svc.record import Record


class BaseFacts(Record):
    """What transformers makes of a base's files.

    `tokenizer` is None if it tokenises in a way that `tokenizers` alone does not: such a one is
    asked itself.
    """

    token_ids: int
    context: int
    hidden_size: int
    tokenizer: TokenizerFacts | None


@dataclass(frozen=True)
class DescribedBase:
    """A base without its weights; see `preparation.PreparedFor`."""

    tokenizer: Any
    token_ids: int
    context: int
    hidden_size: int
    why_alone: str = ""
    """Only the model itself shows it."""


def described(settings: WorkerSettings) -> DescribedBase:
    """Return the base of a worker with these settings."""
    facts = _facts(settings)
    tokenizer = (
        _loaded(settings.base_model_path)
        if facts.tokenizer is None
        else FileTokenizer(facts.tokenizer)
    )
    return DescribedBase(tokenizer, facts.token_ids, facts.context, facts.hidden_size)


def _facts(settings: WorkerSettings) -> BaseFacts:
    folder = Path(settings.cache_dir).parent / "bases"
    base = settings.base_model_digest.removeprefix("sha256:")
    releases = hashlib.sha256(json.dumps(made_by()).encode()).hexdigest()[:16]
    path = folder / f"{base}-{releases}.json"
    try:
        return BaseFacts.model_validate_json(path.read_bytes())
    except (FileNotFoundError, ValidationError):
        pass
    facts = _asked(settings.base_model_path)
    folder.mkdir(parents=True, exist_ok=True)
    for other in folder.glob(f"{base}-*"):
        other.unlink(missing_ok=True)
    partial = folder / f".{path.name}.{os.getpid()}"
    partial.write_text(facts.model_dump_json(), "utf-8")
    partial.replace(path)
    return facts


def _asked(path: str) -> BaseFacts:
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(path, local_files_only=True)
    return BaseFacts(
        token_ids=int(config.vocab_size),
        context=int(config.max_position_embeddings),
        hidden_size=int(config.hidden_size),
        tokenizer=tokenizer_facts(_loaded(path)),
    )


def tokenizer_facts(tokenizer: Any) -> TokenizerFacts | None:
    """Write down a tokenizer of transformers'; None for one with ways of its own."""
    digest = tokenizer_digest(tokenizer)
    if digest is None or not _is_plain(tokenizer):
        return None
    return TokenizerFacts(
        digest=digest,
        backend=tokenizer.backend_tokenizer.to_str(),
        split_special_tokens=tokenizer.split_special_tokens,
        chat_template=tokenizer.chat_template,
        special_tokens=tokenizer.special_tokens_map,
        all_special_tokens=tuple(tokenizer.all_special_tokens),
        eos_token_id=tokenizer.eos_token_id,
    )


def _is_plain(tokenizer: Any) -> bool:
    """Tell whether the tokenizer's ids and texts are those of its backend."""
    from transformers import PreTrainedTokenizerFast

    own = type(tokenizer)
    ways = ("__call__", "_encode_plus", "decode", "_decode", "apply_chat_template")
    return all(getattr(own, way) is getattr(PreTrainedTokenizerFast, way) for way in ways)


def _loaded(path: str) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(path, local_files_only=True)
