"""A base's tokenizer as `tokenizers` has it, and what of transformers' is needed beside it.

transformers makes a tokenizer of several files, each family in its own way. What it has made is
written down once, in the engine, and read from then on: nothing is made a second way.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from tokenizers import Tokenizer

from trainer_svc.record import Record


class TokenizerFacts(Record):
    """All that decides what ids a record of a base becomes."""

    digest: str
    """What the engine calls the tokenizer; see `engine.data.tokenizer_digest`."""
    backend: str
    """`tokenizers`' own JSON."""
    split_special_tokens: bool
    """Whether a special token's text in a record is text like any other."""
    chat_template: str | dict[str, str] | None
    special_tokens: dict[str, str]
    """By the name that a template calls them."""
    all_special_tokens: tuple[str, ...]
    eos_token_id: int | None


class FileTokenizer:
    """Tokenises with what is written down, by transformers' own names for it.

    Several threads may use one. Raises ValueError for a backend that is none.
    """

    def __init__(self, facts: TokenizerFacts) -> None:
        try:
            self.backend_tokenizer = Tokenizer.from_str(facts.backend)
        except Exception as error:
            # The library raises the bare class.
            raise ValueError(f"this is no tokenizer: {error}") from error
        self.backend_tokenizer.encode_special_tokens = facts.split_special_tokens
        self.backend_tokenizer.no_truncation()
        self.backend_tokenizer.no_padding()
        self.digest = facts.digest
        self.chat_template = facts.chat_template
        self.special_tokens_map: Mapping[str, str] = facts.special_tokens
        self.all_special_tokens = list(facts.all_special_tokens)
        self.eos_token_id = facts.eos_token_id

    def __call__(
        self, text: str | Sequence[str], *, add_special_tokens: bool = True, **_: Any
    ) -> Mapping[str, Any]:
        """Return `input_ids`: those of a text, or a list of them for several."""
        if isinstance(text, str):
            encoding = self.backend_tokenizer.encode(text, add_special_tokens=add_special_tokens)
            return {"input_ids": encoding.ids}
        encoded = self.backend_tokenizer.encode_batch(
            list(text), add_special_tokens=add_special_tokens
        )
        return {"input_ids": [each.ids for each in encoded]}

    def decode(
        self, token_ids: Sequence[int], *, skip_special_tokens: bool = False, **_: Any
    ) -> str:
        """Return the text of the ids; no space is taken out."""
        text: str = self.backend_tokenizer.decode(
            list(token_ids), skip_special_tokens=skip_special_tokens
        )
        return text
