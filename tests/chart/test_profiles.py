"""Every profile lints, renders, and is what an API server takes."""

from __future__ import annotations

import pytest
import yaml

from tests.chart import lint as lint_tool
from tests.chart.conftest import rendered_profile
from tests.chart.helm import CHART, PROFILES, Rendered, lint, merged, nested, profile_values
from tests.chart.kinds import NEWEST, OLDEST, is_built_in, problems
from tests.chart.pods import pods


def valid(rendered: Rendered, version: str = NEWEST) -> list[str]:
    """Return what an API server would say of the objects of Kubernetes' own kinds."""
    return [
        problem
        for document in rendered
        if is_built_in(document)
        for problem in problems(document, version)
    ]


def test_there_is_a_profile_for_each_way_to_run() -> None:
    assert set(PROFILES) == {
        "cpu",
        "dra",
        "everything",
        "replicated",
        "shared-gpu",
        "split",
        "tensor-parallel",
    }


def test_a_profile_lints_without_a_warning(profile: str) -> None:
    assert lint(profile_values(profile)) == []


def test_make_check_fails_for_a_finding(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert lint_tool.main() == 0
    monkeypatch.setattr(lint_tool, "profile_values", lambda _: {"trainr": {}})

    assert lint_tool.main() == 1
    assert "cpu: values.yaml: " in capsys.readouterr().out


def test_make_check_fails_for_values_that_do_not_fit_together() -> None:
    """Which Helm's own linter takes."""
    values = merged(profile_values("cpu"), nested("serving.cache.size", "1Gi"))
    assert lint(values) == []

    (finding,) = lint_tool.findings_of(values)

    assert "serving.cache.size" in finding


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_an_api_server_takes_every_object(rendered: Rendered, version: str) -> None:
    found = [
        each
        for document in rendered
        if is_built_in(document)
        for each in problems(document, version)
    ]

    assert found == []


def test_what_an_api_server_would_refuse_is_found() -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "a"},
        "spec": {"port": 1},
    }

    assert "'port' was unexpected" in "\n".join(problems(service, OLDEST))
    assert not is_built_in(service | {"apiVersion": "v2"})
    assert problems(service | {"kind": "Servise"}, OLDEST) == [
        "Servise a: Kubernetes 1.34 has no v1"
    ]


# What an API server of the oldest version knows, and takes only with a feature gate.
GATED = {"image volume (ImageVolume, on by default from 1.35)": ["everything", "tensor-parallel"]}


def test_what_the_oldest_version_needs_a_feature_gate_for_is_named() -> None:
    found: dict[str, list[str]] = {}
    for profile in sorted(PROFILES):
        volumes = [v for pod in pods(rendered_profile(profile)) for v in pod.volumes.values()]
        if any("image" in volume for volume in volumes):
            found.setdefault(next(iter(GATED)), []).append(profile)

    assert found == GATED


def test_the_values_say_which_version_an_image_volume_needs() -> None:
    lines = (CHART / "values.yaml").read_text().splitlines()
    (said,) = (n for n, line in enumerate(lines) if "mounted as an image volume" in line)

    assert "on by default since 1.35" in lines[said]
    assert "feature gate" in lines[said + 1]


def test_helm_refuses_a_cluster_that_is_too_old() -> None:
    about = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert about["kubeVersion"] == f">={OLDEST}.0-0"
