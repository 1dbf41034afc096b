"""A base is described once, by transformers, and as its worker has it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from tests.unit.trainer_svc.engine.tiny import make_base
from trainer_svc.encoding.tokenizer import FileTokenizer
from trainer_svc.engine.base import load_base
from trainer_svc.engine.data.tokenizer_digest import tokenizer_digest
from trainer_svc.engine.preflight import base as module
from trainer_svc.engine.preflight.base import described
from trainer_svc.protocol import WorkerSettings


def settings(path: Path, folder: Path, digest: str = "1" * 64) -> WorkerSettings:
    return WorkerSettings(
        object_store="",
        base_model_path=str(path),
        base_model_name="tiny",
        base_model_digest=f"sha256:{digest}",
        chat_template_digest="",
        device="cpu",
        threads=1,
        scratch_dir=str(folder / "scratch"),
        cache_dir=str(folder / "cache" / "datasets"),
        cache_bytes=2**30,
        progress_interval=0,
    )


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_base(tmp_path_factory.mktemp("base"))


def kept(folder: Path) -> list[Path]:
    return list((folder / "cache" / "bases").iterdir())


def test_it_is_the_base_that_a_worker_has(tiny: Path, tmp_path: Path) -> None:
    ours, theirs = described(settings(tiny, tmp_path)), load_base(str(tiny), "cpu")
    assert isinstance(ours.tokenizer, FileTokenizer)
    assert tokenizer_digest(ours.tokenizer) == tokenizer_digest(theirs.tokenizer)
    assert (ours.token_ids, ours.context, ours.hidden_size, ours.why_alone) == (
        theirs.token_ids,
        theirs.context,
        theirs.hidden_size,
        theirs.why_alone,
    )


def test_transformers_is_asked_once(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = described(settings(tiny, tmp_path))
    (file,) = kept(tmp_path)
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "transformers", None)
        again = described(settings(Path("/nowhere"), tmp_path))
    assert again.tokenizer.digest == first.tokenizer.digest
    # What was not written whole is written again, and of a base nothing older is kept.
    file.write_text("{")
    file.with_name(f"{'1' * 64}-older.json").write_text("{}")
    other = file.with_name(f"{'2' * 64}-older.json")
    other.write_text("{}")
    assert described(settings(tiny, tmp_path)).tokenizer.digest == first.tokenizer.digest
    assert sorted(kept(tmp_path)) == sorted([file, other])


def test_another_release_asks_again(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described(settings(tiny, tmp_path))
    (file,) = kept(tmp_path)
    monkeypatch.setattr(module, "made_by", lambda: ["another release"])
    described(settings(tiny, tmp_path))
    (again,) = kept(tmp_path)
    assert again != file


def test_a_tokenizer_that_is_not_written_down_is_asked_itself(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(tokenizer: Any) -> None: ...

    monkeypatch.setattr(module, "tokenizer_facts", none)
    for _ in range(2):
        found = described(settings(tiny, tmp_path)).tokenizer
        assert not isinstance(found, FileTokenizer)
        assert found("the order")["input_ids"]
