"""Every reason that may end a job has a code that says whose fault it was."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

import trainer_svc
from tailorbird import errors
from tailorbird.rpc.job_codes import CODES, code_of_job
from tailorbird.rpc.status import reason_of_status, stored_status

TRAINER = Path(trainer_svc.__file__).parent
ENDING = [
    *(TRAINER / "engine").rglob("*.py"),
    *(TRAINER / "judgement").glob("*.py"),
    *(TRAINER / "jobs" / f"{name}.py" for name in ("data_account", "held_out")),
    *(TRAINER / "dispatch" / f"{name}.py" for name in ("runner", "workers", "executor")),
    *TRAINER.glob("dispatch/ray_*.py"),
]
"""Where a job's end may come from."""
TREE = {
    name
    for name, one in vars(errors).items()
    if isinstance(one, type) and issubclass(one, errors.TailorbirdError)
} | {"JobError"}


def raised(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text())
    constants = {
        ast.unparse(node.targets[0]): node.value.value
        for node in tree.body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    }
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or ast.unparse(node.func) not in TREE:
            continue
        for keyword in node.keywords:
            if keyword.arg == "reason" and isinstance(keyword.value, ast.Constant):
                yield str(keyword.value.value)
            elif keyword.arg == "reason" and (name := ast.unparse(keyword.value)) in constants:
                yield str(constants[name])


def test_each_reason_that_may_end_a_job_is_in_the_table() -> None:
    found = {reason for path in ENDING for reason in raised(path)}
    assert {"INVALID_RECORD", "UNKNOWN_TARGET_MODULE", "WORKER_LOST", "NON_FINITE"} <= found
    assert found - CODES.keys() == set()
    tree = (one for one in vars(errors).values() if hasattr(one, "default_reason"))
    # Neither a credential nor a caller's time can end a job, nor is anything made a second time.
    others = {"UNAUTHENTICATED", "DEADLINE_EXCEEDED", "ALREADY_EXISTS", "ADAPTER_REFUSED"}
    assert {one.default_reason for one in tree} - CODES.keys() == others


@pytest.mark.parametrize(
    ("reason", "code"),
    [
        ("UNKNOWN_SLICE_FIELD", grpc.StatusCode.INVALID_ARGUMENT),
        ("INVALID_RECORD", grpc.StatusCode.FAILED_PRECONDITION),
        ("OUT_OF_MEMORY", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("DISK_FULL", grpc.StatusCode.RESOURCE_EXHAUSTED),
        ("STORE_UNAVAILABLE", grpc.StatusCode.UNAVAILABLE),
        ("INTERNAL", grpc.StatusCode.INTERNAL),
        ("OF_A_LATER_RELEASE", grpc.StatusCode.UNKNOWN),
    ],
)
def test_a_stored_error_has_the_code_of_its_reason(reason: str, code: grpc.StatusCode) -> None:
    assert code_of_job(reason) is code
    status = stored_status(reason, "why", {"a": "b"})
    assert status.code == code.value[0]
    assert (reason_of_status(status), status.message) == (reason, "why")
