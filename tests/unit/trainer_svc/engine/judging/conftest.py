from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.unit.trainer_svc.engine.versions import DIGEST
from tests.unit.trainer_svc.engine.working import Working
from trainer_svc.engine.step.bank import AdapterBank


@pytest.fixture
async def working(bank: AdapterBank, tmp_path: Path) -> AsyncIterator[Working]:
    working = Working(bank, tmp_path, digest=DIGEST)
    yield working
    await asyncio.to_thread(working.steps.close)
