"""Who a browser's cookies say it is."""

from __future__ import annotations

import pytest
from starlette.responses import Response

from tailorbird.console.config import Config
from tailorbird.console.identity import Identity
from tailorbird.errors import InvalidArgument

CONFIG = Config("localhost:50051", "localhost:50052")
WHO = Identity("acme", "tb-1f.~")


def cookie(who: Identity, config: Config = CONFIG) -> str:
    response = Response()
    who.remember(response, config)
    return response.headers["set-cookie"].partition(";")[0]


@pytest.mark.parametrize("others", ["", 'prefs={"dark":true}', "a b", "=", 'x="'])
def test_cookies_of_other_programs_do_not_hide_ours(others: str) -> None:
    assert Identity.of(f"{others}; {cookie(WHO)}", CONFIG) == WHO
    assert Identity.of(f"{cookie(WHO)}; {others}", CONFIG) == WHO


@pytest.mark.parametrize(
    "value",
    ["", "acme", ".", "NOT.dGI", "acme.dGI=x\x00", "acme.\xff", "acme.w7w", "acme.Cg", "../x.dGI"],
)
def test_a_cookie_that_is_not_ours_is_nobody(value: str) -> None:
    found = Identity.of(f"{CONFIG.cookie}={value}", CONFIG)
    assert found is None or (found.tenant, found.token.isprintable()) == ("acme", True)


def test_a_token_for_some_services_is_not_sent_to_others() -> None:
    for elsewhere in (Config("other:50051", CONFIG.serving), Config(CONFIG.trainer, "other:50052")):
        assert Identity.of(cookie(WHO), elsewhere) is None
    assert Identity.of(cookie(WHO), Config(CONFIG.trainer, CONFIG.serving)) == WHO


@pytest.mark.parametrize(
    ("tenant", "token", "field"),
    [
        ("acme", "x" * 2049, "token"),
        ("acme", "a\nb", "token"),
        ("acme", "größe", "token"),
        ("NOT", "x", "tenant"),
    ],
)
def test_what_cannot_be_remembered_is_named(tenant: str, token: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        Identity.entered(tenant, token)
    assert raised.value.field == field
    assert Identity.entered(" acme ", " x\n") == Identity("acme", "x")


def test_the_longest_token_fits_into_a_cookie() -> None:
    longest = Identity("a" * 63, "x" * 2048)
    assert len(cookie(longest)) <= 4096
    assert Identity.of(cookie(longest), CONFIG) == longest
