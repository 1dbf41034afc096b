"""The cells of `--long`: adapters by streams, and a thousand tenants."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from bench.serving import workload
from bench.serving.cells import Cells
from bench.serving.plan import Plan
from bench.serving.sizes import QUICK, Sizes
from bench.serving.targets import ours, peer

LONG = Sizes(many_adapters=1000)
LONG_QUICK = replace(QUICK, many_adapters=12)

_COUNTS = (1, 8, 32)
_TOKENS_A_CELL = 4096
_PAIRS = 3


def grid(cells: Cells, sizes: Sizes) -> None:
    """1, 8 and 32 adapters by 1, 8 and 32 streams, each adapter in a slot of its own."""
    counts = [count for count in _COUNTS if count <= sizes.many_adapters]
    tenants = cells.tenants[: counts[-1]]
    with (
        ours(cells.folders, "ours-grid", len(tenants)) as (target, _),
        peer(cells.folders, "peer-grid", len(tenants), tenants) as vllm,
    ):
        targets = (target, vllm)
        for one in targets:
            one.wait_until_ready()
        for one in targets:
            cells.warm(one, tenants)
        for adapters in counts:
            for streams in _COUNTS:
                plan = partial(_grid_plan, tenants[:adapters], streams, sizes.tokens)
                cells.alternate(f"{adapters}_adapters_{streams}_streams", targets, _PAIRS, plan)


def thousand_tenants(cells: Cells, sizes: Sizes) -> None:
    """A thousand adapters on few slots, drawn by Zipf's law."""
    tenants = cells.tenants[: sizes.many_adapters]
    with (
        ours(cells.folders, "ours-thousand", sizes.many_slots) as (target, _),
        peer(cells.folders, "peer-thousand", sizes.many_slots, tenants) as vllm,
    ):
        targets = (target, vllm)
        for one in targets:
            one.wait_until_ready()
        for one in targets:
            cells.warm(one, tenants[: sizes.many_slots], sizes.many_streams)
        cells.alternate(
            "1000_tenants",
            targets,
            sizes.slow_pairs,
            lambda number: workload.zipf_plan(
                tenants, sizes.many_streams, 2 * sizes.many_rounds, sizes.tokens, seed=number
            ),
        )


def _grid_plan(tenants: list[str], streams: int, tokens: int, _: int) -> Plan:
    rounds = max(1, _TOKENS_A_CELL // (32 * tokens) // (1 if streams > 1 else 2))
    return workload.adapters_plan(tenants, streams, rounds, tokens)
