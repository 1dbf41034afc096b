from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from serving_svc.adapters import refusals as module
from serving_svc.adapters.refusals import Refusal, Refusals
from tailorbird.errors import AdapterRefused
from tailorbird.names import TenantName
from tests.unit.serving_svc.adapters.published import ADAPTER, OTHER, new_metrics, version


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def refusals(clock: Clock) -> Refusals:
    return Refusals(new_metrics(), clock)


BROKEN = AdapterRefused("it is broken", reason="NOT_FINITE")
FULL = AdapterRefused("no memory", reason="LOAD_FAILED", retryable=True)


def test_a_permanent_refusal_stands(refusals: Refusals, clock: Clock) -> None:
    refusals.check(version(1))
    refusals.record(version(1), BROKEN)
    clock.advance(10**8)
    with pytest.raises(AdapterRefused) as caught:
        refusals.check(version(1))
    assert caught.value.reason == "NOT_FINITE"
    assert not caught.value.retryable
    assert caught.value.message == f"{version(1)} is refused: it is broken"
    assert refusals.get(version(1)) == Refusal("NOT_FINITE", "it is broken", False, None)
    refusals.check(version(2))


def test_a_retryable_refusal_lapses_later_each_time(refusals: Refusals, clock: Clock) -> None:
    for seconds in (1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, *[300] * 2000):
        refusals.record(version(1), FULL)
        refusal = refusals.get(version(1))
        assert refusal is not None
        assert refusal.retry_at == clock() + timedelta(seconds=seconds)
        clock.advance(seconds - 0.1)
        with pytest.raises(AdapterRefused) as caught:
            refusals.check(version(1))
        assert caught.value.retryable
        clock.advance(0.1)
        refusals.check(version(1))
        assert refusals.get(version(1)) is None
        assert not refusals.of(ADAPTER)


def test_a_clock_that_is_set_back_keeps_nothing_refused(refusals: Refusals, clock: Clock) -> None:
    refusals.record(version(1), FULL)
    clock.advance(-3600)
    refusals.check(version(1))


def test_a_version_that_loaded_begins_anew(refusals: Refusals, clock: Clock) -> None:
    for _ in range(5):
        refusals.record(version(1), FULL)
    refusals.clear(version(1))
    refusals.check(version(1))
    refusals.record(version(1), FULL)
    refusal = refusals.get(version(1))
    assert refusal is not None
    assert refusal.retry_at == clock() + timedelta(seconds=1)


def test_a_retryable_refusal_may_become_permanent(refusals: Refusals, clock: Clock) -> None:
    refusals.record(version(1), FULL)
    refusals.record(version(1), BROKEN)
    clock.advance(1000)
    with pytest.raises(AdapterRefused):
        refusals.check(version(1))


def test_finds_those_of_an_adapter_and_of_a_tenant(refusals: Refusals) -> None:
    refusals.record(version(1), BROKEN)
    refusals.record(version(2), FULL)
    refusals.record(version(1, OTHER), BROKEN)
    assert set(refusals.of(ADAPTER)) == {version(1), version(2)}
    assert set(refusals.of_tenant(TenantName("acme"))) == {version(1), version(2)}
    assert set(refusals.of_tenant(TenantName("zeta"))) == {version(1, OTHER)}
    refusals.clear(version(1, OTHER))
    assert not refusals.of_tenant(TenantName("zeta"))


def test_a_message_is_bounded(refusals: Refusals) -> None:
    refusals.record(version(1), AdapterRefused("x" * 10**5, reason="NOT_FINITE"))
    refusal = refusals.get(version(1))
    assert refusal is not None
    assert len(refusal.message) == 500


def test_the_oldest_permanent_refusals_are_dropped_first(
    refusals: Refusals, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_MAX_REFUSALS", 3)
    refusals.record(version(1), FULL)
    for number in (2, 3, 4, 5):
        refusals.record(version(number), BROKEN)
    assert set(refusals.of(ADAPTER)) == {version(1), version(4), version(5)}
    for number in (6, 7, 8):
        refusals.record(version(number), FULL)
    assert set(refusals.of(ADAPTER)) == {version(6), version(7), version(8)}
