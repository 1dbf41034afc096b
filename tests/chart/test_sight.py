"""Rules and dashboards, through promtool and beside a scrape of real services."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
import yaml

from tests.chart.conftest import rendered_profile
from tests.chart.custom_kinds import custom_objects
from tests.chart.helm import Object, Rendered, Values, merged, nested, profile_values, render
from tests.chart.promql import grouping, selectors
from tests.chart.scrape import Scrape, scrapes
from tools import dashboards
from trainer_svc.jobs.model import JobState

_TOOLS = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
PROMTOOL = shutil.which("promtool", path=_TOOLS)
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="there is no promtool")
ALERTS_TEST = Path(__file__).parent / "alerts_test.yaml"
# The names that alerts_test.yaml has: release shop in the namespace tailorbird.
PLAIN: Values = {
    "networkPolicy": {"ingress": {"metrics": [{"namespaceSelector": {}}]}},
    "sight": {
        "podMonitor": {"enabled": True},
        "rules": {"enabled": True},
        "dashboards": {"enabled": True},
    },
}
DOCS = dashboards.ROOT / "docs" / "deploy.md"
ANCHORS = {
    "a-full-disk",
    "a-pod-that-is-not-ready",
    "a-refused-adapter",
    "an-engine-that-restarts",
    "calls-that-fail",
    "jobs-that-do-not-move",
    "jobs-that-fail",
    "requests-that-are-refused",
    "slow-answers",
    "too-few-slots",
}
"""Headings of docs/deploy.md that alerts send people to."""

# Of the scrape itself, of the kubelet, and labels that a scraper adds.
FOREIGN = {"up", "kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"}
SCRAPER_LABELS = {"job", "pod", "namespace", "container", "persistentvolumeclaim"}
VALUES = {
    "code": {code.name for code in grpc.StatusCode},
    "state": {state.value for state in JobState},
    "result": {"ok", "kept", "refused", "failed"},
}


def watched(*changes: Values) -> Rendered:
    return render(merged(profile_values("cpu"), PLAIN, *changes))


def rules(rendered: Rendered) -> list[dict[str, Any]]:
    (document,) = rendered.of_kind("PrometheusRule")
    return [rule for group in document["spec"]["groups"] for rule in group["rules"]]


def boards(rendered: Rendered) -> dict[str, Any]:
    """Return the dashboards in the release's ConfigMaps, by their file's name."""
    return {
        name: json.loads(text)
        for config in rendered.of_kind("ConfigMap")
        for name, text in config["data"].items()
        if name.endswith(".json")
    }


def panels(board: dict[str, Any]) -> list[dict[str, Any]]:
    return [panel for panel in board["panels"] if panel["type"] != "row"]


def asked(rendered: Rendered) -> Iterator[tuple[str, str]]:
    """Yield every expression that the release has, with where it stands."""
    for rule in rules(rendered):
        yield rule["alert"], rule["expr"]
    for name, board in boards(rendered).items():
        for panel in panels(board):
            for target in panel["targets"]:
                yield f"{name}: {panel['title']}", _without_variables(target["expr"])
    for scaled in rendered.of_kind("ScaledObject"):
        for trigger in scaled["spec"]["triggers"]:
            if trigger["name"] != "wake":
                yield trigger["name"], trigger["metadata"]["query"]


@needs_promtool
def test_promtool_takes_the_rules(tmp_path: Path) -> None:
    said = _promtool(tmp_path, rules(watched()), "check", "rules", "rules.yaml")
    assert said.returncode == 0, said.stdout + said.stderr
    broken = [{"alert": "A", "expr": "sum(up"}]
    assert _promtool(tmp_path, broken, "check", "rules", "rules.yaml").returncode != 0


@needs_promtool
def test_every_alert_fires_when_it_must_and_only_then(tmp_path: Path) -> None:
    """Annotations are left out: promtool would compare their texts word by word."""
    bare = [{k: v for k, v in rule.items() if k != "annotations"} for rule in rules(watched())]
    shutil.copy(ALERTS_TEST, tmp_path)
    said = _promtool(tmp_path, bare, "test", "rules", ALERTS_TEST.name)
    assert said.returncode == 0, said.stdout + said.stderr


def test_every_alert_is_tested_both_ways() -> None:
    cases = [
        case
        for test in yaml.safe_load(ALERTS_TEST.read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    names = {rule["alert"] for rule in rules(watched())}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == names


def test_every_alert_says_what_to_do() -> None:
    for rule in rules(watched()):
        annotations = rule["annotations"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert re.fullmatch(r"[0-9]+[mh]", rule["for"])
        assert len(annotations["summary"]) < 120
        assert len(annotations["description"]) > 60
        assert annotations["runbook_url"].startswith("/docs/deploy.md#")
    anchors = {rule["annotations"]["runbook_url"].partition("#")[2] for rule in rules(watched())}
    assert anchors == ANCHORS


def test_what_to_do_stands_where_alerts_say() -> None:
    headings = re.findall(r"^#+ (.+)$", DOCS.read_text(), re.MULTILINE)
    assert {each.lower().replace(" ", "-") for each in headings} >= ANCHORS


def test_nothing_is_left_to_fill_in() -> None:
    (document,) = watched().of_kind("PrometheusRule")
    assert "@" not in yaml.safe_dump(document)
    # Every threshold of values.yaml is one that some rule has, and in it.
    before = yaml.safe_dump(document["spec"])
    thresholds = yaml.safe_load((dashboards.ROOT / "deploy/k8s/tailorbird/values.yaml").read_text())
    for name, value in thresholds["sight"]["rules"]["thresholds"].items():
        other = "7m" if isinstance(value, str) else (0.123 if value < 1 else 77)
        (changed,) = watched(nested(f"sight.rules.thresholds.{name}", other)).of_kind(
            "PrometheusRule"
        )
        assert yaml.safe_dump(changed["spec"]) != before, name
        assert str(other) in yaml.safe_dump(changed["spec"])


def test_alerts_take_labels_and_may_be_left_out() -> None:
    changed = nested(
        "sight.rules",
        {
            "alertLabels": {"team": "ml", "severity": "none"},
            "disabled": ["TailorbirdKvCacheFull"],
            "runbookUrl": "https://wiki/tailorbird",
        },
    )
    found = rules(watched(changed))
    assert {rule["labels"]["team"] for rule in found} == {"ml"}
    assert {rule["labels"]["severity"] for rule in found} == {"critical", "warning"}
    names = {rule["alert"] for rule in rules(watched())}
    assert names - {rule["alert"] for rule in found} == {"TailorbirdKvCacheFull"}
    assert all(
        r["annotations"]["runbook_url"].startswith("https://wiki/tailorbird#") for r in found
    )


def test_no_replica_is_no_alarm_where_none_may_be_right() -> None:
    names = {rule["alert"] for rule in rules(rendered_profile("everything"))}
    assert "TailorbirdServingAbsent" not in names
    assert "TailorbirdTrainerAbsent" in names


def test_only_volumes_that_are_written_to_can_be_full() -> None:
    """A base fills its claim from the first day, and a cache makes room itself."""
    own, named = (
        {
            value
            for rule in rules(rendered)
            for selector in selectors(rule["expr"])
            for label, _, value in selector.matchers
            if label == "persistentvolumeclaim"
        }
        for rendered in (watched(), watched(nested("trainer.storage.existingClaim", "a.claim")))
    )
    assert own == {"shop-tailorbird-trainer|shop-tailorbird-store"}
    (name,) = named
    assert re.fullmatch(r"a\\+\.claim\|shop-tailorbird-store", name)


def test_series_are_found_where_the_pod_monitors_put_them() -> None:
    """A PodMonitor's job is its namespace and name."""
    rendered = watched()
    jobs = {
        f"{each['metadata']['namespace']}/{each['metadata']['name']}"
        for each in rendered.of_kind("PodMonitor")
    }
    for rule in rules(rendered):
        for selector in selectors(rule["expr"]):
            if selector.metric not in FOREIGN - {"up"}:
                assert {v for k, _, v in selector.matchers if k == "job"} <= jobs
                assert any(label == "job" for label, _, _ in selector.matchers)
    other = watched(nested("sight.selectors.serving", 'job="mine",site=~"a|b"'))
    assert any('{job="mine",site=~"a|b"}' in rule["expr"] for rule in rules(other))


def test_the_monitors_scrape_the_port_that_has_metrics() -> None:
    rendered = watched()
    for monitor in rendered.of_kind("PodMonitor"):
        (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
        assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
    assert len(rendered.of_kind("PodMonitor")) == 2


def test_dashboards_are_what_their_description_says(capsys: pytest.CaptureFixture[str]) -> None:
    rendered = watched()
    assert boards(rendered) == {k: json.loads(v) for k, v in dashboards.dashboards().items()}
    for config in rendered.of_kind("ConfigMap"):
        if any(name.endswith(".json") for name in config["data"]):
            assert config["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_a_dashboard_that_was_changed_by_hand_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["dashboards.py", "check"])
    assert dashboards.main() == 0
    shutil.copytree(dashboards.TARGET, tmp_path / "boards")
    monkeypatch.setattr(dashboards, "TARGET", tmp_path / "boards")
    (tmp_path / "boards" / "serving.json").write_text("{}")
    (tmp_path / "boards" / "more.json").write_text("{}")
    assert dashboards.main() == 1
    assert "more.json, serving.json: not what" in capsys.readouterr().out


def test_panels_say_what_they_show() -> None:
    for board in boards(watched()).values():
        assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
        places = [(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in board["panels"]]
        assert len(set(places)) == len(places)
        for panel in panels(board):
            assert panel["fieldConfig"]["defaults"]["unit"] in _UNITS
            assert len(panel["description"]) > 10
            assert all('job="$job"' in target["expr"] for target in panel["targets"])


_UNITS = {"short", "reqps", "s", "percentunit", "bytes"}


@needs_promtool
def test_promtool_takes_every_query(tmp_path: Path) -> None:
    recorded = [
        {"record": f"query:{number}", "expr": expression}
        for number, (_, expression) in enumerate(asked(_all()))
    ]
    said = _promtool(tmp_path, recorded, "check", "rules", "rules.yaml")
    assert said.returncode == 0, said.stdout + said.stderr


# -- Beside real services -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def scrape(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scrape]:
    """What both services export after some traffic of every kind."""
    with scrapes(tmp_path_factory.mktemp("scrape")) as found:
        yield found


@pytest.mark.timeout(900)
def test_every_series_asked_for_is_one_that_the_services_export(scrape: Scrape) -> None:
    found = list(asked(_all()))
    assert len(found) > 60
    for where, expression in found:
        known: set[str] = set(SCRAPER_LABELS)
        for selector in selectors(expression):
            if selector.metric in FOREIGN:
                continue
            assert selector.metric in scrape.labels, f"{where}: no service has {selector.metric}"
            labels = scrape.labels[selector.metric] | SCRAPER_LABELS
            known |= labels
            for label, operator, value in selector.matchers:
                assert label in labels, f"{where}: {selector.metric} has no label {label}"
                for one in value.split("|") if label in VALUES else ():
                    assert one in VALUES[label], f"{where}: no {label} is {one} ({operator})"
        assert set(grouping(expression)) <= known, f"{where}: groups by what is not there"


@pytest.mark.timeout(900)
def test_what_the_picker_reads_is_exported_as_it_reads_it(scrape: Scrape) -> None:
    """By the router's own names; see its plugin metric protocol."""
    scorers = {
        "queue-scorer": ("vllm:num_requests_waiting", set()),
        "kv-cache-utilization-scorer": ("vllm:kv_cache_usage_perc", set()),
        "lora-affinity-scorer": (
            "vllm:lora_requests_info",
            {"max_lora", "running_lora_adapters", "waiting_lora_adapters"},
        ),
    }
    config = next(each for each in custom_objects(_all()) if each["kind"] == "EndpointPickerConfig")
    used = {each["type"] for each in config["plugins"] if each["type"].endswith("-scorer")}
    assert used == scorers.keys()
    for metric, labels in scorers.values():
        assert labels <= scrape.labels[metric]
        assert scrape.types[metric] == "gauge"


def test_an_alert_has_a_name_for_each_reason_that_it_looks_for() -> None:
    """A reason that no job fails with would never be seen."""
    (rule,) = (rule for rule in rules(watched()) if rule["alert"] == "TailorbirdJobsFail")
    source = "".join(path.read_text() for path in (dashboards.ROOT / "trainer_svc").rglob("*.py"))
    for selector in selectors(rule["expr"]):
        for reason in {k: v for k, _, v in selector.matchers}.get("reason", "").split("|"):
            assert f'"{reason}"' in source or not reason


def _all() -> Rendered:
    return rendered_profile("everything")


def _without_variables(expression: str) -> str:
    assert "$series" not in expression
    return expression.replace("$__rate_interval", "5m").replace("$job", "a/b")


def _promtool(
    folder: Path, rules: list[Object], *arguments: str
) -> subprocess.CompletedProcess[str]:
    assert PROMTOOL is not None
    groups = {"groups": [{"name": "all", "rules": rules}]}
    (folder / "rules.yaml").write_text(yaml.safe_dump(groups))
    command = [PROMTOOL, *arguments]
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=120, check=False
    )
