"""`tailorbird top`: what each replica does now, from its metrics and from the API."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Annotated, Any

import typer
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from tailorbird.cli.connect import TenantOption, parent_of, with_both
from tailorbird.cli.exits import Exit
from tailorbird.cli.formats import Output, OutputOption, print_values
from tailorbird.cli.output import describe, last_part, out, plain, size
from tailorbird.cli.scrape import Reading, place, scrape
from tailorbird.cli.watch import state_name
from tailorbird.client import ServingClient, TrainerClient
from tailorbird.errors import TailorbirdError
from tailorbird.tuning.v1 import job_pb2

_LOCAL = ("localhost:9091", "localhost:9092")
"""Where `tailorbird up` has them."""
_AT_WORK = (
    job_pb2.JOB_STATE_RUNNING,
    job_pb2.JOB_STATE_EVALUATING,
    job_pb2.JOB_STATE_PUBLISHING,
    job_pb2.JOB_STATE_PREPARING,
)
_MOST_JOBS = 20

Row = dict[str, Any]
Rows = list[Row]


@with_both
def top(
    trainer: TrainerClient,
    serving: ServingClient,
    metrics: Annotated[
        list[str] | None,
        typer.Option(
            help="host:port of a replica's plain HTTP port; give it for each."
            " Else those of `up` here: localhost:9091 and localhost:9092."
        ),
    ] = None,
    once: Annotated[bool, typer.Option("--once", help="Show it once, and end.")] = False,
    interval: Annotated[
        float, typer.Option(help="Seconds between two readings, of which rates are made.", min=0)
    ] = 2.0,
    tenant: TenantOption = None,
    output: OutputOption = Output.TABLE,
) -> None:
    """Show what each replica does now: requests, slots, cache, jobs at work, tokens a second.

    Anew at each interval on a terminal; once elsewhere. With a tenant also what the replica that
    answers holds of its versions, and its jobs at work.
    """
    for address in metrics or ():
        place(address)
    view = _View(trainer, serving, metrics or _LOCAL, tenant)
    if once or output.is_data or not out.is_terminal:
        found = view.read()
        if interval:
            time.sleep(interval)
            found = view.read()
        if output.is_data:
            print_values(found, output)
        else:
            out.print(_drawn(found))
        if not found["serving"] and not found["trainer"]:
            raise typer.Exit(Exit.UNAVAILABLE)
        return
    try:
        with Live(console=out, auto_refresh=False, screen=True) as live:
            while True:
                live.update(_drawn(view.read()), refresh=True)
                time.sleep(max(interval, 0.1))
    except KeyboardInterrupt:
        return


class _View:
    """What is asked again and again, and the reading before, of which rates are made."""

    def __init__(
        self,
        trainer: TrainerClient,
        serving: ServingClient,
        addresses: Sequence[str],
        tenant: str | None,
    ) -> None:
        self._trainer, self._serving = trainer, serving
        self._addresses = addresses
        self._parent = parent_of(tenant) if tenant else ""
        self._before: dict[str, Reading] = {}

    def read(self) -> dict[str, Rows]:
        """Return rows of figures; under `unknown` what did not answer, and why."""
        found: dict[str, Rows] = {
            "serving": [], "trainer": [], "residency": [], "jobs": [], "unknown": []
        }  # fmt: skip
        for address in self._addresses:
            try:
                now = scrape(address)
            except TailorbirdError as error:
                found["unknown"].append({"of": f"metrics of {address}", "why": describe(error)})
                continue
            before = self._before.get(address)
            self._before[address] = now
            if now.is_serving:
                found["serving"].append({"replica": address, **_of_serving(now, before)})
            else:
                found["trainer"].append({"replica": address, **_of_trainer(now, before)})
        if self._parent:
            for key, what, ask in (
                ("residency", "versions held", self._residency),
                ("jobs", "jobs at work", self._jobs),
            ):
                try:
                    found[key].extend(ask())
                except TailorbirdError as error:
                    found["unknown"].append({"of": what, "why": describe(error)})
        return found

    def _residency(self) -> Iterable[Row]:
        for page in self._serving.list_residency(self._parent):
            for held in page.versions:
                yield {
                    "replica": page.replica,
                    "version": held.name,
                    "tier": type(held).Tier.Name(held.tier).removeprefix("TIER_").lower(),
                    "requests": held.leases,
                    "pinned": held.pinned,
                    "refused": held.refusal.reason,
                }

    def _jobs(self) -> Iterable[Row]:
        for state in _AT_WORK:
            for job in islice(self._trainer.list_jobs(self._parent, state=state), _MOST_JOBS):
                progress = job.progress
                yield {
                    "job": job.name,
                    "state": state_name(job.state),
                    "step": progress.step,
                    "total_steps": progress.total_steps,
                    "loss": progress.loss if progress.HasField("loss") else None,
                    "adapter": job.spec.adapter,
                }


def _of_serving(now: Reading, before: Reading | None) -> Row:
    return {
        "running": now.total("vllm:num_requests_running"),
        "waiting": now.total("vllm:num_requests_waiting"),
        "slots_taken": now.total("vllm:num_gpu_loaded_lora_adapters"),
        "slots": now.total("vllm:max_gpu_lora_adapters"),
        "on_disk": now.total("tailorbird_serving_adapters_on_disk"),
        "kv_cache": now.total("vllm:kv_cache_usage_perc"),
        "tokens_per_second": now.rate(before, "tailorbird_serving_tokens_total", kind="completion"),
        "engine_up": now.total("tailorbird_serving_engine_up"),
    }


def _of_trainer(now: Reading, before: Reading | None) -> Row:
    return {
        "workers": now.total("tailorbird_trainer_workers_ready"),
        "jobs": {
            state.lower(): count
            for state, count in now.by("tailorbird_trainer_jobs", "state").items()
        },
        "tokens_per_second": now.rate(before, "tailorbird_trainer_tokens_total"),
        "steps_per_second": now.rate(before, "tailorbird_trainer_steps_total"),
        "memory_bytes": now.total("tailorbird_trainer_worker_memory_bytes"),
    }


def _drawn(found: Mapping[str, Rows]) -> Group:
    parts = [_table(heads, map(cells, found[key])) for key, heads, cells in _TABLES if found[key]]
    unknown = [Text(f"{each['of']}: {each['why']}", style="red") for each in found["unknown"]]
    spaced = [piece for part in parts for piece in (part, Text(""))]
    return Group(*spaced, *unknown)


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for head in heads:
        table.add_column(head, overflow="fold")
    for row in rows:
        table.add_row(*(Text(plain(cell)) for cell in row))
    return table


def _serving_cells(row: Row) -> Sequence[str]:
    return (
        row["replica"],
        _count(row["running"]),
        _count(row["waiting"]),
        f"{_count(row['slots_taken'])}/{_count(row['slots'])}",
        _count(row["on_disk"]),
        "" if row["kv_cache"] is None else f"{row['kv_cache']:.1%}",
        _count(row["tokens_per_second"]),
        "" if row["engine_up"] else "the engine is down",
    )


def _trainer_cells(row: Row) -> Sequence[str]:
    jobs = ", ".join(f"{count:.0f} {state}" for state, count in row["jobs"].items())
    steps, memory = row["steps_per_second"], row["memory_bytes"]
    return (
        row["replica"],
        _count(row["workers"]),
        jobs or "none",
        _count(row["tokens_per_second"]),
        "" if steps is None else f"{steps:.1f}",
        size(memory) if memory else "",
    )


def _residency_cells(row: Row) -> Sequence[str]:
    version = row["version"].partition("/adapters/")[2].replace("/versions/", " ")
    pinned = "pinned" if row["pinned"] else ""
    return row["replica"], version, row["tier"], str(row["requests"]), pinned, row["refused"]


def _job_cells(row: Row) -> Sequence[str]:
    step = f"{row['step']:,}/{row['total_steps']:,}" if row["total_steps"] else ""
    loss = "" if row["loss"] is None else f"{row['loss']:.3f}"
    return last_part(row["job"]), row["state"], step, loss, last_part(row["adapter"])


def _count(value: float | None) -> str:
    return "" if value is None else f"{value:,.0f}"


_TABLES: tuple[tuple[str, Sequence[str], Callable[[Row], Sequence[str]]], ...] = (
    (
        "serving",
        ("SERVING", "RUNNING", "WAITING", "SLOTS", "ON DISK", "KV CACHE", "TOKENS/S", ""),
        _serving_cells,
    ),
    ("trainer", ("TRAINER", "WORKERS", "JOBS", "TOKENS/S", "STEPS/S", "MEMORY"), _trainer_cells),
    (
        "residency",
        ("REPLICA", "VERSION", "TIER", "REQUESTS", "PINNED", "REFUSED"),
        _residency_cells,
    ),
    ("jobs", ("JOB", "STATE", "STEP", "LOSS", "ADAPTER"), _job_cells),
)
