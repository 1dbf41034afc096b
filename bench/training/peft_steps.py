"""Steps of PEFT, as a user would take them: one base, an adapter a job, one job after the other."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn.utils import clip_grad_norm_
from transformers import AutoModelForCausalLM

from bench.training.formats import AUTOCAST, weights_dtype
from bench.training.sizes import Lora
from bench.training.workload import Step, Workload

_LEARNING_RATE = 1e-4
_CLIP_NORM = 1.0
_IGNORED = -100


@dataclass(frozen=True)
class _Job:
    name: str
    batches: Sequence[dict[str, torch.Tensor]]
    parameters: Sequence[torch.nn.Parameter]
    optimizer: torch.optim.Optimizer


class PeftSteps:
    """The jobs' adapters on one model; `set_adapter` before each job's step.

    Every batch is padded to its longest record, and has no mask where nothing is padded, which is
    PyTorch's faster way through attention. The loss is the model's own, over all logits.
    """

    def __init__(self, base: Path, workload: Workload, lora: Lora, number_format: str) -> None:
        model = AutoModelForCausalLM.from_pretrained(
            base, dtype=getattr(torch, weights_dtype(number_format)), local_files_only=True
        )
        self._autocast = number_format == AUTOCAST
        self._done = 0
        first, *others = workload
        self.model = get_peft_model(model, lora_config(lora), adapter_name=first)
        for name in others:
            self.model.add_adapter(name, lora_config(lora))
        self.model.train()
        self._jobs = [self._job(name, steps) for name, steps in workload.items()]

    def run(self, steps: int) -> int:
        """Take `steps` steps of every job; return the tokens read, padding left out."""
        return sum(self._step(job) for _ in range(steps) for job in self._next())

    def _next(self) -> Sequence[_Job]:
        self._done += 1
        return self._jobs

    def _step(self, job: _Job) -> int:
        if len(self._jobs) > 1:
            self.model.set_adapter(job.name)
        batch = job.batches[(self._done - 1) % len(job.batches)]
        with self._computing():
            loss = self.model(**batch, use_cache=False).loss
        loss.backward()
        clip_grad_norm_(job.parameters, _CLIP_NORM)
        job.optimizer.step()
        job.optimizer.zero_grad(set_to_none=True)
        mask = batch.get("attention_mask")
        return batch["input_ids"].numel() if mask is None else int(mask.sum())

    def _computing(self) -> AbstractContextManager[Any]:
        return torch.autocast("cpu", dtype=torch.bfloat16) if self._autocast else nullcontext()

    def _job(self, name: str, steps: Sequence[Step]) -> _Job:
        parameters = [
            parameter
            for path, parameter in self.model.named_parameters()
            if f".{name}." in path and "lora_" in path
        ]
        # Fused is the fastest on a CPU too, and what transformers' Trainer takes.
        optimizer = torch.optim.AdamW(parameters, lr=_LEARNING_RATE, weight_decay=0.0, fused=True)
        return _Job(name, [_batch(step) for step in steps], parameters, optimizer)


def lora_config(lora: Lora) -> LoraConfig:
    """Return PEFT's configuration of the same update."""
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=list(lora.target_modules) or "all-linear",
        lora_dropout=lora.dropout,
        use_rslora=lora.use_rslora,
        task_type="CAUSAL_LM",
    )


def _batch(step: Step) -> dict[str, torch.Tensor]:
    longest = max(len(record.token_ids) for record in step)
    ids = torch.zeros(len(step), longest, dtype=torch.int64)
    labels = torch.full_like(ids, _IGNORED)
    mask = torch.zeros_like(ids)
    for row, record in enumerate(step):
        length = len(record.token_ids)
        ids[row, :length] = torch.tensor(record.token_ids)
        mask[row, :length] = 1
        trained = torch.tensor(record.trained, dtype=torch.bool)
        labels[row, :length][trained] = ids[row, :length][trained]
    batch = {"input_ids": ids, "labels": labels}
    return batch if bool(mask.all()) else {**batch, "attention_mask": mask}
