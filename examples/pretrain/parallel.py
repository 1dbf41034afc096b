"""Data parallelism over single-threaded processes: gradients are summed once a step.

On a busy machine one process with two threads waits at every operation's barrier;
two processes of one thread wait once a step.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes

from .corpus import Batch


@dataclass(frozen=True)
class Worker:
    """The number of this process among `count`."""

    rank: int = 0
    count: int = 1

    def share(self, batch: Batch) -> Batch:
        """Every `count`-th row of the batch."""
        rows = slice(self.rank, None, self.count)
        return Batch(batch.ids[rows], batch.labels[rows])

    def sum(self, model: torch.nn.Module, losses: list[float]) -> list[float]:
        """Sums all gradients in place, and the given losses, over the workers."""
        if self.count == 1:
            return losses
        grads = [p.grad for p in model.parameters() if p.grad is not None]
        flat = torch.cat([*(grad.flatten() for grad in grads), torch.tensor(losses)])
        distributed.all_reduce(flat)
        at = 0
        for grad in grads:
            grad.copy_(flat[at : at + grad.numel()].view_as(grad))
            at += grad.numel()
        return [float(value) for value in flat[at:]]


def _entry(rank: int, count: int, rendezvous: str, work: Callable[[Worker], object]) -> None:
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=rendezvous, rank=rank, world_size=count)
    try:
        work(Worker(rank, count))
    finally:
        distributed.destroy_process_group()


def run(count: int, work: Callable[[Worker], object]) -> None:
    """Calls `work` in `count` processes (in this one if `count` is 1)."""
    if count == 1:
        work(Worker())
        return
    with tempfile.TemporaryDirectory() as folder:
        rendezvous = (Path(folder) / "rendezvous").as_uri()
        start_processes(  # type: ignore[no-untyped-call]
            _entry, (count, rendezvous, work), nprocs=count, start_method="spawn"
        )
