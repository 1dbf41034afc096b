"""What is declared stands in the reference, whole and under its name."""

from __future__ import annotations

import re

import pytest
from prometheus_client import CollectorRegistry

from serving_svc.metrics import ServingMetrics
from serving_svc.settings import ServingSettings
from tailorbird.serving.v1 import inference_service_pb2
from tailorbird.tuning.v1 import tuning_service_pb2
from tools.reference import __main__ as command
from tools.reference import api, cli, errors, metrics, settings
from tools.reference.text import marked
from trainer_svc.metrics import TrainerMetrics
from trainer_svc.settings import TrainerSettings


def test_every_setting_has_its_kind_default_and_text() -> None:
    page = settings.page()
    told = dict(re.findall(r"### `TAILORBIRD_(\w+)`\n\n(.+)\n\n.", page))
    names = {*TrainerSettings.model_fields, *ServingSettings.model_fields}
    assert {name.lower() for name in told} == names
    assert told["PORT"] == (
        "whole number, at least 0, at most 65535; default: `50051` (trainer), `50052` (serving)."
    )
    assert told["BASE_MODEL"] == "text; required."
    assert told["ROLE"] == "one of `all`, `api`, `worker`; default: `all`."


def test_every_metric_is_told() -> None:
    registry = CollectorRegistry()
    ServingMetrics(registry)
    TrainerMetrics(registry)
    told = set(re.findall(r"^\| `([\w:]+?)(?:_total)?` \|", metrics.page(), re.MULTILINE))
    assert {family.name for family in registry.collect()} <= told
    assert {"tailorbird_rpc_handled", "vllm:num_requests_waiting"} <= told


def test_every_call_and_field_is_told() -> None:
    page = api.page()
    for file in (inference_service_pb2, tuning_service_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            assert all(f"#### {service.name}.{call.name}\n" in page for call in service.methods)
        for message in file.DESCRIPTOR.message_types_by_name.values():
            section = page.partition(f"\n### {message.name}\n")[2].partition("\n### ")[0]
            assert all(f"| `{field.name}` | " in section for field in message.fields)
    assert not re.search(r"^\| `\w+` \| [^|]+ \|  \|$", page, re.MULTILINE), "a field has no text"


def test_every_command_is_told_with_its_options() -> None:
    page = cli.page()
    section = page.partition("### tailorbird jobs create\n")[2].partition("\n###")[0]
    assert "| `--adapter` `<str>` |" in section
    assert "From `TAILORBIRD_TENANT`." in section
    assert "### tailorbird jobs sweep create\n" in page
    assert "| 8 | the service did not answer, or not in time; the same again may work |" in page


def test_a_reason_is_told_with_its_code_and_message() -> None:
    page = errors.page()
    section = page.partition("### `ADAPTER_NOT_ROUTED`\n")[2].partition("\n###")[0]
    assert "`FAILED_PRECONDITION`" in section
    assert "- *adapter* has no route: promote one of its versions" in section


def test_text_is_shown_as_it_is() -> None:
    assert marked("a * of [x] <b>, and a_name|`code *`") == (
        r"a \* of \[x\] \<b\>, and `a_name`\|`code *`"
    )


def test_a_page_that_is_not_what_the_code_says_is_told(
    tmp_path: object, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "_FOLDER", tmp_path)
    monkeypatch.setattr(command, "_PAGES", {"metrics.md": lambda: "# Metrics\n\nnew\n"})
    monkeypatch.setattr("sys.argv", ["reference", "write"])
    assert command.main() == 0
    monkeypatch.setattr("sys.argv", ["reference", "check"])
    assert command.main() == 0
    monkeypatch.setattr(command, "_PAGES", {"metrics.md": lambda: "# Metrics\n\nnewer\n"})
    assert command.main() == 1
    assert "-new\n+newer" in capsys.readouterr().err
