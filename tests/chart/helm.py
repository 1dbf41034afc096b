"""The chart through Helm's own library: linted, rendered and refused, with no cluster and no helm.

Values given here lie over values.yaml as those of `helm install --values` do.
"""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import helm_python
import yaml

CHART = Path(__file__).parents[2] / "deploy" / "k8s" / "tailorbird"
RELEASE = "shop"
NAMESPACE = "tailorbird"
WARNING = 2

Values = dict[str, Any]
Object = dict[str, Any]


class _Loader(yaml.CSafeLoader):  # type: ignore[misc]
    """YAML as an API server reads it: a key that stands twice is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        twice = {key for key in keys if keys.count(key) > 1}
        if twice:
            raise yaml.YAMLError(f"{sorted(twice)} stand twice{node.start_mark}")
        mapping: dict[Any, Any] = super().construct_mapping(node, deep)
        return mapping


def read_yaml(text: str) -> list[Any]:
    """Return the documents of `text` that hold something."""
    return [document for document in yaml.load_all(text, _Loader) if document is not None]


@dataclass(frozen=True)
class Rendered:
    """What one rendering gave: the objects of the release, its hooks, and the notes."""

    objects: list[Object]
    hooks: list[Object]
    notes: str
    files: Mapping[str, str] = field(repr=False)

    def __iter__(self) -> Iterator[Object]:
        """Every object, hooks last."""
        return iter([*self.objects, *self.hooks])

    def of_kind(self, *kinds: str) -> list[Object]:
        return [each for each in self.objects if each["kind"] in kinds]

    def one(self, kind: str, name: str) -> Object:
        """Return the object, whose name ends with `name`."""
        found = [each for each in self.of_kind(kind) if each["metadata"]["name"].endswith(name)]
        assert len(found) == 1, f"{len(found)} {kind} end with {name!r}, not one"
        return found[0]


def _profiles() -> dict[str, Path]:
    suffix = "-values.yaml"
    files = sorted((CHART / "ci").glob("*" + suffix))
    return {file.name.removesuffix(suffix): file for file in files}


PROFILES = _profiles()


@cache
def _values(file: Path) -> Values:
    (values,) = read_yaml(file.read_text())
    found: Values = values
    return found


def default_values() -> Values:
    """Return values.yaml."""
    return copy.deepcopy(_values(CHART / "values.yaml"))


def values_schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
    return schema


def profile_values(profile: str) -> Values:
    """Return a copy of one profile's values, for the caller to change."""
    return copy.deepcopy(_values(PROFILES[profile]))


def merged(*layers: Values) -> Values:
    """Lay values over one another as Helm does: mappings merge, all else is replaced."""
    result: Values = {}
    for layer in layers:
        for key, value in layer.items():
            under = result.get(key)
            if isinstance(under, dict) and isinstance(value, dict):
                result[key] = merged(under, value)
            else:
                result[key] = copy.deepcopy(value)
    return result


def nested(path: str, value: Any) -> Values:
    """Return the values in which `path` (a.b.c) has `value`."""
    for key in reversed(path.split(".")):
        value = {key: value}
    result: Values = value
    return result


@cache
def _chart(path: Path) -> helm_python.Chart:
    return helm_python.Chart.load(path)


def render(
    values: Values,
    *,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    is_upgrade: bool = False,
    chart: Path = CHART,
) -> Rendered:
    """Render the chart.

    Raises:
        helm_python.HelmError: the values are refused, by the schema or by a template.
        yaml.YAMLError: what was rendered is not YAML.
    """
    files = _chart(chart).render(
        values,
        name=release,
        namespace=namespace,
        revision=2 if is_upgrade else 1,
        is_install=not is_upgrade,
        is_upgrade=is_upgrade,
    )
    everything = [
        document
        for name, text in sorted(files.items())
        if name.endswith((".yaml", ".yml"))
        for document in read_yaml(text)
    ]
    hooks = [each for each in everything if is_hook(each)]
    notes = "".join(text for name, text in files.items() if name.endswith("NOTES.txt"))
    return Rendered([each for each in everything if not is_hook(each)], hooks, notes, files)


def named(document: Object) -> str:
    """Return kind and name, as kubectl would."""
    return f"{document['kind']} {document['metadata']['name']}"


def is_hook(document: Object) -> bool:
    return "helm.sh/hook" in (document["metadata"].get("annotations") or {})


def refusal(values: Values) -> str:
    """Return what the chart says to `values`, which it must refuse."""
    try:
        render(values)
    except helm_python.HelmError as error:
        return str(error)
    raise AssertionError("the chart took the values")


def lint(values: Values) -> list[str]:
    """Return Helm's findings of warning and worse, each in one line."""
    report = helm_python.lint(str(CHART), values, strict=True, namespace=NAMESPACE)
    found = [
        f"{each['path']}: {' '.join(each['error'].split())}"
        for each in report["messages"]
        if each["severity"] >= WARNING
    ]
    return found or [" ".join(error.split()) for error in report["errors"]]


def copied(folder: Path, **changes: str) -> Path:
    """Copy the chart to `folder`, with other values for the named keys of Chart.yaml."""
    target = folder / CHART.name
    shutil.copytree(CHART, target)
    about = target / "Chart.yaml"
    about.write_text(yaml.safe_dump(yaml.safe_load(about.read_text()) | changes))
    return target
