"""The story, step by step. Each step does one thing, shows it, and checks it."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import grpc
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from examples.datasets import SIGN_OFF, SIGN_OFF_V2
from examples.demo import metrics
from examples.demo.report import Report
from examples.demo.stage import TENANTS, Stage
from examples.demo.swap import SwapReport, promote_under_load
from examples.demo.tenants import (
    BATCH_TOKENS,
    FIRST,
    INVOICES,
    LEARNING_RATE,
    MAX_FORGOTTEN,
    MAX_RETENTION_LOSS,
    SECOND,
    SUPPORT,
    VALIDATION,
    Tenant,
    score,
)
from tailorbird.cli.output import last_part, size
from tailorbird.cli.services import Told
from tailorbird.cli.watch import JobBars, JobView, outcome
from tailorbird.client import CallError
from tailorbird.errors import TailorbirdError
from tailorbird.tuning.v1 import job_pb2

TUNED_AT_LEAST, BASE_BELOW = 0.75, 0.1
_SIGNED_AT_LEAST = 0.9
_PATIENCE = 10.0
_AUTO = job_pb2.PROMOTION_POLICY_AUTO_IF_BETTER
_MANUAL = job_pb2.PROMOTION_POLICY_MANUAL


def tell(stage: Stage, report: Report) -> None:
    """Tell the whole story on a stage whose services have been started."""
    _trainer_up(stage, report)
    _upload(stage, report)
    *first, second = _create_jobs(stage, report)
    views = _follow(stage, report, first)
    _serving_up(stage, report)
    _judged(stage, report, [view.version for view in views])
    _compare(stage, report)
    _keep_apart(stage, report)
    version = _review(stage, report, second)
    _swap(stage, report, second.tenant, version)
    _measure(stage, report)


def _trainer_up(stage: Stage, report: Report) -> None:
    report.step("Two services, one object store")
    report.say(f"store    {stage.plan.store_url}")
    report.say(f"trainer  {stage.services.trainer.address}")
    report.say(f"serving  {stage.services.serving.address} (vLLM starts meanwhile)")
    report.command(f"tailorbird up --base-model {stage.plan.base_model}")
    with _spinner(report, "waiting for the trainer"):
        stage.services.until_ready(
            stage.services.trainer,
            told=Told(
                ready=lambda one, took: report.say(f"{one.name} is ready after {took:.0f} s")
            ),
        )


def _upload(stage: Stage, report: Report) -> None:
    report.step("The customers upload their chats")
    rows = []
    for tenant, stem, story in (
        (SUPPORT, FIRST, SUPPORT.story),
        (INVOICES, FIRST, INVOICES.story),
        (SUPPORT, SECOND, "the same, with a new sign-off"),
    ):
        path = tenant.file(stem)
        report.command(
            f"tailorbird datasets upload {tenant.folder}/{path.name} --tenant {tenant.id} "
            f"--id {stem}"
        )
        dataset = stage.trainer(tenant).upload_dataset(tenant.name, stem, path)
        rows.append([tenant.id, stem, story, str(dataset.record_count), size(dataset.size_bytes)])
        report.check(
            f"{tenant.id}'s upload of {stem} is whole",
            dataset.size_bytes == path.stat().st_size,
            f"{dataset.record_count} records",
        )
    report.table(["TENANT", "DATASET", "WHAT IT TEACHES", "CHATS", "SIZE"], rows)


@dataclass(frozen=True, slots=True)
class _Job:
    tenant: Tenant
    stem: str
    policy: job_pb2.PromotionPolicy.ValueType
    name: str
    label: str


def _create_jobs(stage: Stage, report: Report) -> list[_Job]:
    report.step("Three fine-tuning jobs at once")
    jobs = []
    for tenant, stem, policy, label in (
        (SUPPORT, FIRST, _AUTO, "support"),
        (INVOICES, FIRST, _AUTO, "invoices"),
        (SUPPORT, SECOND, _MANUAL, "support v2"),
    ):
        report.command(
            f"tailorbird jobs create --tenant {tenant.id} --adapter {tenant.folder} --data {stem} "
            f"--validation {VALIDATION:g} --epochs {tenant.epochs} "
            f"--learning-rate {LEARNING_RATE:g} --batch-tokens {BATCH_TOKENS} "
            f"--max-retention-loss {MAX_RETENTION_LOSS:g} --max-forgotten {MAX_FORGOTTEN:g} "
            f"--policy {'manual' if policy == _MANUAL else 'auto-if-better'}"
        )
        spec = tenant.job_spec(f"{tenant.name}/datasets/{stem}", policy)
        name = stage.trainer(tenant).create_job(tenant.name, spec).name
        jobs.append(_Job(tenant, stem, policy, name, label))
    return jobs


def _follow(stage: Stage, report: Report, jobs: Sequence[_Job]) -> list[JobView]:
    """Show the jobs' progress to their ends, and check how they end.

    TailorbirdError if one ends otherwise than its policy has it: what follows asks its adapter.
    """
    with JobBars(report.console) as bars, ThreadPoolExecutor(len(jobs)) as pool:

        def follow(job: _Job) -> JobView:
            events = stage.trainer(job.tenant).watch_job(job.name, patience=_PATIENCE)
            return bars.follow(f"{job.label:<10}", events)

        views = list(pool.map(follow, jobs))
    for job, view in zip(jobs, views, strict=True):
        report.say(f"{job.label}: {outcome(view)}")
        as_asked = view.succeeded and view.promoted is (job.policy == _AUTO)
        report.check(f"{job.tenant.id}'s job publishes {job.stem}", as_asked, outcome(view))
        if not as_asked:
            raise TailorbirdError(f"{job.name}: {outcome(view)}")
    return views


def _serving_up(stage: Stage, report: Report) -> None:
    report.step("vLLM serves both adapters on one base")
    with _spinner(report, "waiting for vLLM"):
        stage.services.until_ready()
    info = stage.serving(SUPPORT).server_info()
    report.say(
        f"{info.base_model} in {info.dtype}, {info.adapter_slots} adapters at once, "
        f"rank up to {info.max_lora_rank}, {info.max_model_len} tokens"
    )


def _judged(stage: Stage, report: Report, versions: Sequence[str]) -> None:
    """Show what the trainer found out, by which the versions were promoted, and their reports."""
    report.step("What the trainer found out before it promoted them")
    rows = []
    for tenant, name in zip(TENANTS, versions, strict=True):
        serving = stage.serving(tenant)
        found = serving.get_version(name).judgement
        metric = found.primary_metric
        shares = {each.candidate: each.metrics[metric].value for each in found.candidates}
        few = f"{shares['few_shot']:.2f} ({found.few_shot_examples} examples)"
        rows.append([tenant.id, metric, f"{shares['base']:.2f}", few, f"{shares['tuned']:.2f}"])
        # Beside the run's folder, which goes when all is well.
        page = stage.plan.data_dir.parent / f"report-{tenant.folder}.html"
        page.write_bytes(serving.get_version_report(name))
        report.command(f"tailorbird adapters report {name} --open")
        report.say(f"  {page} ({size(page.stat().st_size)})")
        report.check(
            f"{tenant.id}'s version beat the base and a few-shot prompt",
            found.decision.promote and found.few_shot_examples > 0,
            found.decision.message,
        )
    report.table(["TENANT", "METRIC", "BASE", "FEW-SHOT", "TUNED"], rows)


def _compare(stage: Stage, report: Report) -> None:
    report.step("Held-out questions: the base against the tuned adapter")
    rows = []
    for tenant in TENANTS:
        serving, questions = stage.serving(tenant), tenant.questions()
        with _spinner(report, f"asking {len(questions)} questions of {tenant.id}, twice"):
            base = score(serving, tenant.name, questions)
            tuned = score(serving, tenant.adapter, questions)
        rows.append([tenant.id, str(base.total), f"{base.share:.2f}", f"{tuned.share:.2f}"])
        report.say(f"{tenant.id} asks:  {questions[0].messages[-1].content}")
        report.say(f"  base:   {' '.join(base.example.split())[:160]}", "dim")
        report.say(f"  tuned:  {tuned.example}", "green")
        report.check(
            f"{tenant.id} tuned at least {TUNED_AT_LEAST}",
            tuned.share >= TUNED_AT_LEAST,
            f"{tuned.share:.2f}",
        )
        report.check(
            f"{tenant.id} base below {BASE_BELOW}", base.share < BASE_BELOW, f"{base.share:.2f}"
        )
    report.table(["TENANT", "QUESTIONS", "BASE", "TUNED"], rows)


def _keep_apart(stage: Stage, report: Report) -> None:
    report.step("Nobody sees another customer's adapter")
    for asker, owner in ((SUPPORT, INVOICES), (INVOICES, SUPPORT)):
        question = owner.questions()[0]
        try:
            answer = stage.serving(asker).generate(question.request(owner.adapter))
            refused, found = False, f"it answered: {answer.text[:60]}"
        except CallError as error:
            refused, found = error.code is grpc.StatusCode.NOT_FOUND, str(error)
        report.say(f"{asker.id}'s token asks {owner.adapter}")
        report.say(f"  {found}", "green" if refused else "red")
        report.check(f"{owner.id}'s adapter is refused to {asker.id}", refused, found)


def _review(stage: Stage, report: Report, job: _Job) -> str:
    """Wait for the second version, put the questions to it, and return its name."""
    tenant = job.tenant
    report.step(f"{tenant.id}'s second version: trained meanwhile, not promoted by itself")
    report.command(f"tailorbird jobs watch {job.name}")
    (view,) = _follow(stage, report, [job])
    routed = stage.serving(tenant).get_adapter(tenant.adapter).route.version
    report.check("a MANUAL job leaves the route alone", routed != view.version, last_part(routed))
    with _spinner(report, "asking the questions of it, by its name"):
        found = score(
            stage.serving(tenant), tenant.adapter, tenant.questions(), last_part(view.version)
        )
    report.say(f"asked by its name, it answers {found.share:.2f} of the questions right")
    report.check(
        f"v2 at least {TUNED_AT_LEAST}", found.share >= TUNED_AT_LEAST, f"{found.share:.2f}"
    )
    return view.version


def _swap(stage: Stage, report: Report, tenant: Tenant, new: str) -> None:
    serving = stage.serving(tenant)
    old = serving.get_adapter(tenant.adapter).route.version
    report.step("Promoted while requests stream")
    report.command(f"tailorbird adapters promote {new}")
    with _spinner(report, "streaming") as progress:
        (task,) = progress.task_ids

        def tick(seen: SwapReport) -> None:
            progress.update(task, description=f"streaming: {len(seen.answers)} answers")

        swap = promote_under_load(serving, tenant.adapter, new, tenant.questions(), tick)
    names = {old: "v1", new: "v2"}
    _show_swap(report, swap, names)
    count = swap.by_version
    late = {answer.version for answer in swap.began_after()}
    report.check("no request failed", not swap.failures, "; ".join(swap.failures[:2]) or "0")
    report.check("only v1 and v2 answered", set(count) == {old, new}, f"{count.total()} answers")
    report.check(
        "every request begun after Promote is v2's",
        late == {new},
        f"{len(swap.began_after())} requests",
    )
    for version, sign_off in ((old, SIGN_OFF), (new, SIGN_OFF_V2)):
        texts = [answer.text for answer in swap.answers if answer.version == version]
        signed = sum(text.rstrip().endswith(sign_off) for text in texts)
        report.check(
            f'{names[version]} signs "{sign_off}"',
            signed >= _SIGNED_AT_LEAST * len(texts),
            f"{signed} of {len(texts)} answers",
        )


def _show_swap(report: Report, swap: SwapReport, names: dict[str, str]) -> None:
    for version, name in names.items():
        report.say(f"{name} = {last_part(version)}", "dim")
    rows = []
    for version, count in swap.by_version.items():
        last = [answer.text for answer in swap.answers if answer.version == version][-1]
        rows.append([names.get(version, "neither"), str(count), f"...{last[-36:]}"])
    report.table(["VERSION", "ANSWERED", "ITS LAST ANSWER"], rows)
    report.say(
        f"{swap.by_version.total() + len(swap.failures)} requests, {len(swap.failures)} failed; "
        f"Promote took {swap.promotion_seconds:.2f} s: v2 had passed the gate when it was asked"
    )


def _measure(stage: Stage, report: Report) -> None:
    report.step("What the metrics say")
    _, trainer = stage.services.trainer.get("/metrics")
    _, serving = stage.services.serving.get("/metrics")
    for line in metrics.lines(trainer, metrics.TRAINER) + metrics.lines(serving, metrics.SERVING):
        report.say(line, "dim")
    published = metrics.total(trainer, "tailorbird_trainer_versions_published_total")
    flips = metrics.total(serving, "tailorbird_serving_route_flips_total")
    refusals = metrics.total(serving, "tailorbird_serving_refusals_total")
    report.check("/metrics counts three published versions", published == 3, f"{published:g}")
    report.check(
        "/metrics counts the swap, and no refusal",
        flips >= 1 and refusals == 0,
        f"{flips:g} route flips, {refusals:g} refusals",
    )


def _spinner(report: Report, text: str) -> Progress:
    """Show that something goes on, where there is a terminal."""
    progress = Progress(
        TextColumn("  "),
        SpinnerColumn(),
        TextColumn("{task.description}"),
        TimeElapsedColumn(),
        console=report.console,
        transient=True,
        disable=not report.console.is_terminal,
    )
    progress.add_task(text, total=None)
    return progress
