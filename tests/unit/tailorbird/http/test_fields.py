"""What a JSON request's fields may be, and what is said of those that may not."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tailorbird.errors import InvalidArgument
from tailorbird.http.fields import Fields


def test_each_kind_is_taken_and_null_is_as_absent() -> None:
    fields = Fields(
        {"t": "x", "f": True, "i": 3, "r": 2.0, "n": 0.5, "l": [1], "o": {"a": "b"}, "z": None}
    )
    assert (fields.text("t"), fields.flag("f"), fields.whole("i")) == ("x", True, 3)
    assert (fields.whole("r"), fields.number("n"), fields.items("l")) == (2, 0.5, [1])
    inner = fields.inner("o")
    assert inner is not None
    assert inner.needed_text("a") == "b"
    assert "z" not in fields
    assert fields.text("none") is None
    fields.end()


@pytest.mark.parametrize(
    ("take", "wrong", "said"),
    [
        (lambda f: f.text("x"), 5, "5 is not a string"),
        (lambda f: f.needed_text("x"), None, "it is needed"),
        (lambda f: f.flag("x"), 1, "1 is not true or false"),
        (lambda f: f.whole("x"), True, "true is not a whole number"),
        (lambda f: f.whole("x"), 1.5, "1.5 is not a whole number"),
        (lambda f: f.whole("x"), 2**31, "2147483648 is not -2147483648 to 2147483647"),
        (lambda f: f.whole("x", wide=True), 10**400, "a very large number is not"),
        (lambda f: f.number("x"), "1", "'1' is not a number"),
        (lambda f: f.items("x"), {}, "an object is not an array"),
        (lambda f: f.inner("x"), [], "an array is not an object"),
        (lambda f: f.text("x"), ["y" * 10_000], "an array is not a string"),
        (lambda f: f.whole("x"), "y" * 10_000, "... is not a whole number"),
        (lambda f: f.texts("x"), [], "an array is not an object"),
        (lambda f: f.texts("x"), {"k": 5}, "'k': 5 is not a string"),
        (lambda f: f.only("x", False, why="nothing is stored"), True, "nothing is stored"),
        (lambda f: f.only("x", 1, why="one only"), True, "one only"),
    ],
)
def test_what_is_of_another_kind_is_named(
    take: Callable[[Fields], Any], wrong: Any, said: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        take(Fields({"x": wrong}, "messages[3]"))
    assert caught.value.field == "messages[3].x"
    assert said in caught.value.message
    assert len(caught.value.message) < 250


def test_texts_and_what_a_field_may_say_instead() -> None:
    fields = Fields({"o": {"a": "b"}, "n": "auto", "m": 5})
    assert (fields.texts("o"), fields.texts("o")) == ({"a": "b"}, None)
    assert [fields.says(name, "auto") for name in ("n", "m", "none")] == [True, False, False]
    assert fields.whole("m") == 5
    fields.end()


def test_numbers_too_large_for_a_float_are_infinite() -> None:
    assert Fields({"x": -(10**400)}).number("x") == float("-inf")


def test_what_nobody_took_is_refused_by_its_name() -> None:
    fields = Fields({"model": "m", "user": "u", "temprature": 1})
    fields.text("model")
    fields.ignore("user", "metadata")
    with pytest.raises(InvalidArgument, match="temprature") as caught:
        fields.end()
    assert (caught.value.field, caught.value.reason) == ("temprature", "UNKNOWN_FIELD")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("temprature", "no such field; did you mean temperature? docs/openai.md"),
        # Asked for, but not given.
        ("max_token", "no such field; did you mean max_tokens? docs/openai.md"),
        ("usr", "no such field; did you mean user? docs/openai.md"),
        ("zzz", "no such field; docs/openai.md"),
        ("temperature" * 100_000, "no such field; docs/openai.md"),
    ],
)
def test_the_nearest_field_is_told(name: str, text: str) -> None:
    fields = Fields({name: 1}, "inner")
    fields.number("temperature")
    assert "max_tokens" not in fields
    fields.ignore("user")
    with pytest.raises(InvalidArgument, match=re.escape(text)) as caught:
        fields.end()
    assert caught.value.field == f"inner.{name[:80]}"
