"""What docs/openai.md says of files and fine-tuning, run as it stands, by real services."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import openai
import pytest

from tailorbird.cli.service_process import Plan
from tailorbird.cli.services import Services
from tailorbird.client import TrainerClient
from tests.acceptance.trainer_process import trainer
from tests.integration.up_process import free_ports
from tests.node import ROOT

PAGE = ROOT / "docs" / "openai.md"
RECORD = b'{"prompt": "ask", "completion": "yes"}\n'
SECTION = "## Files and fine-tuning\n"


def blocks() -> list[str]:
    _, _, section = PAGE.read_text(encoding="utf-8").partition(SECTION)
    return re.findall(r"^```python\n(.*?)^```$", section.partition("\n## ")[0], re.M | re.S)


@pytest.mark.timeout(120)
def test_a_trainer_with_a_port_for_it_takes_files(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    data_dir = tmp_path / "data"
    data_dir.mkdir()
    settings = {"HTTP_PORT": str(port), "MAX_DATASET_BYTES": "100000"}
    with (
        trainer(data_dir, "trainer_svc", settings=settings) as (_, address),
        openai.OpenAI(
            base_url=f"http://127.0.0.1:{port}/v1", api_key="none", project="acme", max_retries=0
        ) as client,
        TrainerClient(address) as grpc_client,
    ):
        file = client.files.create(file=("a.jsonl", RECORD), purpose="fine-tune")
        job = client.fine_tuning.jobs.create(model="demo_base", training_file=file.id)
        same = grpc_client.get_job(f"tenants/acme/jobs/{job.id.removeprefix('ftjob-')}")
        dataset = f"tenants/acme/datasets/{file.id.removeprefix('file-')}"
        assert same.spec.training_dataset == dataset
        assert [one.id for one in client.fine_tuning.jobs.list()] == [job.id]
        *_, first = client.fine_tuning.jobs.list_events(job.id)
        assert first.message == "The job is QUEUED."
        with pytest.raises(openai.APIStatusError) as caught:
            client.files.create(file=("a.jsonl", RECORD * 5000), purpose="fine-tune")
        assert caught.value.status_code == 413


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_page_s_blocks_go_from_a_file_to_an_answer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    ports = free_ports(6)
    plan = Plan(
        data_dir=tmp_path,
        base_model=str(ROOT / "examples" / "demo_base"),
        trainer_port=ports[0],
        trainer_metrics_port=ports[1],
        serving_port=ports[2],
        serving_metrics_port=ports[3],
        trainer_http_port=ports[4],
        serving_http_port=ports[5],
    )
    names: dict[str, Any] = {}
    found = blocks()
    assert len(found) == 3
    with Services(plan) as services:
        services.until_ready()
        for block in found:
            for told, free in ((8081, ports[4]), (8082, ports[5])):
                block = block.replace(f"127.0.0.1:{told}", f"127.0.0.1:{free}")
            exec(compile(block, str(PAGE), "exec"), names)
        for name in ("client", "serving"):
            names[name].close()
    *events, checkpoint, ended, answer = capsys.readouterr().out.splitlines()
    assert len(events) == 3
    assert events[0] == "The job is SUCCEEDED."
    assert re.fullmatch(r"98 0\.\d+(e-\d+)?", checkpoint)
    assert re.fullmatch(r"succeeded tenants/acme/adapters/support/versions/\S+", ended)
    assert "GBP 12.50" in answer
