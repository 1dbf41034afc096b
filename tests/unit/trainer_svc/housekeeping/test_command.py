"""The operator's commands, on a trainer's own data folder."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from tests.unit.trainer_svc.housekeeping.world import World, version_of
from trainer_svc import __main__ as trainer_main
from trainer_svc.housekeeping import command
from trainer_svc.housekeeping.commands import COMMANDS
from trainer_svc.housekeeping.erased import Erasure
from trainer_svc.housekeeping.model import Collected, Count, Kind
from trainer_svc.jobs.database import Database


async def filled(folder: Path) -> None:
    database = Database(f"sqlite+aiosqlite:///{folder}/trainer.db")
    await database.migrate()
    world = World(folder, database)
    await world.put(f"{version_of('ghost')}/adapter_model.safetensors")
    await world.published()
    await world.job("open", "globex")
    await database.close()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A trainer's data folder, with something to collect."""
    folder = tmp_path / "data"
    folder.mkdir()
    asyncio.run(filled(folder))
    monkeypatch.setenv("TAILORBIRD_DATA_DIR", str(folder))
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", "none")
    monkeypatch.setattr(trainer_main, "prepare_process", lambda *_: None)
    return folder


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return trainer_main.main(arguments)


def test_a_dry_run_says_what_would_go(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ghost = folder / "store" / version_of("ghost") / "adapter_model.safetensors"
    assert run(monkeypatch, "collect", "--dry-run") == 0
    first, second = capsys.readouterr().out.splitlines()
    assert first.split() == ["would", "remove", "count", "objects", "or", "rows", "size"]
    assert second.split() == ["uncommitted", "versions", "1", "1", "10", "bytes"]
    assert ghost.exists()
    assert run(monkeypatch, "collect", "--json") == 0
    found = Collected.model_validate_json(capsys.readouterr().out)
    assert found.removed[Kind.UNCOMMITTED_VERSIONS].things == 1
    assert not ghost.exists()
    assert run(monkeypatch, "collect") == 0
    assert capsys.readouterr().out == "removed: nothing\n"


@pytest.mark.parametrize("arguments", [["collect"], ["erase", "acme"], ["migrate"]])
def test_settings_are_told_to_those_who_ask_for_them(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
) -> None:
    def told() -> list[str]:
        lines = capfd.readouterr().err.splitlines()
        return [line["level"] for line in map(json.loads, lines) if line["event"] == "settings"]

    assert run(monkeypatch, *arguments) == 0
    assert told() == []
    monkeypatch.setenv("TAILORBIRD_LOG_LEVEL", "debug")
    assert run(monkeypatch, *arguments) == 0
    assert told() == ["debug"]


def test_a_tenant_is_erased(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "erase", "acme") == 0
    told = capsys.readouterr().out
    assert told.startswith("tenants/acme is erased: ")
    assert "kept: 2 tombstones and 0 routes" in told
    assert "After one is restored, erase the tenant again" in told
    assert "\nremoved  " in told
    assert run(monkeypatch, "erase", "acme") == 0
    again = capsys.readouterr().out
    assert again.splitlines()[0].endswith(", tries: 2")
    # The same table, of all tries.
    rows = [" ".join(line.split()) for line in told.splitlines()[1:-3]]
    title, *others = [" ".join(line.split()) for line in again.splitlines()[1:-3]]
    assert title == rows[0].replace("removed", "removed in all tries")
    assert others == rows[1:]
    left = sorted(file.name for file in (folder / "store" / "tenants").rglob("*.*"))
    assert left == ["tombstone.json", "tombstone.json"]


def test_a_tenant_that_had_nothing_is_told_from_one_that_is_erased(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "erase", "acne") == 0
    first, second, third, *_ = capsys.readouterr().out.splitlines()
    assert first.startswith("tenants/acne had nothing: ")
    assert second == "nothing was ever found of it here: is that its id?"
    assert third == "removed: nothing"
    assert run(monkeypatch, "erase", "acme") == 0
    assert "nothing" not in capsys.readouterr().out


@pytest.mark.parametrize("kept", ["tombstones", "routes"])
def test_a_tenant_of_which_only_names_are_left_is_erased(kept: str) -> None:
    now = datetime.now(UTC)
    told = command.told_erasure(Erasure(tenant="tenants/acme", begin_time=now, **{kept: 1}))
    assert told[0].startswith("tenants/acme is erased: ")


def test_a_tenant_whose_jobs_go_on_is_not_erased_unless_told(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    assert run(monkeypatch, "erase", "globex") == 1
    out, err = capfd.readouterr()
    assert out == ""
    (line,) = map(json.loads, err.splitlines())
    assert line["reason"] == "JOBS_NOT_ENDED"
    assert line["error"].endswith("/jobs/open; cancel them, or have it done by --cancel-jobs")
    assert run(monkeypatch, "erase", "globex", "--cancel-jobs", "--wait", "0", "--json") == 0
    found = Erasure.model_validate(json.loads(capfd.readouterr().out))
    assert found.removed[Kind.ENDED_JOBS].things == 1


def test_without_a_job_store_nothing_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (folder / "trainer.db").unlink()
    assert run(monkeypatch, "collect") == 1
    assert "NO_JOB_STORE" in capfd.readouterr().err
    assert not (folder / "trainer.db").exists()
    assert (folder / "store" / version_of("ghost")).exists()


@pytest.mark.parametrize("tenant", ["*", "Acme", "../acme", ""])
def test_a_name_that_is_no_tenants_is_refused(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    tenant: str,
) -> None:
    assert run(monkeypatch, "erase", tenant) == 1
    assert "tenant" in capfd.readouterr().err


def test_an_argument_that_is_none_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as raised:
        run(monkeypatch, "collect", "--dry")
    assert raised.value.code == 2


@pytest.mark.parametrize("arguments", [["erase", "acme"], ["migrate"]])
@pytest.mark.parametrize("seconds", ["-5", "-0.1", "nan", "inf", "86401", "soon"])
def test_a_wait_that_is_none_is_refused(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    seconds: str,
) -> None:
    with pytest.raises(SystemExit) as raised:
        run(monkeypatch, *arguments, f"--wait={seconds}")
    assert raised.value.code == 2
    expected = f"argument --wait: {seconds!r}: seconds from 0 to 86400 are expected\n"
    assert capsys.readouterr().err.endswith(expected)


@pytest.mark.parametrize("seconds", ["0", "0.5", "86400"])
def test_a_wait_within_its_limits_is_taken(
    folder: Path, monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    assert run(monkeypatch, "erase", "acme", "--wait", seconds) == 0
    assert run(monkeypatch, "migrate", "--wait", seconds) == 0


def test_help_has_what_an_operator_may_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(trainer_main, "prepare_process", lambda *_: None)

    def told(*arguments: str) -> str:
        with pytest.raises(SystemExit) as raised:
            run(monkeypatch, *arguments, "--help")
        assert raised.value.code == 0
        return capsys.readouterr().out

    of_all = told()
    assert "--role" in of_all
    assert ".py" not in of_all
    assert "  check    Say what is wrong" in of_all
    for name, does in COMMANDS.items():
        assert f"  {name:<9}{does}\n" in of_all
        of_one = told(name)
        assert of_one.startswith(f"usage: python -m trainer_svc {name} ")
        assert does in of_one


def test_what_failed_is_told_and_is_the_exit_status() -> None:
    now = datetime.now(UTC)
    found = Collected(
        dry_run=False,
        begin_time=now,
        end_time=now,
        removed={Kind.CHECKPOINTS: Count(things=2, objects=6, bytes=3 * 2**30)},
        failures=("tenants/acme: down",),
        failure_count=3,
    )
    lines = command.told_round(found)
    assert lines[1].split() == ["checkpoints", "2", "6", "3.0", "GiB"]
    assert lines[2:] == ["3 could not be looked at or removed:", "  tenants/acme: down"]


@pytest.mark.parametrize(
    ("bytes_", "told"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 * 2**50, "5120.0 TiB")],
)
def test_sizes_are_told_in_units(bytes_: int, told: str) -> None:
    assert command._size(bytes_) == told
