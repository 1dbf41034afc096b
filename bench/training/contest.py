"""Contenders side by side: each in a process, measured in turn in the same minute."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

from bench.serving.processes import LineChild, Process
from bench.serving.targets import say
from bench.training.contender import Contender
from bench.training.environment import common_environment
from bench.training.formats import FORMATS

Pair = Mapping[str, Mapping[str, float]]
"""What each contender told of its turn."""

_START_SECONDS = 300.0
_STEPS_SECONDS = 600.0


def contest(
    name: str,
    contenders: Mapping[str, Contender],
    *,
    pairs: int,
    steps: int,
    logs: Path,
    warm_steps: int = 1,
) -> list[Pair]:
    """Return `pairs` rounds of `steps` steps each, every second one backwards; BenchFailed.

    Each takes `warm_steps` steps before the first round, which do not count.
    """
    with ExitStack() as stack:
        children = {}
        for side, contender in contenders.items():
            children[side] = _started(name, side, contender, logs)
            stack.callback(children[side].stop)
        starts = {side: child.receive(_START_SECONDS) for side, child in children.items()}
        for child in children.values():
            if warm_steps:
                _run(child, warm_steps)
        rounds: list[Pair] = []
        for number in range(pairs):
            order = list(children) if number % 2 == 0 else list(reversed(children))
            told = {side: _run(children[side], steps) for side in order}
            rounds.append(
                {side: {**told[side], "start_mib": starts[side]["rss_mib"]} for side in children}
            )
            say(f"{name}, {number + 1} of {pairs}: {_seconds(rounds[-1])}")
        return rounds


def fastest_format(name: str, peer: Contender, *, steps: int, logs: Path) -> tuple[str, Any]:
    """Return the number format in which the peer is fastest, and each one's tokens/s."""
    speeds = {}
    for number_format in FORMATS:
        told = replace(peer, number_format=number_format)
        (round_,) = contest(
            f"{name}, number formats", {number_format: told}, pairs=1, steps=steps, logs=logs
        )
        speeds[number_format] = round_[number_format]["tokens_per_second"]
    return max(speeds, key=lambda each: speeds[each]), speeds


def _started(name: str, side: str, told: Contender, logs: Path) -> LineChild:
    slug = "".join(letter if letter.isalnum() else "-" for letter in f"{name}-{side}")
    process = Process(
        f"{name}, {side}",
        ["-m", "bench.training.child"],
        common_environment(told.threads),
        logs / f"{slug}.log",
        piped=True,
    )
    child = LineChild(process)
    child.send(told.to_json())
    return child


def _run(child: LineChild, steps: int) -> dict[str, Any]:
    child.send(json.dumps({"steps": steps}))
    return child.receive(_STEPS_SECONDS)


def _seconds(pair: Pair) -> str:
    # All do the same work; tokens would count what a padded side pads with.
    return ", ".join(f"{side} {told['seconds']:.2f} s" for side, told in pair.items())
