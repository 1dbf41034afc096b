"""A disk that is really full: a small one of its own, in a name space of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

_CANNOT_MOUNT = 77
_ON_A_SMALL_DISK = f"""
mount -t tmpfs -o size=16m none "$1" || exit {_CANNOT_MOUNT}
exec "$2" -m tests.contract.full_disk "$1" "$3"
"""


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    disk, elsewhere = tmp_path_factory.mktemp("disk"), tmp_path_factory.mktemp("elsewhere")
    command = ["unshare", "--map-root-user", "--mount", "sh", "-c", _ON_A_SMALL_DISK, "sh"]
    try:
        done = subprocess.run(
            [*command, str(disk), sys.executable, str(elsewhere)],
            capture_output=True,
            text=True,
            check=False,
            timeout=100,
        )
    except FileNotFoundError:
        pytest.skip("no unshare(1) here to mount a small disk with")
    if done.returncode == _CANNOT_MOUNT or done.stderr.startswith("unshare:"):
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


@pytest.mark.parametrize(
    ("call", "key"),
    [
        ("put", "a/put"),
        ("replace", "a/kept"),
        ("create", "a/create"),
        ("upload", "a/upload"),
        ("download", "a/large"),
    ],
)
def test_a_disk_without_room_is_a_full_disk(found: dict[str, Any], call: str, key: str) -> None:
    message = f"the object store failed at {key}: No space left on device"
    assert found["full"][call] == f"DISK_FULL: {message}"


def test_what_did_not_fit_leaves_nothing(found: dict[str, Any]) -> None:
    assert found["left"] == ["filler", "store/a/kept"]
    assert found["kept"]


def test_with_room_again_all_is_well(found: dict[str, Any]) -> None:
    calls = ["put", "create", "upload", "download"]
    assert found["room"] == dict.fromkeys(calls, "done")
