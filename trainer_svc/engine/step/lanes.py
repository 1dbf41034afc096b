"""One pass computed in several threads at once, each with its own part of the records.

On a CPU the operations of a small base are too short for several cores to share one: measured with
three jobs on the demo base, a second core gained a quarter of the speed within each operation, and
two fifths with half of the records on it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any, TypeVar

import torch

from trainer_svc.engine.base import Base

_MOST = 4

T = TypeVar("T")


def lanes_for(base: Base, threads: int) -> int:
    """Return how many lanes share `threads` cores: one on anything but a CPU.

    One too for a base whose records run one by one, and for one in float16, of whose weights each
    lane would hold a copy in the format of its products.
    """
    one = base.device.type != "cpu" or not base.packs
    copied = base.compute_dtype not in {base.dtype, torch.float32}
    return 1 if one or copied else min(threads, _MOST)


class Lanes:
    """Threads that live as long as this does. `run` and what it returns are used by one thread."""

    def __init__(self, count: int) -> None:
        self.count = count
        self._helpers = ThreadPoolExecutor(count - 1, "lane") if count > 1 else None

    def run(self, works: Sequence[Callable[[], T]]) -> list[T]:
        """Run all at once, the first on this thread; raise the first error when all have ended.

        Gradients are recorded in all of them or in none, as on this thread.
        """
        first, *others = works
        if self._helpers is None or not others:
            return [work() for work in works]
        grad = torch.is_grad_enabled()
        futures = [self._helpers.submit(_with_grad, grad, work) for work in others]
        own: Future[T] = Future()
        try:
            own.set_result(first())
        except Exception as error:
            own.set_exception(error)
        finally:
            wait(futures)
        results = _results([own, *futures])
        if isinstance(results, list):
            return results
        # An error holds this frame: what the other lanes made would stay until it is collected.
        del own, futures
        try:
            raise results
        finally:
            del results

    def summed(
        self, works: Sequence[Callable[[], torch.Tensor]], *, after: Callable[[], None]
    ) -> torch.Tensor:
        """Return the sum of tensors of one shape, computed at once.

        So is the backward pass from it: each work has a graph of its own. `after` is called when
        all have gone backward, even if one failed.
        """
        if len(works) == 1:
            return works[0]()
        totals = self.run(works)
        anchor = torch.empty(0, requires_grad=True)
        summed: torch.Tensor = _Sum.apply(anchor, self, totals, after)  # type: ignore[no-untyped-call]
        return summed


class _Sum(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        _: torch.Tensor,
        lanes: Lanes,
        totals: Sequence[torch.Tensor],
        after: Callable[[], None],
    ) -> torch.Tensor:
        ctx.lanes, ctx.totals, ctx.after = lanes, totals, after
        return torch.stack([total.detach() for total in totals]).sum(0)

    @staticmethod
    def backward(ctx: Any, outer: torch.Tensor) -> tuple[None, ...]:
        # Its graphs are freed as they are gone through.
        totals, ctx.totals = ctx.totals, ()
        try:
            ctx.lanes.run([_backward(total, outer) for total in totals])
        finally:
            ctx.after()
        return None, None, None, None


def _results(futures: Sequence[Future[T]]) -> list[T] | BaseException:
    """Return what all of them gave, or the first error."""
    for future in futures:
        error = future.exception()
        if error is not None:
            return error
    return [future.result() for future in futures]


def _backward(total: torch.Tensor, outer: torch.Tensor) -> Callable[[], None]:
    return lambda: torch.autograd.backward(total, outer)


def _with_grad(enabled: bool, work: Callable[[], T]) -> T:
    with torch.set_grad_enabled(enabled):
        return work()
