"""One forward and one backward pass for all runs, and the optimizer steps they complete.

What one job does must change no other's weights. NaN crosses attention masks, so a pass whose
losses or gradients are not all finite is discarded as a whole, before any optimizer step, and those
who were in it are suspects: each takes one step alone. Whoever is not finite alone is the offender
and leaves, at once: a job alone and a job in a group end by the same rule. An error is treated the
same. A pass that runs out of memory is discarded and made smaller.

A discarded pass may have left its mark on every gradient accumulated so far, so the steps under way
begin again. The data of a step are a function of the step alone; nothing is lost or counted twice.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog
import torch

from tailorbird.errors import FailedPrecondition
from trainer_svc.engine.failures import is_out_of_memory
from trainer_svc.engine.step.bank import Share
from trainer_svc.engine.step.run import Run, StepResult
from trainer_svc.engine.training.forward import Bank, out_of_memory
from trainer_svc.engine.training.turns import Turns

NON_FINITE = "NON_FINITE"

Outcome = StepResult | Exception

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class _Pass:
    """The runs of one forward pass, their records in it, and the tokens these are."""

    runs: dict[str, Run]
    shares: dict[str, Share]
    records: int
    tokens: int


class Group:
    """Steps runs together, `micro_tokens` tokens a pass at most, over all of them."""

    def __init__(self, bank: Bank, micro_tokens: int) -> None:
        self._bank = bank
        self._asked = micro_tokens
        self._turns = Turns()
        self._suspects: dict[str, None] = {}
        """In the order of their turns."""
        self._was_alone = False
        """Whether the last pass was a suspect's."""
        self.limit = micro_tokens
        """Tokens of a pass at most; less than asked for after running out of memory."""

    def left(self, job: str) -> None:
        """Forget a job; what took the memory may have gone with it."""
        self._suspects.pop(job, None)
        self.limit = self._asked

    def step(self, runs: Mapping[str, Run]) -> dict[str, Outcome]:
        """Make one pass; return each run that took its optimizer step, or must leave, and why."""
        waiting, unreadable = _waiting({job: runs[job] for job in self._next(list(runs))})
        if unreadable:
            return unreadable
        made = self._take(runs, waiting)
        no_memory = False
        try:
            figures = self._accumulate(made)
        except Exception as error:
            no_memory = is_out_of_memory(error)
            if not no_memory:
                return self._discard(made, error)
        if no_memory:
            return self._shrink(made)
        return self._update(made, figures)

    def _take(self, runs: Mapping[str, Run], waiting: Mapping[str, Sequence[int]]) -> _Pass:
        counts = self._turns.take(waiting, self.limit)
        return _Pass(
            runs={job: runs[job] for job in counts},
            shares={job: runs[job].take(count) for job, count in counts.items()},
            records=sum(counts.values()),
            tokens=sum(sum(waiting[job][:count]) for job, count in counts.items()),
        )

    def _next(self, jobs: list[str]) -> list[str]:
        """Return who may be in the next pass: in turns one suspect, and all who are none."""
        suspects = [job for job in self._suspects if job in jobs]
        others = [job for job in jobs if job not in self._suspects]
        self._was_alone = bool(suspects) and not (self._was_alone and others)
        if not self._was_alone:
            return others
        del self._suspects[suspects[0]]
        self._suspects[suspects[0]] = None
        return suspects[:1]

    def _accumulate(self, made: _Pass) -> torch.Tensor:
        """Go forward and backward; return each run's loss and gradient norm, [runs, 2]."""
        losses = self._bank.forward(made.shares)
        parts = [run.add(losses[job]) for job, run in made.runs.items()]
        torch.stack(parts).sum().backward()  # type: ignore[no-untyped-call]
        return torch.stack([run.figures() for run in made.runs.values()])

    def _update(self, made: _Pass, figures: torch.Tensor) -> dict[str, Outcome]:
        """Take the steps that are full, unless a figure is not finite; wait for the device once."""
        skip = (~figures.isfinite().all()).to(torch.float32)
        full = [job for job, run in made.runs.items() if not run.waiting]
        norms = dict(zip(made.runs, figures[:, 1], strict=True))
        updates: dict[str, torch.Tensor] = {}
        broken: dict[str, Outcome] = {}
        for job in full:
            try:
                updates[job] = made.runs[job].update(norms[job], skip)
            except Exception as error:  # its weights may be half of a step on
                broken[job] = error
        try:
            seen: list[float] = torch.cat([figures.flatten(), *updates.values()]).tolist()
        except Exception as error:  # who has stepped is unknown: nothing can be taken back
            return dict.fromkeys(made.runs, error)
        jobs = len(made.runs)
        losses = dict(zip(made.runs, seen[: 2 * jobs : 2], strict=True))
        found = dict(zip(made.runs, seen[1 : 2 * jobs : 2], strict=True))
        if not all(map(math.isfinite, seen[: 2 * jobs])):
            return self._discard(made, None)
        for job in updates:
            self._suspects.pop(job, None)
        largest, ratios = seen[2 * jobs :: 2], seen[2 * jobs + 1 :: 2]
        return broken | {
            job: made.runs[job].stepped(losses[job], found[job], ratio)
            if math.isfinite(weight)
            else _not_finite(made.runs[job], "a weight is not finite after the step")
            for job, weight, ratio in zip(updates, largest, ratios, strict=True)
        }

    def _discard(self, made: _Pass, error: Exception | None) -> dict[str, Outcome]:
        """Begin the steps again, each alone; who was alone in the pass is the offender."""
        for run in made.runs.values():
            run.restart()
        if len(made.runs) > 1:
            log.warning("pass discarded", jobs=list(made.runs), error=repr(error))
            self._suspects |= dict.fromkeys(made.runs)
            return {}
        ((job, run),) = made.runs.items()
        return {job: error or _not_finite(run, "the step's loss or gradient is not finite")}

    def _shrink(self, made: _Pass) -> dict[str, Outcome]:
        """Begin the steps again in smaller passes; a record that does not fit alone cannot."""
        for run in made.runs.values():
            run.restart()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if made.records == 1:
            return dict.fromkeys(made.runs, out_of_memory(made.tokens, self._asked))
        self.limit = max(1, min(self.limit, made.tokens) // 2)
        log.warning("out of memory", tokens=made.tokens, limit=self.limit)
        return {}


def _waiting(runs: Mapping[str, Run]) -> tuple[dict[str, Sequence[int]], dict[str, Outcome]]:
    """Return what waits of each run, and the error of each whose records cannot be read."""
    waiting: dict[str, Sequence[int]] = {}
    unreadable: dict[str, Outcome] = {}
    for job, run in runs.items():
        try:
            waiting[job] = run.waiting
        except Exception as error:
            unreadable[job] = error
    return waiting, unreadable


def _not_finite(run: Run, what: str) -> FailedPrecondition:
    step = run.state.step + 1
    return FailedPrecondition(
        f"step {step}: {what}; try a lower learning rate", reason=NON_FINITE, step=step
    )
