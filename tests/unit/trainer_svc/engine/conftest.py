from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.unit.trainer_svc.engine.tiny import make_base
from trainer_svc.engine.base import Base, load_base
from trainer_svc.engine.step.bank import AdapterBank


@pytest.fixture(scope="session")
def base_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(make_base(tmp_path_factory.mktemp("base") / "tiny"))


@pytest.fixture
def base(base_path: str) -> Base:
    torch.set_num_threads(1)
    return load_base(base_path, "cpu")


@pytest.fixture
def bank(base: Base) -> AdapterBank:
    return AdapterBank(base)


@pytest.fixture
def store_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder
