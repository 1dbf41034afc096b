"""How much of the queue a tenant may take."""

from __future__ import annotations

import math

import pytest

from tailorbird.errors import InvalidArgument, ResourceExhausted
from trainer_svc.jobs.limits import TenantLimits


def test_a_tenant_has_its_own_limit_or_everybody_s_or_none() -> None:
    limits = TenantLimits(queued={"acme": 2, "*": 9}, running={"acme": 1})
    assert [limits.most_queued(tenant) for tenant in ("acme", "globex")] == [2, 9]
    assert [limits.most_running(tenant) for tenant in ("acme", "globex")] == [1, math.inf]


def test_one_job_too_many_is_refused_with_a_time_to_come_back_after() -> None:
    limits = TenantLimits(queued={"acme": 2})
    limits.check_queued("acme", 2)
    with pytest.raises(ResourceExhausted, match="2 queued jobs; at most 2 may wait") as caught:
        limits.check_queued("acme", 3)
    assert (caught.value.reason, caught.value.retry_after) == ("TOO_MANY_QUEUED_JOBS", 60.0)


@pytest.mark.parametrize(("tenant", "most"), [("acme", 5), ("globex", 0)])
def test_a_priority_is_bounded_by_what_the_tenant_may_ask_for(tenant: str, most: int) -> None:
    limits = TenantLimits(priority={"acme": 5})
    for priority in (-100, 0, most):
        limits.check_priority(tenant, priority)
    with pytest.raises(InvalidArgument, match=f"{most + 1} is more than {most}") as caught:
        limits.check_priority(tenant, most + 1)
    assert caught.value.reason == "PRIORITY_TOO_HIGH"
    assert caught.value.metadata["field"] == "job.spec.priority"
