from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from dataclasses import replace

import pytest

from bench.jobs import figures, soak_figures
from bench.jobs.growth import Sample, growth, per_minute
from bench.jobs.histories import History, doubled
from bench.jobs.proc import Seen, descriptors, own_memory_kib, processes_of, strays
from bench.jobs.queue import Measured
from bench.jobs.sizes import SoakSizes
from bench.jobs.soak import Soaked

GOOD = History(
    job="tenants/a/jobs/one",
    state="SUCCEEDED",
    reason="",
    last_sequence=3,
    sequences=(1, 2, 3),
    ends=1,
    published=1,
    resumed=0,
    versions=1,
    routes=1,
)
FAILED = replace(GOOD, state="FAILED", reason="OUT_OF_MEMORY", published=0, versions=0, routes=0)
SIZES = SoakSizes()


def sample(at: float, age: float, memory: int = 100, life: str = "one") -> Sample:
    return Sample(at, life, age, memory, memory // 10)


def memory(one: Sample) -> float:
    return one.memory_kib


def test_the_queue_s_figures_are_held_against_their_bounds() -> None:
    measured = Measured(
        claims=[0.01] * 99 + [0.2], first_pages=[0.05], to_watcher=[0.01, 0.02, 9.0]
    )
    told = figures.content(measured)
    assert (told["claim_p50_ms"], told["claim_p99_ms"]) == (10, 10)
    assert told["event_to_watcher_p50_ms"] == 20
    assert told["create_p99_ms"] is None
    assert told["missed"] == []
    slow = replace(measured, claims=[0.051], first_pages=[], to_watcher=[0.101])
    assert figures.content(slow)["missed"] == [
        "claim_p99_ms is 51.0, more than 50",
        "list_page_p99_ms is None, more than 50",
        "event_to_watcher_p50_ms is 101.0, more than 100",
    ]


@pytest.mark.parametrize("history", [GOOD, FAILED, replace(FAILED, state="RUNNING", ends=0)])
def test_a_history_that_is_whole_has_nothing_twice(history: History) -> None:
    assert list(doubled(history)) == []


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"sequences": (1, 3)}, "its sequences are not 1 to 3"),
        ({"sequences": (1, 2)}, "its sequences are not 1 to 3"),
        ({"ends": 2}, "2 events that end it, not 1"),
        ({"published": 2}, "2 published events, not 1"),
        ({"versions": 2}, "2 versions, not 1"),
        ({"routes": 2}, "2 routes, not 1"),
        ({"versions": 0}, "0 versions, not 1"),
    ],
)
def test_what_a_job_has_twice_or_lacks_is_told(changed: dict[str, object], line: str) -> None:
    (told,) = doubled(replace(GOOD, **changed))  # type: ignore[arg-type]
    assert told.endswith(line)


def test_a_failed_job_must_have_left_no_version() -> None:
    assert list(doubled(replace(FAILED, versions=1))) == [
        "tenants/a/jobs/one is FAILED: 1 versions, not 0"
    ]


def soaked(*histories: History) -> Soaked:
    # Alike in both halves.
    looks = [sample(at, at % 10) for at in range(40)]
    return Soaked(
        histories=list(histories),
        samples=looks,
        kills=Counter(worker=1),
        exit_statuses=[0, 0],
        seconds=60.0,
    )


def test_a_soak_in_which_all_is_well_misses_nothing() -> None:
    told = soak_figures.content(soaked(*[GOOD] * 49, FAILED), 50, SIZES)
    assert told["missed"] == []
    assert (told["terminal"], told["published"]) == (50, 49)
    assert told["failed"] == {"OUT_OF_MEMORY": 1}
    assert (told["memory_growth"], told["descriptor_growth"]) == (0, 0)


def test_every_bound_of_a_soak_is_looked_at() -> None:
    bad = soaked(*[FAILED] * 2, *[replace(GOOD, state="RUNNING")] * 1)
    bad.leaked = ["trainer-1: python"]
    bad.fell = ["its last lines"]
    bad.exit_statuses = [0, -9]
    bad.seconds = 1501.0
    bad.samples = [sample(at, at % 10, 100 + 20 * (at >= 20)) for at in range(40)]
    lines = soak_figures.content(bad, 4, SIZES)["missed"]
    assert [line.partition(" is ")[0] for line in lines[:-1]] == [
        "terminal",
        "published",
        "duplicates",
        "leaked_processes",
        "fell",
        "seconds",
        "memory_growth",
        "descriptor_growth",
    ]
    assert lines[-1] == "the trainers ended with [0, -9], not 0"


def test_growth_that_cannot_be_told_counts_where_it_is_judged() -> None:
    none = soaked(GOOD)
    none.samples = []
    assert len(soak_figures.content(none, 1, SIZES)["missed"]) == 2
    assert soak_figures.content(none, 1, replace(SIZES, judges_growth=False))["missed"] == []


def test_only_processes_of_one_age_are_compared() -> None:
    young = [sample(at, 1, 100) for at in range(10)]
    old = [sample(at, 100, 500) for at in range(5, 15)]
    later = [sample(at, 1, 110) for at in range(10, 20)]
    assert growth([*young, *old, *later], memory) == pytest.approx(
        # The age of 100 weighs half: it has five looks in each half, the other ten.
        0.1 * 10 / 15
    )
    assert growth([sample(1, 1), sample(2, 50)], memory) is None


def test_what_a_process_gains_in_a_minute_is_that_of_the_middle_life() -> None:
    def life(name: str, gain: int, seconds: int) -> list[Sample]:
        return [sample(age, age, 1000 + gain * age, name) for age in range(seconds)]

    lives = [*life("one", 0, 70), *life("two", 2, 70), *life("three", 9, 70)]
    assert per_minute([*lives, *life("short", 100, 50)], memory) == pytest.approx(120)
    assert per_minute(life("short", 100, 50), memory) is None


def test_strays_are_those_that_do_not_descend_from_the_service() -> None:
    service, worker, tokeniser, left = (
        Seen(10, 1, 1, "service"),
        Seen(11, 1, 10, "worker"),
        Seen(12, 1, 11, "tokeniser"),
        Seen(13, 1, 1, "worker of an earlier one"),
    )
    assert strays([service, worker, tokeniser, left], 10) == [left]
    assert strays([worker, tokeniser], 10) == []


def test_processes_are_found_by_their_environment() -> None:
    setting = f"TAILORBIRD_BENCH_TEST={os.getpid()}"
    name, _, value = setting.partition("=")
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, env={name: value}) as child:
        assert child.stdout is not None
        child.stdout.readline()
        (found,) = processes_of(setting)
        assert (found.pid, found.parent) == (child.pid, os.getpid())
        assert found.command.endswith("sys.stdin.read()")
        assert own_memory_kib(child.pid) > 100
        assert descriptors(child.pid) >= 3
        assert child.stdin is not None
        child.stdin.close()
    assert processes_of(setting) == []
    with pytest.raises(OSError, match=str(child.pid)):
        own_memory_kib(child.pid)
