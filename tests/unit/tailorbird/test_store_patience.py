"""How often a call is tried, by what it raised and how long it took."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from obstore.exceptions import GenericError, NotFoundError, PermissionDeniedError

from tailorbird.errors import DataCorrupt
from tailorbird.store_patience import Patience, _pauses

BROKEN = GenericError("Generic S3 error: HTTP error: error sending request")


class Failing:
    """Raises `error` the first `times` times."""

    def __init__(self, error: Exception, times: int) -> None:
        self._error = error
        self._times = times
        self.calls = 0

    async def __call__(self) -> str:
        self.calls += 1
        if self.calls <= self._times:
            raise self._error
        return "done"


@pytest.mark.parametrize(
    "error", [BROKEN, TimeoutError(), ConnectionResetError(), GenericError("status code: 500 x")]
)
async def test_what_may_pass_is_tried_until_it_has(error: Exception) -> None:
    ask = Failing(error, 3)
    assert await Patience(60).call(ask) == "done"
    assert ask.calls == 4


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("no"),
        PermissionDeniedError("no"),
        GenericError("status code: 400 Bad Request"),
        GenericError("status code: 507 Insufficient Storage"),
        GenericError("Unable to copy data to file: no (os error 28)"),
        GenericError("HTTP error: builder error"),
        OSError(28, "No space left on device"),
        PermissionError(),
        DataCorrupt("too large"),
        ValueError(),
    ],
)
async def test_what_cannot_pass_is_raised_as_it_is(error: Exception) -> None:
    ask = Failing(error, 1)
    with pytest.raises(type(error)) as caught:
        await Patience(60).call(ask)
    assert caught.value is error
    assert ask.calls == 1


@pytest.mark.parametrize(("tries", "calls"), [(1, 1), (2, 2), (3, 3)])
async def test_there_are_as_many_tries_as_are_asked_for_when_time_is_up(
    tries: int, calls: int
) -> None:
    ask = Failing(BROKEN, 10)
    with pytest.raises(GenericError):
        await Patience(1e-9).call(ask, tries)
    assert ask.calls == calls


async def test_a_store_that_is_not_to_be_asked_again_is_not() -> None:
    ask = Failing(BROKEN, 1)
    with pytest.raises(GenericError):
        await Patience(0).call(ask)
    assert ask.calls == 1


@pytest.mark.parametrize("number", [2, 17])
async def test_a_folder_that_goes_as_something_is_put_there_is_made_again(number: int) -> None:
    error = GenericError(
        f"Generic LocalFileSystem error: Unable to create dir /a/b: said so (os error {number})"
    )
    ask = Failing(error, 9)
    assert await Patience(0).call(ask, 1) == "done"
    never = Failing(error, 100)
    with pytest.raises(GenericError):
        await Patience(0).call(never, 1)
    assert never.calls == 10


async def test_a_folder_that_cannot_be_made_is_no_race() -> None:
    ask = Failing(
        GenericError("Generic LocalFileSystem error: Unable to create dir /a: no (os error 13)"), 1
    )
    with pytest.raises(GenericError):
        await Patience(0).call(ask)
    assert ask.calls == 1


@given(st.floats(0.1, 3600), st.integers(0, 2**40))
def test_a_try_has_time_for_what_it_carries(stall: float, size: int) -> None:
    assert Patience(stall_seconds=stall).seconds(size) == stall + size / 2**20


@given(st.integers(1, 20))
def test_pauses_grow_to_five_seconds_and_are_half_chance(count: int) -> None:
    for at, pause in enumerate(islice(_pauses(), count)):
        longest = min(0.1 * 2**at, 5.0)
        assert longest / 2 <= pause <= longest


def test_two_callers_pause_differently() -> None:
    assert list(islice(_pauses(), 8)) != list(islice(_pauses(), 8))
