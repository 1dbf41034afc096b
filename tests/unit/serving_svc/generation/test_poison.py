"""A request that was inside at two deaths of the engine is refused for a while."""

from __future__ import annotations

import pytest

from serving_svc.generation.model import Sampling
from serving_svc.generation.poison import Poison, request_digest
from tailorbird.errors import FailedPrecondition


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_one_death_proves_nothing() -> None:
    poison = Poison()
    poison.died_with(b"a")
    poison.check(b"a")


def test_two_deaths_refuse_that_request_and_no_other() -> None:
    poison = Poison()
    for _ in range(2):
        poison.died_with(b"a")
    with pytest.raises(FailedPrecondition, match="2 times") as refused:
        poison.check(b"a")
    assert refused.value.reason == "REQUEST_SUSPECT"
    poison.check(b"b")


def test_it_may_try_again_after_a_while() -> None:
    clock = Clock()
    poison = Poison(clock)
    for _ in range(2):
        poison.died_with(b"a")
    clock.now = 601
    poison.check(b"a")
    poison.died_with(b"a")
    poison.check(b"a")


def test_what_is_remembered_is_bounded() -> None:
    poison = Poison()
    for number in range(5000):
        poison.died_with(str(number).encode())
    assert len(poison) == 4096


@pytest.mark.parametrize(
    "other",
    [
        ("globex", None, (1, 2), Sampling()),
        ("acme", "v1", (1, 2), Sampling()),
        ("acme", None, (12,), Sampling()),
        ("acme", None, (1, 2), Sampling(seed=1)),
    ],
)
def test_the_digest_tells_requests_apart(
    other: tuple[str, str | None, tuple[int, ...], Sampling],
) -> None:
    digest = request_digest("acme", None, (1, 2), Sampling())
    assert digest == request_digest("acme", None, (1, 2), Sampling())
    assert digest != request_digest(*other)
