"""The variables a container starts with, as the kubelet would work them out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from tests.chart.helm import NAMESPACE, Rendered, named
from tests.chart.pods import Pod

PREFIX = "TAILORBIRD_"
KEYS = "TAILORBIRD_VALUES_KEYS"
"""Not a setting: says of each of them where in values.yaml it was set."""

Secrets = Mapping[str, Mapping[str, str]]
"""Name of a Secret -> key -> text."""


def environment(
    rendered: Rendered,
    pod: Pod,
    container: Mapping[str, Any] | None = None,
    secrets: Secrets | None = None,
) -> dict[str, str]:
    """Return the variables of a container; without one, of the one that the pod is for.

    Without `secrets`, what comes from one is left out.

    Raises:
        AssertionError: something is named that is not there.
    """
    container = pod.service if container is None else container
    variables: dict[str, str] = {}
    for source in container.get("envFrom") or []:
        prefix = source.get("prefix", "")
        found = _of_source(rendered, source, secrets)
        variables |= {prefix + key: value for key, value in found.items()}
    for each in container.get("env") or []:
        value = _value(pod, each, secrets)
        if value is not None:
            variables[each["name"]] = _expanded(value, variables)
    return variables


def settings_of(variables: Mapping[str, str]) -> dict[str, str]:
    """Return those that a service's settings are read from."""
    return {k: v for k, v in variables.items() if k.startswith(PREFIX) and k != KEYS}


def _of_source(
    rendered: Rendered, source: Mapping[str, Any], secrets: Secrets | None
) -> Mapping[str, str]:
    if "configMapRef" in source:
        name = source["configMapRef"]["name"]
        found = [m for m in rendered.of_kind("ConfigMap") if m["metadata"]["name"] == name]
        assert found, f"there is no ConfigMap {name}"
        data: dict[str, str] = found[0]["data"]
        assert all(isinstance(value, str) for value in data.values()), f"{named(found[0])}: {data}"
        return data
    if secrets is None:
        return {}
    name = source["secretRef"]["name"]
    assert name in secrets, f"there is no Secret {name}"
    return secrets[name]


def _value(pod: Pod, variable: Mapping[str, Any], secrets: Secrets | None) -> str | None:
    if "valueFrom" not in variable:
        value = variable.get("value", "")
        assert isinstance(value, str), f"{pod}: {variable} is no text"
        return value
    source = variable["valueFrom"]
    if "secretKeyRef" in source:
        ref = source["secretKeyRef"]
        return None if secrets is None else secrets[ref["name"]][ref["key"]]
    field = source["fieldRef"]["fieldPath"]
    of_pod = {
        "metadata.name": f"{pod.owner['metadata']['name']}-0",
        "metadata.namespace": NAMESPACE,
    }
    assert field in of_pod, f"{pod}: {variable}"
    return of_pod[field]


def _expanded(value: str, variables: Mapping[str, str]) -> str:
    def known(match: re.Match[str]) -> str:
        return variables.get(match[1], match[0])

    return re.sub(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)", known, value)
