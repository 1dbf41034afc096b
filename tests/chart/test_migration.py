"""The Job that migrates the job store's tables before pods of a new release start."""

from __future__ import annotations

import pytest

from tests.chart.conftest import rendered_profile
from tests.chart.helm import Rendered, Values, merged, nested, profile_values, render
from tests.chart.pods import Pod, both, pods, selects


def changed(values: Values) -> Rendered:
    return render(merged(profile_values("split"), values))


def migration(rendered: Rendered) -> Pod:
    (found,) = (each for each in pods(rendered.hooks) if each.component == "migration")
    return found


@pytest.mark.parametrize("profile", ["replicated", "split", "everything"])
def test_tables_are_migrated_before_pods_start(profile: str) -> None:
    rendered = rendered_profile(profile)
    job = migration(rendered)
    annotations = job.owner["metadata"]["annotations"]

    assert annotations["helm.sh/hook"] == "pre-install,pre-upgrade"
    assert job.owner["kind"] == "Job"
    assert job.service["args"] == ["migrate", "--wait=120"]
    trainers = [each for each in both(rendered).values() if each.part == "trainer"]
    assert {each.service["image"] for each in trainers} == {job.service["image"]}
    (url,) = (each for each in job.service["env"] if each["name"] == "TAILORBIRD_DATABASE_URL")
    assert url in trainers[0].service["env"]


def test_the_migration_needs_nothing_that_is_installed_after_it() -> None:
    job = migration(rendered_profile("split"))

    assert "envFrom" not in job.service
    assert "serviceAccountName" not in job.spec
    assert job.volumes == {}
    assert "nvidia.com/gpu" not in job.service["resources"]["limits"]


def test_the_way_to_the_database_is_open_before_the_migration_runs() -> None:
    rendered = rendered_profile("split")
    (policy,) = (each for each in rendered.hooks if each["kind"] == "NetworkPolicy")
    job = migration(rendered)

    assert selects(policy["spec"]["podSelector"], job.labels)
    assert int(policy["metadata"]["annotations"]["helm.sh/hook-weight"]) < 0
    assert "helm.sh/hook-weight" not in job.owner["metadata"]["annotations"]
    ports = {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}
    assert ports == {53, 5432}
    assert policy["spec"]["ingress"] == []


def test_a_migration_that_is_interrupted_is_tried_again() -> None:
    job = migration(rendered_profile("split"))

    # It exits 143 within ten seconds of the signal.
    assert job.spec["restartPolicy"] == "Never"
    assert job.owner["spec"]["backoffLimit"] >= 1
    assert job.spec.get("terminationGracePeriodSeconds", 30) > 10


def test_the_migration_waits_as_long_as_it_is_told() -> None:
    job = migration(changed(nested("trainer.database.migration.waitSeconds", 7)))

    assert job.service["args"] == ["migrate", "--wait=7"]
    assert job.owner["spec"]["activeDeadlineSeconds"] > 7


def test_no_migration_without_a_database_or_where_it_is_turned_off() -> None:
    off = changed(nested("trainer.database.migration.enabled", False))

    assert off.hooks == []
    assert rendered_profile("cpu").hooks == []
