"""Every setting of both services is reachable from values.yaml, and nothing else is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import pytest
from pydantic import Field

from tests.chart.environment import KEYS, environment, settings_of
from tests.chart.helm import (
    Rendered,
    Values,
    default_values,
    merged,
    nested,
    profile_values,
    render,
    values_schema,
)
from tests.chart.pods import both
from tests.chart.settings import MODELS, STRUCTURAL, Setting, missing, settings_in
from trainer_svc.settings import TrainerSettings

CONFIGURED = [setting for name, model in MODELS.items() for setting in settings_in(name, model)]

# What JSON schema does not say of a value.
SAMPLES: dict[str, Any] = {
    "personalDataKinds": ["email", "phone"],
    "personalDataPatterns": "ticket=T-[0-9]{4,9}\ncase=(?P<value>\\d+), of",
    "personalDataSpacyModel": "en_core_web_sm",
    "feedbackTenants": ["acme", "globex"],
    "generalData": "/data/general.jsonl",
    "safetyLists": "/data/safety.json",
    "toolCallParser": "llama3_json",
    "importPrefixes": ["s3://models/of/{tenant}/", "gs://more/{tenant}/adapters/"],
    "rayWorkerResources": {"accelerator_type:H100": 0.25},
    "rayDataDir": "/mnt/tailorbird",
    "datasetPrefixes": {"acme": ["s3://acme-data/train/"], "*": ["s3://drop/{tenant}/in/"]},
    "datasetQuotaBytes": {"acme": 12_345_678_901, "*": 10},
    "datasetQuotaRecords": {"*": 12_345_678_901},
    "maxQueuedJobs": {"acme": 7},
    "maxRunningJobs": {"*": 7},
    "maxPriority": {"acme": 7},
    "warm": [
        "tenants/acme/adapters/support",
        "tenants/acme/adapters/legal/versions/20260101T000000-0123456789abcdef-1",
    ],
}

# Only as many as all tenants together.
SAMPLES |= {"tenantMaxRunning": 4000, "tenantMaxWaiting": 900_000}

# What must be changed with a setting for it to make sense.
COMPANIONS: dict[str, Values] = {
    "trainer.config.maxLoraRank": nested("serving.config.maxLoraRank", 128),
    "serving.config.adapterCacheBytes": nested("serving.cache.size", "20Gi"),
    "serving.config.maxAdapterBytes": {
        "serving": {"config": {"adapterCacheBytes": 12_345_678_901}, "cache": {"size": "20Gi"}}
    },
    "trainer.config.device": nested("trainer.gpu.driver", "devicePlugin"),
    "serving.config.tenantMaxRunning": nested("serving.config.maxRunning", 4096),
    "serving.config.tenantMaxWaiting": nested("serving.config.maxWaiting", 1_000_000),
}


def sample(setting: Setting) -> Any:
    """Return a value that the setting takes and that is not its default: a long one if it may."""
    if setting.key in SAMPLES:
        return SAMPLES[setting.key]
    schema = setting.schema
    if "enum" in schema:
        return next(each for each in reversed(schema["enum"]) if each != setting.default)
    if schema["type"] == "boolean":
        return True
    if schema["type"] == "number":
        return 0.625 if "maximum" in schema and schema["maximum"] <= 1 else 7.25
    # Helm holds numbers as floats, and writes long ones as 1.2345678901e+10 unless told not to.
    return schema.get("maximum", 12_345_678_901)


def plain(value: Any) -> Any:
    """Return what a setting was read as in the types of YAML."""
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    return value


def test_samples_are_not_defaults() -> None:
    assert not [each.path for each in CONFIGURED if sample(each) == each.default]


@pytest.mark.parametrize("setting", CONFIGURED, ids=lambda setting: setting.path)
def test_a_value_reaches_its_setting(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    value = sample(setting)
    without = merged(profile_values("cpu"), COMPANIONS.get(setting.path, {}))
    rendered = render(merged(without, nested(setting.path, value)))
    variables = environment(rendered, both(rendered)[setting.service])

    read_back = getattr(read(setting.service, variables, monkeypatch), setting.name)

    assert plain(read_back) == value
    assert f"{setting.name.upper()}={setting.path}" in variables[KEYS].split(",")
    other = next(name for name in MODELS if name != setting.service)
    before = render(without)
    assert environment(rendered, both(rendered)[other]) == environment(before, both(before)[other])


def read(service: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> Any:
    """Read the service's settings from these variables alone."""
    with monkeypatch.context() as environ:
        for name in list(os.environ):
            if name.startswith("TAILORBIRD_"):
                environ.delenv(name)
        for name, value in variables.items():
            environ.setenv(name, value)
        return MODELS[service]()


@pytest.mark.parametrize("service", MODELS)
def test_values_and_their_schema_have_every_setting_and_nothing_else(service: str) -> None:
    found = list(missing(service, MODELS[service], default_values(), values_schema()))

    assert not found, "\n\n".join(["the chart does not know its service:", *found])


def test_a_setting_that_the_chart_lacks_is_named_with_the_lines_to_add() -> None:
    class Newer(TrainerSettings):
        warm_starts: Annotated[int, Field(ge=1, le=9)] = 3

    of_values, of_schema = missing("trainer", Newer, default_values(), values_schema())

    assert "warmStarts: null  # 3" in of_values
    assert '"warmStarts"' in of_schema
    assert '"maximum": 9' in of_schema


def test_a_bound_that_differs_is_named() -> None:
    class Newer(TrainerSettings):
        workers: Annotated[int, Field(ge=1, le=32)] = 1

    (found,) = missing("trainer", Newer, default_values(), values_schema())

    assert "trainer.config.workers" in found
    assert '"maximum": 32' in found


def test_a_key_without_a_setting_is_named() -> None:
    values = default_values()
    values["trainer"]["config"]["warmStarts"] = None

    (found,) = missing("trainer", TrainerSettings, values, values_schema())

    assert "trainer.config.warmStarts is no setting" in found


def test_every_setting_is_the_service_s_own_until_it_is_set() -> None:
    """null says so; another default in values.yaml would drift from the service's."""
    values = default_values()
    assert {
        f"{name}.config.{key}": value
        for name in MODELS
        for key, value in values[name]["config"].items()
        if value is not None
    } == {}


def test_no_variable_is_rendered_that_no_setting_reads(rendered: Rendered) -> None:
    for pod in both(rendered).values():
        known = {f"TAILORBIRD_{name}".upper() for name in MODELS[pod.part].model_fields}
        assert set(settings_of(environment(rendered, pod))) <= known


def test_every_variable_says_where_it_was_set(rendered: Rendered) -> None:
    """TAILORBIRD_VALUES_KEYS names keys that exist, and leaves out no variable."""
    values = default_values()
    for pod in both(rendered).values():
        variables = environment(rendered, pod, secrets=AnySecrets())
        keys = dict(each.split("=") for each in variables[KEYS].split(","))
        assert {f"TAILORBIRD_{name}" for name in keys} >= settings_of(variables).keys() - UNSET
        for path in keys.values():
            at: Any = values
            for part in path.split("."):
                assert part in at, path
                at = at[part]


# What no value sets.
UNSET = {"TAILORBIRD_DATA_DIR", "TAILORBIRD_REPLICA"}


class AnySecrets(dict[str, dict[str, str]]):
    """A cluster in which every Secret has every key."""

    def __missing__(self, name: str) -> dict[str, str]:
        return AnyKeys()

    def __contains__(self, name: object) -> bool:
        return True


class AnyKeys(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "postgresql+asyncpg://user:word@host/db"


def test_every_profile_s_environment_is_what_its_services_take(
    rendered: Rendered, monkeypatch: pytest.MonkeyPatch
) -> None:
    for pod in both(rendered).values():
        variables = environment(rendered, pod, secrets=AnySecrets())

        settings = read(pod.part, variables, monkeypatch)

        assert settings.host in ("0.0.0.0", "::")
        assert settings.tokens_file is not None


def test_each_setting_is_either_a_key_or_structural() -> None:
    fields = {name for model in MODELS.values() for name in model.model_fields}
    assert fields >= STRUCTURAL
