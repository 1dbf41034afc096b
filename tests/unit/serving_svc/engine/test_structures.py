"""Structures are compiled in a process of their own, which may die of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest

from serving_svc.engine import structures
from serving_svc.engine.structures import StructureChecker
from serving_svc.generation.model import Structure
from tailorbird.errors import InvalidArgument

WIDE = json.dumps(
    {"type": "object", "properties": {f"key{i}": {"type": "string"} for i in range(1000)}}
)
NESTED_ARRAYS = (
    '{"type":"array","items":{"type":"array","items":{"type":"string","maxLength":1000},'
    '"maxItems":1000,"minItems":1000},"minItems":10000,"maxItems":100000}'
)
DOUBLING = "\n".join(
    ["root ::= r0", *(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(40)), 'r40 ::= "a"']
)


@pytest.fixture
async def checker() -> AsyncIterator[StructureChecker]:
    checker = StructureChecker()
    yield checker
    await checker.close()


@pytest.mark.parametrize(
    "structure",
    [
        Structure("json_schema", '{"type": "object", "properties": {"n": {"type": "integer"}}}'),
        Structure("regex", "(a+)+b"),
        Structure("regex", r"(\w+\s?){1,1000}"),
        Structure("choices", choices=("yes", 'no "\n\\', "ü")),
    ],
    ids=str,
)
async def test_what_compiles_is_returned(checker: StructureChecker, structure: Structure) -> None:
    assert await checker.check(structure, "acme") == structure
    assert await checker.check(structure, "acme") == structure


async def test_a_grammar_is_returned_as_the_engine_takes_it(checker: StructureChecker) -> None:
    found = await checker.check(Structure("grammar", 'root ::= "yes" | "no"'), "acme")
    assert 'start: "yes"' in found.value


async def test_a_schema_that_is_true_admits_everything(checker: StructureChecker) -> None:
    """The engine's compiler refuses it, after the request has been let in."""
    found = await checker.check(Structure("json_schema", " true"), "acme")
    assert found.value == "{}"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("json_schema", "not json"),
        ("json_schema", '{"type": "nonsense"}'),
        ("json_schema", "[" * 60_000),
        ("json_schema", '{"a":' * 65 + "1" + "}" * 65),
        ("json_schema", '{"$ref": "#"}'),
        ("json_schema", "false"),
        ("json_schema", "null"),
        ("json_schema", '{"type": "string", "pattern": "(?=x)"}'),
        ("json_schema", WIDE),
        ("json_schema", NESTED_ARRAYS),
        ("regex", "("),
        ("regex", "(?=a)b"),
        ("regex", "(" * 500 + "a" + ")" * 500),
        ("regex", "((a{100}){100}){100}"),
        ("regex", "(a?){5000}a{5000}"),
        ("grammar", "("),
        ("grammar", 'foo ::= "a"'),
        ("grammar", "root ::= x"),
        ("grammar", "root ::= " + "(" * 2000 + '"a"' + ")" * 2000),
        ("grammar", 'root ::= "a"{100000}'),
        ("grammar", DOUBLING),
    ],
    ids=lambda value: value[:30],
)
async def test_what_does_not_compile_is_refused(
    checker: StructureChecker, kind: Any, value: str
) -> None:
    for _ in range(2):
        with pytest.raises(InvalidArgument) as caught:
            await checker.check(Structure(kind, value), "acme")
        assert caught.value.field == f"sampling.{kind}"
        assert caught.value.reason == "INVALID_STRUCTURE"
        assert 0 < len(caught.value.description) < 500
    await checker.check(Structure("regex", "a"), "acme")


STUCK = """
import sys, json
for line in sys.stdin:
    value = json.loads(line)["value"]
    if value == "die": sys.exit(1)
    while value == "hang": pass
    sys.stdout.write(json.dumps({"error": "", "value": value}) + "\\n")
    sys.stdout.flush()
"""


@pytest.mark.parametrize("bad", ["die", "hang"])
async def test_a_compiler_that_dies_or_hangs_is_started_again(
    monkeypatch: pytest.MonkeyPatch, bad: str
) -> None:
    monkeypatch.setattr(structures, "_COMMAND", ("-c", STUCK))
    checker = StructureChecker(wall_seconds=2.0)
    await checker.check(Structure("regex", "a"), "acme")
    with pytest.raises(InvalidArgument, match="too much time or memory"):
        await checker.check(Structure("regex", bad), "acme")
    await checker.check(Structure("regex", "b"), "acme")
    await checker.close()


async def test_a_question_that_was_given_up_answers_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(structures, "_COMMAND", ("-c", STUCK))
    checker = StructureChecker()
    await checker.check(Structure("regex", "a"), "acme")
    given_up = asyncio.create_task(checker.check(Structure("regex", "hang"), "acme"))
    while not checker._line.locked():  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0)
    given_up.cancel()
    with pytest.raises(asyncio.CancelledError):
        await given_up
    assert (await checker.check(Structure("regex", "b"), "acme")).value == "b"
    assert checker._turns == {}
    await checker.close()


async def test_a_tenant_with_many_delays_another_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = StructureChecker()
    order: list[str] = []

    async def verdict(structure: Structure) -> structures._Verdict:
        order.append(structure.value)
        await asyncio.sleep(0)
        return structures._Verdict("", structure.value)

    monkeypatch.setattr(checker, "_verdict", verdict)
    many = [
        asyncio.create_task(checker.check(Structure("regex", f"many{i}"), "flood"))
        for i in range(20)
    ]
    await asyncio.sleep(0)
    await checker.check(Structure("regex", "one"), "acme")
    assert order.index("one") <= 2
    await asyncio.gather(*many)


async def test_verdicts_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    checker = StructureChecker()

    async def verdict(structure: Structure) -> structures._Verdict:
        return structures._Verdict("", structure.value)

    monkeypatch.setattr(checker, "_verdict", verdict)
    for i in range(1000):
        await checker.check(Structure("regex", str(i)), "acme")
    assert len(checker._verdicts) == 256
