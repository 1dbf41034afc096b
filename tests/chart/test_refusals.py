"""Values that cannot work end the rendering, with a message that names the key.

Each case is a profile that renders, and one value changed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from tests.chart.conftest import rendered_profile
from tests.chart.helm import merged, nested, profile_values, refusal

DIGEST = "sha256:" + "0" * 64


@dataclass(frozen=True)
class Case:
    """One value, and what the refusal must say of it."""

    key: str
    value: Any
    says: str
    profile: str = "cpu"
    named: str = ""
    """The key that the message names, where it is another than the one changed."""

    def __str__(self) -> str:
        return f"{self.key}={self.value}"


TRAINERS = [
    Case("trainer.replicas", 2, "must be 1"),
    Case("trainer.replicas", 0, "must be 1"),
    Case("trainer.gpu.count", 2, "maximum", "shared-gpu"),
]

STORES = [
    Case("serving.replicas", 2, "maximum"),
    Case("serving.strategy.maxSurge", 1, "must be one of"),
    Case("objectStore.url", "", "minLength"),
    Case("objectStore.url", "http://store/bucket", "pattern"),
    Case("objectStore.url", "s3://", "pattern"),
    Case("objectStore.url", "file:///etc", "pattern"),
    Case("objectStore.url", "file:///store/../etc", "pattern"),
    Case("objectStore.url", "file:///store", "maximum", "replicated", "serving.replicas"),
    Case("objectStore.env.AWS_SECRET_ACCESS_KEY", "abc", "AWS_SECRET_ACCESS_KEY", "replicated"),
    Case("objectStore.env.AWS_SESSION_TOKEN", "abc", "AWS_SESSION_TOKEN", "replicated"),
    Case("objectStore.env.TAILORBIRD_WORKERS", "2", "TAILORBIRD_WORKERS", "replicated"),
    Case("objectStore.claim.accessModes", ["ReadOnlyMany"], "must be one of"),
    Case("objectStore.claim.size", "20 GB", "pattern"),
]

IDENTITY = [
    Case("auth.existingSecret", "", "minLength"),
    Case("tls.existingSecret", "", "minLength"),
    Case("mesh", "isto", "must be one of"),
    Case("bindAddress", "127.0.0.1", "must be one of"),
    Case("auth.existingSecret", "My_Tokens", "pattern"),
    Case("auth.key", "a/b", "pattern"),
    Case("trainer.serviceAccount.create", False, "minLength", named="trainer.serviceAccount.name"),
    Case(
        "serving.serviceAccount.name",
        "shop-tailorbird-trainer",
        "already",
        named="serving.serviceAccount.create",
    ),
    Case("serving.extraEnv", [{"name": "TAILORBIRD_WORKERS", "value": "2"}], "not"),
    Case("trainer.extraEnv", [{"value": "2"}], "name"),
]

MODELS = [
    Case("baseModel.digest", "sha256:abc", "pattern"),
    Case("baseModel.name", "", "minLength", "replicated"),
    Case("baseModel.claim.existingClaim", "", "anyOf", "replicated", "baseModel"),
    Case("baseModel.claim.path", "../etc", "pattern"),
    Case("baseModel.huggingFace.id", "org/name", "must be ''", "replicated"),
    Case("baseModel.image.reference", f"registry.example/base@{DIGEST}", "must be ''"),
    Case("baseModel.image.reference", "registry.example/base:1", "pattern"),
    Case("profile", "Two Words", "pattern"),
    Case("profile", "", "pattern"),
]

ENGINE = [
    Case("serving.config.maxLoraRank", 65, "must be one of"),
    Case("serving.config.maxLoraRank", 256, "must be one of"),
    Case("serving.config.maxLoraRank", "64", "must be one of"),
    Case("serving.config.adapterSlots", 0, "minimum"),
    Case("serving.config.adapterSlots", 257, "maximum"),
    Case("serving.config.adapterSlots", 2.5, "integer"),
    Case("trainer.config.maxLoraRank", 128, "what is trained must be servable"),
    Case("serving.config.maxLoraRank", 8, "64", named="trainer.config.maxLoraRank"),
    Case("serving.config.maxCpuLoras", 1, "adapterSlots", "replicated"),
    Case(
        "serving.config.maxAdapterBytes", 2**40, "no room", named="serving.config.adapterCacheBytes"
    ),
    Case("serving.config.adapterCacheBytes", 2**40, "must hold", named="serving.cache.size"),
    Case("serving.cache.size", "1Gi", "must hold"),
    Case("serving.config.maxRunning", 5000, "maximum"),
    Case("serving.config.tenantMaxWaiting", 2000, "more than"),
    Case("serving.config.maxStepTokens", 100, "less than"),
    Case("serving.config.dtype", "int8", "must be one of"),
    Case("serving.config.toolCallParser", "Not A Parser", "pattern"),
    Case("serving.config.importPrefixes", ["s3://bucket/adapters/"], "pattern"),
    Case("serving.config.feedbackTenants", ["Acme"], "pattern"),
    Case("serving.config.importPrefixes", ["https://host/{tenant}/"], "pattern"),
    Case("trainer.config.datasetPrefixes", {"acme": ["s3://bucket/no-slash"]}, "pattern"),
    Case("trainer.config.datasetPrefixes", {"acme": ["https://host/data/"]}, "pattern"),
    Case("trainer.config.datasetPrefixes", {"Acme": ["s3://bucket/data/"]}, "not allowed"),
    Case("trainer.config.datasetPrefixes", {"*": ["s3://bucket/data/"]}, "pattern"),
    Case("trainer.config.datasetPrefixes", {"acme": "s3://bucket/data/"}, "array"),
    Case("trainer.config.datasetQuotaBytes", {"Acme": 1}, "not allowed"),
    Case("trainer.config.datasetQuotaBytes", {"acme": -1}, "minimum"),
    Case("trainer.config.datasetQuotaRecords", {"*": "many"}, "integer"),
    Case("serving.config.warm", ["acme/support"], "pattern"),
    Case("serving.config.warm", ["tenants/a/adapters/b,tenants/c/adapters/d"], "pattern"),
    Case("serving.config.enforceEager", "yes", "boolean"),
    Case("trainer.config.workers", 0, "minimum"),
    Case("trainer.config.baseMemoryGib", 0, "exclusiveMinimum"),
    Case("trainer.moreBaseModels", [{"model": "../other"}], "pattern"),
    Case("trainer.moreBaseModels", [{"model": ""}], "pattern"),
    Case("trainer.moreBaseModels", [{"name": "other"}], "model"),
    Case("trainer.config.workers", 17, "maximum"),
    Case("trainer.config.device", "tpu", "must be one of"),
    Case("trainer.config.device", "cuda", "must be one of"),
    Case("trainer.config.logLevel", "trace", "must be one of"),
]

DEVICES = [
    Case("serving.gpu.driver", "nvidia", "must be one of"),
    Case("serving.config.tensorParallelSize", 2, "serving.gpu.count", "tensor-parallel"),
    Case("serving.gpu.count", 3, "tensorParallelSize", "tensor-parallel", "serving.config"),
    Case("serving.gpu.sharing", "timeSlicing", "must be 'none'", "dra"),
    Case("serving.gpu.sharing", "mps", "must be 'none'", "dra"),
    Case("serving.gpu.driver", "dra", "must be 'none'", "shared-gpu", "serving.gpu.sharing"),
    Case("serving.gpu.count", 2, "must be 1", "shared-gpu"),
    Case("serving.config.gpuMemoryUtilization", None, "number", "shared-gpu"),
    Case("trainer.config.gpuMemoryShare", None, "number", "shared-gpu"),
    Case(
        "trainer.config.gpuMemoryShare",
        0.9,
        "0.95 together",
        "shared-gpu",
        "serving.config.gpuMemoryUtilization",
    ),
    Case("serving.resources.limits", {"nvidia.com/gpu": 2}, "serving.gpu.count", "tensor-parallel"),
]

RUNNING = [
    Case("serving.replicas", -1, "minimum", "replicated"),
    Case("serving.shutdown.terminationGracePeriodSeconds", 30, "at least"),
    Case("trainer.shutdown.terminationGracePeriodSeconds", 30, "at least"),
    Case("serving.shutdown.graceSeconds", 4000, "maximum"),
    Case("serving.strategy.maxUnavailable", 0, "both 0", named="serving.strategy.maxSurge"),
    Case("serving.strategy.maxUnavailable", "lots", "oneOf"),
    Case("serving.ports.grpc", 9092, "needs its own"),
    Case("serving.ports.openai", 9092, "needs its own"),
    Case("trainer.ports.openai", 50051, "needs its own"),
    Case("trainer.ports.http", 70000, "maximum"),
    Case("serving.queue.priorityClass", "high", "serving.queue.name"),
    Case("networkPolicy.egress.objectStore.to", [], "names no peer", "replicated"),
    Case("networkPolicy.egress.database.to", [], "names no peer", "replicated"),
    Case(
        "trainer.ray.address",
        "ray://gpus-head-svc:10001",
        "names no peer",
        "replicated",
        "networkPolicy.egress.ray.to",
    ),
    Case("trainer.ray.address", "gpus-head-svc:10001", "pattern"),
    Case("networkPolicy.egress.objectStore.to", [{"ipBlock": {"cidr": "10.0.0.1"}}], "pattern"),
    Case("networkPolicy.ingress.metrics", [], "sight.podMonitor.enabled", "everything"),
    Case(
        "serving.resources.requests",
        {"memory": "64Gi"},
        "the request 64Gi",
        named="serving.resources.limits",
    ),
    Case("trainer.resources.limits", {"cpu": "1500m"}, "the request 2", "replicated"),
    Case("serving.resources.limits", {"memory": "32GB"}, "pattern"),
    Case("serving.resources.limits", {"ephemeral-storage": "1Gi"}, "folders on the node's disk"),
    Case("serving.extraVolumes", [{"name": "data", "emptyDir": {}}], "another name"),
    Case("serving.extraEnv", [{"name": "OTEL_SDK_DISABLED", "value": True}], "string"),
    Case("image.registry", "https://registry.example.com", "pattern"),
    Case("commonLabels", {"team": "ml platform"}, "pattern"),
    Case("serving.podLabels", {"a team": "ml"}, "a team"),
    Case("networkPolicy.ingress.clients", [{"podSelectr": {}}], "podSelectr"),
    Case("nameOverride", "Shop_1", "pattern"),
    Case("fullnameOverride", "a" * 41, "pattern"),
    Case("image.tag", "two words", "pattern"),
    Case("serving.image.digest", "latest", "pattern"),
    Case("commonLabels", {"team": 7}, "string"),
    Case("sight.podMonitor.scrapeTimeout", "1m", "longer than"),
    Case("sight.rules", {"enabled": True, "runbookUrl": 'https://wiki/"a"'}, "is no YAML"),
    Case("tests.tenant", "A Tenant", "pattern"),
]


@pytest.mark.parametrize(
    "case", [*TRAINERS, *STORES, *IDENTITY, *MODELS, *ENGINE, *DEVICES, *RUNNING], ids=str
)
def test_one_bad_value_is_refused_by_its_key(case: Case) -> None:
    rendered_profile(case.profile)
    values = merged(profile_values(case.profile), nested(case.key, case.value))

    said = refusal(values).replace("/", ".")

    assert (case.named or case.key) in said
    assert case.says in said
