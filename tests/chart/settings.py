"""Every setting of both services, and where values.yaml has it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from serving_svc.settings import ServingSettings
from tailorbird.settings import CommonSettings
from tests.chart.environment import PREFIX
from trainer_svc.settings import TrainerSettings

MODELS: dict[str, type[CommonSettings]] = {"trainer": TrainerSettings, "serving": ServingSettings}

STRUCTURAL = frozenset(
    """
    data_dir object_store base_model base_model_name base_model_digest profile host port
    metrics_port http_port tokens_file tls_certificate_file tls_key_file database_url role replica
    drain_delay shutdown_grace more_base_models ray_address
    """.split()
)
"""What follows from how the pod is built: test_structural_settings.py has each one's key."""

_COMPARED = (
    "type enum minimum maximum exclusiveMinimum exclusiveMaximum pattern minItems maxItems "
    "minLength maxLength"
).split()


@dataclass(frozen=True)
class Setting:
    """One field of a service's settings model."""

    service: str
    name: str
    default: Any
    schema: dict[str, Any]
    """What it takes but null, as JSON schema."""

    @property
    def variable(self) -> str:
        return PREFIX + self.name.upper()

    @property
    def key(self) -> str:
        head, *rest = self.name.split("_")
        return head + "".join(part.capitalize() for part in rest)

    @property
    def path(self) -> str:
        return f"{self.service}.config.{self.key}"


def settings_in(service: str, model: type[CommonSettings]) -> list[Setting]:
    """Return the settings of `model` that have a key of their own under config."""
    document = model.model_json_schema()
    return [
        Setting(service, name, field.default, _bounds(document["properties"][name]))
        for name, field in model.model_fields.items()
        if name not in STRUCTURAL
    ]


def missing(service: str, model: type[CommonSettings], values: Any, schema: Any) -> Iterator[str]:
    """Yield what values.yaml and values.schema.json lack of `model`, and what they have beyond it.

    Each with the lines to add.
    """
    known = {setting.key: setting for setting in settings_in(service, model)}
    listed = values[service]["config"]
    described = _object_at(schema, service, "config")["properties"]
    for key, setting in known.items():
        if key not in listed:
            yield (
                f"values.yaml has no {setting.path}. Add, with a comment above it:\n"
                f"{service}:\n  config:\n    {key}: null  # {setting.default}"
            )
        if key not in described:
            yield f"values.schema.json has no {setting.path}. Add:\n{_fragment(setting)}"
        elif _bounds(described[key], schema) != setting.schema:
            yield (
                f"{setting.path} is {_bounds(described[key], schema)} in values.schema.json, and "
                f"{setting.schema} in {model.__name__}. It must be:\n{_fragment(setting)}"
            )
    for key in sorted((listed.keys() | described.keys()) - known.keys()):
        yield f"{service}.config.{key} is no setting of {model.__name__}"


def _fragment(setting: Setting) -> str:
    fragment = dict(setting.schema)
    if "enum" in fragment:
        fragment["enum"] = [*fragment["enum"], None]
    else:
        fragment["type"] = [fragment["type"], "null"]
    return json.dumps({setting.key: fragment}, indent=2)


def _object_at(schema: Any, *path: str) -> Any:
    found = schema
    for key in path:
        found = _resolved(found["properties"][key], schema)
    return found


def _resolved(schema: Any, document: Any) -> Any:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found = document
    for part in reference.removeprefix("#/").split("/"):
        found = found[part]
    return {**_resolved(found, document), **{k: v for k, v in schema.items() if k != "$ref"}}


def _bounds(schema: Any, document: Any = None) -> dict[str, Any]:
    """Return what a schema asks of a value that is not null, whichever way it says so."""
    schema = _resolved(schema, document)
    branches = [
        _resolved(each, document)
        for each in schema.get("anyOf") or schema.get("oneOf") or []
        if each.get("type") != "null"
    ]
    if branches:
        assert len(branches) == 1, f"{schema} takes values of several kinds"
        schema = {**branches[0], **{k: v for k, v in schema.items() if k not in ("anyOf", "oneOf")}}
    bounds = {key: schema[key] for key in _COMPARED if key in schema}
    kinds = bounds.get("type")
    if isinstance(kinds, list):
        (bounds["type"],) = (each for each in kinds if each != "null")
    if "enum" in bounds:
        bounds = {"enum": [each for each in bounds["enum"] if each is not None]}
    if bounds.get("type") == "array":
        # Pydantic calls a tuple's greatest length maxLength.
        bounds = {"type": "array", "maxItems": schema.get("maxItems", schema.get("maxLength"))}
        bounds["items"] = {"type": _resolved(schema["items"], document)["type"]}
    return bounds
