"""The job store's URL is checked with the other settings, and never told."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from tailorbird.failed_start import wrong_settings
from trainer_svc.database_url import DRIVERS
from trainer_svc.settings import TrainerSettings


def problem(url: str) -> str:
    with pytest.raises(ValidationError) as caught:
        TrainerSettings(base_model="demo", database_url=url)
    ((setting, told),) = wrong_settings(caught.value)
    assert setting == "database_url"
    return told


@pytest.mark.parametrize(
    "url",
    [
        "",
        "postgresql+asyncpg://me:word@db:5432/jobs",
        "postgresql+asyncpg://me:wo/rd@[::1]/jobs?ssl=require",
        "postgresql+asyncpg:///jobs?host=/run/postgresql",
        "sqlite+aiosqlite:////data/trainer.db",
    ],
)
def test_what_can_be_used_stays_as_it_is(url: str) -> None:
    assert TrainerSettings(base_model="demo", database_url=url).database_url == url


@pytest.mark.parametrize(
    ("scheme", "told"),
    [
        ("postgresql", "postgresql:// cannot be used"),
        ("postgres", "postgres:// cannot be used"),
        ("postgresql+psycopg", "postgresql+psycopg:// cannot be used"),
        ("mysql", "mysql:// cannot be used"),
        ("sqlite", "sqlite:// cannot be used"),
        ("secret", "it cannot be used"),
        ("me:secret@mysql", "it cannot be used"),
    ],
)
def test_another_driver_is_told_with_what_is_expected(scheme: str, told: str) -> None:
    found = problem(f"{scheme}://me:secret@db/jobs")
    assert found.startswith(f"{told}: ")
    assert all(f"{driver}://" in found for driver in DRIVERS)
    assert "secret" not in found


@pytest.mark.parametrize("url", ["secret", "postgresql+asyncpg:secret@db/jobs", "://secret"])
def test_what_is_no_url_is_told_with_what_is_expected(url: str) -> None:
    found = problem(url)
    assert "postgresql+asyncpg://USER:PASSWORD@HOST" in found
    assert "secret" not in found
