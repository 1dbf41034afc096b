"""Both sides of the comparison, on the demo base: they train, and on the same tokens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from bench.serving.processes import BenchFailed
from bench.training import workload
from bench.training.contender import Contender, Kind
from bench.training.contest import contest
from bench.training.engine_steps import EngineSteps
from bench.training.formats import FLOAT32
from bench.training.peft_steps import PeftSteps
from bench.training.sizes import Lora
from bench.training.workload import Record
from trainer_svc.engine.base import load_base
from trainer_svc.engine.step.bank import AdapterBank

BASE = Path(__file__).parents[3] / "examples" / "demo_base"
UNEVEN = {"job-0": [[Record([20, 21, 22], [0, 1, 1]), Record(list(range(20, 32)), [0, 1] * 6)]]}


def _moved(before: Mapping[str, torch.Tensor], after: Mapping[str, torch.Tensor]) -> set[str]:
    return {name for name in before if not torch.equal(before[name], after[name])}


def test_peft_steps_every_jobs_own_adapter() -> None:
    work = workload.small_jobs(jobs=2, steps=1, records=2, tokens=8, vocabulary=2048)
    side = PeftSteps(BASE, work, Lora(rank=4), FLOAT32)
    before = {name: tensor.clone() for name, tensor in side.model.state_dict().items()}

    assert side.run(2) == 2 * 2 * 2 * 8

    moved = _moved(before, side.model.state_dict())
    assert moved == {name for name in before if "lora_" in name}
    assert {name.rsplit(".", 2)[1] for name in moved} == {"job-0", "job-1"}


def test_peft_does_not_count_padding() -> None:
    assert PeftSteps(BASE, UNEVEN, Lora(rank=4), FLOAT32).run(1) == 15


def test_the_engine_takes_the_same_steps_in_one_run_and_in_many() -> None:
    bank = AdapterBank(load_base(str(BASE), "cpu"))
    weights = []
    for micro_tokens in (2**20, 12):
        side = EngineSteps(bank, UNEVEN, Lora(rank=4), micro_tokens)
        before = side.tensors("job-0")
        assert side.run(2) == 30
        weights.append(side.tensors("job-0"))
        assert _moved(before, weights[-1]) == set(before)
        side.close()
    # AdamW's first steps go by the gradients' signs, which rounding turns where they are tiny.
    differences = torch.cat([(weights[0][name] - weights[1][name]).flatten() for name in before])
    moves = torch.cat([(weights[0][name] - before[name]).flatten() for name in before])
    assert differences.abs().mean() < 0.1 * moves.abs().mean()


def _contender(kind: Kind, folder: Path, **changes: str) -> Contender:
    work = workload.save(UNEVEN, folder / "work.json")
    told = Contender(kind, BASE, work, folder / "out", 1, FLOAT32)
    return (
        told
        if not changes
        else Contender.from_json(json.dumps({**json.loads(told.to_json()), **changes}))
    )


def test_a_contender_is_told_to_a_child_whole(tmp_path: Path) -> None:
    told = _contender(Kind.PEFT, tmp_path)

    assert Contender.from_json(told.to_json()) == told


def test_contenders_take_turns_and_tell_of_time_and_memory(tmp_path: Path) -> None:
    sides = {kind.value: _contender(kind, tmp_path) for kind in (Kind.ENGINE, Kind.PEFT)}

    rounds = contest("short", sides, pairs=2, steps=2, logs=tmp_path)

    assert len(rounds) == 2
    for told in (side for round_ in rounds for side in round_.values()):
        assert told["tokens"] == 30
        assert told["tokens_per_second"] == pytest.approx(30 / told["seconds"])
        assert 0 < told["start_mib"] <= told["peak_mib"]
    assert rounds[0].keys() == rounds[1].keys() == {"engine", "peft"}


def test_a_child_that_cannot_start_ends_the_bench_with_its_log(tmp_path: Path) -> None:
    broken = _contender(Kind.PEFT, tmp_path, base=str(tmp_path / "nothing"))

    with pytest.raises(BenchFailed, match="short, peft ended with status 1"):
        contest("short", {"peft": broken}, pairs=1, steps=1, logs=tmp_path)


_WITHOUT = """
import runpy, sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {kept_out!r}:
            raise ModuleNotFoundError(name, name=name)
sys.meta_path.insert(0, Without())
runpy.run_module("bench.training.gpu", run_name="__main__", alter_sys=True)
"""
_NOT_ON_A_GPU_BOX = (
    "pydantic pydantic_settings structlog obstore grpc google sqlalchemy prometheus_client "
    "uvloop trl datasets vllm"
).split()


def test_the_gpu_part_runs_small_and_needs_no_service_library(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    options = [*"--shape tiny --device cpu --jobs 1 3 --steps 2".split(), "--out", str(out)]
    options += "--peak-tflops 0.1 --micro-tokens 256 --gradient-checkpointing".split()
    subprocess.run(
        [sys.executable, "-c", _WITHOUT.format(kept_out=_NOT_ON_A_GPU_BOX), *options],
        check=True,
        timeout=120,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )

    one, three = json.loads(out.read_text())["rows"]
    assert [(row["jobs"], len(row["seconds"])) for row in (one, three)] == [(1, 2), (3, 2)]
    for row in (one, three):
        assert row["tokens_per_job_and_step"] == 256
        assert row["share_of_peak"] == pytest.approx(row["tflops"] / 0.1)
        assert row["tokens_per_second"] > 0
