"""Which addresses may be spoken to in the clear."""

from __future__ import annotations

import pytest

from tailorbird.address import is_local_target


@pytest.mark.parametrize(
    "target",
    ["localhost:50051", "127.0.0.1:1", "127.8.0.1:1", "[::1]:50051", "localhost", "unix:/run/x"],
)
def test_local(target: str) -> None:
    assert is_local_target(target)


@pytest.mark.parametrize(
    "target",
    ["trainer:50051", "10.0.0.1:1", "0.0.0.0:1", "[::]:1", "localhost.example:1", "dns:///x:1"],
)
def test_not_local(target: str) -> None:
    assert not is_local_target(target)
