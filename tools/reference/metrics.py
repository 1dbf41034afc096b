"""The page of metrics: what each service exports, from where it is declared."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry

from serving_svc.metrics import ServingMetrics, Snapshot
from tools.reference.source import calls, text, trees
from tools.reference.text import begin, cell, done, one_line

_KINDS = {"Counter": "counter", "Gauge": "gauge", "Histogram": "histogram"}
_HEADINGS = {"tailorbird": "Both services", "trainer_svc": "The trainer", "serving_svc": "Serving"}


@dataclass(frozen=True, slots=True)
class _Metric:
    name: str
    kind: str
    told: str
    labels: tuple[str, ...]


def page() -> str:
    """Return docs/reference/metrics.md."""
    lines = begin(
        "Metrics",
        "Both services export these at `/metrics` on the port `TAILORBIRD_METRICS_PORT`. A "
        "counter's name ends in `_total`, a histogram's series in `_bucket`, `_sum` and `_count`. "
        "The rules and dashboards of the [chart](../deploy.md) are made of them.",
        "the places that declare them",
    )
    for room, heading in _HEADINGS.items():
        lines += [f"## {heading}", "", *_table(sorted(_declared(room), key=lambda one: one.name))]
    lines += [
        "## Serving, under vLLM's names",
        "",
        "What the Gateway API inference extension, llm-d and KEDA read.",
        "",
        *_table(_platform()),
    ]
    return done(lines)


def _table(metrics: list[_Metric]) -> list[str]:
    rows = [
        f"| `{one.name}` | {one.kind} | {', '.join(f'`{label}`' for label in one.labels)} "
        f"| {cell(one_line(one.told))} |"
        for one in metrics
    ]
    return ["| name | kind | labels | what it says |", "|---|---|---|---|", *rows, ""]


def _declared(room: str) -> Iterator[_Metric]:
    for path, tree in trees(room).items():
        for function, call in calls(tree):
            if function not in _KINDS or not any(word.arg == "registry" for word in call.keywords):
                continue
            name, told = (text(argument) for argument in call.args[:2])
            if name is None or told is None:
                raise ValueError(f"{path}:{call.lineno}: a metric without a constant name and text")
            kind = _KINDS[function]
            suffix = "_total" if kind == "counter" else ""
            labels = ast.literal_eval(call.args[2]) if len(call.args) > 2 else ()
            yield _Metric(name + suffix, kind, told, tuple(labels))


class _Everything:
    """A state in which everything is there to be told."""

    def snapshot(self) -> Snapshot:
        return Snapshot(
            model="base",
            running=1,
            waiting=1,
            running_adapters=("a",),
            waiting_adapters=("b",),
            loaded=(("a", False),),
            slots=1,
            kept=("b",),
            kv_usage=0.5,
            block_size=16,
            blocks=1,
        )


def _platform() -> list[_Metric]:
    registry = CollectorRegistry()
    metrics = ServingMetrics(registry)
    metrics.watch(_Everything())
    found = []
    for family in registry.collect():
        if family.name.startswith("vllm:"):
            labels = dict.fromkeys(
                name for one in family.samples for name in one.labels if name != "le"
            )
            found.append(_Metric(family.name, family.type, family.documentation, tuple(labels)))
    return found
