"""The cells of the main run: servers started, warmed, measured in turn, stopped."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack

from bench.serving import workload
from bench.serving.client_ours import ADAPTER
from bench.serving.figures import Figures, figures
from bench.serving.pairs import SETTLE_SECONDS, Results, alternate, keep
from bench.serving.plan import Plan
from bench.serving.process_tree import tree_cpu_seconds
from bench.serving.publish import Publisher
from bench.serving.servers import Folders
from bench.serving.sizes import Sizes
from bench.serving.targets import Target, ceiling, ours, peer, served_rank_cap
from tailorbird.names import AdapterName

CAP = 64
_IDLE_SECONDS = 2.0


class Cells:
    """Runs cells and keeps what they gave, by name, as plain values for the file."""

    def __init__(self, folders: Folders, sizes: Sizes, publisher: Publisher) -> None:
        self.results: Results = {}
        self.idle_cpu_share: dict[str, float] = {}
        self.folders = folders
        self._sizes = sizes
        self._publisher = publisher
        self.tenants = [f"t-{number:04d}" for number in range(sizes.made)]
        self._fresh: Iterator[str] = iter(self.tenants[sizes.published :])

    def publish_all(self) -> None:
        """Publish the adapters that are there from the start."""
        self._publish(self.tenants[: self._sizes.published])

    def pairs(self) -> None:
        """Base, and as many adapters as slots: ours, the peer at its default cap, the ceiling."""
        sizes, tenants = self._sizes, self.tenants[: self._sizes.adapters]
        with ExitStack() as stack:
            target, server = stack.enter_context(ours(self.folders, "ours", sizes.adapters))
            vllm = stack.enter_context(peer(self.folders, "peer", sizes.adapters, tenants))
            target.wait_until_ready()
            vllm.wait_until_ready()
            bare = stack.enter_context(
                ceiling(self.folders, sizes.adapters, served_rank_cap(server))
            )
            bare.wait_until_ready()
            targets = (target, vllm, bare)
            for one in targets:
                self.warm(one, tenants)
            self._measure_idle(targets)
            self.alternate(
                "base",
                targets,
                sizes.pairs,
                lambda _: workload.base_plan(
                    tenants, sizes.streams, sizes.base_rounds, sizes.tokens
                ),
            )
            self.alternate("8_adapters", targets, sizes.pairs, self._even(tenants, sizes.rounds))

    def cap_64(self) -> None:
        """As many adapters as slots, at a rank cap of 64 for both."""
        sizes, tenants = self._sizes, self.tenants[: self._sizes.adapters]
        with (
            ours(self.folders, "ours-cap-64", sizes.adapters, CAP) as (target, _),
            peer(self.folders, "peer-cap-64", sizes.adapters, tenants, CAP) as vllm,
        ):
            targets = (target, vllm)
            for one in targets:
                one.wait_until_ready()
            for one in targets:
                self.warm(one, tenants)
            plans = self._even(tenants, sizes.capped_rounds)
            self.alternate("8_adapters_cap_64", targets, sizes.pairs, plans)

    def oversubscribed(self) -> None:
        """Four times as many adapters as slots, drawn by Zipf's law."""
        sizes, tenants = self._sizes, self.tenants[: self._sizes.many_adapters]
        with (
            ours(self.folders, "ours-many", sizes.many_slots) as (target, _),
            peer(self.folders, "peer-many", sizes.many_slots, tenants) as vllm,
        ):
            targets = (target, vllm)
            for one in targets:
                one.wait_until_ready()
            for one in targets:
                self.warm(one, tenants, sizes.many_streams)
            self.alternate(
                "oversubscribed",
                targets,
                sizes.slow_pairs,
                lambda number: workload.zipf_plan(
                    tenants, sizes.many_streams, sizes.many_rounds, sizes.tokens, seed=number
                ),
            )

    def flood(self) -> None:
        """One slot: one tenant floods, another asks now and then."""
        flooding, other = self.tenants[:2]
        with (
            ours(self.folders, "ours-one-slot", 1) as (target, _),
            peer(self.folders, "peer-one-slot", 1, [flooding, other]) as vllm,
        ):
            targets = (target, vllm)
            for one in targets:
                one.wait_until_ready()
            for one in targets:
                self.warm(one, [flooding, other])
            self.alternate(
                "flood",
                targets,
                self._sizes.slow_pairs,
                lambda _: workload.flood_plan(flooding, other, self._sizes.flood_seconds),
                group="other",
            )

    def cold(self) -> None:
        """Adapters never seen: one by one, eight at once, and beside other tenants' streams."""
        sizes, tenants = self._sizes, self.tenants[: self._sizes.adapters]
        with ours(self.folders, "ours-cold", sizes.adapters) as (target, _):
            target.wait_until_ready()
            self.warm(target, tenants)
            for tenant in self._take_fresh(sizes.cold):
                cold = figures(target.run(workload.one_by_one([tenant], 8)))
                warm = figures(target.run(workload.one_by_one([tenant] * 5, 8)))
                self._keep("cold", {"cold": cold, "warm": warm})
            for _ in range(sizes.slow_pairs):
                eight = self._take_fresh(sizes.adapters)
                plan = workload.adapters_plan(eight, sizes.streams, 1, sizes.tokens)
                self._keep("load_8", {"ours": figures(target.run(plan))})
            for _ in range(sizes.slow_pairs):
                self._beside(target, tenants)

    def _beside(self, target: Target, tenants: Sequence[str]) -> None:
        """Measure half of the adapters' streams while others load, and while none does."""
        sizes, half = self._sizes, max(1, self._sizes.adapters // 2)
        background = tenants[:half]
        self.warm(target, tenants)
        without = [tenants[half]] * sizes.cold
        pair = {}
        for name, guests in (("without", without), ("with", self._take_fresh(sizes.cold))):
            plan = workload.background_plan(
                background, sizes.streams // 2, sizes.tokens, guests, sizes.cold_seconds
            )
            result = target.run(plan)
            pair[name] = figures(result, "background")
            pair[f"{name}_guests"] = figures(result, "guests")
        self._keep("cold_beside", pair)

    def _even(self, tenants: Sequence[str], rounds: int) -> Callable[[int], Plan]:
        sizes = self._sizes
        return lambda _: workload.adapters_plan(tenants, sizes.streams, rounds, sizes.tokens)

    def alternate(
        self,
        cell: str,
        targets: Sequence[Target],
        pairs: int,
        plan: Callable[[int], Plan],
        group: str = "",
    ) -> None:
        """Run a cell on each target in turn, `pairs` times, every second time backwards."""
        alternate(self.results, cell, targets, pairs, plan, group)

    def warm(self, target: Target, tenants: Sequence[str], streams: int | None = None) -> None:
        """Have every adapter asked once, and then `streams` at once; nothing is kept."""
        streams = streams or self._sizes.streams
        target.run(workload.one_by_one(tenants, 4))
        # Also makes the peer's connections, which a measured request need not wait for.
        target.run(workload.base_plan(tenants, streams, 1, self._sizes.tokens))

    def _measure_idle(self, targets: Sequence[Target]) -> None:
        """Write down how busy the servers are with nothing: they stay while others are measured."""
        time.sleep(SETTLE_SECONDS)
        before = [tree_cpu_seconds(target.root_pid) for target in targets]
        time.sleep(_IDLE_SECONDS)
        for target, earlier in zip(targets, before, strict=True):
            used = tree_cpu_seconds(target.root_pid) - earlier
            self.idle_cpu_share[target.name] = round(used / _IDLE_SECONDS, 3)

    def _keep(self, cell: str, pair: dict[str, Figures]) -> None:
        keep(self.results, cell, pair)

    def _take_fresh(self, count: int) -> list[str]:
        taken = [next(self._fresh) for _ in range(count)]
        self._publish(taken)
        return taken

    def _publish(self, tenants: Sequence[str]) -> None:
        async def publish() -> None:
            for tenant in tenants:
                folder = self.folders.adapters / tenant
                adapter = AdapterName(tenant, ADAPTER)
                await self._publisher.route(await self._publisher.publish(adapter, folder))

        asyncio.run(publish())
