"""Kinds that Kubernetes does not have itself, by schemas of our own (schemas/*.json).

They are written from each project's published field reference, and take nothing that stands there
not: a cluster would drop a misspelt field without a word.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource

from tests.chart.helm import Object, Rendered, read_yaml
from tests.chart.kinds import is_built_in

SCHEMAS = Path(__file__).parent / "schemas"
PICKER_FILE = "picker.yaml"


def custom_objects(rendered: Rendered) -> list[Object]:
    """Return the objects of custom kinds, and the configuration of the endpoint picker."""
    found = [document for document in rendered if not is_built_in(document)]
    for config in rendered.of_kind("ConfigMap"):
        if PICKER_FILE in config["data"]:
            found += read_yaml(config["data"][PICKER_FILE])
    return found


def custom_problems(document: Object) -> list[str]:
    """Return what is wrong with an object; a kind without a schema is wrong."""
    api, kind = document["apiVersion"], document["kind"]
    schema = SCHEMAS / f"{kind.lower()}.json"
    if not schema.exists():
        return [f"{kind} of {api}: there is no {schema.name}"]
    errors = _validator(schema).iter_errors(document)
    return [f"{kind}: {each.json_path}: {each.message}" for each in errors]


@cache
def _validator(schema: Path) -> Any:
    return jsonschema.Draft202012Validator(_read(schema), registry=_registry())


@cache
def _registry() -> Any:
    return Registry().with_resources(
        (path.name, Resource.from_contents(_read(path))) for path in SCHEMAS.glob("*.json")
    )


def _read(path: Path) -> Any:
    return json.loads(path.read_text())
