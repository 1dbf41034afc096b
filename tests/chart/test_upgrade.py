"""From one version of the chart to the next: nothing immutable changes, and no claim goes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.chart.helm import (
    Object,
    Rendered,
    Values,
    copied,
    merged,
    nested,
    profile_values,
    render,
)

# What an API server refuses to change, by kind (API reference, and the validation of each kind).
IMMUTABLE: dict[str, list[str]] = {
    "Deployment": ["spec selector"],
    "StatefulSet": [
        "spec selector",
        "spec serviceName",
        "spec podManagementPolicy",
        "spec volumeClaimTemplates",
    ],
    "PersistentVolumeClaim": [
        "spec accessModes",
        "spec selector",
        "spec storageClassName",
        "spec volumeMode",
        "spec volumeName",
    ],
    "Service": ["spec clusterIP"],
    "ResourceClaimTemplate": ["spec"],
    "RoleBinding": ["roleRef"],
}

NEXT: Values = {
    "image": {"tag": "9.9.9"},
    "commonLabels": {"team": "ml"},
    "trainer": {
        "config": {"workers": 2, "logLevel": "debug"},
        "storage": {"size": "500Gi"},
        "shutdown": {"graceSeconds": 500, "terminationGracePeriodSeconds": None},
        "podLabels": {"more": "labels"},
    },
    "serving": {
        "config": {"metricsTenants": 7},
        "podAnnotations": {"more": "annotations"},
        "service": {"annotations": {"more": "annotations"}},
        "shutdown": {"preStopSeconds": 9},
    },
}


@pytest.fixture(scope="module")
def next_chart(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return copied(tmp_path_factory.mktemp("next"), version="9.9.9", appVersion="9.9.9")


def by_name(rendered: Rendered) -> dict[tuple[str, str], Object]:
    return {(each["kind"], each["metadata"]["name"]): each for each in rendered.objects}


def immutable(document: Object) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for path in IMMUTABLE.get(document["kind"], []):
        at: Any = document
        for part in path.split():
            at = at.get(part) if isinstance(at, dict) else None
        found[path] = at
    return found


def test_an_upgrade_changes_nothing_that_is_immutable(profile: str, next_chart: Path) -> None:
    values = profile_values(profile)
    before = by_name(render(values))
    after = by_name(render(merged(values, NEXT), chart=next_chart, is_upgrade=True))

    assert {k: immutable(v) for k, v in before.items()} == {k: immutable(after[k]) for k in before}


def test_an_upgrade_takes_no_object_away(profile: str, next_chart: Path) -> None:
    values = profile_values(profile)

    gone = by_name(render(values)).keys() - by_name(render(values, chart=next_chart)).keys()

    assert gone == set()


def test_the_new_version_is_in_the_pods(next_chart: Path) -> None:
    """Else the two renderings that are compared here would be one."""
    after = render(merged(profile_values("replicated"), NEXT), chart=next_chart)
    template = after.one("Deployment", "-serving")["spec"]["template"]

    assert template["metadata"]["labels"]["app.kubernetes.io/version"] == "9.9.9"
    assert template["spec"]["containers"][0]["image"] == (
        "registry.example.com/tailorbird/tailorbird-serving:9.9.9@sha256:" + "2" * 64
    )


def test_the_chart_s_version_alone_is_the_image_s_tag(next_chart: Path) -> None:
    values = merged(profile_values("replicated"), {"image": {"tag": ""}})
    rendered = render(merged(values, nested("serving.image.digest", "")), chart=next_chart)

    image = rendered.one("Deployment", "-serving")["spec"]["template"]["spec"]["containers"][0]
    assert image["image"].endswith("/tailorbird-serving:9.9.9")


def test_claims_are_kept_and_grow_when_asked(profile: str, next_chart: Path) -> None:
    values = profile_values(profile)
    after = by_name(render(merged(values, NEXT), chart=next_chart))
    for key, claim in by_name(render(values)).items():
        if key[0] == "PersistentVolumeClaim":
            kept = after[key]
            assert kept["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
            grown = "500Gi" if key[1].endswith("-trainer") else _size(claim)
            assert _size(kept) == grown


def _size(claim: Object) -> str:
    size: str = claim["spec"]["resources"]["requests"]["storage"]
    return size


def test_a_claim_for_another_device_has_another_template() -> None:
    """A template's spec can never change: under its old name an upgrade would fail."""
    values = profile_values("dra")
    other = merged(values, nested("serving.gpu.dra.selectors", ["device.driver == 'a'"]))
    before, after = (
        {k: v for k, v in by_name(render(each)).items() if k[0] == "ResourceClaimTemplate"}
        for each in (values, other)
    )

    assert len(before) == len(after) == 2
    assert len(before.keys() & after.keys()) == 1
    for key in before.keys() & after.keys():
        assert before[key]["spec"] == after[key]["spec"]


def test_switching_optional_parts_off_deletes_no_claim_and_no_workload() -> None:
    values = profile_values("everything")
    off: Values = {
        "traffic": {
            "route": {"enabled": False},
            "inferencePool": {"enabled": False},
            "picker": {"create": False},
        },
        "scaling": {"enabled": False},
        "sight": {
            "podMonitor": {"enabled": False},
            "rules": {"enabled": False},
            "dashboards": {"enabled": False},
        },
        "networkPolicy": {"enabled": False},
        "tests": {"tokenSecret": {"name": ""}},
    }
    before, after = by_name(render(values)), by_name(render(merged(values, off)))

    kept = {"PersistentVolumeClaim", "StatefulSet", "Service", "ConfigMap", "ServiceAccount"}
    gone = {key for key in before.keys() - after.keys() if "picker" not in key[1]}
    assert {key for key in gone if key[0] in kept and "dashboard" not in key[1]} == set()
    assert ("Deployment", "shop-adapters-serving") in after


def test_a_claim_of_the_user_s_takes_the_place_of_the_chart_s() -> None:
    """The chart's own is kept by its annotation, whoever stops naming it."""
    values = profile_values("replicated")
    claim = render(values).one("PersistentVolumeClaim", "-trainer")
    moved = render(merged(values, nested("trainer.storage.existingClaim", "moved")))

    assert claim["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    assert moved.of_kind("PersistentVolumeClaim") == []
    volumes = moved.one("StatefulSet", "-trainer")["spec"]["template"]["spec"]["volumes"]
    assert {"name": "data", "persistentVolumeClaim": {"claimName": "moved"}} in volumes
