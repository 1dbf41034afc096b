"""Which version answers: by weight, the same for the same key, here and everywhere."""

from __future__ import annotations

from collections import Counter

from serving_svc.adapters.routing.split import choose
from tailorbird.names import AdapterName
from tailorbird.routes import RoutedVersion
from tests.unit.serving_svc.adapters.routed import ADAPTER, split, version

KEYS = [f"customer-{number}" for number in range(4000)]


def chosen(
    versions: tuple[RoutedVersion, ...], adapter: AdapterName = ADAPTER, keys: list[str] = KEYS
) -> dict[str, str]:
    return {key: choose(adapter, versions, key) for key in keys}


def test_keys_are_split_by_weight() -> None:
    counts = Counter(chosen(split(v1=700, v2=200, v3=100)).values())
    shares = [counts[version(number).version] / len(KEYS) for number in (1, 2, 3)]
    assert all(
        abs(share - weight) < 0.03 for share, weight in zip(shares, (0.7, 0.2, 0.1), strict=True)
    )


def test_requests_without_a_key_are_drawn_by_weight() -> None:
    drawn = Counter(choose(ADAPTER, split(v1=3, v2=1), "") for _ in range(4000))
    assert abs(drawn[version(1).version] / 4000 - 0.75) < 0.05


def test_one_version_answers_all() -> None:
    assert set(chosen(split(v1=1)).values()) == {version(1).version}
    assert choose(ADAPTER, split(v1=1), "") == version(1).version


def test_every_replica_and_every_release_chooses_the_same() -> None:
    # Written down: a change of these moves every customer to another version.
    versions = split(v1=50, v2=30, v3=20)
    numbers = {version(number).version: number for number in (1, 2, 3)}
    keys = ["a", "b", "c", "d", "e", "f", "g", "h", "\u00e9\u4e2d", "\ud800"]
    assert [numbers[choose(ADAPTER, versions, key)] for key in keys] == [
        2,
        3,
        2,
        2,
        3,
        2,
        2,
        1,
        1,
        3,
    ]
    assert chosen(versions) == chosen(versions[::-1])


def test_only_keys_of_a_version_whose_weight_changes_move() -> None:
    before = chosen(split(v1=90, v2=10, v3=50))
    after = chosen(split(v1=90, v2=40, v3=50))
    moved = {key for key in KEYS if before[key] != after[key]}
    assert moved
    assert {after[key] for key in moved} == {version(2).version}
    without = chosen(split(v1=90, v3=50))
    assert {key for key in KEYS if without[key] != before[key]} == {
        key for key in KEYS if before[key] == version(2).version
    }


def test_another_adapters_keys_fall_otherwise() -> None:
    other = AdapterName("globex", "support")
    assert chosen(split(v1=1, v2=1)) != chosen(split(v1=1, v2=1), other)


def test_a_key_cannot_pass_for_another_version() -> None:
    # Without a border between the two, version "...-1" with key "1x" would be "...-11" with "x".
    short, long = (
        RoutedVersion(version=f"20260101T000000-job-{epoch}", weight=1) for epoch in ("1", "11")
    )
    beside = RoutedVersion(version="20260102T000000-job-1", weight=1)
    one = [choose(ADAPTER, (short, beside), f"1{key}") == short.version for key in KEYS]
    two = [choose(ADAPTER, (long, beside), key) == long.version for key in KEYS]
    assert one != two
