"""Checks side by side: one that breaks or hangs takes nothing from the others; nothing secret."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from tailorbird.doctor.finding import Finding, Status, ok
from tailorbird.doctor.running import Check, looked_at
from tailorbird.doctor.secrecy import hidden
from tailorbird.errors import FailedPrecondition

SECRET = "s3cr3t/with+signs="


def test_a_check_that_breaks_or_hangs_is_told_and_the_others_are_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    end = threading.Event()

    def breaks() -> Iterator[Finding]:
        yield ok("a", "never heard")
        raise KeyError(f"no {SECRET}\nat all")

    def refused() -> Iterator[Finding]:
        raise FailedPrecondition("do this")

    def hangs() -> Iterator[Finding]:
        end.wait()
        yield ok("b", "too late")

    try:
        found = looked_at(
            [
                Check("a", breaks),
                Check("b", hangs, 0.05, "look at the network"),
                Check("c", refused),
                Check("d", lambda: [ok("d", "well" * 1000)]),
            ]
        )
    finally:
        end.set()
    assert [(one.subject, one.status) for one in found] == [
        ("a", Status.FAILED), ("b", Status.FAILED), ("c", Status.FAILED), ("d", Status.OK)
    ]  # fmt: skip
    assert found[0].found == "the check itself failed: KeyError: 'no •••\\nat all'"
    assert found[1].found == "no answer within 0.05 s: given up"
    assert found[1].advice == "look at the network"
    assert (found[2].found, len(found[3].found)) == ("do this", 501)


@pytest.mark.parametrize(
    ("environ", "text", "told"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "abcd"}, "key abcd, abcde", "key •••, abcde"),
        ({"TAILORBIRD_TOKEN": "t0ken"}, "Bearer t0ken", "Bearer •••"),
        ({"TAILORBIRD_TOKENS_FILE": "/a/tokens"}, "/a/tokens is gone", "/a/tokens is gone"),
        ({"A_URL": "pg://me:p%40ss@db/x"}, "p@ss and p%40ss", "••• and •••"),
        ({"A_URL": "pg://db/x?user=me&password=pass"}, "said pass", "said •••"),
        ({}, "pg://me:pass@db/x", "pg://me:•••@db/x"),
        ({}, "https://a.net/b?sv=1&sig=abc%3D&x=1", "https://a.net/b?sv=1&sig=•••&x=1"),
        ({"TOKENIZERS_PARALLELISM": "false", "A_MAX_TOKENS": "2048"}, "false 2048", "false 2048"),
        ({"THE_PASSWORD": "no"}, "there is no", "there is no"),
    ],
)
def test_no_secret_is_said(environ: dict[str, str], text: str, told: str) -> None:
    assert hidden(text, environ) == told
