"""Many jobs' adapters over one frozen base: attach, forward, detach.

One run of the base serves all jobs of a step: their records stand one after another in one
sequence, and each layer adds to a job's rows that job's own update.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import Any, TypeVar

import torch
from torch.nn.functional import cross_entropy, linear

from trainer_svc.engine.attention import PACKED
from trainer_svc.engine.base import Base
from trainer_svc.engine.step.adapter import Adapter, Stack
from trainer_svc.engine.step.dropout import Dropout, row_keys
from trainer_svc.engine.step.fused import fuse
from trainer_svc.engine.step.lanes import Lanes
from trainer_svc.engine.step.lora import ForwardState, Span, put_on
from trainer_svc.engine.step.loss import CHUNK_LOGITS, summed_losses
from trainer_svc.engine.step.peft_format import LowRank, PeftFormat
from trainer_svc.engine.step.product import LayerUpdate
from trainer_svc.engine.step.recompute import recompute_layers
from trainer_svc.engine.step.shares import Share, cut, targets_of

_LANE_TOKENS = 256
"""Tokens that are worth a lane of their own, measured on the demo base."""

T = TypeVar("T")

_Members = tuple[tuple[Adapter, int], ...]

__all__ = ["Adapter", "AdapterBank", "Dropout", "Share", "StepLoss"]


@dataclass(frozen=True)
class StepLoss:
    """The loss of one job's share of a step, in nats, summed over its trained tokens."""

    total: torch.Tensor
    """[] float32, with its graph."""
    trained_tokens: int
    tokens: int
    """Tokens read, prompts included."""


@dataclass(frozen=True)
class _Lane:
    """What one lane computes: jobs in the order to pack them, those of one shape together."""

    shares: Mapping[str, Share]
    groups: Sequence[Sequence[str]]
    stacks: Sequence[Stack]
    """One a group."""


class AdapterBank:
    """Holds the base, whose linear layers are replaced once, here. Used by one thread.

    A pass is cut into up to `lanes` parts that are computed at once, each by a thread. Which record
    goes where is a function of the shares alone.
    `gradient_checkpointing` keeps the input of each decoder layer alone and computes the layer
    again for the backward pass: more time, less memory.
    """

    def __init__(self, base: Base, *, gradient_checkpointing: bool = False, lanes: int = 1) -> None:
        self.base = base
        self.gradient_checkpointing = gradient_checkpointing
        self._lanes = Lanes(lanes)
        self._state = ForwardState(base.compute_dtype)
        self._places = put_on(base.model, base.decoder, self._state)
        self._format = PeftFormat(base.model.config, self._places)
        self._adapters: dict[str, Adapter] = {}
        self._stacks: dict[_Members, Stack] = {}
        base.embeddings.register_forward_hook(self._widened)
        fuse(base.decoder, self._state)
        if gradient_checkpointing:
            recompute_layers(base.decoder, self._state)

    @property
    def target_modules(self) -> Sequence[str]:
        """Every kind of linear layer that an adapter may update, sorted."""
        return self._format.target_modules

    def shapes(self, lora: LowRank) -> dict[str, tuple[int, int]]:
        """Return the shapes of the parameters that `attach` would make, by their names.

        Raises InvalidArgument as it does.
        """
        matrices = self._format.layout(lora).matrices
        return {m.a: m.a_shape for m in matrices} | {m.b: m.b_shape for m in matrices}

    def attach(self, job: str, lora: LowRank, *, seed: int) -> Adapter:
        """Make a new adapter for the job; `seed` alone decides its first weights.

        No target modules means every linear layer of the decoder; InvalidArgument names one that
        the base lacks. Nothing changes for other jobs.
        """
        if job in self._adapters:
            raise ValueError(f"{job} is attached already")
        layout = self._format.layout(lora)
        adapter = Adapter(layout, self._places, seed=seed, device=self.base.device)
        self._adapters[job] = adapter
        return adapter

    def detach(self, job: str) -> None:
        """Forget the job's adapter; nothing happens if it has none."""
        self._adapters.pop(job, None)
        self._stacks.clear()

    def rename(self, job: str, name: str) -> None:
        """Let the job's adapter be called by another name, which none has."""
        if name in self._adapters:
            raise ValueError(f"{name} is attached already")
        self._adapters[name] = self._adapters.pop(job)

    def forward(self, shares: Mapping[str, Share]) -> dict[str, StepLoss]:
        """Run the base once over every job's examples and return each job's loss.

        The caller adds the losses it wants and calls backward once; gradients land in each job's
        parameters. Under torch.no_grad nothing is kept for that.
        """
        numbers = {job: number for number, job in enumerate(shares)}
        works = [partial(self._totals, lane, numbers) for lane in self._cut(shares)]
        adapters = [self._adapters[job] for job in shares]
        totals = self._lanes.summed(works, after=lambda: _gather(adapters))
        return {
            job: StepLoss(total, share.trained_tokens, share.tokens)
            for (job, share), total in zip(shares.items(), totals.unbind(), strict=True)
        }

    @torch.no_grad()
    def logprobs(self, sequences: Sequence[torch.Tensor], *, job: str | None) -> list[torch.Tensor]:
        """Return for each sequence of n token ids the n - 1 logprobs of its later tokens, in nats.

        With the job's adapter, or of the base alone. Computed in the checkpoint's number format,
        layer by layer, as serving does: what a small update does in bfloat16 is not what it does in
        float32.
        """
        lengths = [len(ids) for ids in sequences]
        spans = []
        if job is not None:
            stack = Stack([(self._adapters[job], 0)], self.base.dtype)
            stack.refresh()
            spans = [Span(0, sum(lengths), stack.updates, None)]
        result = []
        with self._computing(self.base.dtype, as_served=True), self.base.in_checkpoint_dtype():
            hidden = self._hidden(sequences, spans)
            for ids, states in zip(sequences, torch.split(hidden, lengths), strict=True):
                logits = self.base.head(states[:-1]).float()
                targets = ids[1:].to(logits.device)
                result.append(-cross_entropy(logits, targets, reduction="none").cpu())
        return result

    @property
    def lanes(self) -> int:
        """How many works `abreast` computes at once."""
        return self._lanes.count

    def abreast(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """Run up to `lanes` works that read, each in a lane; raise the first error of any."""
        return self._lanes.run(works)

    def updates(self, job: str) -> Mapping[int, LayerUpdate]:
        """Return what the job's adapter, as it is now, adds to each layer, for `read`."""
        stack = Stack([(self._adapters[job], 0)], self._state.dtype)
        stack.refresh()
        return stack.updates

    @torch.no_grad()
    def read(self, inputs: Mapping[str, Any], spans: Sequence[Span]) -> Any:
        """Run the decoder as training does, without dropout; return what it returns.

        `spans` are rows of [sequences * tokens], whatever is in none of them is the base's alone.
        """
        with self._computing(self._state.dtype), self._autocast():
            self._state.spans = spans
            return self.base.decoder(**inputs)

    @torch.no_grad()
    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        """Map [rows, hidden size] to [rows, token ids] float32, by the head as in training."""
        head: Any = self.base.head
        hidden = hidden.to(self._state.dtype)
        bias = None if head.bias is None else head.bias.to(hidden.dtype)
        logits: torch.Tensor = linear(hidden, head.weight.to(hidden.dtype), bias)
        return logits[:, : self.base.token_ids].float()

    def _cut(self, shares: Mapping[str, Share]) -> list[_Lane]:
        """Cut the pass into lanes of about as many tokens each."""
        ordered = [job for group in self._grouped(shares) for job in group]
        tokens = sum(share.tokens for share in shares.values())
        count = min(self._lanes.count, max(1, tokens // _LANE_TOKENS)) if self.base.packs else 1
        parts = cut({job: shares[job] for job in ordered}, count)
        made, stacks, seen = [], {}, dict.fromkeys(shares, 0)
        for part in parts:
            groups = self._grouped(part)
            of_lane = []
            for group in groups:
                members = tuple((self._adapters[job], seen[job]) for job in group)
                stacks[members] = self._stacks.get(members) or Stack(members, self._state.dtype)
                of_lane.append(stacks[members])
            for job in part:
                seen[job] += 1
            made.append(_Lane(part, groups, of_lane))
        # Those of this pass alone are kept: the next one mostly has the same jobs.
        self._stacks = stacks
        return made

    def _totals(self, lane: _Lane, numbers: Mapping[str, int]) -> torch.Tensor:
        """Run the base over a lane's examples; return each job's loss by its number: [jobs]."""
        order = [job for group in lane.groups for job in group]
        examples = [example for job in order for example in lane.shares[job].examples]
        owners = [numbers[job] for job in order for _ in lane.shares[job].examples]
        spans = self._spans(lane)
        # Before the pass: a copy to a GPU that comes after it would wait for it.
        places, targets, owned = map(self._onto_device, targets_of(examples, owners))
        with self._computing(self._state.dtype), self._autocast():
            hidden = self._hidden([example.token_ids for example in examples], spans)
            trained = hidden.index_select(0, places).to(self._state.dtype)
            return summed_losses(
                trained,
                self.base.head,
                targets,
                owned,
                len(numbers),
                chunk_logits=CHUNK_LOGITS // self._lanes.count,
            )

    def _grouped(self, shares: Mapping[str, Share]) -> list[list[str]]:
        """Return the jobs in the order to pack them, those with products of one shape together."""
        groups: dict[Hashable, list[str]] = {}
        for job, share in shares.items():
            shape = (self._adapters[job].layout.spec, share.tokens, share.dropout is None)
            groups.setdefault(shape if self.base.packs else job, []).append(job)
        return list(groups.values())

    def _spans(self, lane: _Lane) -> list[Span]:
        spans, start = [], 0
        for group, stack in zip(lane.groups, lane.stacks, strict=True):
            stack.refresh()
            stop = start + sum(lane.shares[job].tokens for job in group)
            spans.append(Span(start, stop, stack.updates, self._keys(group, lane.shares)))
            start = stop
        return spans

    def _keys(self, group: Sequence[str], shares: Mapping[str, Share]) -> torch.Tensor | None:
        keys = []
        for job in group:
            share = shares[job]
            if share.dropout is None or self._adapters[job].layout.spec.dropout == 0.0:
                return None
            lengths = [len(example.token_ids) for example in share.examples]
            keys.append(row_keys(share.dropout, lengths))
        return self._onto_device(torch.cat(keys))

    def _hidden(self, sequences: Sequence[torch.Tensor], spans: Sequence[Span]) -> torch.Tensor:
        """Return the last hidden states of all sequences: [tokens, hidden size]."""
        if self.base.packs:
            self._state.spans = spans
            return self._run(sequences)
        ends = list(accumulate((len(ids) for ids in sequences), initial=0))
        rows = []
        for ids, start in zip(sequences, ends, strict=False):
            self._state.spans = [
                within for span in spans if (within := span.within(start, start + len(ids)))
            ]
            rows.append(self._run([ids]))
        return torch.cat(rows)

    def _run(self, sequences: Sequence[torch.Tensor]) -> torch.Tensor:
        lengths = [len(ids) for ids in sequences]
        positions = torch.cat([torch.arange(length) for length in lengths])
        decoder = self.base.decoder
        segments = {"segment_lengths": lengths} if _attends_by_segment(decoder) else {}
        output = decoder(
            input_ids=self._onto_device(torch.cat(list(sequences)).unsqueeze(0)),
            position_ids=self._onto_device(positions.unsqueeze(0)),
            use_cache=False,
            **segments,
        )
        hidden: torch.Tensor = output.last_hidden_state[0]
        return hidden

    def _onto_device(self, tensor: torch.Tensor) -> torch.Tensor:
        """Copy a tensor of the host to the device, without waiting for it."""
        if self.base.device.type != "cuda":
            return tensor.to(self.base.device)
        return tensor.pin_memory().to(self.base.device, non_blocking=True)

    @contextmanager
    def _computing(self, dtype: torch.dtype, *, as_served: bool = False) -> Iterator[None]:
        self._state.dtype, before = dtype, self._state.dtype
        self._state.as_served = as_served
        try:
            yield
        finally:
            self._state.dtype = before
            self._state.as_served = False
            self._state.spans = ()
            self._state.handed = {}

    def _widened(self, _: object, __: object, embedded: torch.Tensor) -> torch.Tensor:
        return embedded if self._state.as_served else embedded.to(self.base.hidden_dtype)

    def _autocast(self) -> torch.autocast:
        """Return the context for what is no linear layer of ours, such as a mixture's experts."""
        return torch.autocast(
            self.base.device.type,
            dtype=self.base.compute_dtype,
            enabled=self.base.compute_dtype != self.base.hidden_dtype,
        )


def _gather(adapters: Sequence[Adapter]) -> None:
    for adapter in adapters:
        adapter.gather()


def _attends_by_segment(decoder: Any) -> bool:
    return bool(decoder.config._attn_implementation == PACKED)  # noqa: SLF001
