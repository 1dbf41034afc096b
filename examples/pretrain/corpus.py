"""Batches for pre-training: text rows, and chats with loss on the assistant's turns."""

import random
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from transformers import PreTrainedTokenizerFast

from . import text
from .skills import SKILLS, Chat, Skill, drill
from .tokenizer import END, TEXT
from .voices import House
from .words import Lexicon, dictionary_words

ROW = 128
POOL = 24


@dataclass(frozen=True)
class Encoded:
    """Token ids and, for each, whether it is to be predicted."""

    ids: list[int]
    scored: list[bool]


@dataclass(frozen=True)
class Batch:
    """Input ids and labels, both (rows, length); padding and prompts have label -100."""

    ids: torch.Tensor
    labels: torch.Tensor


class Corpus:
    """Everything drawn from one seed: the text, the lexicon, the house and the skills."""

    def __init__(self, seed: int, modules: int | None = None) -> None:
        self.seed = seed
        self.sources = text.sources(modules)
        self.documents = [doc for source in self.sources for doc in text.docstrings(source)]
        self.lexicon = Lexicon(dictionary_words(self.documents))
        house = House(seed, self.lexicon)
        self.skills: dict[str, tuple[float, Skill]] = {**SKILLS, **house.skills()}

    def chat(self, rng: random.Random, skill: str | None = None, drilled: float = 0.0) -> Chat:
        """One chat of the named skill, or of a random one by weight.

        `drilled` is the share of copying drills among the random ones.
        """
        if skill is None and drilled and rng.random() < drilled:
            return drill(rng, self.lexicon)
        if skill is None:
            weights = [weight for weight, _ in self.skills.values()]
            skill = rng.choices(list(self.skills), weights)[0]
        return self.skills[skill][1](rng, self.lexicon)

    def tokenizer_texts(self, chats: int) -> Iterator[str]:
        """What the tokenizer is trained on: chats, and about as much documentation."""
        rng = random.Random(f"tokenizer {self.seed}")
        for _ in range(chats):
            yield from (message["content"] for message in self.chat(rng))
        yield from rng.sample(self.documents, min(len(self.documents), chats // 4))
        yield from (
            source[:4000]
            for source in rng.sample(self.sources, min(len(self.sources), chats // 40))
        )

    def text_rows(self, tokenizer: PreTrainedTokenizerFast) -> torch.Tensor:
        """Docstrings and the head of every source file, shuffled, in rows of `ROW` ids."""
        texts = self.documents + [source[:12000] for source in self.sources]
        random.Random(f"text {self.seed}").shuffle(texts)
        mark = tokenizer.convert_tokens_to_ids(TEXT)
        ids: list[int] = []
        for encoding in tokenizer.backend_tokenizer.encode_batch(texts, add_special_tokens=False):
            ids += [mark, *encoding.ids]
        return torch.tensor(ids[: len(ids) // ROW * ROW]).view(-1, ROW)


def encode(tokenizer: PreTrainedTokenizerFast, chats: list[Chat]) -> list[Encoded]:
    """Renders chats as the chat template does, turn by turn, in one tokenizer call."""
    contents = [message["content"] for chat in chats for message in chat]
    pieces = iter(tokenizer.backend_tokenizer.encode_batch(contents, add_special_tokens=False))
    end = tokenizer.convert_tokens_to_ids(END)
    roles = {
        r: tokenizer.convert_tokens_to_ids(f"<|{r}|>") for r in ("system", "user", "assistant")
    }
    encoded = []
    for chat in chats:
        ids: list[int] = []
        scored: list[bool] = []
        for message in chat:
            turn = [roles[message["role"]], *next(pieces).ids, end]
            ids += turn
            scored += [False] + [message["role"] == "assistant"] * (len(turn) - 1)
        encoded.append(Encoded(ids, scored))
    return encoded


def collate(rows: list[Encoded], pad: int) -> Batch:
    """Pads rows on the right to the longest."""
    length = max(len(row.ids) for row in rows)
    ids = torch.full((len(rows), length), pad)
    labels = torch.full((len(rows), length), -100)
    for at, row in enumerate(rows):
        ids[at, : len(row.ids)] = torch.tensor(row.ids)
        scored = torch.tensor(row.scored)
        labels[at, : len(row.ids)] = torch.where(scored, ids[at, : len(row.ids)], -100)
    return Batch(ids, labels)


def chat_batches(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tokens: int, pool: int, drilled: float = 0.0
) -> list[Batch]:
    """Pool number `pool`: `POOL` batches of chats of like length, in random order."""
    rng = random.Random(f"chats {corpus.seed} {pool}")
    rows: list[Encoded] = []
    total = 0
    while total < (POOL + 1) * tokens:
        rows += encode(tokenizer, [corpus.chat(rng, drilled=drilled) for _ in range(256)])
        total = sum(len(row.ids) for row in rows)
    rows = sorted((row for row in rows if len(row.ids) <= 2 * ROW), key=lambda row: len(row.ids))
    groups: list[list[Encoded]] = [[]]
    for row in rows:
        if (len(groups[-1]) + 1) * len(row.ids) > tokens:
            groups.append([])
        groups[-1].append(row)
    groups = [group for group in groups if len(group) > 1]
    rng.shuffle(groups)
    pad = tokenizer.pad_token_id
    return [collate(group, pad) for group in groups[:POOL]]
