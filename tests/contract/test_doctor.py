"""Planted faults, each named by `python -m trainer_svc check` with what to do about it.

Those of the machine, and of the way to the services, are in tests/unit/tailorbird/doctor and
tests/integration/test_doctor_cli.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sqlite3
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from tailorbird.doctor.finding import Finding, Status
from tailorbird.doctor.store import store
from tailorbird.local_disk import locked_folder
from tailorbird.object_store import open_store
from tests.certificates import Authority, with_password
from tests.fault_proxy import FaultProxy, answered, hung, passed
from trainer_svc import check
from trainer_svc.jobs.database import Database

BASE = Path("examples/demo_base").resolve()
SECRET = "hunter2-and-longer"
OK, WARNING, FAILED = Status.OK, Status.WARNING, Status.FAILED

Check = Callable[..., Awaitable[dict[str, Finding]]]


@pytest.fixture
def trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Check:
    """Runs the check, in a thread, with variables; returns what is not as it should be.

    By subject. Everything, where `everything` is asked for.
    """
    for name in [name for name in os.environ if name.startswith("TAILORBIRD_")]:
        if name != "TAILORBIRD_CONTEXTS_FILE":
            monkeypatch.delenv(name)
    monkeypatch.setenv("TAILORBIRD_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("TAILORBIRD_BASE_MODEL", str(BASE))
    monkeypatch.setenv("TAILORBIRD_PORT", "0")
    monkeypatch.setenv("TAILORBIRD_METRICS_PORT", "0")

    async def run(*, everything: bool = False, **variables: object) -> dict[str, Finding]:
        for name, value in variables.items():
            monkeypatch.setenv(f"TAILORBIRD_{name}", str(value))
        status = await asyncio.to_thread(check.run, ["--json"])
        said = capsys.readouterr().out
        found = [Finding.of(one) for one in json.loads(said)]
        assert status == int(any(one.status is FAILED for one in found))
        assert SECRET not in said
        return {one.subject: one for one in found if everything or one.status is not OK}

    return run


async def only(found: Awaitable[dict[str, Finding]], subject: str) -> Finding:
    """Return the one finding that is not as it should be."""
    finding = (await found).copy()
    assert list(finding) == [subject], finding
    return finding[subject]


async def test_where_all_is_right_every_subject_is_ok(
    trainer: Check, s3_url: str, postgresql_url: str, tmp_path: Path
) -> None:
    certificate, key = Authority().pair(ends_in=timedelta(days=40)).write(tmp_path / "tls")
    tokens = tmp_path / "tokens.json"
    tokens.write_text(
        json.dumps({"tokens": [{"sha256": "a" * 64, "subject": "us", "tenants": "*"}]})
    )
    tokens.chmod(0o644)
    database = Database(postgresql_url)
    await database.migrate()
    await database.close()
    found = await trainer(
        everything=True,
        OBJECT_STORE=s3_url,
        DATABASE_URL=postgresql_url,
        TLS_CERTIFICATE_FILE=certificate,
        TLS_KEY_FILE=key,
        TOKENS_FILE=tokens,
    )
    assert {one.subject: one.status for one in found.values()} == dict.fromkeys(
        [
            *("variables", "data directory", "disk", "object store", "clock", "tokens file"),
            *("TLS certificate", "base model", "database"),
        ],
        OK,
    )
    assert "written, read, listed and deleted" in found["object store"].found
    assert found["TLS certificate"].found.endswith("for localhost, 127.0.0.1, for 40 more days")
    assert "its tables are this release's" in found["database"].found
    assert "1 tokens" in found["tokens file"].found
    # Nothing that was made for this stays.
    assert not (tmp_path / "data").exists()
    assert [one async for one in open_store(s3_url).objects("doctor")] == []


def everything_in(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*"))


async def test_nothing_is_made_where_nothing_was(trainer: Check, tmp_path: Path) -> None:
    before = everything_in(tmp_path)
    assert await trainer() == {}
    assert everything_in(tmp_path) == before


async def test_a_misspelt_variable(trainer: Check) -> None:
    finding = await only(trainer(DATABSE_URL=f"postgresql://me:{SECRET}@db/jobs"), "variables")
    assert (finding.status, finding.found) == (
        WARNING, "TAILORBIRD_DATABSE_URL is read by nothing"
    )  # fmt: skip
    assert finding.advice == "set it as TAILORBIRD_DATABASE_URL"


async def test_a_wrong_setting_and_the_rest_is_looked_at_all_the_same(trainer: Check) -> None:
    found = await trainer(everything=True, WORKERS="99", LOG_LEVEL="loud")
    assert found["settings"].status is FAILED
    assert found["settings"].found.startswith(("TAILORBIRD_WORKERS: ", "TAILORBIRD_LOG_LEVEL: "))
    assert found["base model"].status is OK


async def test_a_port_that_is_taken(trainer: Check) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        finding = await only(trainer(PORT=number), f"port {number}")
    assert finding.status is FAILED
    assert finding.found.startswith(f"taken by process {os.getpid()} (")
    assert finding.advice == (
        "stop it, or choose another with TAILORBIRD_PORT (`tailorbird up`: --trainer-port)"
    )


LISTENS = """
import socket, sys
with socket.create_server(("127.0.0.1", 0)) as server:
    print(server.getsockname()[1], flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("module", "folder", "status"),
    [
        ("trainer_svc", "data", OK),
        ("trainer_svc", "other", FAILED),
        ("serving_svc", "data", FAILED),
    ],
)
async def test_a_port_on_which_the_service_itself_listens(
    trainer: Check, tmp_path: Path, module: str, folder: str, status: Status
) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", LISTENS, module),
        env={**os.environ, "TAILORBIRD_DATA_DIR": str(tmp_path / folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    number = int(await process.stdout.readline())
    found = await trainer(everything=True, PORT=number)
    process.stdin.close()
    await process.wait()
    finding = found[f"port {number}"]
    assert finding.status is status
    assert f"process {process.pid} " in finding.found


async def test_a_data_directory_says_who_uses_it(trainer: Check, tmp_path: Path) -> None:
    with locked_folder(tmp_path / "data", "trainer.lock"):
        finding = (await trainer(everything=True))["data directory"]
    assert finding.status is OK
    assert f", in use by process {os.getpid()} (" in finding.found


async def test_a_bucket_that_is_not_there(trainer: Check, s3_url: str) -> None:
    finding = await only(trainer(OBJECT_STORE="s3://no-such-bucket"), "object store")
    assert finding.status is FAILED
    assert "s3://no-such-bucket: nothing could be written" in finding.found
    assert finding.advice.startswith("make the bucket, or name the right one")


async def test_a_store_without_the_right_to_write(
    trainer: Check, s3_url: str, proxy: FaultProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    body = f"<Error><Code>AccessDenied</Code><Message>not {SECRET}</Message></Error>"
    proxy.plan(answered("403 Forbidden", body=body), times=float("inf"))
    finding = await only(trainer(OBJECT_STORE=s3_url), "object store")
    assert finding.status is FAILED
    assert "•••" in finding.found
    assert finding.advice.startswith("give these credentials the rights to get, put, list")


async def test_a_store_that_may_not_be_deleted_from_is_told_by_that_step(
    trainer: Check, s3_url: str, proxy: FaultProxy
) -> None:
    proxy.plan(answered("403 Forbidden"), times=float("inf"), method="POST")
    finding = await only(trainer(OBJECT_STORE=s3_url), "object store")
    assert "nothing could be deleted" in finding.found


async def test_a_store_that_keeps_other_bytes(
    trainer: Check, s3_url: str, proxy: FaultProxy
) -> None:
    heads = 'ETag: "a"', "Last-Modified: Tue, 24 Nov 2026 04:00:00 GMT"
    proxy.plan(answered("200 OK", *heads, body="others"), method="GET")
    finding = await only(trainer(OBJECT_STORE=s3_url), "object store")
    assert finding.found.endswith("DataCorrupt: what was read is not what was written")
    empty = "<ListBucketResult><KeyCount>0</KeyCount></ListBucketResult>"
    proxy.plan(passed, method="GET")
    proxy.plan(answered("200 OK", body=empty), method="GET")
    finding = await only(trainer(), "object store")
    assert finding.found.endswith("DataCorrupt: the list lacks what was written")
    assert [one async for one in open_store(s3_url).objects("doctor")] == []


async def test_a_store_that_hangs_is_given_up(s3_url: str, proxy: FaultProxy) -> None:
    proxy.plan(hung, times=float("inf"))
    (finding,) = await asyncio.to_thread(lambda: list(store(s3_url, seconds=0.5)))
    assert (finding.status, "within 0.5 s" in finding.found) == (FAILED, True)
    assert "AWS_ENDPOINT_URL" in finding.advice


async def test_a_store_in_a_folder_is_tried_too(trainer: Check, tmp_path: Path) -> None:
    folder = tmp_path / "store"
    folder.mkdir()
    found = await trainer(everything=True, OBJECT_STORE=folder.as_uri())
    assert "written, read" in found["object store"].found
    assert list(folder.iterdir()) == []
    (tmp_path / "file").touch()
    finding = await only(trainer(OBJECT_STORE=(tmp_path / "file").as_uri()), "object store")
    assert finding.status is FAILED
    assert finding.advice == "let the service's user write there, or set TAILORBIRD_OBJECT_STORE"
    found = await trainer(OBJECT_STORE="az://no-account/here")
    assert found["object store"].status is FAILED
    assert "nothing could be opened: cannot open" in found["object store"].found


async def test_a_database_that_is_not_there(trainer: Check, postgresql_url: str) -> None:
    url = postgresql_url.replace("/jobs_", "/gone_")
    finding = await only(trainer(DATABASE_URL=url), "database")
    assert finding.status is FAILED
    assert "does not exist" in finding.found
    assert finding.advice.startswith("make the database (CREATE DATABASE")


async def test_a_database_that_refuses_the_user(trainer: Check, postgresql_url: str) -> None:
    url = postgresql_url.replace("://postgres@", f"://nobody:{SECRET}@")
    finding = await only(trainer(DATABASE_URL=url), "database")
    assert finding.advice.startswith("correct the user and the password")


async def test_a_database_that_hangs_is_given_up() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql+asyncpg://me:{SECRET}@127.0.0.1:{silent.getsockname()[1]}/jobs"
        (finding,) = await asyncio.to_thread(lambda: list(check.database(url, seconds=0.5)))
    assert finding.found == "it does not answer within 0.5 s"
    assert (finding.status, "is PostgreSQL up" in finding.advice) == (FAILED, True)


async def test_a_file_that_is_no_job_store(trainer: Check, tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"not a database " * 100)
    url = f"sqlite+aiosqlite:///{tmp_path}/jobs.db"
    finding = await only(trainer(DATABASE_URL=url), "database")
    assert finding.status is FAILED
    assert finding.advice.startswith("it is no job store of tailorbird")


async def test_tables_of_another_release(trainer: Check, tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path}/jobs.db"
    database = Database(url)
    await database.migrate()
    await database.close()
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '9999'")
    connection.close()
    finding = await only(trainer(DATABASE_URL=url), "database")
    assert (finding.status, "later release (9999" in finding.found) == (WARNING, True)
    with sqlite3.connect(tmp_path / "jobs.db") as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0003'")
    connection.close()
    found = (await trainer(everything=True))["database"]
    assert (found.status, "its tables (0003) become 0" in found.found) == (OK, True)


async def test_a_database_without_tables(trainer: Check, postgresql_url: str) -> None:
    found = (await trainer(everything=True, DATABASE_URL=postgresql_url))["database"]
    assert found.status is OK
    assert found.found == "it answers; the tables are made at the first start"


async def test_a_tokens_file_that_is_broken_or_anybody_s(trainer: Check, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens.json"
    tokens.write_text(json.dumps({"tokens": [{"sha256": "short", "subject": "a"}]}))
    finding = await only(trainer(TOKENS_FILE=tokens), "tokens file")
    assert (finding.status, "tokens.0.sha256" in finding.found) == (FAILED, True)
    assert "tailorbird tokens add" in finding.advice
    tokens.write_text('{"tokens": []}')
    tokens.chmod(0o600)
    assert "knows no token" in (await trainer())["tokens file"].found
    tokens.chmod(0o666)
    finding = await only(trainer(), "tokens file")
    assert (finding.status, finding.advice) == (WARNING, f"chmod 600 {tokens}")
    assert (await trainer(TOKENS_FILE=tmp_path / "gone"))["tokens file"].status is FAILED


@pytest.mark.parametrize(
    ("fault", "found", "advice"),
    [
        ("expired", "has expired", "have a new one made"),
        ("another's key", "are not a certificate and its key", "put the certificate in"),
        ("password", "without a password", "put the certificate in"),
        ("soon", "for 3 more days", "have it renewed"),
        ("no name", "for no name", "subject alternative names"),
    ],
)
async def test_a_certificate_that_nobody_should_serve_with(
    trainer: Check, tmp_path: Path, fault: str, found: str, advice: str
) -> None:
    authority = Authority()
    days = {"expired": -1, "soon": 3}.get(fault, 90)
    pair = authority.pair(
        ends_in=timedelta(days=days, minutes=1), names=() if fault == "no name" else ("localhost",)
    )
    if fault == "another's key":
        pair = type(pair)(pair.certificate, authority.pair().key)
    if fault == "password":
        pair = with_password(pair)
    certificate, key = pair.write(tmp_path / "tls")
    finding = await only(
        trainer(TLS_CERTIFICATE_FILE=certificate, TLS_KEY_FILE=key), "TLS certificate"
    )
    assert finding.status is (WARNING if fault == "soon" else FAILED)
    assert (found in finding.found, advice in finding.advice) == (True, True), finding


def a_base(folder: Path, without: str = "") -> Path:
    folder.mkdir()
    for file in BASE.iterdir():
        if not file.name.startswith(without or "-"):
            (folder / file.name).symlink_to(file)
    return folder


async def test_a_base_that_lacks_something(trainer: Check, tmp_path: Path) -> None:
    finding = await only(
        trainer(BASE_MODEL=a_base(tmp_path / "base-one", "tokenizer")), "base model"
    )
    assert (finding.status, "has no tokenizer" in finding.found) == (FAILED, True)
    assert finding.advice.startswith("copy the model's tokenizer files into it")
    finding = await only(trainer(BASE_MODEL=a_base(tmp_path / "b", "chat_tem")), "base model")
    assert (finding.status, "no chat template" in finding.found) == (WARNING, True)
    finding = await only(trainer(BASE_MODEL=a_base(tmp_path / "c", "model.safe")), "base model")
    assert finding.advice.startswith("name the folder with the model's own files")
    finding = await only(trainer(BASE_MODEL=tmp_path / "base-on"), "base model")
    assert finding.advice == f"did you mean {tmp_path / 'base-one'}?"
    broken = a_base(tmp_path / "broken", "config.json")
    (broken / "config.json").write_text("{")
    finding = await only(trainer(BASE_MODEL=broken), "base model")
    assert (finding.status, "cannot be read as JSON" in finding.found) == (FAILED, True)
    assert finding.advice.startswith("copy the model's own files into it again")
    finding = await only(trainer(BASE_MODEL=""), "base model")
    assert (finding.status, finding.found) == (FAILED, "none is named")


async def test_beside_a_running_service_no_base_need_be_named(
    trainer: Check, tmp_path: Path
) -> None:
    with locked_folder(tmp_path / "data", "trainer.lock"):
        assert await trainer(BASE_MODEL="") == {}


async def test_a_data_directory_that_cannot_be_written(trainer: Check, tmp_path: Path) -> None:
    found = await trainer(DATA_DIR="/proc/tailorbird", OBJECT_STORE=(tmp_path / "s").as_uri())
    finding = found["data directory"]
    assert (finding.status, "/proc cannot be written" in finding.found) == (FAILED, True)
    assert "TAILORBIRD_DATA_DIR" in finding.advice
