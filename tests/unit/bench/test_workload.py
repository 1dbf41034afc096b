from __future__ import annotations

from collections import Counter

import pytest

from bench.serving import workload
from bench.serving.plan import Plan
from bench.serving.sizes import QUICK, Sizes
from bench.serving.swap_load import judge

_TENANTS = [f"t-{number:04d}" for number in range(8)]


def _asked(plan: Plan) -> Counter[str]:
    return Counter(
        ask.tenant for group in plan.groups for stream in group.streams for ask in stream
    )


def test_every_adapter_has_the_same_share_of_the_streams() -> None:
    plan = workload.adapters_plan(_TENANTS, streams=32, rounds=4, tokens=32)

    assert len(plan.groups[0].streams) == 32
    assert set(_asked(plan).values()) == {16}


def test_no_prompt_of_a_run_comes_twice() -> None:
    plans = [
        workload.base_plan(_TENANTS, 4, 2, 32),
        workload.zipf_plan(_TENANTS, 4, 2, 32, seed=1),
        workload.one_by_one(_TENANTS, 4),
    ]
    prompts = [
        ask.prompt for plan in plans for group in plan.groups for s in group.streams for ask in s
    ]

    assert len(set(prompts)) == len(prompts)


def test_zipf_asks_the_same_of_both_sides() -> None:
    first, second = (workload.zipf_plan(_TENANTS, 16, 4, 32, seed=3) for _ in range(2))

    assert [[ask.tenant for ask in stream] for stream in first.groups[0].streams] == [
        [ask.tenant for ask in stream] for stream in second.groups[0].streams
    ]


def test_there_are_adapters_for_every_cell() -> None:
    for sizes in (Sizes(), QUICK):
        fresh = sizes.made - sizes.published
        assert fresh == sizes.cold + sizes.slow_pairs * (sizes.cold + sizes.adapters)
        # Half of them stream while others load, and one more is asked in the control.
        assert sizes.adapters >= 2


@pytest.mark.parametrize(
    ("text", "stopped", "expected"),
    [
        ("version 17", True, ""),
        ("version 17", False, "truncated"),
        ("version 1", True, "truncated"),
        ("", True, "truncated"),
        ("version 18", True, "mismatched"),
        ("version 17 and more", True, "mismatched"),
    ],
)
def test_an_answer_is_judged_by_its_versions_marker(
    text: str, stopped: bool, expected: str
) -> None:
    assert judge("version 17", text, stopped) == expected


def test_a_version_nobody_published_is_a_mismatch() -> None:
    assert judge(None, "version 17", True) == "mismatched"
