"""A job's specification from a file: what it may be, and how its faults are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer
import yaml
from google.protobuf.json_format import MessageToJson

from tailorbird.cli.job_file import read_job_file
from tailorbird.rpc.status import stored_status
from tailorbird.tuning.v1 import job_pb2

SPEC = job_pb2.JobSpec(
    training_dataset="tenants/acme/datasets/chats",
    validation_fraction=0.1,
    adapter="tenants/acme/adapters/support",
    lora=job_pb2.LoraConfig(rank=8, target_modules=["q_proj", "v_proj"], use_rslora=True),
    hyperparameters=job_pb2.Hyperparameters(learning_rate=1e-4, epochs=3),
    promotion_policy=job_pb2.PROMOTION_POLICY_MANUAL,
    labels={"team": "billing", "day": "2026-11-23", "smile": "\U0001f600"},
    evaluation=job_pb2.EvaluationConfig(
        counterfactuals=[job_pb2.EvaluationConfig.WordSet(words=["he", "she"])],
        json_schema='{"type": "object"}',
    ),
    data_limits=job_pb2.DataLimits(max_leakage=0),
)


def _read(path: Path, text: str) -> job_pb2.JobSpec:
    path.write_text(text, encoding="utf-8")
    spec = job_pb2.JobSpec()
    read_job_file(path, spec)
    return spec


def _said(path: Path, text: str) -> str:
    with pytest.raises(typer.BadParameter) as caught:
        _read(path, text)
    assert caught.value.param_hint == "--file"
    return caught.value.message.removeprefix(f"{path}: ")


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("indent", [2, "\t", None])
def test_what_is_printed_of_a_job_can_be_asked_for_again(
    tmp_path: Path, bare: bool, indent: int | str | None
) -> None:
    job = job_pb2.Job(name="tenants/acme/jobs/one", spec=SPEC, state=job_pb2.JOB_STATE_FAILED)
    job.create_time.GetCurrentTime()
    job.error.CopyFrom(stored_status("NON_FINITE", "why", {}))
    job.progress.step = 2**40
    job.effective_hyperparameters.epochs = 9
    values = json.loads(MessageToJson(SPEC if bare else job, preserving_proto_field_name=True))
    assert _read(tmp_path / "job.json", json.dumps(values, indent=indent)) == SPEC
    assert _read(tmp_path / "job.yaml", yaml.safe_dump(values)) == SPEC
    assert _read(tmp_path / "job.yaml", "\ufeff" + yaml.safe_dump(values)) == SPEC


def test_people_s_yaml_is_read(tmp_path: Path) -> None:
    spec = _read(
        tmp_path / "job.yaml",
        "adapter: support  # its id\n"
        "training_dataset: 2024\n"
        "hyperparameters: {learning_rate: 1e-3, seed: 7}\n"
        "lora:\n"
        "labels:\n"
        "  day: 2026-11-23\n"
        "  release: 1.10\n"
        "  final: yes\n",
    )
    assert (spec.adapter, spec.training_dataset) == ("support", "2024")
    assert spec.hyperparameters.learning_rate == 1e-3
    assert not spec.HasField("lora")
    assert dict(spec.labels) == {"day": "2026-11-23", "release": "1.10", "final": "yes"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "adapter: a\nhyperparameters:\n  epoch: 3\n",
            "line 3: 'epoch' is no field of Hyperparameters; did you mean epochs?",
        ),
        ("adapter: a\nrank: 8\n", "line 2: 'rank' belongs in lora"),
        ("lora:\n  labels: {}\n", "line 2: 'labels' belongs in the specification itself"),
        (
            "data:\n  zzz: 1\n",
            "line 2: 'zzz' is no field of DataPolicy, which has too_long, max_too_long_fraction",
        ),
        ("adapter: a\n\nadapter: b\n", "line 3: adapter is given twice"),
        (
            "promotion_policy: always\n",
            "line 1: promotion_policy: one of PROMOTION_POLICY_UNSPECIFIED, "
            "PROMOTION_POLICY_ALWAYS, PROMOTION_POLICY_MANUAL, PROMOTION_POLICY_AUTO_IF_BETTER is "
            "expected",
        ),
        ("lora: 8\n", "line 1: fields are expected: rank, alpha, target_modules, use_rslora, drop"),
        ("- adapter\n", "the fields of a job's specification are expected"),
        ("", "the fields of a job's specification are expected"),
        ("adapter: [\n", "line 2: expected the node content"),
        ("adapter: a\n b: c\n", "line 2: mapping values are not allowed here"),
        ("name: tenants/a/jobs/b\nspec:\n  adaptor: a\n", "line 3: 'adaptor' is no field of JobS"),
        ("spec: {}\nstat: 1\n", "line 2: 'stat' is no field of Job; did you mean state?"),
        ("labels: [a]\n", "line 1: labels: "),
        ("a: &a [*a]\n", "line 1: 'a' is no field of JobSpec"),
    ],
)  # fmt: skip
def test_a_fault_is_told_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    assert _said(tmp_path / "job.yaml", text).startswith(said)


def test_every_fault_is_told(tmp_path: Path) -> None:
    text = "adaptor: a\nlora:\n  rank: many\n  alpha: 16\nhyperparameters:\n  epochs: 2.5\n"
    lines = _said(tmp_path / "job.yaml", text).splitlines()
    assert [line.partition(" ")[0] + line.partition(" ")[2][:2] for line in lines] == [
        "line1:",
        "line3:",
        "line6:",
    ]
    assert "rank" in lines[1]
    assert "many" in lines[1]
    many = "".join(f"z{number}: 1\n" for number in range(30))
    assert _said(tmp_path / "job.yaml", many).splitlines()[-1] == "and 10 more"


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "job.yaml"
    path.write_bytes(b"adapter: a\nbase_model: \xff\n")
    with pytest.raises(typer.BadParameter, match="line 2: byte 24 is not UTF-8"):
        read_job_file(path, job_pb2.JobSpec())
    with pytest.raises(typer.BadParameter, match="No such file"):
        read_job_file(tmp_path / "none", job_pb2.JobSpec())


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("hyperparameters: {epochs: 010}", "010 is 8 in YAML"),
        ("hyperparameters: {epochs: 1:30}", "1:30 is 90 in YAML"),
        ("lora: {dropout: yes}", "yes is true or false in YAML"),
    ],
)
def test_a_number_that_yaml_makes_another_is_refused(
    tmp_path: Path, written: str, said: str
) -> None:
    assert said in _said(tmp_path / "job.yaml", f"adapter: a\n{written}\n")


def test_a_job_whose_specification_is_empty_asks_for_nothing(tmp_path: Path) -> None:
    assert _read(tmp_path / "job.yaml", "name: x\nspec:\n") == job_pb2.JobSpec()


def test_a_fault_within_a_list_is_told_by_its_line(tmp_path: Path) -> None:
    text = "evaluation:\n  counterfactuals:\n    - words: [he, she]\n    - wrods: [a, b]\n"
    assert "line 4: 'wrods' is no field" in _said(tmp_path / "job.yaml", text)


def test_a_file_that_cannot_be_read_says_why_once(tmp_path: Path) -> None:
    with pytest.raises(typer.BadParameter) as caught:
        read_job_file(tmp_path, job_pb2.JobSpec())
    assert caught.value.message.endswith(": Is a directory")
