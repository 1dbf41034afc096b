"""What is on without being asked for, and what is only by choice."""

from __future__ import annotations

import pytest

from tests.chart.helm import Values, default_values, merged, nested, profile_values, render
from tests.chart.pods import both
from tests.chart.rules.running import disruption_budgets_let_nodes_be_drained


def test_the_trainer_s_blocking_budget_is_only_by_choice() -> None:
    """One pod: a budget would hold up every drain of its node."""
    chosen = merged(
        profile_values("replicated"), nested("trainer.podDisruptionBudget.enabled", True)
    )

    assert default_values()["trainer"]["podDisruptionBudget"]["enabled"] is False
    plain = render(profile_values("replicated")).of_kind("PodDisruptionBudget")
    assert [each["metadata"]["name"] for each in plain] == ["shop-tailorbird-serving"]
    budget = render(chosen).one("PodDisruptionBudget", "-trainer")
    assert budget["spec"]["maxUnavailable"] == 0


def test_one_replica_of_serving_never_blocks_a_drain() -> None:
    rendered = render(merged(profile_values("replicated"), nested("serving.replicas", 1)))

    assert list(disruption_budgets_let_nodes_be_drained(rendered)) == []


def test_network_policies_are_on_by_default() -> None:
    assert default_values()["networkPolicy"]["enabled"] is True


def test_the_grace_period_follows_what_it_is_made_of() -> None:
    more: Values = {
        "shutdown": {"preStopSeconds": 11, "drainDelaySeconds": 12.5, "graceSeconds": 100}
    }
    rendered = render(merged(profile_values("replicated"), {"serving": more}))
    serving = both(rendered)["serving"]

    assert serving.spec["terminationGracePeriodSeconds"] == 11 + 13 + 100 + 15
    assert serving.service["lifecycle"]["preStop"]["sleep"]["seconds"] == 11


@pytest.mark.parametrize(("budget", "period"), [(1800, 5), (901, 7)])
def test_the_start_s_budget_is_what_the_probe_gives(budget: int, period: int) -> None:
    probes = {"startup": {"budgetSeconds": budget, "periodSeconds": period}}
    rendered = render(merged(profile_values("replicated"), {"serving": {"probes": probes}}))
    probe = both(rendered)["serving"].service["startupProbe"]

    given = probe["periodSeconds"] * probe["failureThreshold"]
    assert budget <= given < budget + period


@pytest.mark.parametrize("service", ["trainer", "serving"])
def test_devices_are_asked_for_as_the_driver_says(service: str) -> None:
    plugin, claimed = (both(render(profile_values(p)))[service] for p in ("replicated", "dra"))
    none = both(render(profile_values("cpu")))[service]

    assert plugin.service["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert "resourceClaims" not in plugin.spec
    assert claimed.service["resources"]["claims"] == [{"name": "gpu"}]
    assert "nvidia.com/gpu" not in claimed.service["resources"]["limits"]
    assert "nvidia.com/gpu" not in none.service["resources"]["limits"]
    assert "claims" not in none.service["resources"]


def test_kueue_s_labels_are_on_the_workload() -> None:
    values = merged(
        profile_values("replicated"),
        {"trainer": {"queue": {"name": "training", "priorityClass": "low"}}},
    )
    trainer = both(render(values))["trainer"].owner["metadata"]["labels"]

    assert trainer["kueue.x-k8s.io/queue-name"] == "training"
    assert trainer["kueue.x-k8s.io/priority-class"] == "low"
    plain = both(render(profile_values("replicated")))["trainer"].owner["metadata"]["labels"]
    assert not [label for label in plain if "kueue" in label]
