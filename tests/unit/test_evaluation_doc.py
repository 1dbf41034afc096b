"""The examples of docs/evaluation.md work on the demo's data, as they are printed."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tailorbird.cli.evaluation_file import read_evaluation
from tailorbird.tuning.v1 import job_pb2
from trainer_svc.api.convert_evaluation import evaluation_from_proto
from trainer_svc.judgement.check import check_spec
from trainer_svc.judgement.counterfactuals import swap_prompts
from trainer_svc.judgement.graders import check_grader
from trainer_svc.judgement.model import EvaluationSpec, Grader

_ROOT = Path(__file__).resolve().parents[2]
_DOC = (_ROOT / "docs" / "evaluation.md").read_text("utf-8")
_DATA = _ROOT / "examples" / "support" / "train.jsonl"
_HELD_OUT = 80


def spec_of(content: str, folder: Path) -> EvaluationSpec:
    file = folder / "evaluation.json"
    file.write_text(content, "utf-8")
    config = job_pb2.EvaluationConfig()
    read_evaluation(file, config)
    return evaluation_from_proto(config)


def test_the_printed_file_is_accepted_on_the_demos_data(tmp_path: Path) -> None:
    (example,) = (
        each for each in re.findall(r"```json\n(.*?)```", _DOC, re.DOTALL) if "graders" in each
    )
    spec = spec_of(example, tmp_path)
    check_spec(spec)
    records = [json.loads(line) for line in _DATA.read_text("utf-8").splitlines()]
    prompts = [(line, each["messages"][:-1]) for line, each in enumerate(records, start=1)]
    for start in range(0, len(prompts), _HELD_OUT):
        for words in spec.counterfactuals:
            assert swap_prompts(prompts[start : start + _HELD_OUT], [words], most=1)
    for phrase in spec.required_phrases:
        assert all(phrase in each["messages"][-1]["content"] for each in records)


def test_the_grader_in_openais_form_is_the_same(tmp_path: Path) -> None:
    (given,) = re.findall(r'`(\{"type": "string_check".*?\})`', _DOC)
    spec = spec_of(f'{{"graders": [{given}]}}', tmp_path)
    assert spec.graders == (
        Grader(kind="string_check", name="signed", reference="Wrenfield", operation="like"),
    )


def test_every_placeholder_of_the_table_is_one() -> None:
    told = re.findall(r"^\| `(\{\{.*?\}\})` \|", _DOC, re.MULTILINE)
    assert len(told) == 4
    for each in told:
        grader = Grader(kind="string_check", name="a", operation="eq", input=each)
        check_grader(grader, "grader")
