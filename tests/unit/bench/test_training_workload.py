from __future__ import annotations

from pathlib import Path

from bench.training import workload
from bench.training.workload import Record


def _lengths(work: workload.Workload) -> list[list[int]]:
    return [[len(record.token_ids) for record in step] for steps in work.values() for step in steps]


def test_small_jobs_are_equal_in_size_and_not_in_content() -> None:
    work = workload.small_jobs(jobs=3, steps=2, records=2, tokens=8, vocabulary=100)

    assert list(work) == ["job-0", "job-1", "job-2"]
    assert _lengths(work) == [[8, 8]] * 6
    records = [record for steps in work.values() for step in steps for record in step]
    assert len({tuple(record.token_ids) for record in records}) == len(records)
    assert {tuple(record.trained) for record in records} == {(0, 0, 0, 0, 1, 1, 1, 1)}
    assert max(max(record.token_ids) for record in records) < 100


def test_every_token_but_the_first_may_be_trained() -> None:
    work = workload.small_jobs(
        jobs=1, steps=1, records=1, tokens=4, vocabulary=100, prompt_share=0.0
    )

    assert work["job-0"][0][0].trained == [0, 1, 1, 1]


def test_skewed_lengths_waste_most_of_a_padded_batch() -> None:
    work = workload.skewed_job(20, 16, 100)

    lengths = _lengths(work)
    assert (min(map(min, lengths)), max(map(max, lengths)) <= 1024) == (16, True)
    whole = sum(max(step) * len(step) for step in lengths)
    assert 0.2 < sum(map(sum, lengths)) / whole < 0.4
    assert work == workload.skewed_job(20, 16, 100)


def test_steps_take_the_records_in_turn_and_begin_anew() -> None:
    a, b, c = (Record([number], [0]) for number in range(3))

    assert workload.cut_into_steps([a, b, c], 2, 3) == {"job-0": [[a, b], [c, a], [b, c]]}


def test_padding_makes_the_records_of_a_step_equal_and_is_not_trained() -> None:
    work = {"job-0": [[Record([5, 6], [0, 1]), Record([7, 8, 9], [0, 1, 1])], [Record([4], [0])]]}

    assert workload.padded(work) == {
        "job-0": [
            [Record([5, 6, 0], [0, 1, 0]), Record([7, 8, 9], [0, 1, 1])],
            [Record([4], [0])],
        ]
    }


def test_another_process_reads_what_was_written(tmp_path: Path) -> None:
    work = workload.small_jobs(jobs=2, steps=1, records=1, tokens=4, vocabulary=100)

    assert workload.load(workload.save(work, tmp_path / "work.json")) == work
