"""How large a run is."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class LlamaShape:
    """A Llama with random weights; the embeddings are the head's too unless `untied`."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    key_value_heads: int
    vocabulary: int
    head_dim: int
    context: int = 1024
    untied: bool = False


@dataclass(frozen=True, slots=True)
class Lora:
    """The low-rank update of every job, on every linear layer of the decoder.

    The engine reads it as it reads a job's own.
    """

    rank: int = 16
    alpha: float = 32.0
    target_modules: tuple[str, ...] = ()
    use_rslora: bool = False
    dropout: float = 0.0


@dataclass(frozen=True, slots=True)
class Sizes:
    """The numbers of the parts; the defaults are those of the issue's figures."""

    jobs: int = 8
    records: int = 2
    """Of a job and step, in the small jobs."""
    tokens: int = 128
    """Of a record, in the small jobs."""
    pairs: int = 5
    steps: int = 8
    """Of a job and measurement, on the demo base."""
    large_steps: int = 3
    """The same on the random base."""
    large: LlamaShape = field(
        default_factory=lambda: LlamaShape(
            hidden_size=768,
            intermediate_size=2048,
            layers=12,
            heads=12,
            key_value_heads=12,
            vocabulary=32_000,
            head_dim=64,
        )
    )
    """110 million parameters."""
    fewer_pairs: int = 3
    """Of the jobs with their starts, and of the job alone with other steps than the first."""
    wall_tokens: int = 10_000
    """Of a job, once read."""
    single_steps: int = 10
    single_records: tuple[int, ...] = (8, 4, 32)
    """Of a step of the job alone. The first, TRL's default, is the one that is quoted."""
    skewed_steps: int = 3
    skewed_records: int = 16
    loss_tokens: int = 4096
    loss_vocabulary: int = 128_256
    trial_steps: int = 2
    """Of every number format, before the fastest one is taken."""


QUICK = Sizes(
    jobs=2,
    tokens=16,
    pairs=1,
    steps=1,
    large_steps=1,
    large=LlamaShape(
        hidden_size=64,
        intermediate_size=128,
        layers=2,
        heads=2,
        key_value_heads=2,
        vocabulary=2048,
        head_dim=32,
    ),
    fewer_pairs=1,
    wall_tokens=1000,
    single_steps=1,
    single_records=(2,),
    skewed_steps=1,
    skewed_records=4,
    loss_tokens=512,
    loss_vocabulary=32_000,
    trial_steps=1,
)
"""A smoke test: every part runs, and no figure means anything."""
