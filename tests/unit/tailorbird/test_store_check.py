"""A store that cannot be used is an error of its setting, whatever the disk says."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tailorbird.errors import InvalidArgument, StoreUnavailable
from tailorbird.store_check import check_store


async def test_a_folder_that_may_not_even_be_looked_at_is_named(tmp_path: Path) -> None:
    # As a folder without permission above it, Path.exists raises for this name; root may do all.
    with pytest.raises(InvalidArgument) as caught:
        await check_store((tmp_path / ("x" * 300)).as_uri())
    assert caught.value.field == "object_store"


async def test_a_folder_that_cannot_be_written_is_told_as_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(StoreUnavailable, match="the folder cannot be written"):
        await check_store(tmp_path.as_uri())


async def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises((InvalidArgument, StoreUnavailable)) as caught:
        await check_store((tmp_path / "file").as_uri())
    named = isinstance(caught.value, InvalidArgument) and caught.value.field
    assert "object_store" in {named, caught.value.metadata.get("setting")}
