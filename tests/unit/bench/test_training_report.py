from __future__ import annotations

from typing import Any

import pytest

from bench.training.report import BOUNDS, medians, missed, ratios, table


def _told(speed: float = 100.0, seconds: float = 1.0, grown: float = 50.0) -> dict[str, Any]:
    return {
        "tokens_per_second": speed,
        "seconds": seconds,
        "start_mib": 400.0,
        "peak_mib": 400.0 + grown,
    }


def _parts() -> dict[str, list[dict[str, dict[str, Any]]]]:
    wall = {"seconds": 10.0, "peak_mib": 700.0}
    return {
        "steps": [
            {"engine": _told(200.0), "peft": _told(100.0)},
            # The machine was ten times as slow in this pair, for both.
            {"engine": _told(25.0), "peft": _told(10.0)},
            {"engine": _told(900.0), "peft": _told(300.0)},
        ],
        "steps_100m": [{"engine": _told(140.0), "peft": _told(100.0)}],
        "wall": [{"ours": wall, "trl": {"seconds": 60.0, "peak_mib": 600.0}}],
        "single": [{"engine": _told(130.0), "trl": _told(100.0)}],
        "packing": [{"packed": _told(400.0), "padded": _told(100.0), "peft": _told(80.0)}],
        "loss": [{"chunked": _told(grown=20.0), "full": _told(grown=80.0)}],
    }


def test_the_named_figures() -> None:
    assert ratios(_parts()) == pytest.approx(
        {
            "speedup_vs_sequential_peft": 2.5,
            "speedup_vs_sequential_peft_100m": 1.4,
            "speedup_vs_trl_wall": 6.0,
            "single_job_ratio_vs_trl": 1.3,
            "packing_speedup": 4.0,
            "packing_speedup_vs_peft": 5.0,
            "chunked_loss_memory_ratio": 0.25,
        }
    )


def test_what_was_not_run_has_no_figure_and_misses_no_bound() -> None:
    figures = ratios({})

    assert set(figures.values()) == {None}
    assert missed(figures) == []


def test_a_figure_at_its_bound_is_kept_and_one_beyond_is_told() -> None:
    kept = {**ratios({}), **BOUNDS, "chunked_loss_memory_ratio": 0.3}
    assert missed(kept) == []

    for name, bound in BOUNDS.items():
        (line,) = missed({**kept, name: bound - 0.01})
        assert line.startswith(f"{name} is ")
    assert missed({**kept, "chunked_loss_memory_ratio": 0.31}) == [
        "chunked_loss_memory_ratio is 0.31, above 0.3"
    ]


def test_medians_and_the_highest_peak_by_part_and_side() -> None:
    found = medians({**_parts(), "single": []})

    assert found["steps"]["engine"]["tokens_per_second"] == 200.0
    assert found["wall"]["trl"] == {"tokens_per_second": None, "seconds": 60.0, "peak_mib": 600.0}
    assert "single" not in found
    grown = {"steps": [{"engine": _told(grown=1.0)}, {"engine": _told(grown=9.0)}]}
    assert medians(grown)["steps"]["engine"]["peak_mib"] == 409.0


def test_the_table_has_a_line_for_every_side() -> None:
    lines = table(medians(_parts()))

    assert len(lines) == 1 + sum(len(pairs[0]) for pairs in _parts().values())
    assert [line.split() for line in lines if line.startswith("wall")] == [
        ["wall", "ours", "-", "10.00", "700"],
        ["wall", "trl", "-", "60.00", "600"],
    ]
