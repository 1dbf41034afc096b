"""Each profile rendered once, and a good one to change."""

from __future__ import annotations

from functools import cache

import pytest

from tests.chart.helm import PROFILES, Rendered, profile_values, render


@cache
def rendered_profile(profile: str) -> Rendered:
    return render(profile_values(profile))


@pytest.fixture(params=sorted(PROFILES))
def profile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def rendered(profile: str) -> Rendered:
    """One profile's objects; not to be changed."""
    return rendered_profile(profile)
