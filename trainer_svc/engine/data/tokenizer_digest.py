"""Which tokenizer made the ids that are kept: another one's are never taken for them."""

from __future__ import annotations

import hashlib
import json
from importlib.metadata import version
from typing import Any

from tailorbird import __version__
from trainer_svc.encoding.tokenizer import FileTokenizer
from trainer_svc.engine.data.encoding import backend_of

TOKENS_FORMAT = 3
"""The format of what is made of a record, which is kept for later workers and later releases.

To be raised whenever anything of it changes: the text that a template gives, the ids of a prompt or
an answer, which tokens are trained, which records are dropped, how the files hold them.
"""


def tokenizer_digest(tokenizer: Any) -> str | None:
    """Return a digest of all that decides which ids a record becomes, 64 hex digits.

    None for a tokenizer without a fast backend: it cannot be compared.
    """
    if isinstance(tokenizer, FileTokenizer):
        return tokenizer.digest
    backend = backend_of(tokenizer)
    if backend is None:
        return None
    parts = [
        *made_by(),
        type(tokenizer).__qualname__,
        backend.to_str(),
        tokenizer.chat_template,
        {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
    ]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def made_by() -> list[object]:
    """Return the releases that have a part in what ids a record becomes."""
    return [TOKENS_FORMAT, __version__, version("transformers"), version("tokenizers")]
