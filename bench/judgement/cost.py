"""What judging costs a job that trains alone, and what is said of honest versions: nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

from bench.judgement import chats
from bench.judgement.faults import Checked
from bench.judgement.trainer import Ran, Trainer
from bench.judgement.uploads import HELD_OUT
from bench.judgement.versions import demo_spec
from bench.serving.processes import BenchFailed
from bench.serving.targets import say
from examples.demo.tenants import INVOICES, SUPPORT, Tenant
from tailorbird.tuning.v1 import job_pb2

_FIRST = 100
"""Records of the version that is routed before: an honest one that a better one may replace."""
_CANDIDATES = 4


@dataclass(frozen=True, slots=True)
class Cost:
    """One job of the demo's, alone on the trainer. Seconds."""

    job: str
    training: float
    """From its first step to its last validation loss."""
    judging: float
    """From then until the judgement is there; its certificate is made meanwhile, too."""
    records: int
    candidates: Sequence[str]

    @property
    def share(self) -> float:
        """Judging over training."""
        return self.judging / self.training


def measure(trainer: Trainer, runs: int) -> tuple[list[Cost], list[Checked]]:
    """Run the demo's jobs, each alone, `runs` times; return their costs and what was said.

    Of each, the last run takes the traffic: the others leave it to a worse version, which is the
    fourth candidate of all. BenchFailed if a job is not judged by four candidates.
    """
    costs, checked = [], []
    for tenant in (SUPPORT, INVOICES):
        training, _ = trainer.upload(f"{tenant.folder}-all", chats.lines(chats.training(tenant)))
        few, _ = trainer.upload(
            f"{tenant.folder}-few", chats.lines(chats.training(tenant)[:_FIRST])
        )
        held, _ = trainer.upload(
            f"{tenant.folder}-judged", chats.lines(chats.held_out(tenant, HELD_OUT))
        )
        first = demo_spec(tenant, few, held, tenant.folder)
        first.promotion_policy = job_pb2.PROMOTION_POLICY_ALWAYS
        first.hyperparameters.epochs = 1
        trainer.run({"first": first})
        for number in range(runs):
            spec = demo_spec(tenant, training, held, tenant.folder)
            last = number == runs - 1
            if not last:
                spec.promotion_policy = job_pb2.PROMOTION_POLICY_MANUAL
            ran = trainer.run({tenant.folder: spec})[tenant.folder]
            costs.append(_cost(tenant, ran))
            say(
                f"{tenant.folder}, {number + 1} of {runs}: trained in {costs[-1].training:.1f} s, "
                f"judged in {costs[-1].judging:.1f} s"
            )
            checked.append(Checked(f"clean {tenant.folder} job {number + 1}", (), ran.found()))
            if last and not ran.promoted:
                raise BenchFailed(
                    f"the {tenant.folder} job's version was not promoted: {ran.found()}"
                )
    return costs, checked


def told(costs: Sequence[Cost]) -> list[dict[str, object]]:
    """Return the costs with their shares, for the file."""
    return [{**asdict(cost), "share": cost.share} for cost in costs]


def _cost(tenant: Tenant, ran: Ran) -> Cost:
    judgement = ran.judgement
    names = [] if judgement is None else [each.candidate for each in judgement.candidates]
    if judgement is None or len(names) != _CANDIDATES:
        raise BenchFailed(f"the {tenant.folder} job was judged by {names}: {ran.found()}")
    ended = ran.trained_at
    return Cost(
        job=tenant.folder,
        training=ended - ran.time_of(job_pb2.JOB_STATE_RUNNING),
        judging=ran.judged_at - ended,
        records=judgement.records,
        candidates=names,
    )
