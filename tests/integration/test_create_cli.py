"""`tailorbird jobs create`: every field of a job's specification, by options or from a file."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from google.protobuf.message import Message

from tailorbird.tuning.v1 import job_pb2
from tests.integration.scripted_services import ADAPTER, VERSIONS, Script
from tests.integration.test_cli import Run, run, stdin

__all__ = ["run"]

CREATE = ("jobs", "create", "--adapter", "support", "--data", "chats")
ALL = (
    *("--from-version", VERSIONS[1], "--base-model", "demo", "--validation", "held"),
    *("--label", "team=billing", "--label", "note=a=b", "--rank", "8", "--alpha", "32"),
    *("--target-modules", "q_proj, v_proj", "--rslora", "--dropout", "0.25", "--epochs", "3"),
    *("--learning-rate", "1e-3", "--warmup-ratio", "0.125", "--weight-decay", "0.5"),
    *("--batch-tokens", "2048", "--max-sequence-length", "64", "--too-long", "error"),
    *("--max-too-long", "0.5", "--early-stopping-patience", "4", "--evaluation-interval", "10"),
    *("--checkpoint-interval", "20", "--seed", "7", "--policy", "manual", "--metric", "rouge_l"),
    *("--slice", "language", "--few-shot", "2", "--max-retention-loss", "0.5"),
    *("--max-forgotten", "0.125", "--exclusive", "--priority", "5"),
    *("--data-limit", "leakage=0", "--data-limit", "exact-duplicates=0.5"),
    *("--data-limit", "near-duplicates=0.5", "--data-limit", "contradictions=0.5"),
    *("--data-limit", "label-share=0.5"),
)


def _unset(message: Message, at: str = "") -> Iterator[str]:
    """Yield the fields of a message that are not set, and of those in it."""
    given = {field.name: value for field, value in message.ListFields()}
    for field in message.DESCRIPTOR.fields:
        value = given.get(field.name)
        if value is None:
            yield f"{at}{field.name}"
        elif isinstance(value, Message):
            yield from _unset(value, f"{at}{field.name}.")


def _asked(script: Script) -> job_pb2.JobSpec:
    spec: job_pb2.JobSpec = script.requests[-1].job.spec
    return spec


@pytest.fixture
def judged(tmp_path: Path) -> Path:
    path = tmp_path / "evaluation.json"
    values = {
        "required_phrases": ["Kind regards"], "forbidden_phrases": ["no"], "max_records": 50,
        "graders": [{"name": "polite", "input": "{{sample.output_text}}"}], "json_schema": "{}",
        "counterfactuals": [{"words": ["default"]}], "max_slice_drop": 0.25,
        "max_counterfactual_changes": 0.5,
    }  # fmt: skip
    path.write_text(json.dumps(values))
    return path


def test_every_field_has_an_option(run: Run, script: Script, judged: Path) -> None:
    assert run(*CREATE, *ALL, "--evaluation", str(judged)).status == 0
    spec = _asked(script)
    # Validation data is one of two; data to hold out has a test of its own.
    assert list(_unset(spec)) == ["validation_fraction"]
    assert spec.lora == job_pb2.LoraConfig(
        rank=8, alpha=32, target_modules=["q_proj", "v_proj"], use_rslora=True, dropout=0.25
    )
    assert spec.hyperparameters == job_pb2.Hyperparameters(
        learning_rate=1e-3, epochs=3, batch_tokens=2048, max_sequence_length=64,
        warmup_ratio=0.125, weight_decay=0.5, seed=7, evaluation_interval=10,
        checkpoint_interval=20, early_stopping_patience=4,
    )  # fmt: skip
    assert dict(spec.labels) == {"team": "billing", "note": "a=b"}
    assert spec.priority == 5


@pytest.mark.parametrize("form", ["json", "yaml"])
@pytest.mark.parametrize("piped", [True, False])
def test_a_job_that_is_shown_can_be_created_again(
    run: Run,
    script: Script,
    judged: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    form: str,
    piped: bool,
) -> None:
    run(*CREATE, *ALL, "--evaluation", str(judged))
    asked = job_pb2.JobSpec.FromString(_asked(script).SerializeToString())
    script.job.create_time.GetCurrentTime()
    shown = run("jobs", "get", "one", "-o", form).out
    path = tmp_path / "job"
    path.write_text(shown)
    monkeypatch.setattr(sys, "stdin", stdin(shown.encode()))
    ran = run("jobs", "create", "--file", "-" if piped else str(path))
    assert ran.status == 0, ran.err
    assert _asked(script) == asked
    assert script.requests[-1].parent == "tenants/acme"


def test_options_go_before_a_file(run: Run, script: Script, tmp_path: Path, judged: Path) -> None:
    run(*CREATE, *ALL, "--evaluation", str(judged))
    path = tmp_path / "job.yaml"
    path.write_text(run("jobs", "get", "one", "-o", "yaml").out)
    ran = run(
        *("jobs", "create", "-f", str(path), "--adapter", "notes", "--data", "s3://b/notes.jsonl"),
        *("--validation", "0.1", "--base-model", "other", "--label", "team=sales", "--rank", "16"),
        *("--target-modules", "o_proj", "--no-rslora", "--dropout", "0", "--epochs", "1"),
        *("--shared", "--priority", "0", "--policy", "always", "--too-long", "drop"),
        *("--data-limit", "leakage=0.5", "--metric", "token_f1", "--slice", "region"),
    )
    assert ran.status == 0, ran.err
    spec = _asked(script)
    assert spec.adapter == "tenants/acme/adapters/notes"
    assert spec.training_dataset == "s3://b/notes.jsonl"
    assert (spec.WhichOneof("validation"), spec.validation_fraction) == ("validation_fraction", 0.1)
    assert dict(spec.labels) == {"team": "sales", "note": "a=b"}
    assert spec.lora == job_pb2.LoraConfig(rank=16, alpha=32, target_modules=["o_proj"])
    assert (spec.hyperparameters.epochs, spec.hyperparameters.seed) == (1, 7)
    assert (spec.isolation, spec.priority) == (job_pb2.ISOLATION_SHARED, 0)
    assert spec.promotion_policy == job_pb2.PROMOTION_POLICY_ALWAYS
    assert spec.data == job_pb2.DataPolicy(
        too_long=job_pb2.TOO_LONG_DROP, max_too_long_fraction=0.5
    )
    assert (spec.data_limits.max_leakage, spec.data_limits.max_label_share) == (0.5, 0.5)
    assert spec.evaluation.primary_metric == "token_f1"
    assert spec.evaluation.slice_fields == ["language", "region"]
    assert spec.evaluation.required_phrases == ["Kind regards"]


def test_a_file_may_name_things_by_their_ids(run: Run, script: Script, tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(
        "adapter: support\ntraining_dataset: 2024\nvalidation_dataset: held\n"
        f"from_version: {VERSIONS[0].rpartition('/')[2]}\n"
    )
    assert run("jobs", "create", "--file", str(path)).status == 0
    spec = _asked(script)
    assert (spec.adapter, spec.training_dataset) == (ADAPTER, "tenants/acme/datasets/2024")
    assert spec.validation_dataset == "tenants/acme/datasets/held"
    assert spec.from_version == VERSIONS[0]


@pytest.mark.parametrize(
    ("arguments", "content", "said"),
    [
        (("--data", "d"), "", "--adapter: give it, or adapter in --file"),
        (("--adapter", "a"), "", "--data: give it, or training_dataset in --file"),
        ((), "adapter: a\n", "--data: give it, or training_dataset in --file"),
        ((), "adapter: a\nlora:\n  ranks: 8\n", "line 3: 'ranks' is no field of LoraConfig"),
        (("--file", "/none.yaml"), "", "--file: /none.yaml: No such file or directory"),
        (("--adapter", "a", "--data", "d", "--label", "team"), "", "--label: 'team' is not KEY=VA"),
        (
            ("--adapter", "a", "--data", "d", "--label", "a=1", "--label", "a=2"),
            "",
            "--label: 'a' is given twice",
        ),
    ],
)  # fmt: skip
def test_what_is_missing_or_wrong_is_wrong_usage(
    run: Run, script: Script, tmp_path: Path, arguments: tuple[str, ...], content: str, said: str
) -> None:
    path = tmp_path / "job.yaml"
    path.write_text(content)
    ran = run("jobs", "create", *arguments, *(("--file", str(path)) if content else ()))
    assert (ran.status, script.requests) == (2, [])
    assert said in " ".join(ran.err.replace("│", " ").split())
