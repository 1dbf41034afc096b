"""python -m bench.http --out FILE: our OpenAI API beside vLLM's own server, and beside our gRPC.

The base model, 32 streams at once of 32 tokens each. FILE gets every pair, the medians and the
ratios as JSON. `missed` has the bounds that were not kept; if there is one, the exit status is 1.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.attempt import attempt
from bench.serving import machine, report, workload
from bench.serving.pairs import Results, alternate
from bench.serving.plan import Plan
from bench.serving.processes import free_port
from bench.serving.servers import Folders, Ours
from bench.serving.stats import median_ratio
from bench.serving.targets import Target, grpc_child, openai_child, peer, say
from tailorbird.client import ServingClient

_BASE = Path(__file__).parents[1] / "examples" / "demo_base"
_SLOTS = 8
_LEAST = {"ratio_tokens_per_second_base": 0.95}


@dataclass(frozen=True, slots=True)
class _Sizes:
    pairs: int = 9
    streams: int = 32
    rounds: int = 8
    """Requests of a stream."""
    tokens: int = 32


_QUICK = _Sizes(pairs=1, streams=4, rounds=1, tokens=8)


def main() -> int:
    """Measure and print; return 1 when it could not be measured, or a bound was not kept."""
    parser = argparse.ArgumentParser(prog="python -m bench.http", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument("--base", type=Path, default=_BASE, help="the base model's folder")
    parser.add_argument("--quick", action="store_true", help="a smoke test: no figure counts")
    arguments = parser.parse_args()
    sizes = _QUICK if arguments.quick else _Sizes()
    return attempt(
        arguments.out,
        "http",
        lambda work: _measured(Folders(work, arguments.base.resolve()), sizes),
        logs="logs",
        tell=lambda content: 0 if arguments.quick else len(content["missed"]) > 0,
    )


def _measured(folders: Folders, sizes: _Sizes) -> dict[str, Any]:
    facts, results = machine.facts(), Results()
    tenants = [f"t-{number:04d}" for number in range(_SLOTS)]
    plans = {"base": workload.base_plan, "chat": workload.chats_plan}
    with _targets(folders) as targets:
        for plan in plans.values():
            for target in targets:
                # Also makes the connections, which a measured request need not wait for.
                target.run(plan(tenants, sizes.streams, 1, sizes.tokens))
        for cell, plan in plans.items():
            again = _always(plan, tenants, sizes)
            alternate(results, cell, targets, sizes.pairs, again)
    figures = ratios(results)
    for name, figure in figures.items():
        say(f"{name:35} {'not measured' if figure is None else format(figure, '.3f')}")
    return {
        **figures,
        "missed": missed(figures),
        "failures": report.failures(results),
        "medians": report.medians(results),
        "cells": results,
        "machine": facts,
    }


def _always(
    plan: Callable[[Sequence[str], int, int, int], Plan], tenants: Sequence[str], sizes: _Sizes
) -> Callable[[int], Plan]:
    """Return what makes the plan anew each time: no server has seen its prompts."""
    return lambda _: plan(tenants, sizes.streams, sizes.rounds, sizes.tokens)


@contextmanager
def _targets(folders: Folders) -> Iterator[Sequence[Target]]:
    """Run vLLM's server and ours, which is asked over HTTP and over gRPC."""
    with ExitStack() as stack:
        port = free_port()
        server = Ours(folders, "ours", _SLOTS, settings={"TAILORBIRD_HTTP_PORT": str(port)})
        stack.callback(server.process.stop)
        vllm = stack.enter_context(peer(folders, "peer", _SLOTS, ()))
        server.wait_until_ready()
        vllm.wait_until_ready()
        with ServingClient(server.address, server.token) as client:
            base = client.server_info().base_model
        http = openai_child(folders, "ours", port, base, server.token)
        targets = [
            Target("ours", stack.enter_context(http), server),
            Target("grpc", stack.enter_context(grpc_child(folders, "grpc", server)), server),
        ]
        for target in targets:
            target.wait_until_ready()
        yield [targets[0], vllm, targets[1]]


def ratios(results: Results) -> dict[str, float | None]:
    """Return the named figures: medians of the pairs' ratios, ours over HTTP over the other's."""

    def of(cell: str, measure: str, theirs: str) -> float | None:
        return median_ratio(
            (pair["ours"][measure], pair[theirs][measure]) for pair in results.get(cell, ())
        )

    speed, first, gap = "tokens_per_second", "ttft_p50", "itl_p99"
    return {
        "ratio_tokens_per_second_base": of("base", speed, "peer"),
        "ratio_tokens_per_second_chat": of("chat", speed, "peer"),
        "ratio_ttft_p50_base": of("base", first, "peer"),
        "ratio_itl_p99_base": of("base", gap, "peer"),
        "ratio_cpu_per_token_base": of("base", "cpu_seconds_per_token", "peer"),
        "ratio_tokens_per_second_over_grpc_base": of("base", speed, "grpc"),
        "ratio_tokens_per_second_over_grpc_chat": of("chat", speed, "grpc"),
    }


def missed(figures: dict[str, float | None]) -> list[str]:
    """Return a line for every bound that was not kept, or not measured."""
    return [
        f"{name}: {'not measured' if figure is None else format(figure, '.3f')}, at least {least}"
        for name, least in _LEAST.items()
        if (figure := figures[name]) is None or figure < least
    ]


if __name__ == "__main__":
    sys.exit(main())
