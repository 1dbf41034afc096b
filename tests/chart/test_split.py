"""Several trainers: pods that answer calls, pods that train, and what makes more of these."""

from __future__ import annotations

from typing import Any

import pytest

from tests.chart.conftest import rendered_profile
from tests.chart.environment import environment
from tests.chart.helm import (
    Object,
    Rendered,
    Values,
    merged,
    named,
    nested,
    profile_values,
    refusal,
    render,
)
from tests.chart.pods import Pod, both, selects
from tests.chart.promql import selectors
from trainer_svc.jobs.model import ACTIVE, JobState

API, WORKER = "trainer-api", "trainer-worker"
SCALING = "trainer.split.worker.scaling"


def split(*changes: Values) -> Rendered:
    return render(merged(profile_values("split"), *changes))


def pod(rendered: Rendered, component: str) -> Pod:
    return both(rendered)[component]


def taken(rendered: Rendered, selector: Any) -> set[str]:
    """Return the components that a selector takes, of the pods that run."""
    return {name for name, each in both(rendered).items() if selects(selector, each.labels)}


def scaler(rendered: Rendered) -> Object:
    return rendered.one("ScaledObject", f"-{WORKER}")


def test_there_are_two_kinds_of_trainers_or_one() -> None:
    several, one = rendered_profile("split"), rendered_profile("replicated")

    assert both(several).keys() == {API, WORKER, "serving"}
    assert {named(pod(several, each).owner).split()[0] for each in (API, WORKER)} == {"Deployment"}
    assert both(one).keys() == {"trainer", "serving"}
    assert both(one)["trainer"].owner["kind"] == "StatefulSet"


def test_turned_off_it_changes_nothing() -> None:
    values = profile_values("replicated")
    api = {"replicas": 7, "cache": {"size": "1Gi"}}
    worker = {"replicas": 3, "scaling": {"enabled": True, "minReplicas": 9}}
    changed = merged(values, nested("trainer.split", {"api": api, "worker": worker}))

    assert list(render(changed)) == list(render(values))


@pytest.mark.parametrize("driver", ["devicePlugin", "dra"])
def test_only_what_trains_has_a_device(driver: str) -> None:
    rendered = split(nested("trainer.gpu.driver", driver), nested("trainer.gpu.count", 2))
    api, worker = pod(rendered, API), pod(rendered, WORKER)

    assert "nvidia.com/gpu" not in api.service["resources"]["limits"]
    assert "resourceClaims" not in api.spec
    if driver == "dra":
        assert [each["name"] for each in worker.spec["resourceClaims"]] == ["gpu"]
        (template,) = rendered.of_kind("ResourceClaimTemplate")
        assert template["spec"]["spec"]["devices"]["requests"][0]["exactly"]["count"] == 2
    else:
        assert worker.service["resources"]["limits"]["nvidia.com/gpu"] == 2


@pytest.mark.parametrize(
    ("changes", "device"),
    [
        ({}, "cuda"),
        (nested("trainer.config.device", "cuda"), "cuda"),
        (nested("trainer.config.device", "cpu"), "cpu"),
        (nested("trainer.gpu.driver", "none"), None),
    ],
    ids=str,
)
def test_what_answers_knows_what_trains_trains_on(changes: Values, device: str | None) -> None:
    """Or it would refuse bases that are not served on a CPU."""
    rendered = split(changes)

    assert environment(rendered, pod(rendered, API)).get("TAILORBIRD_DEVICE") == device


def test_calls_go_to_what_answers_them() -> None:
    rendered = rendered_profile("split")
    names = {"shop-tailorbird-trainer", "shop-tailorbird-trainer-headless"}
    found = {each["metadata"]["name"]: each for each in rendered.of_kind("Service")}

    assert found.keys() >= names
    for name in names:
        assert taken(rendered, found[name]["spec"]["selector"]) == {API}
    assert [each["name"] for each in pod(rendered, WORKER).service["ports"]] == ["http"]


def test_nobody_calls_what_trains() -> None:
    rendered = rendered_profile("split")
    opened = {
        each: {
            port["port"]
            for rule in rendered.one("NetworkPolicy", f"-{each}")["spec"]["ingress"]
            for port in rule["ports"]
        }
        for each in (API, WORKER)
    }
    assert opened == {API: {50051, 9091}, WORKER: {9091}}
    unseen = split(
        nested("networkPolicy.ingress.metrics", []), nested("sight.podMonitor.enabled", False)
    )
    assert unseen.one("NetworkPolicy", f"-{WORKER}")["spec"]["ingress"] == []


def test_what_trains_alone_reaches_the_ray_cluster() -> None:
    rendered = split(
        nested("trainer.ray.address", "ray://head:10001"),
        nested("trainer.gpu.driver", "none"),
        nested("networkPolicy.egress.ray.to", [{"podSelector": {}}]),
    )
    opened = {
        name: 10001
        in {
            port["port"]
            for rule in rendered.one("NetworkPolicy", f"-{name}")["spec"]["egress"]
            for port in rule["ports"]
        }
        for name in both(rendered)
    }
    assert opened == {API: False, WORKER: True, "serving": False}


def test_each_has_a_volume_and_a_time_to_stop_of_its_own() -> None:
    rendered = split(nested("trainer.split.api.cache.size", "7Gi"))
    api, worker = pod(rendered, API), pod(rendered, WORKER)

    assert api.volumes["data"] == {"name": "data", "emptyDir": {"sizeLimit": "7Gi"}}
    claimed = worker.volumes["data"]["ephemeral"]["volumeClaimTemplate"]["spec"]
    assert claimed["resources"] == {"requests": {"storage": "200Gi"}}
    assert int(api.service["resources"]["requests"]["ephemeral-storage"]) == (7 + 4) * 2**30
    # A checkpoint's time for what trains, the time of a call for what answers.
    assert worker.spec["terminationGracePeriodSeconds"] == 300 + 15
    assert api.spec["terminationGracePeriodSeconds"] == 5 + 5 + 30 + 15
    assert rendered.of_kind("PersistentVolumeClaim") == []


def test_what_a_part_has_takes_the_trainers_place() -> None:
    own: Values = {"nodeSelector": {"pool": "cpu"}, "priorityClassName": "calls"}
    all_: Values = {"nodeSelector": {"pool": "gpu"}, "priorityClassName": "training"}
    queue: Values = {"queue": {"name": "training"}}
    rendered = split({"trainer": all_ | queue | {"split": {"api": own}}})

    for component, expected in ((API, own), (WORKER, all_)):
        spec = pod(rendered, component).spec
        assert {key: spec[key] for key in expected} == expected
    queued = {
        each: "kueue.x-k8s.io/queue-name" in pod(rendered, each).owner["metadata"]["labels"]
        for each in (API, WORKER)
    }
    assert queued == {API: False, WORKER: True}
    accounts = {pod(rendered, each).spec["serviceAccountName"] for each in (API, WORKER)}
    assert accounts == {"shop-tailorbird-trainer"}


def test_a_drain_takes_one_of_what_answers_and_waits_for_nobody_who_trains() -> None:
    rendered = rendered_profile("split")
    budgets = [
        taken(rendered, each["spec"]["selector"])
        for each in rendered.of_kind("PodDisruptionBudget")
    ]
    assert sorted(map(sorted, budgets)) == [["serving"], [API]]
    chosen = split(nested("trainer.podDisruptionBudget.enabled", True))
    budget = chosen.one("PodDisruptionBudget", f"-{WORKER}")
    assert taken(chosen, budget["spec"]["selector"]) == {WORKER}


@pytest.mark.parametrize(
    ("changes", "restarted"),
    [
        (nested("trainer.split.api.shutdown.graceSeconds", 31), {API}),
        (nested("trainer.shutdown.graceSeconds", 301), {WORKER}),
        (nested("trainer.config.workers", 2), {API, WORKER}),
        (nested("trainer.split.api.replicas", 9), set[str]()),
        (nested(f"{SCALING}.maxReplicas", 9), set[str]()),
    ],
    ids=str,
)
def test_a_change_restarts_the_pods_that_read_it(changes: Values, restarted: set[str]) -> None:
    before, after = (both(each) for each in (rendered_profile("split"), split(changes)))

    assert {n for n in before if before[n].annotations != after[n].annotations} == restarted


# -- Scaling ------------------------------------------------------------------------------------


def test_the_pods_that_train_follow_the_jobs_there_are() -> None:
    rendered = rendered_profile("split")
    spec = scaler(rendered)["spec"]
    (trigger,) = spec["triggers"]
    (selector,) = selectors(trigger["metadata"]["query"])
    matchers = {label: value for label, _, value in selector.matchers}

    assert spec["scaleTargetRef"]["name"] == pod(rendered, WORKER).owner["metadata"]["name"]
    assert "replicas" not in pod(rendered, WORKER).owner["spec"]
    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 8)
    assert "idleReplicaCount" not in spec
    # Each of several pods tells of all jobs.
    assert trigger["metadata"]["query"].startswith("sum(max by (state) (")
    # What waits for its tenant needs nobody.
    assert set(matchers["state"].split("|")) == ACTIVE | {JobState.QUEUED}
    # No series is no answer: at least one pod answers calls, and tells.
    assert trigger["metadata"]["ignoreNullValues"] == "false"


def test_the_jobs_are_told_by_what_is_always_there() -> None:
    rendered = rendered_profile("split")
    (trigger,) = scaler(rendered)["spec"]["triggers"]
    name = pod(rendered, API).owner["metadata"]["name"]

    assert f'pod=~"{name}-.+"' in trigger["metadata"]["query"]
    other = split(nested("sight.selectors.trainer", 'app="mine"'))
    assert '{app="mine",state=~' in scaler(other)["spec"]["triggers"][0]["metadata"]["query"]


@pytest.mark.parametrize(
    ("changes", "jobs"),
    [
        ({}, "4"),
        (nested("trainer.config", {"workers": 2, "jobsPerWorker": None}), "16"),
        (nested("trainer.config", {"workers": 2}), "8"),
        (nested(f"{SCALING}.jobsPerReplica", 3), "3"),
    ],
    ids=str,
)
def test_a_pod_for_as_many_jobs_as_it_trains_at_a_time(changes: Values, jobs: str) -> None:
    (trigger,) = scaler(split(changes))["spec"]["triggers"]

    assert trigger["metadata"]["threshold"] == jobs


def test_without_scaling_there_are_as_many_as_named() -> None:
    rendered = split(
        nested(f"{SCALING}.enabled", False), nested("trainer.split.worker.replicas", 5)
    )

    assert rendered.of_kind("ScaledObject") == []
    assert pod(rendered, WORKER).owner["spec"]["replicas"] == 5
    assert "deployment/shop-tailorbird-trainer-worker" in rendered.notes
    # None of those that scale from nothing is waited for.
    assert "shop-tailorbird-trainer-worker" not in rendered_profile("split").notes


def test_both_scale_beside_each_other() -> None:
    rendered = split(nested("scaling.enabled", True))

    targets = {each["spec"]["scaleTargetRef"]["name"] for each in rendered.of_kind("ScaledObject")}
    assert targets == {"shop-tailorbird-serving", "shop-tailorbird-trainer-worker"}


# -- Sight --------------------------------------------------------------------------------------


def test_one_monitor_scrapes_both_kinds() -> None:
    rendered = rendered_profile("split")
    monitor = rendered.one("PodMonitor", "-trainer")

    assert taken(rendered, monitor["spec"]["selector"]) == {API, WORKER}


def alerts(rendered: Rendered) -> dict[str, str]:
    (document,) = rendered.of_kind("PrometheusRule")
    groups = document["spec"]["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def test_pods_that_train_hide_nobody_who_does_not_answer() -> None:
    """And their absence is none where nothing is to do."""
    found = alerts(rendered_profile("split"))
    kept = alerts(split(nested(f"{SCALING}.minReplicas", 1)))

    assert 'pod=~"shop-tailorbird-trainer-api-.+"' in found["TailorbirdTrainerAbsent"]
    assert "TailorbirdNoWorkers" not in found
    assert "TailorbirdNoWorkers" in kept
    # No claim is written to; the pattern "" would be every volume's.
    assert "TailorbirdVolumeFull" not in found


# -- What does not work -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [
        ("trainer.database.existingSecret", "", "share a queue in a PostgreSQL"),
        ("trainer.split.api.replicas", 0, "minimum"),
        ("trainer.split.api.strategy", {"maxSurge": 0}, "both 0"),
        ("trainer.split.api.shutdown.terminationGracePeriodSeconds", 9, "at least 55"),
        ("trainer.split.api.resources.limits", {"nvidia.com/gpu": 1}, "trainer.gpu.count"),
        ("trainer.split.api.resources.limits", {"memory": "1Gi"}, "the request 2Gi"),
        ("trainer.split.api.cache.type", "hostPath", "must be one of"),
        ("trainer.shutdown.terminationGracePeriodSeconds", 9, "at least 315"),
        ("trainer.split.worker.strategy.maxUnavailable", 0, "both 0"),
        (f"{SCALING}.minReplicas", 9, f"{SCALING}.maxReplicas 8"),
        (f"{SCALING}.minReplicas", -1, "minimum"),
        (f"{SCALING}.jobsPerReplica", 0, "minimum"),
        ("scaling.prometheus.serverAddress", "", "KEDA asks a Prometheus"),
        ("trainer.database.migration.waitSeconds", -1, "minimum"),
    ],
)
def test_what_cannot_work_is_refused_by_its_key(key: str, value: Any, told: str) -> None:
    said = refusal(merged(profile_values("split"), nested(key, value))).replace("/", ".")

    assert told in said
    assert any(each in said for each in (key, key.rpartition(".")[0]))


def test_a_store_of_one_node_is_refused() -> None:
    database: Values = {
        "trainer": {"database": {"existingSecret": "db"}, "split": {"enabled": True}},
        "networkPolicy": {"egress": {"database": {"to": [{"podSelector": {}}]}}},
    }
    said = refusal(merged(profile_values("cpu"), database))

    assert "trainer.split.enabled: several trainers share no file:// store" in said


def test_a_problem_of_both_kinds_is_told_once() -> None:
    ports = nested("trainer.ports", {"grpc": 9000, "http": 9000})

    assert refusal(merged(profile_values("split"), ports)).count("needs its own") == 1
