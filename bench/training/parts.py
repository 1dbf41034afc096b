"""The parts of the bench: what each compares, on what."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer

from bench.training import workload
from bench.training.bases import write_random_llama
from bench.training.chats import CHATS, tokenised, write_datasets
from bench.training.contender import Contender, Kind
from bench.training.contest import contest, fastest_format
from bench.training.formats import FLOAT32
from bench.training.report import Pairs
from bench.training.sizes import LlamaShape, Sizes
from bench.training.wall import Wall
from bench.training.workload import Record, Workload

_DEMO_VOCABULARY = 2048
_LOSS_RECORDS = 4


@dataclass
class Parts:
    """Runs parts; keeps what they told. Every part raises BenchFailed."""

    base: Path
    sizes: Sizes
    threads: int
    work: Path
    """A folder that is there; each process's log goes into its `logs`."""
    results: dict[str, Pairs] = field(default_factory=dict)
    formats: dict[str, Any] = field(default_factory=dict)
    """The number formats that were tried for each peer, in tokens/s; the fastest is taken."""

    def by_name(self) -> Mapping[str, Callable[[], None]]:
        """Return every part, in the order in which they are run."""
        return {
            "steps": self.steps,
            "steps_100m": self.steps_100m,
            "single": self.single,
            "wall": self.wall,
            "packing": self.packing,
            "loss": self.loss,
        }

    def steps(self) -> None:
        """Small jobs in one group against PEFT's steps one after another, on the demo base."""
        self._small("steps", self.base, _DEMO_VOCABULARY, self.sizes.steps)

    def steps_100m(self) -> None:
        """The same on a random base of about 100 million parameters."""
        shape = self.sizes.large
        base = write_random_llama(shape, self.work / "large", torch.bfloat16, self.base)
        self._small("steps_100m", base, shape.vocabulary, self.sizes.large_steps)

    def single(self) -> None:
        """One job against TRL: the same records and mask in every step, and so the same tokens."""
        steps = self.sizes.single_steps
        for records in self.sizes.single_records:
            first = records == self.sizes.single_records[0]
            name = "single" if first else f"single_{records}"
            work = workload.cut_into_steps(self._chats, records, steps)
            engine = self._contender(Kind.ENGINE, self.base, name, work)
            trl = self._contender(Kind.TRL, self.base, name, work, self._trl_format)
            pairs = self.sizes.pairs if first else self.sizes.fewer_pairs
            self._contest(name, {"engine": engine, "trl": trl}, steps=steps, pairs=pairs)

    def wall(self) -> None:
        """Jobs with every start, ours in one worker, TRL's in a script each."""
        sizes = self.sizes
        lines = CHATS.read_text().splitlines()
        batch = sizes.single_records[0]
        mean = sum(len(chat.token_ids) for chat in self._chats) / len(self._chats)
        side = Wall(
            base=self.base,
            datasets=write_datasets(
                lines, self._chats, sizes.jobs, sizes.wall_tokens, self.work / "datasets"
            ),
            batch=batch,
            batch_tokens=round(batch * mean),
            number_format=self._trl_format,
            threads=self.threads,
            at_once=sizes.jobs,
            work=self.work,
        )
        self.results["wall"] = side.pairs(sizes.fewer_pairs)

    def packing(self) -> None:
        """Uneven records packed, against the same engine and against PEFT with them padded."""
        sizes = self.sizes
        work = workload.skewed_job(sizes.skewed_steps, sizes.skewed_records, _DEMO_VOCABULARY)
        filled = workload.padded(work)
        peft = self._contender(Kind.PEFT, self.base, "packing", work)
        self._contest(
            "packing",
            {
                "packed": self._contender(Kind.ENGINE, self.base, "packing", work),
                "padded": self._contender(Kind.ENGINE, self.base, "packing_padded", filled),
                "peft": self._fastest("packing", peft),
            },
            steps=sizes.skewed_steps,
        )
        self.results["packing"] = [_without_padding(pair) for pair in self.results["packing"]]

    def loss(self) -> None:
        """One step with all tokens trained: our loss in chunks, PEFT's over all logits at once."""
        sizes = self.sizes
        shape = LlamaShape(
            hidden_size=256,
            intermediate_size=512,
            layers=2,
            heads=4,
            key_value_heads=4,
            vocabulary=sizes.loss_vocabulary,
            head_dim=64,
        )
        base = write_random_llama(shape, self.work / "wide", torch.float32, self.base)
        work = workload.small_jobs(
            jobs=1,
            steps=1,
            records=_LOSS_RECORDS,
            tokens=sizes.loss_tokens // _LOSS_RECORDS,
            vocabulary=sizes.loss_vocabulary,
            prompt_share=0.0,
        )
        self._contest(
            "loss",
            {
                "chunked": self._contender(Kind.ENGINE, base, "loss", work),
                "full": self._contender(Kind.PEFT, base, "loss", work, FLOAT32),
            },
            steps=1,
            pairs=1,
            warm_steps=0,
        )

    def _small(self, name: str, base: Path, vocabulary: int, steps: int) -> None:
        sizes = self.sizes
        work = workload.small_jobs(
            jobs=sizes.jobs,
            steps=steps,
            records=sizes.records,
            tokens=sizes.tokens,
            vocabulary=vocabulary,
        )
        peft = self._fastest(name, self._contender(Kind.PEFT, base, name, work))
        engine = self._contender(Kind.ENGINE, base, name, work)
        self._contest(name, {"engine": engine, "peft": peft}, steps=steps)

    def _contest(
        self,
        name: str,
        contenders: Mapping[str, Contender],
        *,
        steps: int,
        pairs: int | None = None,
        warm_steps: int = 1,
    ) -> None:
        self.results[name] = contest(
            name,
            contenders,
            pairs=self.sizes.pairs if pairs is None else pairs,
            steps=steps,
            logs=self._logs,
            warm_steps=warm_steps,
        )

    def _contender(
        self, kind: Kind, base: Path, name: str, work: Workload, number_format: str = ""
    ) -> Contender:
        return Contender(
            kind=kind,
            base=base,
            workload=workload.save(work, self.work / f"{name}.json"),
            out=self.work / f"{name}-{kind}",
            threads=self.threads,
            number_format=number_format,
        )

    def _fastest(self, name: str, peer: Contender) -> Contender:
        chosen, speeds = fastest_format(name, peer, steps=self.sizes.trial_steps, logs=self._logs)
        self.formats[f"{name} {peer.kind}"] = speeds
        return replace(peer, number_format=chosen)

    @cached_property
    def _trl_format(self) -> str:
        batch = self.sizes.single_records[0]
        work = workload.cut_into_steps(self._chats, batch, self.sizes.trial_steps)
        return self._fastest(
            "single", self._contender(Kind.TRL, self.base, "trl_trial", work)
        ).number_format

    @cached_property
    def _chats(self) -> Sequence[Record]:
        tokenizer = AutoTokenizer.from_pretrained(self.base, local_files_only=True)
        return tokenised(CHATS.read_text().splitlines(), tokenizer)

    @property
    def _logs(self) -> Path:
        folder = self.work / "logs"
        folder.mkdir(exist_ok=True)
        return folder


def _without_padding(pair: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
    """Count for the padded side what the packed one read: padding is work, and no progress."""
    tokens, padded = pair["packed"]["tokens"], pair["padded"]
    speed = tokens / padded["seconds"]
    return {**pair, "padded": {**padded, "tokens": tokens, "tokens_per_second": speed}}
