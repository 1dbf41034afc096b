"""The legal transitions, and the digest of a specification."""

from __future__ import annotations

import itertools

import pytest

from trainer_svc.jobs.model import (
    ACTIVE,
    TERMINAL,
    DataPolicy,
    Isolation,
    JobSpec,
    JobState,
    LoraSpec,
    PromotionPolicy,
    TooLong,
    may_follow,
)

WAY = [
    JobState.QUEUED,
    JobState.PREPARING,
    JobState.RUNNING,
    JobState.EVALUATING,
    JobState.PUBLISHING,
    JobState.SUCCEEDED,
]


def test_the_way_of_a_job_that_succeeds() -> None:
    assert all(may_follow(before, after) for before, after in itertools.pairwise(WAY))


@pytest.mark.parametrize("ended", sorted(TERMINAL))
def test_nothing_follows_an_end(ended: JobState) -> None:
    assert not any(may_follow(ended, state) for state in JobState)


@pytest.mark.parametrize("state", sorted(ACTIVE))
def test_an_active_job_may_go_back_fail_or_be_cancelled(state: JobState) -> None:
    assert may_follow(state, JobState.QUEUED)
    assert may_follow(state, JobState.FAILED)
    assert may_follow(state, JobState.CANCELLED)


def test_no_state_is_skipped() -> None:
    for index, before in enumerate(WAY):
        for after in WAY[index + 2 :]:
            assert not may_follow(before, after)


@pytest.mark.parametrize("state", sorted(ACTIVE | {JobState.QUEUED}))
def test_a_job_that_has_not_ended_may_be_paused(state: JobState) -> None:
    assert may_follow(state, JobState.PAUSED)


def test_the_version_trained_on_from_is_a_part_of_the_specification_s_digest() -> None:
    """Checkpoints are bound by it."""
    spec = JobSpec(base_model="b", training_dataset="d", adapter="a")
    version = "tenants/acme/adapters/a/versions/2026010{}T000000-one-1"
    digests = {
        spec.model_copy(update={"from_version": name}).sha256()
        for name in ("", version.format(1), version.format(2))
    }
    assert len(digests) == 3
    assert spec.sha256() in digests


def test_a_paused_job_is_queued_again_or_ends() -> None:
    after = {state for state in JobState if may_follow(JobState.PAUSED, state)}
    assert after == {JobState.QUEUED, JobState.FAILED, JobState.CANCELLED}


def test_nothing_is_known_of_a_state_of_a_later_release() -> None:
    assert JobState("JUDGED") is JobState.UNSPECIFIED
    assert not any(may_follow(JobState.UNSPECIFIED, state) for state in JobState)


def test_choices_of_a_later_release_are_read_as_the_careful_one() -> None:
    assert PromotionPolicy("IF_BETTER") is PromotionPolicy.MANUAL
    assert Isolation("NODE") is Isolation.EXCLUSIVE
    assert TooLong("SPLIT") is TooLong.ERROR


def test_a_field_that_a_later_release_adds_changes_no_digest() -> None:
    class Later(JobSpec):
        method: str = "SFT"

    fields = {"base_model": "b", "training_dataset": "d", "adapter": "tenants/a/adapters/x"}
    assert Later(**fields).sha256() == JobSpec(**fields).sha256()
    assert Later(**fields, method="DPO").sha256() != JobSpec(**fields).sha256()


def test_the_base_s_digest_is_not_in_the_specification_s() -> None:
    """An earlier release would not know its own jobs' checkpoints after a rollback."""
    spec = JobSpec(base_model="b", training_dataset="d", adapter="tenants/a/adapters/x")
    held = spec.model_copy(update={"base_model_digest": "sha256:1"})
    assert held.sha256() == spec.sha256()


def test_what_an_earlier_release_could_not_ask_for_changes_the_digest_alone() -> None:
    """The same request again, after the trainer's upgrade, is not another job's."""
    spec = JobSpec(base_model="b", training_dataset="d", adapter="tenants/a/adapters/x")

    def digest(too_long: TooLong, share: float) -> str:
        policy = DataPolicy(too_long=too_long, max_too_long_fraction=share)
        return spec.model_copy(update={"data": policy}).sha256()

    assert digest(TooLong.DROP, 1.0) == digest(TooLong.DROP, 0.1) == spec.sha256()
    others = {digest(TooLong.DROP, 0.2), digest(TooLong.TRUNCATE, 0.1), digest(TooLong.ERROR, 1.0)}
    assert len(others | {spec.sha256()}) == 4


def test_the_digest_changes_with_any_choice() -> None:
    spec = JobSpec(base_model="b", training_dataset="d", adapter="tenants/a/adapters/x")
    other = spec.model_copy(update={"lora": LoraSpec(rank=8)})
    assert spec.sha256() == JobSpec(**spec.model_dump()).sha256()
    assert spec.sha256() != other.sha256()
