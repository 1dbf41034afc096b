"""The error of a call whose status is not a service's own any more."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import status_pb2

from tailorbird.call_error import CallError, Unavailable


class _Failed(grpc.RpcError):
    """A call as gRPC raises it, with a status in its trailers."""

    def __init__(self, status: bytes) -> None:
        self._status = status

    def code(self) -> grpc.StatusCode:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "upstream reset"

    def trailing_metadata(self) -> Any:
        return (("grpc-status-details-bin", self._status),)


@pytest.mark.parametrize(
    "status",
    [
        pytest.param(status_pb2.Status(code=5, message="none").SerializeToString(), id="another"),
        pytest.param(b"\xff\xff", id="cut"),
    ],
)
def test_what_a_proxy_has_changed_is_the_call_s_own_code(status: bytes) -> None:
    error = CallError.from_call(_Failed(status))
    assert type(error) is Unavailable
    assert error.message == "upstream reset"
