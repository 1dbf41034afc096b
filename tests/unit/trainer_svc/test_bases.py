"""The bases of a trainer: which are refused at its start, and which a job means."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from tailorbird.base_model import BaseModelFiles, load_base_model
from tailorbird.errors import InvalidArgument
from tests.unit.trainer_svc.values import make_bases
from trainer_svc.bases import with_further
from trainer_svc.settings import FurtherBase, TrainerSettings

MIB = 2**20


def folder(path: Path, weights: int = 100, **more: int) -> Path:
    """A folder that is a base as far as the service looks: no tensor is read."""
    path.mkdir(parents=True)
    config = {"max_position_embeddings": 64, "hidden_size": len(path.name)}
    (path / "config.json").write_text(json.dumps(config))
    (path / "model.safetensors").write_bytes(bytes(weights))
    for name, size in more.items():
        (path / f"{name}.safetensors").write_bytes(bytes(size))
    return path


def load(path: Path) -> BaseModelFiles:
    return load_base_model(str(path), path.parent / "cache")


def test_further_bases_follow_the_default_one(tmp_path: Path) -> None:
    first, second, third = (folder(tmp_path / name) for name in ("a", "bb", "ccc"))
    asked = [
        FurtherBase(model=str(second)),
        FurtherBase(model=str(third), name="third", digest=load(third).digest),
    ]
    bases = with_further(load(first), asked, tmp_path / "cache", None)
    assert [base.name for base in bases.all] == ["a", "bb", "third"]
    assert bases.default == load(first)
    assert bases.names == "'a', 'bb', 'third'"
    assert bases.all[1].weight_bytes == 100


@pytest.mark.parametrize(
    ("asked", "problem"),
    [
        ({"model": "none-such"}, r"\[0\] \(none-such\): "),
        ({"model": "b", "digest": f"sha256:{'0' * 64}"}, "is expected, and the files in"),
        ({"model": "b", "name": "a"}, "is the base 'a' .* again"),
        ({"model": "a", "name": "other"}, "is the base 'a' .* again"),
    ],
)
def test_a_further_base_that_is_wrong_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asked: dict[str, str], problem: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    default = load(folder(tmp_path / "a"))
    folder(tmp_path / "b", 200)
    with pytest.raises(InvalidArgument, match=problem) as caught:
        with_further(default, [FurtherBase(**asked)], tmp_path / "cache", None)
    assert caught.value.field == "more_base_models"


@pytest.mark.parametrize("large", ["a", "b"])
def test_a_base_that_does_not_fit_alone_is_refused_with_numbers(tmp_path: Path, large: str) -> None:
    sizes = {"a": MIB, "b": MIB} | {large: 2 * MIB}
    default = load(folder(tmp_path / "a", sizes["a"]))
    asked = [FurtherBase(model=str(folder(tmp_path / "b", sizes["b"])), name="b")]
    with pytest.raises(InvalidArgument) as caught:
        with_further(default, asked, tmp_path / "cache", 1.5 * MIB / 2**30)
    assert caught.value.field == "base_memory_gib"
    assert "0.00146484 GiB are less than the 0.00195 GiB" in caught.value.description
    assert f"'{large}'" in caught.value.description
    assert len(with_further(default, asked, tmp_path / "cache", 2 * MIB / 2**30).all) == 2


def test_weights_are_what_the_index_names(tmp_path: Path) -> None:
    path = folder(tmp_path / "a", 100, consolidated=1000)
    assert load(path).weight_bytes == 1100
    index = {"weight_map": {"one": "model.safetensors", "two": "model.safetensors"}}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert load(path).weight_bytes == 100
    (path / "model.safetensors.index.json").write_text('{"weight_map": {"one": "none"}}')
    with pytest.raises(InvalidArgument, match="none"):
        load(path)


def test_a_job_means_the_base_with_its_digest() -> None:
    bases = make_bases("a", "b")
    a, b = bases.all
    assert bases.named("") is a
    assert bases.named("b") is b
    assert bases.named("c") is None
    assert bases.held("b", "sha256:b") is b
    # The name may stand for other weights by now, and these weights for another name.
    assert bases.held("b", "sha256:c") is None
    assert bases.held("old-name", "sha256:b") is b
    assert bases.held("b", "") is b


def test_the_setting_is_a_list_in_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", "demo")
    assert TrainerSettings().more_base_models == ()
    assert TrainerSettings().base_memory_bytes == float("inf")
    monkeypatch.setenv("TAILORBIRD_BASE_MEMORY_GIB", "1.5")
    assert TrainerSettings().base_memory_bytes == 1.5 * 2**30
    monkeypatch.setenv("TAILORBIRD_MORE_BASE_MODELS", '[{"model": "org/b@main"}, {"model": "c"}]')
    assert [base.model for base in TrainerSettings().more_base_models] == ["org/b@main", "c"]
    for wrong in ("org/b", '[{"name": "b"}]', '[{"model": "b", "path": "c"}]', '[{"model": ""}]'):
        monkeypatch.setenv("TAILORBIRD_MORE_BASE_MODELS", wrong)
        with pytest.raises(ValidationError, match="more_base_models"):
            TrainerSettings()
