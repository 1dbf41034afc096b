"""What no channel is opened with, and which are encrypted."""

from __future__ import annotations

import pytest

from tailorbird import channel
from tailorbird.errors import InvalidArgument


@pytest.mark.parametrize(
    ("address", "token", "field"),
    [
        ("", None, "address"),
        (" ", None, "address"),
        ("localhost:99999", None, "address"),
        ("dns:///serving:" + "9" * 5000, None, "address"),
        ("localhost:1", "a\nb", "token"),
        ("localhost:1", "größe", "token"),
    ],
)
def test_what_cannot_be_used_is_named(address: str, token: str | None, field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        channel.check(address, token)
    assert raised.value.field == field


@pytest.mark.parametrize(
    "address", ["serving", "[::1]:65535", "unix:/run/x:99999", "ipv4:10.0.0.1:1,10.0.0.2:2", "a:b"]
)
def test_what_grpc_understands_is_left_to_it(address: str) -> None:
    channel.check(address, "a token")


@pytest.mark.parametrize(
    ("address", "is_local"),
    [
        ("localhost:1", True),
        ("127.0.0.1", True),
        ("[::1]:1", True),
        ("unix:/run/x", True),
        ("localhost.evil.example:1", False),
        ("127.0.0.1.evil.example:1", False),
        ("dns:///localhost:1", False),
        ("10.0.0.1:1", False),
    ],
)
def test_a_token_is_in_the_clear_on_this_machine_alone(address: str, is_local: bool) -> None:
    assert (channel.credentials(address, None, plaintext=False) is None) == is_local
    assert channel.credentials(address, None, plaintext=True) is None


@pytest.mark.parametrize("model", ["", "x" * 257, "a\nb", "größe"])
def test_a_model_that_cannot_be_sent_is_in_no_metadata(model: str) -> None:
    assert channel.model_metadata(model) == ()
    assert channel.model_metadata("x" * 256)
