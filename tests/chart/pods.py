"""The pods in what was rendered, whatever kind of object holds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.chart.helm import Object, Rendered

WORKLOADS = ("Deployment", "StatefulSet")


@dataclass(frozen=True)
class Pod:
    """One pod template, or the pod of a hook, and the object that holds it."""

    owner: Object
    metadata: dict[str, Any]
    spec: dict[str, Any]

    def __str__(self) -> str:
        return f"{self.owner['kind']} {self.owner['metadata']['name']}"

    @property
    def labels(self) -> dict[str, str]:
        labels: dict[str, str] = self.metadata.get("labels") or {}
        return labels

    @property
    def annotations(self) -> dict[str, str]:
        annotations: dict[str, str] = self.metadata.get("annotations") or {}
        return annotations

    @property
    def component(self) -> str:
        return self.labels["app.kubernetes.io/component"]

    @property
    def part(self) -> str:
        """trainer or serving: whose key of values.yaml, and whose settings, it has."""
        return self.component.partition("-")[0]

    @property
    def takes_calls(self) -> bool:
        return any(each["name"] == "grpc" for each in self.service.get("ports") or [])

    @property
    def is_service(self) -> bool:
        """Whether it runs until it is stopped."""
        return self.owner["kind"] in WORKLOADS

    @property
    def service(self) -> dict[str, Any]:
        """The container that the pod is for."""
        container: dict[str, Any] = self.spec["containers"][0]
        return container

    @property
    def containers(self) -> list[dict[str, Any]]:
        """Every container; those of the start first."""
        return [*(self.spec.get("initContainers") or []), *self.spec["containers"]]

    @property
    def volumes(self) -> dict[str, dict[str, Any]]:
        return {each["name"]: each for each in self.spec.get("volumes") or []}


def pods(documents: Iterable[Object]) -> list[Pod]:
    """Return every pod of the release; those of hooks too."""
    return list(_pods(documents))


def _pods(documents: Iterable[Object]) -> Iterator[Pod]:
    for document in documents:
        spec = document.get("spec")
        if document["kind"] == "Pod":
            yield Pod(document, document["metadata"], document["spec"])
        elif isinstance(spec, dict) and "containers" in (
            (spec.get("template") or {}).get("spec") or {}
        ):
            yield Pod(document, spec["template"].get("metadata") or {}, spec["template"]["spec"])


def services(rendered: Rendered) -> dict[str, Pod]:
    """Return the pods that run until they are stopped, by component."""
    return {pod.component: pod for pod in pods(rendered) if pod.is_service}


def both(rendered: Rendered) -> dict[str, Pod]:
    """Return the pods of the trainer, of one kind or two, and of serving, by component."""
    found = services(rendered).items()
    return {name: pod for name, pod in found if pod.part in ("trainer", "serving")}


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Tell whether a LabelSelector, or the bare labels of a Service, take these labels."""
    if not {"matchLabels", "matchExpressions"} & selector.keys():
        return all(labels.get(key) == value for key, value in selector.items())
    return all(
        labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()
    ) and all(_holds(each, labels) for each in selector.get("matchExpressions") or [])


def _holds(expression: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    value, wanted = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in wanted
        case "NotIn":
            return value not in wanted
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
    raise AssertionError(f"no such operator: {expression}")
