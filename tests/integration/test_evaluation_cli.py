"""What is evaluated, given to `jobs create` and `jobs sweep create` as a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tailorbird.tuning.v1 import job_pb2
from tests.integration.scripted_services import Script
from tests.integration.test_cli import Run, run

__all__ = ["run"]

ASKED: dict[str, Any] = {
    "primary_metric": "phrases",
    "required_phrases": ["Fly well"],
    "json_schema": {"type": "object"},
    "slice_fields": ["topic"],
    "counterfactuals": [{"words": ["he", "she"]}],
    "graders": [{"name": "signed", "reference": "Fly", "string_check": "like"}],
    "max_slice_drop": 0.05,
}
JOB = ("jobs", "create", "--adapter", "support", "--data", "chats")
SWEEP = ("jobs", "sweep", "create", *JOB[2:], "--ranks", "8,16")


def config_of(request: Any) -> job_pb2.EvaluationConfig:
    spec = request.job.spec if request.DESCRIPTOR.name == "CreateJobRequest" else request.sweep.spec
    config: job_pb2.EvaluationConfig = spec.evaluation
    return config


@pytest.mark.parametrize("command", [JOB, SWEEP])
def test_a_file_says_what_is_evaluated_and_options_go_before_it(
    run: Run, script: Script, tmp_path: Path, command: tuple[str, ...]
) -> None:
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps(ASKED), encoding="utf-8")
    more = ("--metric", "token_f1", "--slice", "topic", "--slice", "region", "--few-shot", "0")
    ran = run(*command, "--evaluation", str(file), *more)
    assert ran.status == 0, ran.err
    config = config_of(script.requests[0])
    assert config.primary_metric == "token_f1"
    assert list(config.required_phrases) == ["Fly well"]
    assert json.loads(config.json_schema) == {"type": "object"}
    assert list(config.slice_fields) == ["topic", "region"]
    assert list(config.counterfactuals[0].words) == ["he", "she"]
    assert config.graders[0].string_check == "like"
    assert config.few_shot_examples == 0
    assert config.HasField("few_shot_examples")
    assert config.max_slice_drop == 0.05
    assert not config.HasField("max_forgotten")


def test_graders_may_be_written_as_openai_has_them(
    run: Run, script: Script, tmp_path: Path
) -> None:
    graders = [
        {
            "type": "string_check",
            "name": "signed",
            "input": "{{sample.output_text}}",
            "reference": "Fly",
            "operation": "ilike",
        },
        {"type": "text_similarity", "name": "alike", "evaluation_metric": "bleu"},
        {"name": "ours", "text_similarity": "rouge_l"},
    ]
    file = tmp_path / "evaluation.json"
    file.write_text(json.dumps({"graders": graders}), encoding="utf-8")
    ran = run(*JOB, "--evaluation", str(file))
    assert ran.status == 0, ran.err
    signed, alike, ours = config_of(script.requests[0]).graders
    assert (signed.name, signed.input) == ("signed", "{{sample.output_text}}")
    assert (signed.reference, signed.string_check) == ("Fly", "ilike")
    assert (alike.name, alike.text_similarity, alike.reference) == ("alike", "bleu", "")
    assert (ours.name, ours.text_similarity) == ("ours", "rouge_l")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"{", "Expecting property name"),
        (b"[]", "a JSON object is expected"),
        (b'{"grader": []}', "grader"),
        (b'{"max_slice_drop": "much"}', "max_slice_drop"),
        (b'{"few_shot_examples": 1, "few_shot_examples": 8}', "'few_shot_examples' is given twice"),
        (b'{"graders": [{"name": "a", "name": "b"}]}', "'name' is given twice"),
        (
            b'{"graders": [{"type": "score_model", "name": "a"}]}',
            "graders[0] is of the type 'score_model': only string_check and text_similarity are",
        ),
        (b'{"graders": [{}, {"type": ["python"]}]}', "graders[1] is of the type"),
        (b'{"graders": [{"type": "string_check"}]}', "graders[0] has no operation"),
        (
            b'{"graders": [{"type": "string_check", "operation": "eq", "pass_threshold": 1}]}',
            "graders[0] has 'pass_threshold': a string_check has name, input, reference and",
        ),
        (b'{"graders": [7]}', "graders"),
        (b"\xff", "utf-8"),
        (rb'{"\ud800": 1}', r"\ud800 is half a surrogate pair"),
        (rb'{"slice_fields": ["a\ud800"]}', r"\ud800 is half a surrogate pair"),
        (b'{"max_slice_drop": 1%s}' % (b"0" * 400), "too large"),
        (b"[" * 100_000, "recursion"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(
    run: Run, script: Script, tmp_path: Path, content: bytes, said: str
) -> None:
    file = tmp_path / "evaluation.json"
    file.write_bytes(content)
    ran = run(*JOB, "--evaluation", str(file))
    assert ran.status == 2
    assert said in " ".join(ran.err.split())
    assert "--evaluation" in ran.err
    assert not script.requests
