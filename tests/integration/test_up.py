"""`tailorbird up` with stand-ins for the services: started, shown, stopped, never left behind."""

from __future__ import annotations

import json
import os
import select
import signal
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tailorbird.cli.preload import preload_environment
from tests.certificates import Authority
from tests.integration.up_process import Up, free_ports


def test_up_shows_where_everything_is_and_stops_both(start_up: Callable[..., Up]) -> None:
    up = start_up()
    shown = "".join(up.until_shown())
    assert "/metrics" in shown
    assert f"{(up.data / 'store').resolve().as_uri()}" in shown
    for service in ("trainer", "serving"):
        assert (up.data / service / "store").read_text() == (up.data / "store").resolve().as_uri()
    up.process.send_signal(signal.SIGINT)
    status, stderr = up.ended()
    assert status == 0, stderr
    assert up.log("trainer") == up.log("serving") == "stopped in order\n"


def test_openai_s_api_is_on_ports_of_their_own(start_up: Callable[..., Up]) -> None:
    up = start_up()
    shown = "".join(up.until_shown())
    for service in ("trainer", "serving"):
        port = up.ports[f"{service}-http-port"]
        assert up.environment(service)["TAILORBIRD_HTTP_PORT"] == str(port)
        assert f"http://127.0.0.1:{port}/v1" in shown


def test_openai_s_api_and_the_console_can_be_left_out(start_up: Callable[..., Up]) -> None:
    up = start_up("--trainer-http-port", "0", "--serving-http-port", "0")
    shown = "".join(up.until_shown())
    assert "/v1" not in shown
    assert "console" not in shown
    for service in ("trainer", "serving"):
        assert up.environment(service)["TAILORBIRD_HTTP_PORT"] == "0"


def test_the_console_is_started_and_stopped_with_the_services(
    start_up: Callable[..., Up], tmp_path: Path
) -> None:
    # Of other services: whatever it says, this console calls those that `up` has started.
    contexts = tmp_path / "contexts.yaml"
    contexts.write_text("current: far\ncontexts: {far: {trainer: 'far:1', serving: 'far:2'}}\n")
    (port,) = free_ports(1)
    up = start_up("--console-port", str(port), TAILORBIRD_CONTEXTS_FILE=str(contexts))
    assert f"console       http://127.0.0.1:{port}\n" in up.until_shown()
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10) as answer:
        assert answer.status == 200
    pid = json.loads((up.data / "up.lock").read_text())["services"]["console"]
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    for service in ("trainer", "serving"):
        address = f"127.0.0.1:{up.ports[f'{service}-port']}"
        assert command[command.index(f"--{service}") + 1] == address
    with ExitStack() as stack:
        handle = os.pidfd_open(pid)
        stack.callback(os.close, handle)
        up.process.send_signal(signal.SIGINT)
        _until_ended(handle)
    status, stderr = up.ended()
    assert status == 0, stderr
    assert "Traceback" not in up.log("console")


def test_a_console_that_dies_is_started_again(start_up: Callable[..., Up]) -> None:
    (port,) = free_ports(1)
    up = start_up("--console-port", str(port))
    up.until_shown()
    pid = json.loads((up.data / "up.lock").read_text())["services"]["console"]
    os.kill(pid, signal.SIGKILL)
    assert "console was killed by signal 9" in "".join(up.until_said("started again"))
    assert "console is ready" in "".join(up.until_said("ready"))


def test_a_port_that_two_would_have_is_told(start_up: Callable[..., Up]) -> None:
    (port,) = free_ports(1)
    up = start_up("--console-port", str(port), "--serving-http-port", str(port))
    _, stderr = up.ended()
    assert f"--serving-http-port and --console-port are both {port}: each needs its own" in stderr


@pytest.mark.parametrize("within", ["file", "file/beneath", "data-with-file"])
def test_a_folder_that_cannot_be_used_is_told_with_its_option(
    start_up: Callable[..., Up], tmp_path: Path, within: str
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "data-with-file").mkdir()
    (tmp_path / "data-with-file" / "logs").touch()
    folder = tmp_path / within
    status, stderr = start_up("--data-dir", str(folder)).ended()
    assert status == 2
    assert f"--data-dir: the folder {folder} cannot be used: " in stderr
    assert "Errno" not in stderr


def test_a_folder_that_takes_no_file_is_told_with_its_option(
    start_up: Callable[..., Up], tmp_path: Path
) -> None:
    folder = tmp_path / "read-only"
    folder.mkdir()
    # Whoever runs the tests: there nobody makes a file.
    (folder / "logs").symlink_to("/proc/self")
    status, stderr = start_up("--data-dir", str(folder)).ended()
    assert status == 2
    assert f"--data-dir: the folder {folder} cannot be used: " in stderr


def test_serving_preloads_what_makes_it_faster_on_a_cpu(
    start_up: Callable[..., Up], tmp_path: Path
) -> None:
    mine = tmp_path / "libmalloc_of_mine.so"
    up = start_up(LD_PRELOAD=str(mine))
    shown = "".join(up.until_shown())
    preloaded = up.environment("serving")["LD_PRELOAD"]
    assert preloaded == preload_environment({"LD_PRELOAD": str(mine)}).get("LD_PRELOAD", str(mine))
    assert up.environment("trainer")["LD_PRELOAD"] == str(mine)
    assert (f"preloaded     {preloaded} (serving)" in shown) == (preloaded != str(mine))


def test_one_gpu_is_shared_and_up_says_how(start_up: Callable[..., Up], tmp_path: Path) -> None:
    # vLLM's build for GPUs, as far as `up` looks.
    (tmp_path / "vllm-0.32.0.dist-info").mkdir()
    (tmp_path / "vllm-0.32.0.dist-info" / "METADATA").write_text("Name: vllm\nVersion: 0.32.0\n")
    up = start_up(CUDA_VISIBLE_DEVICES="0")
    shown = "".join(up.until_shown())
    assert up.environment("serving")["TAILORBIRD_GPU_MEMORY_UTILIZATION"] == "0.6"
    assert up.environment("trainer")["TAILORBIRD_GPU_MEMORY_SHARE"] == "0.35"
    assert "devices       GPU 0 for both: serving takes 60%" in shown
    assert "preloaded" not in shown
    assert "LD_PRELOAD" not in up.environment("serving")


@pytest.mark.parametrize(
    ("names", "told"),
    [
        (("localhost", "127.0.0.1"), ("127.0.0.1:{port}", "callers need --root-certificates {ca}")),
        (("localhost",), ("localhost:{port}", "callers need --root-certificates {ca}")),
        (("elsewhere",), ("127.0.0.1:{port}", "will refuse 127.0.0.1:{port}: Hostname mismatch")),
        ((), ("127.0.0.1:{port}", "callers need the authority's file")),
    ],
)
def test_with_tls_what_up_prints_can_be_called(
    start_up: Callable[..., Up], tmp_path: Path, names: tuple[str, ...], told: tuple[str, str]
) -> None:
    authority, ca = Authority(), tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    certificate, key = authority.pair(names=names or ("localhost",)).write(tmp_path / "tls")
    options = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    up = start_up(*options, *(["--root-certificates", str(ca)] if names else []))
    shown = "".join(up.until_shown())
    assert f"https://{told[0].partition(':')[0]}" in shown
    for text in told:
        assert text.format(port=up.ports["trainer-port"], ca=ca) in shown
    for service in ("trainer", "serving"):
        assert up.environment(service)["TAILORBIRD_TLS_CERTIFICATE_FILE"] == str(certificate)


def test_with_tls_the_console_calls_by_the_name_that_is_trusted(
    start_up: Callable[..., Up], tmp_path: Path
) -> None:
    authority, ca = Authority(), tmp_path / "ca.pem"
    ca.write_bytes(authority.pem)
    certificate, key = authority.pair(names=("localhost",)).write(tmp_path / "tls")
    options = ["--tls-certificate", str(certificate), "--tls-key", str(key)]
    (port,) = free_ports(1)
    up = start_up(*options, "--root-certificates", str(ca), "--console-port", str(port))
    up.until_shown()
    pid = json.loads((up.data / "up.lock").read_text())["services"]["console"]
    command = Path(f"/proc/{pid}/cmdline").read_text().split("\0")
    assert f"localhost:{up.ports['serving-port']}" in command
    assert command[command.index("--root-certificates") + 1] == str(ca)


def test_tls_needs_a_key(start_up: Callable[..., Up], tmp_path: Path) -> None:
    certificate, _ = Authority().pair().write(tmp_path / "tls")
    status, stderr = start_up("--tls-certificate", str(certificate)).ended()
    assert status == 2
    assert "give --tls-certificate and --tls-key, or neither" in stderr


def test_a_service_that_cannot_start_ends_up_with_its_log(start_up: Callable[..., Up]) -> None:
    status, stderr = start_up(FAILS="serving_svc").ended()
    assert status == 1
    assert "cannot read the base model" in stderr
    assert "Traceback" not in stderr


def test_a_service_that_cannot_start_leads_to_doctor_with_the_same_base_and_folder(
    start_up: Callable[..., Up], tmp_path: Path
) -> None:
    data = tmp_path / "my data [1]"
    up = start_up("--data-dir", str(data), FAILS="serving_svc")
    status, stderr = up.ended()
    assert status == 1
    command = f"`tailorbird doctor --base-model {up.base} --data-dir '{data}'`"
    assert stderr.splitlines()[-1] == (
        f"{command} looks at all that the services need, and says what to do"
    )


def test_a_mistyped_base_is_told_in_a_sentence_before_anything_starts(
    start_up: Callable[..., Up],
) -> None:
    up = start_up("--base-model", "./bsae")
    status, stderr = up.ended()
    assert status == 2
    assert stderr == "error: --base-model: there is no folder ./bsae: did you mean base?\n"
    assert not list((up.data / "logs").iterdir())


def test_a_base_that_is_nowhere_is_told_in_a_sentence(start_up: Callable[..., Up]) -> None:
    up = start_up("--base-model", "org/none", HF_ENDPOINT="http://127.0.0.1:1")
    status, stderr = up.ended()
    assert status == 2
    (line,) = stderr.splitlines()
    assert "there is no folder org/none here, and the Hugging Face hub cannot be asked" in line
    assert not list((up.data / "logs").iterdir())


def test_what_a_service_says_of_its_failure_is_told_alone(start_up: Callable[..., Up]) -> None:
    said = [
        {"event": "settings", "level": "info", "data_dir": "a long list of them"},
        {"event": "cannot run", "level": "critical", "error": "TAILORBIRD_WARM: no such \x1b[1m"},
    ]
    up = start_up(FAILS="serving_svc", SAYS="\n".join(map(json.dumps, said)))
    status, stderr = up.ended()
    assert status == 1
    assert "error: serving exited: 1\nTAILORBIRD_WARM: no such \\x1b[1m\n(all of it: " in stderr
    assert "a long list" not in stderr


def test_where_both_compute_is_told_with_the_reason(start_up: Callable[..., Up]) -> None:
    shown = "".join(start_up(CUDA_VISIBLE_DEVICES="").until_shown())
    assert "devices       serving on the CPU (vLLM is its build for CPUs); the trainer on the " in (
        shown
    )
    assert "the trainer on the CPU: CUDA_VISIBLE_DEVICES= hides every GPU" in shown


def test_a_gpu_that_is_not_used_is_warned_of(start_up: Callable[..., Up], tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "nvidia-smi"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA H100 (UUID: GPU-1)'\n")
    tool.chmod(0o755)
    up = start_up(PATH=f"{tool.parent}:{os.environ['PATH']}")
    warned = "".join(up.until_said("warning"))
    assert "warning: this machine shows a GPU (nvidia-smi), and the trainer does not use it" in (
        warned
    )
    up.until_shown()


def test_nothing_is_left_when_up_is_killed(start_up: Callable[..., Up]) -> None:
    up = start_up()
    up.until_shown()
    with ExitStack() as stack:
        watched = [os.pidfd_open(up.pid(service)) for service in ("trainer", "serving")]
        for handle in watched:
            stack.callback(os.close, handle)
        up.process.kill()
        for handle in watched:
            _until_ended(handle)
    assert up.log("trainer") == up.log("serving") == "stopped in order\n"


def _until_ended(handle: int) -> None:
    ended, _, _ = select.select([handle], [], [], 20)
    assert ended, "the process lives on"
