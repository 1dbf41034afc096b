"""A key that is not in values.yaml is refused, at every level."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.chart.helm import (
    Values,
    default_values,
    merged,
    nested,
    profile_values,
    refusal,
    render,
    values_schema,
)

TYPO = "tailorbrid"

# Kubernetes' own fields, and mappings whose keys are the user's.
OPEN = {
    "commonLabels",
    "commonAnnotations",
    "objectStore.env",
    "scaling.annotations",
    "trainer.split.api.affinity",
    "trainer.split.api.nodeSelector",
    "trainer.split.api.resources.limits",
    "trainer.split.api.resources.requests",
    "trainer.split.worker.scaling.annotations",
    "sight.dashboards.annotations",
    "sight.dashboards.labels",
    "sight.podMonitor.labels",
    "sight.rules.alertLabels",
    "sight.rules.labels",
    "console.affinity",
    "console.nodeSelector",
    "console.resources.limits",
    "console.resources.requests",
    "traffic.picker.resources.limits",
    "traffic.picker.resources.requests",
    "traffic.route.annotations",
    "console.route.annotations",
    "console.service.annotations",
    *(
        f"{service}.{key}"
        for service in ("trainer", "serving")
        for key in (
            "affinity",
            "nodeSelector",
            "podAnnotations",
            "podLabels",
            "resources.limits",
            "resources.requests",
            "service.annotations",
            "serviceAccount.annotations",
        )
    ),
}
# The same, inside lists; and Helm's own.
OPEN_ITEMS = {
    "global",
    "networkPolicy.egress.extra[]",
    "networkPolicy.ingress.extra[]",
    *(
        f"networkPolicy.{peers}[].{selector}"
        for peers in (
            "egress.database.to",
            "egress.dns.to",
            "egress.hub.to",
            "egress.objectStore.to",
            "egress.ray.to",
            "ingress.clients",
            "ingress.console",
            "ingress.metrics",
        )
        for selector in ("namespaceSelector", "podSelector")
    ),
    "traffic.picker.apiServer.to[].namespaceSelector",
    "traffic.picker.apiServer.to[].podSelector",
    *(
        f"{service}.{key}[]"
        for service in ("trainer", "serving")
        for key in ("extraEnv", "extraVolumeMounts", "extraVolumes", "tolerations")
    ),
    "console.tolerations[]",
    "serving.topologySpreadConstraints[]",
    "trainer.split.api.tolerations[]",
    "trainer.split.api.topologySpreadConstraints[]",
}


def mappings(values: Any, path: str = "") -> Iterator[str]:
    """Yield the path of every mapping in values.yaml."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield f"{path}{key}"
            yield from mappings(value, f"{path}{key}.")


@pytest.mark.parametrize("path", sorted(set(mappings(default_values())) - OPEN))
def test_a_typo_is_refused_and_named(path: str) -> None:
    said = refusal(merged(profile_values("cpu"), nested(f"{path}.{TYPO}", 1)))

    assert TYPO in said
    assert path.replace(".", "/") in said


def test_a_typo_at_the_top_is_refused_and_named() -> None:
    assert TYPO in refusal(merged(profile_values("cpu"), {TYPO: {}}))


def test_nothing_is_open_but_what_is_named() -> None:
    """Every mapping that the schema describes, in lists too, takes no key that it does not know."""
    open_to_all = set(_open(values_schema(), values_schema(), ""))

    assert open_to_all == OPEN | OPEN_ITEMS


def _open(schema: Any, document: Any, path: str) -> Iterator[str]:
    for branch in _branches(schema, document):
        closed = branch.get("additionalProperties") is False and "patternProperties" not in branch
        if branch.get("type") == "object" and not closed:
            yield path
            continue
        for key, value in (branch.get("properties") or {}).items():
            yield from _open(value, document, f"{path}.{key}".lstrip("."))
        if isinstance(branch.get("items"), dict):
            yield from _open(branch["items"], document, f"{path}[]")


def _branches(schema: Any, document: Any) -> Iterator[Any]:
    """Yield the schema without its references, and what it is all of."""
    while "$ref" in schema:
        found = document
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    yield schema
    for each in schema.get("allOf") or []:
        if "$ref" in each:
            yield from _branches(each, document)


def test_what_is_open_takes_any_key() -> None:
    for path in sorted(OPEN - {"objectStore.env"}):
        values: Values = merged(profile_values("cpu"), nested(f"{path}.{TYPO}", "1"))
        assert render(values)
