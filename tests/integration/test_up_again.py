"""`tailorbird up` where another one runs, or was killed, and where a service dies."""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from tailorbird.address import authority
from tailorbird.cli.claim import claimed
from tailorbird.cli.service_process import Plan, ServiceDied
from tailorbird.cli.services import Patience, Services, Told
from tests.integration.up_process import Up, free_ports, write_stand_ins

Start = Callable[..., Up]
BOOT = Path("/proc/sys/kernel/random/boot_id")


def test_a_second_up_on_the_same_directory_is_refused_at_once(start_up: Start) -> None:
    up = start_up()
    up.until_shown()
    second = start_up()
    status, stderr = second.ended()
    assert status == 4
    assert f"an `up` runs on the data directory {up.data} already: process {up.process.pid} (" in (
        stderr
    )
    assert "--data-dir" in stderr
    assert " is ready" not in stderr
    assert second.shown() == ""
    # The first one does not notice.
    up.process.send_signal(signal.SIGINT)
    assert up.ended()[0] == 0


@pytest.mark.parametrize(
    "option", ["trainer-port", "serving-port", "trainer-metrics-port", "serving-metrics-port"]
)
def test_a_port_that_is_taken_is_told_with_who_has_it(
    start_up: Start, tmp_path: Path, option: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        up = start_up(f"--{option}", str(port))
        status, stderr = up.ended()
    assert status == 4
    assert f"port {port} is taken by process {os.getpid()} (" in stderr
    assert f"stop it, or choose another with --{option}" in stderr
    assert up.shown() == ""
    assert not (up.data / "trainer").exists()


def test_a_second_up_on_the_first_ones_ports_is_refused(start_up: Start, tmp_path: Path) -> None:
    up = start_up()
    up.until_shown()
    port = up.ports["trainer-metrics-port"]
    second = start_up("--data-dir", str(tmp_path / "o"), "--trainer-metrics-port", str(port))
    status, stderr = second.ended()
    assert status == 4
    assert f"port {port} is taken by process {up.pid('trainer')} (" in stderr
    assert not (tmp_path / "o" / "trainer").exists()


def test_two_ports_that_are_one_are_told(start_up: Start) -> None:
    (port,) = free_ports(1)
    status, stderr = start_up("--trainer-port", str(port), "--serving-port", str(port)).ended()
    assert status == 4
    assert f"--trainer-port and --serving-port are both {port}" in stderr


def test_an_address_of_another_machine_is_told(start_up: Start, tmp_path: Path) -> None:
    status, stderr = start_up("--host", "192.0.2.1").ended()
    assert status == 4
    assert f"{authority('192.0.2.1', 0)[:-1]}" in stderr
    assert "cannot be listened on: " in stderr
    assert "--host" in stderr


def test_a_folder_that_a_service_of_its_own_uses_is_told(start_up: Start, tmp_path: Path) -> None:
    lock = tmp_path / "data" / "trainer" / "trainer.lock"
    lock.parent.mkdir(parents=True)
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        status, stderr = start_up().ended()
    assert status == 4
    assert f"the trainer's folder {lock.parent} is used by process {os.getpid()} (" in stderr


def test_after_kill_9_a_new_up_waits_for_what_was_left(start_up: Start) -> None:
    up = start_up()
    # Its services take their time: they end when the test lets them.
    (up.data).mkdir(exist_ok=True)
    (up.data / "stays").touch()
    up.until_shown()
    left = {service: up.pid(service) for service in ("trainer", "serving")}
    up.process.kill()
    up.process.wait()
    again = start_up(*(f"--{name}={port}" for name, port in up.ports.items()))
    said = again.until_said("left its trainer")
    assert f"process {left['trainer']} (" in said[-1]
    assert "waiting for its end" in said[-1]
    os.kill(left["trainer"], signal.SIGKILL)
    again.until_said("left its serving")
    (up.data / "stays").unlink()
    os.kill(left["serving"], signal.SIGKILL)
    assert again.until_shown()
    assert again.pid("trainer") != left["trainer"]


def test_what_does_not_end_in_time_is_killed(tmp_path: Path) -> None:
    plan = plan_in(tmp_path)
    stubborn = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True)"
    said: list[str] = []
    with subprocess.Popen(
        [sys.executable, "-c", f"{stubborn}; input()"],
        env={**os.environ, "TAILORBIRD_DATA_DIR": str(tmp_path.resolve() / "trainer")},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
    ) as left:  # fmt: skip
        assert left.stdout is not None
        left.stdout.readline()
        kept = {"pid": 1, "boot": BOOT.read_text().strip(), "services": {"trainer": left.pid}}
        (tmp_path / "up.lock").write_text(json.dumps(kept))
        with claimed(plan, said.append, grace=0.1):
            assert left.wait() == -signal.SIGKILL
    assert said[1] == "trainer has not ended by itself: killed"
    assert (tmp_path / "up.lock").read_text() == ""


def test_after_kill_9_others_processes_are_left_alone(start_up: Start, tmp_path: Path) -> None:
    """A number in the file may be another process's by now."""
    first = start_up()
    first.until_shown()
    first.process.send_signal(signal.SIGINT)
    first.ended()
    with subprocess.Popen(
        [sys.executable, "-c", "input()"], stdin=subprocess.PIPE, start_new_session=True
    ) as other:
        kept = {"pid": 1, "boot": BOOT.read_text().strip(), "services": {"trainer": other.pid}}
        (first.data / "up.lock").write_text(json.dumps(kept))
        up = start_up()
        up.until_shown()
        assert other.poll() is None
        other.communicate(b"\n")
        assert other.returncode == 0


def test_a_service_that_dies_is_started_again_and_the_other_goes_on(start_up: Start) -> None:
    up = start_up()
    up.until_shown()
    dead, other = up.pid("serving"), up.pid("trainer")
    os.kill(dead, signal.SIGKILL)
    said = "".join([*up.until_said("started again"), *up.until_said("serving is ready")])
    assert "serving was killed by signal 9" in said
    assert "it is started again in 1 s; the rest goes on" in said
    assert up.pid("serving") != dead
    assert up.pid("trainer") == other
    up.process.send_signal(signal.SIGINT)
    status, stderr = up.ended()
    assert status == 0, stderr
    assert up.log("trainer") == "stopped in order\n"


def test_what_dies_again_and_again_is_given_up_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_stand_ins(tmp_path)
    monkeypatch.chdir(tmp_path)
    pauses: list[float] = []
    plan = plan_in(tmp_path / "data")
    patience = Patience(first_pause=0.01, longest_pause=0.05, deaths=4)
    with pytest.raises(ServiceDied) as failed, Services(plan, patience=patience) as services:
        assert services.until_ready()
        (plan.data_dir / "serving" / "fails").touch()
        os.kill(services.serving.pid, signal.SIGKILL)
        services.supervise(Told(dead=lambda _, pause: pauses.append(pause)))
    assert pauses == [0.01, 0.02, 0.04]
    assert "serving died 4 times in a row and is given up on" in failed.value.message
    assert "cannot read the base model" in failed.value.message
    assert plan.log("trainer").read_text() == "stopped in order\n"


def test_who_was_steady_begins_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_stand_ins(tmp_path)
    monkeypatch.chdir(tmp_path)
    plan = plan_in(tmp_path / "data")
    pauses: list[float] = []
    with Services(plan, patience=Patience(first_pause=0.01, deaths=2, steady=0.0)) as services:

        def kill_again(*_: object) -> None:
            if len(pauses) < 3:
                os.kill(services.trainer.pid, signal.SIGKILL)
            else:
                services.stop()

        assert services.until_ready()
        kill_again()
        services.supervise(Told(ready=kill_again, dead=lambda _, pause: pauses.append(pause)))
    assert pauses == [0.01, 0.01, 0.01]


def test_what_a_service_had_started_goes_with_it(start_up: Start) -> None:
    up = start_up(CHILD="1")
    up.until_shown()
    child = int((up.data / "serving" / "child").read_text())
    with ExitStack() as stack:
        handle = os.pidfd_open(child)
        stack.callback(os.close, handle)
        os.kill(up.pid("serving"), signal.SIGKILL)
        assert select.select([handle], [], [], 20)[0], "the child lives on"


def plan_in(folder: Path) -> Plan:
    """Return a plan with ports that nobody listens on."""
    names = ("trainer_port", "trainer_metrics_port", "serving_port", "serving_metrics_port")
    ports = dict(zip(names, free_ports(4), strict=True))
    return Plan(data_dir=folder, base_model="none", **ports)  # type: ignore[arg-type]
