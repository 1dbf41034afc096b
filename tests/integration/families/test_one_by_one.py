"""What a job is told, by the real worker, of a base whose records must run one by one."""

from __future__ import annotations

from pathlib import Path

from tests.families import ALONE, REFUSED, make_family
from tests.integration.engine_process import WorkerProcess
from tests.unit.trainer_svc.engine.tiny import assignment, chats, dataset_ref, jsonl
from trainer_svc.jobs.events import JobWarning, Prepared
from trainer_svc.protocol import Start, Trained, Unusable

DATA = jsonl(chats(20))


def test_a_leaking_base_is_told_in_the_jobs_history(tmp_path: Path) -> None:
    base = make_family(ALONE["OPT"], tmp_path / "opt")
    store, key = tmp_path / "store", dataset_ref(DATA).key
    (store / key).parent.mkdir(parents=True)
    (store / key).write_bytes(DATA)
    with WorkerProcess(base, store, tmp_path / "scratch") as worker:
        worker.ready().send(Start(assignment=assignment(DATA)))
        before, _ = worker.until(Prepared)
        assert before == []
        warnings = [worker.until(JobWarning)[1] for _ in range(2)]
        warning = next(one for one in warnings if one.reason != "FEW_RECORDS")
        assert warning.reason == "BASE_LEAKS"
        assert "one record at a time" in warning.message
        worker.until(Trained)


def test_a_base_that_cannot_be_trained_makes_no_worker(tmp_path: Path) -> None:
    base = make_family(REFUSED["GPT-NeoX"], tmp_path / "neox")
    with WorkerProcess(base, tmp_path, tmp_path / "scratch") as worker:
        report = worker.next()
    assert isinstance(report, Unusable)
    assert report.error.reason == "BASE_UNSUPPORTED"
    assert "none of the linear layers" in report.error.message
