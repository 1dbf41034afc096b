"""A changed setting restarts the pods that read it, and no others; nothing else does."""

from __future__ import annotations

import copy

import pytest

from tests.chart.helm import Rendered, Values, merged, nested, profile_values, render
from tests.chart.pods import both

BOTH, TRAINER, SERVING, NONE = {"trainer", "serving"}, {"trainer"}, {"serving"}, set[str]()


def checksums(rendered: Rendered) -> dict[str, dict[str, str]]:
    return {
        name: {k: v for k, v in pod.annotations.items() if k.startswith("checksum/")}
        for name, pod in both(rendered).items()
    }


@pytest.mark.parametrize(
    ("changes", "restarted"),
    [
        (nested("trainer.config.workers", 2), TRAINER),
        (nested("serving.config.maxRunning", 64), SERVING),
        (nested("serving.shutdown.graceSeconds", 61), SERVING),
        (nested("profile", "another"), BOTH),
        (nested("objectStore.url", "s3://another/place"), BOTH),
        (nested("objectStore.env.AWS_REGION", "eu-west-1"), BOTH),
        (nested("serving.replicas", 9), NONE),
        (nested("serving.strategy.maxUnavailable", 2), NONE),
        (nested("networkPolicy.ingress.clients", [{"podSelector": {"matchLabels": {}}}]), NONE),
        (nested("serving.podDisruptionBudget.maxUnavailable", 1), NONE),
        (nested("commonLabels.team", "ml"), NONE),
        (nested("sight.podMonitor.enabled", True), NONE),
    ],
    ids=str,
)
def test_a_change_has_another_checksum_where_it_is_read(
    changes: Values, restarted: set[str]
) -> None:
    before = checksums(render(profile_values("replicated")))
    after = checksums(render(merged(profile_values("replicated"), changes)))

    assert {name for name in before if before[name] != after[name]} == restarted


def test_an_upgrade_that_changes_nothing_restarts_nothing(profile: str) -> None:
    values = profile_values(profile)
    first, second = render(values), render(copy.deepcopy(values), is_upgrade=True)

    assert {n: p.owner["spec"]["template"] for n, p in both(first).items()} == {
        n: p.owner["spec"]["template"] for n, p in both(second).items()
    }


def test_nothing_rendered_is_random(profile: str) -> None:
    values = profile_values(profile)

    assert render(values).files == render(values).files


def test_a_number_is_written_as_the_service_reads_it() -> None:
    """Helm holds it as a float: 1.073741824e+10 is no integer, and 1 must not become 1.0."""
    rendered = render(
        merged(
            profile_values("replicated"),
            nested("trainer.config.maxDatasetBytes", 10**15),
            nested("trainer.config.progressInterval", 0.125),
            nested("trainer.config.gpuMemoryShare", 1),
        )
    )
    data = rendered.one("ConfigMap", "-trainer")["data"]

    assert data["TAILORBIRD_MAX_DATASET_BYTES"] == "1000000000000000"
    assert data["TAILORBIRD_PROGRESS_INTERVAL"] == "0.125"
    assert data["TAILORBIRD_GPU_MEMORY_SHARE"] == "1"


def test_a_secret_s_name_never_brings_its_text() -> None:
    """What `helm get values` and `helm get manifest` show are names."""
    rendered = render(profile_values("replicated"))
    trainer = both(rendered)["trainer"]

    (url,) = (e for e in trainer.service["env"] if e["name"] == "TAILORBIRD_DATABASE_URL")
    assert url["valueFrom"]["secretKeyRef"] == {"name": "tailorbird-database", "key": "url"}
    assert "TAILORBIRD_DATABASE_URL" not in rendered.one("ConfigMap", "-trainer")["data"]
