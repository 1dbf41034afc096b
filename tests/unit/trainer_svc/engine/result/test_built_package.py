"""What is written of a trained adapter: PEFT loads it as its card says; the report is whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tailorbird.manifest import MAX_REPORT_BYTES, MODEL_CARD, REPORT, REPORT_PAGE
from tailorbird.names import AdapterName
from tests.unit.trainer_svc.engine.result.test_judging import through
from tests.unit.trainer_svc.engine.runs import make_run, step
from tests.unit.trainer_svc.engine.tiny import assignment, examples, make_base
from trainer_svc.engine.base import load_base
from trainer_svc.engine.result.judging import judge
from trainer_svc.engine.result.package import FILES, Package, Result, build_package, describe
from trainer_svc.engine.step.bank import AdapterBank
from trainer_svc.jobs.events import DataReport
from trainer_svc.protocol import WorkerSettings
from trainer_svc.report.model import Report

DATA = DataReport(
    records=12, kept=12, dropped_too_long=0, dropped_lines=(), trained_tokens=90, masked_tokens=60
)
DIGEST = "sha256:" + "0" * 64


@pytest.fixture
def settings(tmp_path: Path) -> WorkerSettings:
    base = make_base(tmp_path / "tiny", torch.bfloat16)
    return WorkerSettings(
        object_store="memory:///",
        base_model_path=str(base),
        base_model_name=str(base),
        base_model_digest=DIGEST,
        chat_template_digest=DIGEST,
        device="cpu",
        threads=1,
        scratch_dir=str(tmp_path),
        cache_dir=str(tmp_path),
        cache_bytes=0,
        progress_interval=0.0,
    )


@pytest.fixture
def package(tmp_path: Path, settings: WorkerSettings) -> Package:
    bank = AdapterBank(load_base(settings.base_model_path, "cpu"))
    run = make_run(bank)
    run.validation = examples(6, seed=1)
    for number in range(1, 4):
        step(bank, run)
        run.state.curve = run.state.curve.paced(number, 100.0 * number)
    _, judged = through(judge(bank, run, 8192, lambda _: None))
    result = Result(run, judged, DATA, None, None, None)
    return build_package(tmp_path / "package", result, job(), settings)


def job() -> Any:
    return assignment(b"{}", "one")


def test_every_file_is_there_and_in_the_manifest(
    package: Package, settings: WorkerSettings
) -> None:
    assert {path.name for path in package.folder.iterdir()} == set(FILES)
    version = AdapterName("acme", "voice").version("20260101T000000-one-1")
    assert set(describe(package, version, job(), settings).files) == set(FILES)


def test_the_report_is_of_this_run(package: Package) -> None:
    data = (package.folder / REPORT).read_bytes()
    report = Report.model_validate_json(data)
    assert len(data) <= MAX_REPORT_BYTES
    assert report.adapter == job().adapter
    assert report.base_model_digest == DIGEST
    assert [each for each, _, _ in report.training_curve] == [1, 2, 3]
    assert report.throughput == ((1, 100.0), (2, 200.0), (3, 300.0))
    assert report.lengths is not None
    assert sum(report.lengths.counts) == 12
    assert report.tokens > 0
    weights = json.loads((package.folder / "adapter_config.json").read_text())["target_modules"]
    assert report.target_modules == tuple(sorted(weights))
    assert report.trainable_parameters == sum(
        torch.Size(shape).numel() for shape in package.tensors.values()
    )
    page = (package.folder / REPORT_PAGE).read_text("utf-8")
    assert f'<h1 dir="auto">{job().adapter.rpartition("/")[2]}</h1>' in page


def test_the_cards_code_loads_the_adapter_and_answers(
    package: Package, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", (package.folder / MODEL_CARD).read_text(), re.S)
    monkeypatch.chdir(package.folder)
    names: dict[str, Any] = {}
    exec(code, names)  # it is what a reader of the card would run
    assert type(names["model"]).__name__ == "PeftModelForCausalLM"
    with names["model"].disable_adapter():
        base = names["model"](**names["inputs"]).logits
    assert not torch.equal(names["model"](**names["inputs"]).logits, base)
    assert names["output"].shape[1] > names["inputs"]["input_ids"].shape[1]
    assert capsys.readouterr().out
