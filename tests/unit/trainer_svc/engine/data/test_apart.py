"""A process that tokenises: what it gives, what ends it, and what it takes from others."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from transformers import AutoTokenizer

from tailorbird.errors import DataCorrupt, FailedPrecondition, Unavailable
from tests.unit.trainer_svc.engine.tiny import chats, dataset_ref, jsonl
from tests.unit.trainer_svc.engine.working import tokenising_processes
from trainer_svc.engine.data import tokenising
from trainer_svc.engine.data.apart import write_apart
from trainer_svc.engine.data.cache import DatasetCache
from trainer_svc.engine.data.prepare import prepare, prepared
from trainer_svc.engine.data.tokenizer_digest import tokenizer_digest
from trainer_svc.engine.data.work import Source, Work

DATA = jsonl(chats(20))


@pytest.fixture
def tokenizer(base_path: str) -> Any:
    return AutoTokenizer.from_pretrained(base_path)


@pytest.fixture
def work(base_path: str, tokenizer: Any, tmp_path: Path) -> Work:
    """Reads a pipe that nobody has written to."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "made").mkdir()
    return Work(
        base=Path(base_path),
        tokenizer_digest=tokenizer_digest(tokenizer),
        source=source(tmp_path / "pipe", DATA),
        folder=tmp_path / "made",
    )


def source(path: Path, data: bytes, limit: int = 256) -> Source:
    return Source(path=path, ref=dataset_ref(data), limit=limit, rows=300)


def stored(work: Work, data: bytes, limit: int = 256) -> Work:
    """The same work on a file."""
    path = work.folder.parent / "data.jsonl"
    path.write_bytes(data)
    return work.model_copy(update={"source": source(path, data, limit)})


def nothing() -> None:
    """Nobody stops the job."""


@pytest.fixture
def apart_only(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer_svc.engine.data.prepare._SMALL_BYTES", -1)


def test_its_files_are_those_of_a_thread(
    tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And it is not asked twice, whichever process made the files."""
    file = tmp_path / "data.jsonl"
    file.write_bytes(DATA)
    made = []
    for name, small in (("here", len(DATA)), ("apart", len(DATA) - 1)):
        monkeypatch.setattr("trainer_svc.engine.data.prepare._SMALL_BYTES", small)
        cache = DatasetCache(tmp_path / name, 2**30)
        assert prepared(dataset_ref(DATA), tokenizer, 256, cache, rows=300) is None
        with monkeypatch.context() as patch:
            if name == "here":
                patch.setattr("trainer_svc.engine.data.prepare.write_apart", pytest.fail)
            prepare(file, dataset_ref(DATA), tokenizer, 256, cache, rows=300)
        files = [path for path in (tmp_path / name).rglob("*") if path.is_file()]
        made.append({path.relative_to(tmp_path / name): path.read_bytes() for path in files})
        assert prepared(dataset_ref(DATA), tokenizer, 256, cache, rows=300) is not None
    assert len(made[0]) == 6
    assert made[0] == made[1]


@pytest.mark.usefixtures("apart_only")
def test_what_is_wrong_with_the_data_comes_through(work: Work, tokenizer: Any) -> None:
    with pytest.raises(FailedPrecondition, match=r"line 21 .* not JSON") as refused:
        write_apart(stored(work, DATA + b"{"), nothing)
    assert (refused.value.reason, refused.value.metadata) == ("INVALID_RECORD", {"line": "21"})
    other = stored(work, DATA)
    other.source.path.write_bytes(DATA + b"\n")
    cache = DatasetCache(work.folder.parent / "cache", 2**30)
    with pytest.raises(DataCorrupt) as corrupt:
        prepare(other.source.path, other.source.ref, tokenizer, 256, cache, rows=300)
    assert corrupt.value.reason == "DATASET_CORRUPT"
    assert not [path for path in (work.folder.parent / "cache").rglob("*") if path.is_file()]


def test_an_error_of_the_system_comes_through(work: Work) -> None:
    (work.folder / "token_ids.bin").touch()
    with pytest.raises(FileExistsError):
        write_apart(stored(work, DATA), nothing)


def test_a_tokenizer_that_has_changed_is_worth_another_try(work: Work) -> None:
    with pytest.raises(Unavailable, match="restart the trainer") as caught:
        write_apart(stored(work, DATA).model_copy(update={"tokenizer_digest": "0"}), nothing)
    assert caught.value.reason == "BASE_MISMATCH"
    assert not list(work.folder.iterdir())


def test_what_nobody_foresaw_is_worth_another_try(work: Work) -> None:
    missing = stored(work, DATA).model_copy(update={"base": work.folder})
    with pytest.raises(Unavailable, match=r"ended with status 1$") as caught:
        write_apart(missing, nothing)
    assert caught.value.reason == "TOKENISING_LOST"


def test_an_error_of_a_library_that_looks_like_the_systems_ends_it(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Work) -> None:
        raise OSError("no tokenizer here")

    monkeypatch.setattr(tokenising, "_tokenise", fail)
    with pytest.raises(OSError, match="no tokenizer here"):
        tokenising._outcome(work)


def test_what_ends_before_it_has_heard_its_work_is_worth_another_try(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with pytest.raises(Unavailable, match="ended with status") as caught:
        write_apart(work, nothing)
    assert caught.value.reason == "TOKENISING_LOST"


def test_without_work_it_ends_in_silence() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        ours.close()
        command = [sys.executable, "-m", "trainer_svc.engine.data.tokenising"]
        done = subprocess.run(
            [*command, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            capture_output=True,
            check=True,
        )
    assert (done.stdout, done.stderr) == (b"", b"")


def test_what_cannot_be_started_is_worth_another_try(
    work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "executable", str(work.folder / "python"))
    with pytest.raises(Unavailable, match="cannot be started: No such file") as caught:
        write_apart(work, nothing)
    assert caught.value.reason == "TOKENISING_LOST"


Reading = Callable[[Work, Callable[[], None]], tuple[Future[None], psutil.Process]]


@pytest.fixture
def reading() -> Iterator[Reading]:
    """Gives what waits for a process that waits for the pipe, and the process."""
    with ThreadPoolExecutor() as threads, ExitStack() as pipes:

        def begin(
            work: Work, check: Callable[[], None] = nothing
        ) -> tuple[Future[None], psutil.Process]:
            future = threads.submit(write_apart, work, check)
            pipes.enter_context(work.source.path.open("wb"))
            (process,) = tokenising_processes()
            return future, process

        yield begin


def test_it_takes_no_torch_and_gives_way(work: Work, reading: Reading) -> None:
    future, process = reading(work, nothing)
    assert not [each.path for each in process.memory_maps() if "torch" in each.path]
    assert process.nice() == min(os.nice(0) + 5, 19)
    assert Path(f"/proc/{process.pid}/oom_score_adj").read_text() == "1000\n"
    process.kill()
    with pytest.raises(Unavailable, match=r"ended with status -9$"):
        future.result(30)


def test_a_check_that_raises_ends_it(work: Work, reading: Reading) -> None:
    stopped = False

    def check() -> None:
        if stopped:
            raise KeyError("stopped")

    future, process = reading(work, check)
    stopped = True
    with pytest.raises(KeyError):
        future.result(30)
    assert not process.is_running()


def test_it_dies_with_who_started_it(work: Work) -> None:
    script = (
        "import sys; from trainer_svc.engine.data.apart import write_apart; "
        "from trainer_svc.engine.data.work import Work; "
        "write_apart(Work.model_validate_json(sys.argv[1]), lambda: None)"
    )
    parent = subprocess.Popen([sys.executable, "-c", script, work.model_dump_json()])
    with work.source.path.open("wb"):
        (process,) = tokenising_processes(parent.pid)
        parent.kill()
        parent.wait()
        process.wait(30)
        assert not process.is_running()
