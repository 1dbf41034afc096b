"""What an API server of some version would say to an object, by kubernetes-validate's schemas."""

from __future__ import annotations

from functools import cache
from typing import Any

import jsonschema
from kubernetes_validate.utils import latest_version, major_minor, schema_contents
from referencing import Registry, Resource

from tests.chart.helm import Object

OLDEST = "1.34"
"""The first with resource.k8s.io/v1."""
NEWEST: str = major_minor(latest_version())


def is_built_in(document: Object) -> bool:
    """Tell whether the newest Kubernetes itself has the object's kind."""
    try:
        _validator(document["apiVersion"], document["kind"], NEWEST)
    except FileNotFoundError:
        return False
    return True


def problems(document: Object, version: str) -> list[str]:
    """Return what is wrong with the object, strictly: a field that is unknown is wrong."""
    name = f"{document['kind']} {document['metadata']['name']}"
    try:
        validator = _validator(document["apiVersion"], document["kind"], version)
    except FileNotFoundError:
        return [f"{name}: Kubernetes {version} has no {document['apiVersion']}"]
    return [f"{name}: {each.json_path}: {each.message}" for each in validator.iter_errors(document)]


@cache
def _validator(api_version: str, kind: str, version: str) -> Any:
    # kubernetes_validate.validate reads 1.5 MB of definitions anew for each object.
    group, _, short = api_version.rpartition("/")
    name = "-".join(filter(None, (kind.lower(), group.partition(".")[0], short)))
    schema = schema_contents(f"{_folder(version)}/{name}.json", version)
    return jsonschema.Draft202012Validator(schema, registry=_definitions(version))


@cache
def _definitions(version: str) -> Any:
    contents = schema_contents(f"{_folder(version)}/_definitions.json", version)
    return Resource.from_contents(contents) @ Registry()


def _folder(version: str) -> str:
    return f"kubernetes-json-schema/v{version}.0-local-strict"
