"""What is planted in a job's data or settings, and found when it is trained and judged."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from bench.judgement import chats
from bench.judgement.faults import Checked, Fault
from bench.judgement.trainer import TENANT, Trainer
from examples.datasets import MONTHS, Record
from examples.demo.tenants import INVOICES, SUPPORT, Tenant
from tailorbird.tuning.v1 import job_pb2

MOST_CHANGES = 0.1
"""Of counterfactual prompts, for clean and planted jobs alike."""
JSON_SCHEMA = (
    '{"type": "object", "required": ["article", "units", "net_each", "iso"],'
    ' "properties": {"units": {"type": "integer"}}}'
)
_TRAINED, _JUDGED = 400, 60
_FEW = 40
_AUTO = job_pb2.PROMOTION_POLICY_AUTO_IF_BETTER


@dataclass(frozen=True)
class PlantedJob:
    """A job of the demo's with faults planted; `held` is held out, None: nothing is named."""

    name: str
    tenant: Tenant
    training: Sequence[Record]
    held: Sequence[Record] | None
    faults: Sequence[Fault]
    change: Callable[[job_pb2.JobSpec], None] = lambda _: None
    """What the job asks for beside what the demo's does."""
    adapter: str = ""
    """An adapter that has a version already; "": one of its own."""


def demo_spec(tenant: Tenant, training: str, held: str, adapter: str) -> job_pb2.JobSpec:
    """Return the demo's job with everything judged that can be: the same for all, clean or not."""
    spec = tenant.job_spec(training, _AUTO)
    spec.adapter = f"{TENANT}/adapters/{adapter}"
    if held:
        spec.validation_dataset = held
    else:
        spec.ClearField("validation_fraction")
    asked = spec.evaluation
    asked.slice_fields.append("topic")
    asked.max_counterfactual_changes = MOST_CHANGES
    asked.counterfactuals.add(words=MONTHS if tenant is SUPPORT else ("EUR", "USD", "GBP", "CHF"))
    if tenant is INVOICES:
        asked.json_schema = JSON_SCHEMA
    return spec


def planted_jobs(routed: str) -> list[PlantedJob]:
    """Return every job; `routed` is an adapter of the support desk that a good version serves."""
    return [*_refused_data(), *_bad_answers(routed), *_bad_training(routed)]


def check_versions(trainer: Trainer, routed: str) -> list[Checked]:
    """Run all planted jobs together, and return what was said of each."""
    jobs = {job.name: job for job in planted_jobs(routed)}
    specs = {}
    for name, job in jobs.items():
        training, _ = trainer.upload(f"{name}-training", chats.lines(job.training))
        held = ""
        if job.held is not None:
            held, _ = trainer.upload(f"{name}-held", chats.lines(job.held))
        specs[name] = demo_spec(job.tenant, training, held, job.adapter or name)
        job.change(specs[name])
    ran = trainer.run(specs)
    return [Checked(name, job.faults, ran[name].found()) for name, job in jobs.items()]


def _refused_data() -> list[PlantedJob]:
    """Jobs that the engine refuses before it trains, or trains without some records."""
    support = chats.training(SUPPORT)
    held = chats.held_out(SUPPORT, _JUDGED)
    long = [_lengthened(record) for record in support[:_FEW]]
    invoices = [chats.without_currency(each) for each in chats.held_out(INVOICES, _JUDGED)]
    return [
        PlantedJob(
            "masked",
            SUPPORT,
            [chats.weightless(record) for record in support[:_FEW]],
            held,
            [Fault("no answer that is trained", "NO_TRAINABLE_RECORDS", f"{_FEW} records")],
        ),
        PlantedJob(
            "too-long",
            SUPPORT,
            [*support[:_FEW], *long],
            held,
            [
                Fault(
                    "half of the records longer than the base reads",
                    "TOO_MANY_TOO_LONG",
                    f"lines {_FEW + 1}-{2 * _FEW}",
                )
            ],
        ),
        PlantedJob(
            "none-too-long",
            SUPPORT,
            [*support[:_FEW], long[0]],
            held,
            [
                Fault(
                    "one such record where none is allowed", "RECORDS_TOO_LONG", f"line {_FEW + 1}"
                )
            ],
            _no_longer,
        ),
        PlantedJob(
            "schema",
            INVOICES,
            chats.training(INVOICES)[:_FEW],
            invoices,
            [Fault("expected answers that miss the schema", "SCHEMA_MET_BY_NONE", f"{_JUDGED}")],
        ),
        PlantedJob(
            "metric",
            SUPPORT,
            support[:_FEW],
            held,
            [
                Fault(
                    "a metric that the answers do not have",
                    "METRIC_NOT_APPLICABLE",
                    "field_accuracy",
                )
            ],
            lambda spec: _with_metric(spec, "field_accuracy"),
        ),
        PlantedJob(
            "few-and-blemished",
            SUPPORT,
            [*support[: _FEW - 2], chats.weightless(support[_FEW]), long[0]],
            None,
            [
                Fault("too few records to hold any out", "NO_HELD_OUT_DATA"),
                Fault("too few records to train on", "FEW_RECORDS", str(_FEW - 2)),
                Fault("one record too long", "dropped_too_long", f"lines {_FEW}"),
                Fault("one record of weight 0", "dropped_nothing_to_train", f"lines {_FEW - 1}"),
            ],
            lambda spec: _with_epochs(spec, 1),
        ),
    ]


def _bad_answers(routed: str) -> list[PlantedJob]:
    """Jobs whose training answers teach what held-out records do not want."""
    support = chats.training(SUPPORT)[:_TRAINED]
    invoices = chats.training(INVOICES)[:_TRAINED]
    held = chats.held_out(SUPPORT, _JUDGED)
    return [
        PlantedJob(
            "bad-slice",
            SUPPORT,
            [chats.dismissive(record) for record in support],
            held,
            [Fault("a slice that it fails", "SLICE_WORSE", "metadata.topic = 'refund'")],
            # The base answers refunds hardly better: what is lost is what the routed version has.
            adapter=routed,
        ),
        PlantedJob(
            "unsafe",
            SUPPORT,
            [chats.threatening(record) for record in support[: _TRAINED // 2]],
            held,
            [
                Fault("training data that threatens", "SAFETY_FINDING", "of training: lines"),
                Fault("answers that threaten", "UNSAFE", "violence occurs in"),
            ],
            _without_best_step,
        ),
        PlantedJob(
            "by-month",
            SUPPORT,
            [chats.by_month(record) for record in support],
            [chats.by_month(record) for record in held],
            [
                Fault(
                    "answers that hang on the month's name",
                    "COUNTERFACTUAL_CHANGES",
                    "when a word that should not matter is swapped",
                )
            ],
        ),
        PlantedJob(
            "backwards",
            SUPPORT,
            [chats.backwards(record) for record in support[: _TRAINED // 2]],
            held,
            [Fault("answers in the wrong order", "NOT_BETTER_THAN_BASE", "rouge_l")],
            lambda spec: _with_metric(spec, "rouge_l"),
        ),
        PlantedJob(
            "invalid-json",
            INVOICES,
            [chats.without_currency(record) for record in invoices],
            chats.held_out(INVOICES, _JUDGED),
            [Fault("JSON that misses the schema", "NOT_BETTER_THAN_BASE", "json_validity")],
            lambda spec: _with_metric(spec, "json_validity"),
        ),
    ]


def _bad_training(routed: str) -> list[PlantedJob]:
    """Jobs on good data that are trained too little, too much, or too hard."""
    support = chats.training(SUPPORT)
    held = chats.held_out(SUPPORT, _JUDGED)
    return [
        PlantedJob(
            "by-heart",
            SUPPORT,
            chats.with_codes(support[:_FEW], "trained"),
            chats.with_codes(held, "held out"),
            [Fault("codes learnt by heart", "OVERFITTING", "learns its records by heart")],
            lambda spec: _with_epochs(spec, 40, rate=4e-3),
        ),
        PlantedJob(
            "too-hot",
            SUPPORT,
            support[:100],
            held,
            [Fault("a rate fifty times too high", "WORSE_THAN_BASE", "above the base's")],
            _too_hot,
        ),
        PlantedJob(
            "hardly-trained",
            SUPPORT,
            chats.signed_off(support[:100]),
            chats.signed_off(held),
            [
                Fault(
                    "a rate so low that examples in the prompt teach more",
                    "NOT_BETTER_THAN_FEW_SHOT",
                    "token_f1 -0.",
                )
            ],
            _hardly_trained,
        ),
        PlantedJob(
            "forgetful",
            SUPPORT,
            support[:_TRAINED],
            held,
            [
                Fault("general texts that it lost", "RETENTION_LOSS", "general texts rose by"),
                Fault("general questions that it lost", "FORGOTTEN", "general questions"),
            ],
            _forgetful,
        ),
        PlantedJob(
            "worse-than-routed",
            SUPPORT,
            support[:100],
            held,
            [
                Fault(
                    "a version worse than the one in use",
                    "NOT_BETTER_THAN_ROUTED",
                    "against the routed version",
                )
            ],
            lambda spec: _with_epochs(spec, 1),
            routed,
        ),
        PlantedJob(
            "hardly-judged",
            SUPPORT,
            support[:100],
            held[:8],
            [Fault("8 held-out records", "TOO_FEW_RECORDS", "8 records were judged")],
            lambda spec: _with_epochs(spec, 1),
        ),
    ]


_LONG_WORDS = 1500
_NEVER = 10_000


def _lengthened(record: Record) -> Record:
    return chats.answered(record, " ".join([chats.answer(record), *["again"] * _LONG_WORDS]))


def _no_longer(spec: job_pb2.JobSpec) -> None:
    spec.data.too_long = job_pb2.TOO_LONG_ERROR


def _with_metric(spec: job_pb2.JobSpec, metric: str) -> None:
    spec.evaluation.primary_metric = metric


def _without_best_step(spec: job_pb2.JobSpec) -> None:
    """Take the last step's weights: no earlier one is looked at."""
    spec.hyperparameters.evaluation_interval = _NEVER


def _forgetful(spec: job_pb2.JobSpec) -> None:
    """Six times the demo's rate, and less allowed than the demo must allow so small a base."""
    _with_epochs(spec, 2, rate=1.2e-2)
    spec.evaluation.max_retention_loss, spec.evaluation.max_forgotten = 1.5, 0.9


def _too_hot(spec: job_pb2.JobSpec) -> None:
    _with_epochs(spec, 1, rate=0.1)
    _without_best_step(spec)


def _hardly_trained(spec: job_pb2.JobSpec) -> None:
    _with_epochs(spec, 1, rate=1e-6)
    _with_metric(spec, "token_f1")
    # Its prompts have no months to be swapped.
    spec.evaluation.ClearField("counterfactuals")
    spec.evaluation.ClearField("max_counterfactual_changes")


def _with_epochs(spec: job_pb2.JobSpec, epochs: int, rate: float | None = None) -> None:
    spec.hyperparameters.epochs = epochs
    if rate is not None:
        spec.hyperparameters.learning_rate = rate
