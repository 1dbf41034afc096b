"""How much the draw matters: `python -m examples.demo.seeds`.

Trains the demo's three jobs once for every seed and thread count, as `make demo` does, and puts the
held-out questions to every version. Exits 1 if one answers fewer of them right than the demo asks,
or if its judgement is against promoting it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from examples.demo.stage import Stage
from examples.demo.story import TUNED_AT_LEAST
from examples.demo.tenants import EXAMPLES, FIRST, INVOICES, SECOND, SUPPORT, Tenant, score
from tailorbird.cli.output import last_part, out
from tailorbird.cli.watch import JobView, outcome
from tailorbird.errors import TailorbirdError
from tailorbird.tuning.v1 import job_pb2

JOBS = {
    "support v1": (SUPPORT, FIRST),
    "support v2": (SUPPORT, SECOND),
    "invoices": (INVOICES, FIRST),
}
_MANUAL = job_pb2.PROMOTION_POLICY_MANUAL


@dataclass(frozen=True, slots=True)
class Draw:
    """A version's share of right answers, 0 to 1, and why it would not be promoted, or ""."""

    share: float
    refusal: str

    def __str__(self) -> str:
        return f"{self.share:.2f} {self.refusal}".rstrip()

    @property
    def good(self) -> bool:
        """Whether the demo would hold."""
        return self.share >= TUNED_AT_LEAST and not self.refusal


def draws(folder: Path, seeds: Iterable[int]) -> Iterator[dict[str, Draw]]:
    """Yield, for each seed, what came of each job.

    Raises TailorbirdError if a job fails.
    """
    with Stage(folder, str(EXAMPLES / "demo_base")) as stage:
        stage.services.until_ready(stage.services.trainer)
        for tenant, stem in JOBS.values():
            stage.trainer(tenant).upload_dataset(tenant.name, stem, tenant.file(stem))
        asked = [{job: _create(stage, *JOBS[job], seed) for job in JOBS} for seed in seeds]
        stage.services.until_ready()
        for names in asked:
            yield {job: _draw(stage, JOBS[job][0], name) for job, name in names.items()}


def _create(stage: Stage, tenant: Tenant, stem: str, seed: int) -> str:
    spec = tenant.job_spec(f"{tenant.name}/datasets/{stem}", _MANUAL, seed)
    return stage.trainer(tenant).create_job(tenant.name, spec).name


def _draw(stage: Stage, tenant: Tenant, name: str) -> Draw:
    """Wait for a job's version, put the questions to it, and read its judgement."""
    view = JobView()
    for event in stage.trainer(tenant).watch_job(name):
        view = view.after(event)
    if not view.succeeded:
        raise TailorbirdError(f"{name} {outcome(view)}")
    serving = stage.serving(tenant)
    decision = serving.get_version(view.version).judgement.decision
    scored = score(serving, tenant.adapter, tenant.questions(), last_part(view.version))
    return Draw(scored.share, "" if decision.promote else decision.reason)


def main() -> int:
    """Print a line for each seed, then the lowest of each job; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m examples.demo.seeds", description=__doc__)
    parser.add_argument("--seeds", type=int, default=10, help="how many, from 0 on")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="of each worker")
    asked = parser.parse_args()
    lowest, all_good = dict.fromkeys(JOBS, 1.0), True
    _line("threads", "seed", *JOBS)
    for threads in asked.threads:
        os.environ["TAILORBIRD_THREADS"] = str(threads)  # the trainer inherits it
        with tempfile.TemporaryDirectory() as folder:
            for seed, drawn in enumerate(draws(Path(folder), range(asked.seeds))):
                _line(str(threads), str(seed), *map(str, drawn.values()))
                lowest = {job: min(share, drawn[job].share) for job, share in lowest.items()}
                all_good &= all(draw.good for draw in drawn.values())
    _line("", "lowest", *map(_two_digits, lowest.values()))
    return 0 if all_good else 1


def _two_digits(share: float) -> str:
    return f"{share:.2f}"


def _line(*cells: str) -> None:
    out.print("  ".join(f"{cell:>10}" for cell in cells), highlight=False)


if __name__ == "__main__":
    sys.exit(main())
