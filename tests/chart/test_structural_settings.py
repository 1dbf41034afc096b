"""What follows from how a pod is built: where its files lie, its ports, its secrets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.chart.environment import KEYS, environment
from tests.chart.helm import Values, merged, nested, profile_values, render
from tests.chart.pods import both
from tests.chart.settings import MODELS, STRUCTURAL

SPLIT: Values = nested("trainer.split.enabled", True)
SECRETS = {
    "tailorbird-database": {"url": "postgresql+asyncpg://db/jobs"},
    "tailorbird-object-store": {},
}
DIGEST = "sha256:" + "a" * 64
HUB: Values = {
    "baseModel": {
        "claim": {"existingClaim": "", "path": ""},
        "huggingFace": {"id": "org/name@abc"},
    },
    "networkPolicy": {"egress": {"hub": {"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}}},
}
IMAGE: Values = {
    "baseModel": {
        "claim": {"existingClaim": ""},
        "image": {"reference": f"registry.example/base@{DIGEST}", "path": "model"},
    }
}


@dataclass(frozen=True)
class Case:
    """Values over the profile `replicated`, and what both services then read."""

    name: str
    values: Values
    expected: str
    key: str = ""
    services: tuple[str, ...] = field(default=("trainer", "serving"))
    """Components of the pods."""

    def __str__(self) -> str:
        return f"{self.name}={self.expected}"


RAY_CASE = Case(
    "ray_address",
    {
        **nested("trainer.ray.address", "ray://gpus-head-svc.ray.svc:10001"),
        **nested("networkPolicy.egress.ray.to", [{"podSelector": {}}]),
    },
    "ray://gpus-head-svc.ray.svc:10001",
    "trainer.ray.address",
    ("trainer",),
)
CASES = [
    Case("data_dir", {}, "/var/lib/tailorbird"),
    Case("object_store", nested("objectStore.url", "gs://b/c"), "gs://b/c", "objectStore.url"),
    Case("base_model", {}, "/base-model/llama-3.1-8b-instruct", "baseModel.claim"),
    Case("base_model", nested("baseModel.claim.path", ""), "/base-model", "baseModel.claim"),
    Case("base_model", IMAGE, "/base-model/model", "baseModel.image"),
    Case("base_model", HUB, "org/name@abc", "baseModel.huggingFace.id"),
    Case("base_model_name", nested("baseModel.name", "eight-b"), "eight-b", "baseModel.name"),
    Case("base_model_digest", nested("baseModel.digest", DIGEST), DIGEST, "baseModel.digest"),
    Case("profile", nested("profile", "eight-b"), "eight-b", "profile"),
    Case("host", nested("bindAddress", "::"), "::", "bindAddress"),
    Case("tokens_file", {}, "/etc/tailorbird/tokens/tokens.json", "auth.existingSecret"),
    Case("tls_certificate_file", {}, "/etc/tailorbird/tls/tls.crt", "tls.existingSecret"),
    Case("tls_key_file", {}, "/etc/tailorbird/tls/tls.key", "tls.existingSecret"),
    Case(
        "database_url",
        {},
        "postgresql+asyncpg://db/jobs",
        "trainer.database.existingSecret",
        ("trainer",),
    ),
    *(
        Case(
            "more_base_models",
            merged(source, nested("trainer.moreBaseModels", [{"model": model, "name": "q"}])),
            f'[{{"model":"{path}","name":"q"}}]',
            "trainer.moreBaseModels",
            ("trainer",),
        )
        for source, model, path in (
            ({}, "qwen3-8b", "/base-model/qwen3-8b"),
            (IMAGE, "more/qwen3-8b", "/base-model/more/qwen3-8b"),
            (HUB, "org/qwen3-8b@main", "org/qwen3-8b@main"),
        )
    ),
    RAY_CASE,
    Case("role", SPLIT, "api", "trainer.split.enabled", ("trainer-api",)),
    Case("role", SPLIT, "worker", "trainer.split.enabled", ("trainer-worker",)),
    Case("replica", {}, "shop-tailorbird-serving-0", "", ("serving",)),
    *(
        Case(name, merged(SPLIT, nested(key, 17)), "17", key, (component,))
        for component, shutdown in (
            ("trainer-api", "trainer.split.api.shutdown"),
            ("trainer-worker", "trainer.shutdown"),
        )
        for name, key in (
            ("drain_delay", f"{shutdown}.drainDelaySeconds"),
            ("shutdown_grace", f"{shutdown}.graceSeconds"),
            ("metrics_port", "trainer.ports.http"),
        )
    ),
    *(
        Case(name, nested(f"{service}.{path}", value), str(value), f"{service}.{path}", (service,))
        for service in MODELS
        for name, path, value in (
            ("port", "ports.grpc", 6001),
            ("metrics_port", "ports.http", 6002),
            ("http_port", "ports.openai", 6003),
            ("drain_delay", "shutdown.drainDelaySeconds", 7),
            ("shutdown_grace", "shutdown.graceSeconds", 77),
        )
    ),
]


def test_every_structural_setting_has_a_case() -> None:
    assert {case.name for case in CASES} == STRUCTURAL


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_value_reaches_its_setting(case: Case) -> None:
    rendered = render(merged(profile_values("replicated"), case.values))
    for service in case.services:
        variables = environment(rendered, both(rendered)[service], secrets=SECRETS)

        assert variables[f"TAILORBIRD_{case.name.upper()}"] == case.expected
        keys = variables[KEYS].split(",")
        if case.key:
            assert f"{case.name.upper()}={case.key}" in keys


def test_a_mesh_takes_the_place_of_tls() -> None:
    values: Values = {"tls": {"existingSecret": ""}, "mesh": "linkerd"}
    rendered = render(merged(profile_values("replicated"), values))

    for pod in both(rendered).values():
        assert not [name for name in environment(rendered, pod) if "_TLS_" in name]
        assert "tls" not in pod.volumes


def test_files_lie_where_the_settings_say() -> None:
    """Each path among the variables is below something that is mounted."""
    rendered = render(profile_values("replicated"))
    for pod in both(rendered).values():
        mounts = {each["mountPath"]: each for each in pod.service["volumeMounts"]}
        for name, value in environment(rendered, pod).items():
            if value.startswith("/"):
                assert any(f"{value}/".startswith(f"{mount}/") for mount in mounts), name
        assert _files(pod.volumes["tokens"]) == {"tokens.json"}
        assert _files(pod.volumes["tls"]) == {"tls.crt", "tls.key"}


def _files(volume: dict[str, Any]) -> set[str]:
    return {each["path"] for each in volume["secret"]["items"]}


def test_the_trainer_alone_may_reach_the_ray_cluster() -> None:
    rendered = render(merged(profile_values("replicated"), RAY_CASE.values))
    opening = {"to": [{"podSelector": {}}], "ports": [{"port": 10001, "protocol": "TCP"}]}
    opened = {
        service: opening in rendered.one("NetworkPolicy", f"-{service}")["spec"]["egress"]
        for service in MODELS
    }
    assert opened == {"trainer": True, "serving": False}
