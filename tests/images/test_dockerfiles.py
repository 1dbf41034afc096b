"""Rules both Dockerfiles keep, for each of their targets."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

from serving_svc.settings import ServingSettings
from tailorbird.settings import CommonSettings
from tests.images.dockerfile import DEVICES, FOLDER, SERVICES, Dockerfile
from trainer_svc.settings import TrainerSettings

ROOT = FOLDER.parents[1]
SETTINGS: dict[str, type[CommonSettings]] = {"trainer": TrainerSettings, "serving": ServingSettings}

targets = pytest.mark.parametrize(
    ("service", "device"), [(service, device) for service in SERVICES for device in DEVICES]
)
files = pytest.mark.parametrize("service", SERVICES)


@files
def test_every_base_is_an_argument_without_a_default(service: str) -> None:
    file = Dockerfile(service)

    assert [(one.keyword, one.text) for one in file.head] == [("ARG", "BASE")]
    for stage in file.stages.values():
        assert stage.base == "${BASE}" or stage.base in file.stages, stage.name


@targets
def test_a_target_is_made_by_the_script_that_refuses_a_base_without_digest(
    service: str, device: str
) -> None:
    file = Dockerfile(service)

    assert file.steps(device) == [
        ["packages", service, device],
        ["project", service, device],
        ["runtime", service, device],
    ]
    for stage in file.stages.values():
        if stage.all("RUN"):
            given = [one.text for one in stage.all("ARG")]
            assert "BASE" in given, f"{stage.name} does not tell the script its base"
            assert "PREFIX=/" in given, stage.name


@targets
def test_a_container_runs_as_a_numeric_user_who_is_not_root(service: str, device: str) -> None:
    assert Dockerfile(service).last(device, "USER").text == "65532:65532"
    assert Dockerfile(service).stages[device].instructions[-1].keyword == "USER"


@targets
def test_signals_reach_the_service(service: str, device: str) -> None:
    file = Dockerfile(service)
    init, end, python, *module = file.last(device, "ENTRYPOINT").command

    assert file.last(device, "STOPSIGNAL").text == "SIGTERM"
    assert (init, end) == ("/usr/bin/tini", "--")
    assert python == "/opt/tailorbird/bin/python"
    assert module == ["-m", f"{service}_svc"]
    assert importlib.util.find_spec(f"{service}_svc.__main__")
    assert not file.of(device, "CMD")


@targets
def test_health_is_asked_in_exec_form_of_the_port_that_is_served(service: str, device: str) -> None:
    file = Dockerfile(service)
    health = file.last(device, "HEALTHCHECK")
    _, _, command = health.text.partition("CMD ")
    port, metrics = (
        SETTINGS[service].model_fields[one].default for one in ("port", "metrics_port")
    )

    assert command == '["/opt/tailorbird/bin/tailorbird", "health"]'
    assert file.env(device)["TAILORBIRD_METRICS_PORT"] == str(metrics)
    assert file.last(device, "EXPOSE").text == f"{port} {metrics}"


@targets
def test_labels_name_the_image_its_version_and_its_base(service: str, device: str) -> None:
    file = Dockerfile(service)
    labels = {k: v for one in file.of(device, "LABEL") for k, v in one.pairs.items()}

    assert set(labels) == {
        f"org.opencontainers.image.{one}"
        for one in ("title", "description", "licenses", "version", "revision", "base.name")
    }
    assert labels["org.opencontainers.image.base.name"] == "${BASE}"
    assert all(labels.values())


@files
def test_nothing_is_fetched_by_address_and_nothing_secret_is_kept(service: str) -> None:
    file = Dockerfile(service)
    text = file.path.read_text()

    assert "://" not in text
    for stage in file.stages.values():
        assert not stage.all("ADD"), stage.name
        for one in [*stage.all("ARG"), *stage.all("ENV")]:
            assert not re.search(r"TOKEN|SECRET|PASSWORD|CREDENTIAL|_KEY", one.text), one.text


@targets
def test_every_variable_of_ours_is_a_setting(service: str, device: str) -> None:
    names = {f"TAILORBIRD_{one.upper()}" for one in SETTINGS[service].model_fields}
    ours = {one for one in Dockerfile(service).env(device) if one.startswith("TAILORBIRD_")}

    assert ours <= names


@targets
def test_the_environment_names_what_the_chart_mounts(service: str, device: str) -> None:
    chart = ROOT / "deploy" / "k8s" / "tailorbird" / "templates"
    environment = Dockerfile(service).env(device)
    mounted = re.findall(
        r"mountPath: (\S+)", "".join(one.read_text() for one in chart.rglob("_*.tpl"))
    )

    assert environment["TAILORBIRD_DATA_DIR"] in mounted
    assert environment["HF_HOME"] in mounted
    script = (FOLDER / "build.sh").read_text()
    assert f'"$root{environment["TAILORBIRD_DATA_DIR"]}"' in script
    assert f'"$root{environment["HF_HOME"]}"' in script


def test_no_gpu_is_asked_for_by_an_image() -> None:
    for service in SERVICES:
        assert "NVIDIA_VISIBLE_DEVICES" not in Dockerfile(service).env("cuda")


def test_only_serving_on_a_cpu_preloads_and_compiles_nothing() -> None:
    has = {
        (service, device): {"LD_PRELOAD", "TORCH_COMPILE_DISABLE"}
        <= set(Dockerfile(service).env(device))
        for service in SERVICES
        for device in DEVICES
    }

    assert [key for key, value in has.items() if value] == [("serving", "cpu")]


def test_the_context_holds_what_is_built_and_no_more() -> None:
    kept = [
        line.removeprefix("!")
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line.startswith("!")
    ]

    assert (ROOT / ".dockerignore").read_text().splitlines()[1] == "*"
    assert all((ROOT / one).exists() for one in kept)
    assert not {"tests", "bench", "tools", ".git", ".venv"} & set(kept)


def test_the_linter_finds_nothing() -> None:
    linter = Path(sys.executable).parent / "hadolint"
    found = subprocess.run(
        [linter, *(FOLDER / f"{service}.Dockerfile" for service in SERVICES)],
        capture_output=True,
        text=True,
        check=False,
    )

    assert (found.returncode, found.stdout) == (0, "")
